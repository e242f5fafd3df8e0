"""Live items for bundles that came after them."""

from __future__ import annotations

import logging
import threading
import time

from tandem_core.live.encoder import ItemEncoder
from tandem_core.serving_bundles import HoldsBundles
from tandem_core.stores.base import StoreUnavailable
from tandem_core.stores.live import LiveStore

log = logging.getLogger(__name__)

_AT_ONCE = 200  # items per transaction: writes of others wait no longer than it takes
_PASSES = 8


class Reencoder:
    """Encodes live items for every bundle held that has not got them, and lets go of what no bundle held needs.

    Works in a thread of its own, which starts with the first `look`. pause_s: between two passes.
    """

    def __init__(self, encoders: HoldsBundles[ItemEncoder], items: LiveStore, pause_s: float = 0.25) -> None:
        self._encoders = encoders
        self._items = items
        self._pause_s = pause_s
        self._looks = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="re-encode", daemon=True)

    def look(self) -> None:
        """Another bundle is about to be held: encode for it what was written before."""
        if self._thread.ident is None:
            self._thread.start()
        self._looks.release()

    def catch_up(self) -> int:
        """Encode what is missing; return how many items. Raises StoreUnavailable."""
        done = 0
        loaded = self._encoders.held.loaded
        for bundle_id, encoder in loaded:
            while missing := self._items.not_encoded(bundle_id, _AT_ONCE):
                encodings = encoder.encode([item for _, item, _ in missing])
                self._items.add_encodings(
                    bundle_id,
                    [
                        (seq, item.item_id, None if encoder.holds(item, changed_ms) else encoding)
                        for (seq, item, changed_ms), encoding in zip(missing, encodings, strict=True)
                    ],
                )
                done += len(missing)
        self._items.keep_encodings([bundle_id for bundle_id, _ in loaded])
        return done

    def _run(self) -> None:
        while True:
            self._looks.acquire()
            # Until it is held, and once more: a write that began before that has encoded for the old ones alone.
            # Only passes that reached the store count: items would stay out of the bundle until the next one.
            passes = 0
            while passes < _PASSES:
                passes += self._reached()
                time.sleep(self._pause_s)

    def _reached(self) -> bool:
        """Catch up; return whether that went well."""
        try:
            if self._encoders.held.loaded and (done := self.catch_up()):
                log.info("live items encoded", extra={"items": done, "bundle_id": self._encoders.held.current_id})
        except StoreUnavailable as error:
            log.warning("live items not encoded yet", extra={"reason": str(error)})
            return False
        except Exception:  # whatever it met, it must try again, and not end the thread
            log.exception("encoding live items failed")
            return False
        return True
