"""Which bundles a serving process holds: the current one, the one before, and why a newer one is refused."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from tandem_core.errors import BundleMismatch, BundleNotReady, BundleRefused, NotFound
from tandem_core.registry import Registry

log = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class Held(Generic[Loaded]):
    """What is held at one moment: never changed, only replaced."""

    current_id: str = ""
    previous_id: str = ""
    loaded: tuple[tuple[str, Loaded], ...] = ()  # current first
    refused_id: str = ""
    refusal: str = "no bundle has been looked for yet"

    def choose(self, acceptable: Sequence[str] = ()) -> Loaded:
        """Return the current bundle, or the first of `acceptable` that is held.

        Raises BundleNotReady when none is loaded, BundleMismatch when none of the acceptable ones is.
        """
        if not self.loaded:
            raise BundleNotReady(self.refusal)
        if not acceptable:
            return self.loaded[0][1]
        loaded = dict(self.loaded)
        for bundle_id in acceptable:
            if bundle_id in loaded:
                return loaded[bundle_id]
        raise BundleMismatch(f"none of {list(acceptable)} is loaded; loaded are {list(loaded)}")


class HoldsBundles(Protocol[Loaded]):
    """What requests look at, once each."""

    @property
    def held(self) -> Held[Loaded]: ...


class ServingBundles(Generic[Loaded]):
    """Holds what `load` makes of the registry's current bundle. A bad bundle changes nothing but the refusal.

    both_at_start: with the first bundle the one before it is loaded too, for who must know what others still serve.
    """

    def __init__(self, registry: Registry, load: Callable[[str], Loaded], *, both_at_start: bool = False) -> None:
        self._registry = registry
        self._load = load
        self._both_at_start = both_at_start
        self._held: Held[Loaded] = Held()
        self._refreshing = threading.Lock()
        self._refused_state: tuple[object, ...] = ()  # fingerprint of the bundle that was found bad
        self._refused_why = ""

    @property
    def held(self) -> Held[Loaded]:
        return self._held

    @property
    def refusal_may_pass(self) -> bool:
        """Whether the refused bundle could only not be read, and may be good."""
        return bool(self._held.refusal) and not self._refused_state

    def refresh(self) -> bool:
        """Load the registry's current bundle if it is a new one; return whether what is served has changed."""
        with self._refreshing:
            held = self._held
            bundle_id = ""
            state: tuple[object, ...] = ()
            try:
                current = self._registry.current()
                if current is None:
                    raise BundleRefused(f"{self._registry.root} has no current bundle: train one (tandem train)")
                bundle_id = current.bundle_id
                if bundle_id == held.current_id:
                    self._held = replace(held, refused_id="", refusal="")
                    return False
                state = self._registry.fingerprint(bundle_id)
                if state == self._refused_state:  # nothing has changed: no need to read it all again at every poll
                    return self._refuse(bundle_id, self._refused_why)
                kept = dict(held.loaded)
                fresh = kept[bundle_id] if bundle_id in kept else self._load(bundle_id)
            except (BundleRefused, NotFound, OSError) as error:
                if isinstance(error, BundleRefused):  # the others may pass: they are tried again
                    self._refused_state, self._refused_why = state, str(error)
                return self._refuse(bundle_id, str(error))
            before_id, before = held.current_id, kept.get(held.current_id)
            if not before_id and self._both_at_start:
                before_id, before = current.previous, self._loaded_before(current.previous)
            others = () if before is None else ((before_id, before),)
            self._held = Held(bundle_id, before_id if others else "", ((bundle_id, fresh), *others), "", "")
            log.info("bundle loaded", extra={"bundle_id": bundle_id, "previous_id": self._held.previous_id})
            return True

    def keep(self, bundle_id: str) -> None:
        """Load a bundle to be held as the one before; one that cannot be loaded is left out."""
        held = self._held
        if bundle_id in dict(held.loaded):
            return
        if (loaded := self._loaded_before(bundle_id)) is not None:
            self._held = replace(held, previous_id=bundle_id, loaded=(*held.loaded[:1], (bundle_id, loaded)))

    def refuse_current(self, why: str) -> None:
        """Let the current bundle go: a later check found it bad."""
        self._refused_state, self._refused_why = self._registry.fingerprint(self._held.current_id), why
        self._held = Held(refused_id=self._held.current_id, refusal=why)

    def note_refusal(self, refused_id: str, refusal: str) -> None:
        """Say that another process refused a bundle, or with "" that nothing is refused any more."""
        self._held = replace(self._held, refused_id=refused_id, refusal=refusal)

    def _loaded_before(self, bundle_id: str) -> Loaded | None:
        """Return a bundle that is not the current one, None where there is none or it cannot be loaded."""
        if not bundle_id:
            return None
        try:
            return self._load(bundle_id)
        except (BundleRefused, NotFound, OSError) as error:
            log.warning("bundle before is not kept", extra={"bundle_id": bundle_id, "reason": str(error)})
            return None

    def _refuse(self, bundle_id: str, why: str) -> bool:
        self._held = replace(self._held, refused_id=bundle_id, refusal=why)
        return False
