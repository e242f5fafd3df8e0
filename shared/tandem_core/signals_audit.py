"""The side process's own measurements: recall of the approximate indexes, and how unequally items are shown."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.metrics.lists import gini
from tandem_core.registry import Registry
from tandem_core.signals_samples import kept_searches, recall, shown_counts
from tandem_core.signals_side import SideGauges, WorkerFiles

log = logging.getLogger(__name__)

# Whose vectors each source searches; those that are not named here search exactly.
_VECTORS = {
    "two_tower": "item_vectors.npy",
    "weighted_average": "item_vectors.npy",
    "interests": "item_vectors.npy",
    "als": "als_factors.npy",
    "content_neighbours": "content_vectors.npy",
}
MOST_AUDITED = 64  # searches per source and audit: a product over a million items of 64 dimensions takes some 30 ms


class Audit:
    """Looks every `every_s` at what workers left, for the bundle that the registry points to.

    The catalogue's vectors are mapped from the bundle's file and looked at in turn: they are never held.
    """

    def __init__(self, registry: Registry, files: WorkerFiles, gauges: SideGauges, every_s: float) -> None:
        self._registry = registry
        self._files = files
        self._gauges = gauges
        self._every_s = every_s
        self._due = time.monotonic() + every_s
        self._before: dict[str, NDArray[np.int32]] = {}
        self._bundle_id = ""

    def look(self, bundle_id: str) -> None:
        """Measure if it is time to. bundle_id: "" for none."""
        if not bundle_id or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._every_s
        try:
            self._measure(bundle_id)
        except (OSError, ValueError) as error:  # a worker or a bundle that goes meanwhile; the next look is near
            log.warning("audit left out", extra={"bundle_id": bundle_id, "reason": str(error)})

    def _measure(self, bundle_id: str) -> None:
        if bundle_id != self._bundle_id:
            self._files.forget_bundles({bundle_id, self._bundle_id})
            self._bundle_id, self._before = bundle_id, {}
        self._gauges.exposure = self._exposure(bundle_id) or self._gauges.exposure
        self._gauges.recall = self._recall(bundle_id)

    def _exposure(self, bundle_id: str) -> tuple[float, float] | None:
        """Return Gini and share of the catalogue shown since the last look; None where nothing was shown."""
        now = shown_counts(self._files.folder, bundle_id)
        window = [counts - self._before.get(name, np.int32(0)) for name, counts in now.items()]
        self._before = now
        if not window or not (shown := np.asarray(window, np.int64).sum(axis=0)).any():
            return None
        return gini(shown), float(np.count_nonzero(shown) / len(shown))

    def _recall(self, bundle_id: str) -> dict[str, tuple[float, int]]:
        folder: Path = self._registry.path_of(bundle_id)
        recalls = {}
        for source, queries, found in kept_searches(self._files.folder, bundle_id):
            if (name := _VECTORS.get(source)) is not None:
                vectors = np.load(folder / name, mmap_mode="r", allow_pickle=False)
                n = min(len(queries), MOST_AUDITED)
                recalls[source] = (recall(vectors, queries[:n], found[:n]), n)
        return recalls
