"""What a serving process answers from: the bundles it holds, each with the live items of the moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from tandem_core.bundle import Bundle
from tandem_core.live.view import LiveView
from tandem_core.serving_bundles import Held, HoldsBundles
from tandem_core.stores.base import StoreUnavailable
from tandem_core.stores.live import Cursor, LiveStore

log = logging.getLogger(__name__)

MOST_AT_ONCE = 500  # additions that one request takes in, per bundle: as many as one UpsertItems may bring
_FIRST = 5000  # additions read at a time before a bundle serves
_POLL_S = 0.05

Loaded = TypeVar("Loaded")


class _Following(Generic[Loaded]):
    """One bundle, its live items, and what serves the newest version."""

    def __init__(self, base: Bundle, over: Callable[[Bundle], Loaded]) -> None:
        self.view = LiveView(base)
        self._over = over
        self._cursor = Cursor()
        self._version = -1
        self.loaded = over(base)

    def catch_up(self, store: LiveStore, version: int) -> bool:
        """Take in what came up to a version of the store, as far as one request does; return whether that was all."""
        if self._version != version:
            self._version = -1 if self.take(store, MOST_AT_ONCE) else version
        return self._version == version

    def take(self, store: LiveStore, most: int) -> bool:
        """Apply all deletions and up to `most` additions; return whether there are more."""
        try:
            changes = store.changes(self.view.bundle.id, self._cursor, most)
        except StoreUnavailable:
            raise
        except Exception as error:  # an item that cannot be read, of a newer writer say, must not end all answers
            raise StoreUnavailable(f"a live item cannot be read: {error!r}") from error
        before = self.view.bundle
        self.view.apply(changes)
        self._cursor = changes.cursor
        if self.view.bundle is not before:
            self.loaded = self._over(self.view.bundle)
        return changes.more


class LiveServing(Generic[Loaded]):
    """Gives the same bundles as `ServingBundles`, with live items. Safe to use from several threads.

    Made after the fork, since it keeps connections. over: what serves a version of a bundle, such as a pipeline; called
    for each new one. bundle_of: the bundle that is served. A store that does not answer leaves what is known as it is.
    wait_s: how long a bundle waits at the most for the writer to encode the items for it; longer, and it serves while
    they still come.
    """

    def __init__(
        self,
        bundles: HoldsBundles[Loaded],
        store: LiveStore,
        over: Callable[[Bundle], Loaded],
        bundle_of: Callable[[Loaded], Bundle],
        wait_s: float = 5.0,
    ) -> None:
        self._bundles = bundles
        self._store = store
        self._over = over
        self._bundle_of = bundle_of
        self._wait_s = wait_s
        self._following: dict[str, _Following[Loaded]] = {}
        self._lock = threading.Lock()
        self._version = -1
        self._seen: tuple[Held[Loaded] | None, Held[Loaded]] = (None, Held())
        self._unavailable = False
        self._behind_since: float | None = None

    @property
    def lag_s(self) -> float:
        """For how long requests have not seen all that was acknowledged, in seconds; 0 while the last one did."""
        since = self._behind_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def held(self) -> Held[Loaded]:
        """What is held now, each bundle with every change that was acknowledged before (see MOST_AT_ONCE).

        Look once per request: versions never mix. The first look at a bundle takes all of them in, and may wait.
        """
        held = self._bundles.held
        try:
            version = self._store.version()
            if self._behind_since is not None and version == self._version:
                self._follow(whole=True)
        except StoreUnavailable as error:
            self._note(error)
            version = self._version
        seen, answer = self._seen
        if seen is held and version == self._version:
            return answer
        with self._lock:
            return self._catch_up(held)

    def _catch_up(self, held: Held[Loaded]) -> Held[Loaded]:
        for bundle_id, plain in held.loaded:
            if bundle_id not in self._following:
                self._following[bundle_id] = self._begin(self._bundle_of(plain))
        for bundle_id in set(self._following) - {bundle_id for bundle_id, _ in held.loaded}:
            del self._following[bundle_id]
        try:
            version = self._store.version()  # before the changes: what comes meanwhile is found by the next request
            done = [each.catch_up(self._store, version) for each in self._following.values()]
            self._version = version if all(done) else -1
            self._follow(whole=all(done))
        except StoreUnavailable as error:
            self._note(error)
            self._version = -1  # a bundle that began without the store has to catch up, though nothing changes
        loaded = tuple((bundle_id, self._following[bundle_id].loaded) for bundle_id, _ in held.loaded)
        answer = replace(held, loaded=loaded)
        self._seen = (held, answer)
        return answer

    def _begin(self, base: Bundle) -> _Following[Loaded]:
        """Return what follows a bundle, all live items taken in."""
        following = _Following(base, self._over)
        try:
            self._wait_for_writer(base.id)
            while following.take(self._store, _FIRST):
                pass
        except StoreUnavailable as error:
            self._note(error)
        return following

    def _wait_for_writer(self, bundle_id: str) -> None:
        deadline = time.monotonic() + self._wait_s
        while self._store.not_encoded(bundle_id, 1) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _follow(self, *, whole: bool) -> None:
        """Note that the store has answered. whole: that everything it has is taken in."""
        self._unavailable = False
        if whole:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = time.monotonic()

    def _note(self, error: StoreUnavailable) -> None:
        if self._behind_since is None:
            self._behind_since = time.monotonic()
        if not self._unavailable:  # said once, not at every request
            log.error("live items are not followed", extra={"reason": str(error)})
        self._unavailable = True
