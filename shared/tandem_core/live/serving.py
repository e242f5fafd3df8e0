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
from tandem_core.serving_bundles import Held, ServingBundles
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
        changes = store.changes(self.view.bundle.id, self._cursor, most)
        before = self.view.bundle
        self.view.apply(changes)
        self._cursor = changes.cursor
        if self.view.bundle is not before:
            self.loaded = self._over(self.view.bundle)
        return changes.more


class LiveServing(Generic[Loaded]):
    """Gives the same bundles as `ServingBundles`, with live items. Safe to use from several threads.

    over: what serves a bundle, such as a pipeline; called again for every version of it. A store that does not answer
    leaves what is known as it is. wait_s: how long a bundle waits at the most for the writer to encode the items for
    it; longer, and it serves while they still come.
    """

    def __init__(self, store: LiveStore, over: Callable[[Bundle], Loaded], wait_s: float = 5.0) -> None:
        self._store = store
        self._over = over
        self._wait_s = wait_s
        self._following: dict[str, _Following[Loaded]] = {}
        self._lock = threading.Lock()
        self._version = -1
        self._seen: tuple[Held[Loaded] | None, Held[Loaded]] = (None, Held())
        self._unavailable = False

    def load(self, base: Bundle) -> Loaded:
        """Return what serves a bundle that is about to be held, all live items taken in."""
        following = _Following(base, self._over)
        try:
            self._wait_for_writer(base.id)
            while following.take(self._store, _FIRST):
                pass
        except StoreUnavailable as error:
            self._note(error)
        with self._lock:
            self._following[base.id] = following
            self._version = -1
        return following.loaded

    def over(self, bundles: ServingBundles[Loaded]) -> LiveBundles[Loaded]:
        """Return the bundles as requests see them; `bundles` must load with `load`."""
        return LiveBundles(bundles, self)

    def now(self, held: Held[Loaded]) -> Held[Loaded]:
        """Return what is held, each bundle with every change that was acknowledged before (see MOST_AT_ONCE)."""
        try:
            version = self._store.version()
        except StoreUnavailable as error:
            self._note(error)
            version = self._version
        seen, answer = self._seen
        if seen is held and version == self._version:
            return answer
        with self._lock:
            return self._catch_up(held)

    def _catch_up(self, held: Held[Loaded]) -> Held[Loaded]:
        try:
            version = self._store.version()  # before the changes: what comes meanwhile is found by the next request
            if version != self._version or self._seen[0] is not held:
                done = [self._following[bundle_id].catch_up(self._store, version) for bundle_id in self._ids(held)]
                self._version = version if all(done) else -1
            self._unavailable = False
        except StoreUnavailable as error:
            self._note(error)
        for bundle_id in set(self._following) - {id_ for id_, _ in held.loaded}:
            if bundle_id in self._ids(self._seen[0] or Held()):  # was held, and no longer is
                del self._following[bundle_id]
        loaded = tuple(
            (id_, self._following[id_].loaded if id_ in self._following else plain) for id_, plain in held.loaded
        )
        answer = replace(held, loaded=loaded)
        self._seen = (held, answer)
        return answer

    def _ids(self, held: Held[Loaded]) -> list[str]:
        return [bundle_id for bundle_id, _ in held.loaded if bundle_id in self._following]

    def _wait_for_writer(self, bundle_id: str) -> None:
        deadline = time.monotonic() + self._wait_s
        while self._store.not_encoded(bundle_id, 1) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _note(self, error: StoreUnavailable) -> None:
        if not self._unavailable:  # said once, not at every request
            log.error("live items are not followed", extra={"reason": str(error)})
        self._unavailable = True


class LiveBundles(Generic[Loaded]):
    """`ServingBundles` as requests see them."""

    def __init__(self, bundles: ServingBundles[Loaded], live: LiveServing[Loaded]) -> None:
        self._bundles = bundles
        self._live = live

    @property
    def held(self) -> Held[Loaded]:
        """What is held now, with the changes of now: look once per request."""
        return self._live.now(self._bundles.held)
