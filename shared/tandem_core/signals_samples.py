"""What workers leave for the side process to look at: how often items were shown, and a few of their searches.

A file per worker and bundle, written through the page cache: a worker pays microseconds, and one that dies loses none.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.signals import reserve

KEPT_SEARCHES = 16  # per worker, source and bundle; the newest replace the oldest
DEEPEST = 300  # rows of a search that are kept; as deep as the recall that an index must have to be published


class SampleWriter:
    """One worker's files; writing raises OSError where the disk is full.

    items_of: bundle id -> items of its catalogue, 0 for bundles that are not held.
    """

    def __init__(self, folder: Path, pid: int, items_of: Callable[[str], int]) -> None:
        self._folder = folder
        self._name = f"{pid}.npy"
        self._items_of = items_of
        self._shown: dict[str, NDArray[np.int32]] = {}
        self._searches: dict[tuple[str, str], NDArray[np.void]] = {}
        self._kept: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def shown(self, bundle_id: str, rows: NDArray[np.int32]) -> None:
        """Count lists: rows int32 [k] of them all. Rows that are not of the bundle's catalogue are left out."""
        with self._lock:
            if (counts := self._shown.get(bundle_id)) is None:
                path = self._folder / "shown" / bundle_id / self._name
                counts = self._shown[bundle_id] = _create(path, np.dtype(np.int32), self._items_of(bundle_id))
            np.add.at(counts, rows[(rows >= 0) & (rows < len(counts))], 1)

    def searched(self, bundle_id: str, source: str, vector: NDArray[np.float32], rows: NDArray[np.int32]) -> None:
        """Keep a search. vector: float32 [D]. rows: int32 [k], best first."""
        with self._lock:
            if (kept := self._searches.get((bundle_id, source))) is None:
                kind = np.dtype([("vector", "f4", len(vector)), ("rows", "i4", DEEPEST), ("k", "i4")])
                path = self._folder / "searches" / bundle_id / source / self._name
                kept = self._searches[bundle_id, source] = _create(path, kind, KEPT_SEARCHES)
            k = min(len(rows), DEEPEST)
            slot = kept[self._kept[bundle_id, source] % KEPT_SEARCHES]
            slot["vector"], slot["rows"][:k], slot["k"] = vector, rows[:k], k
            self._kept[bundle_id, source] += 1


def _create(path: Path, kind: np.dtype[Any], n: int) -> NDArray[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, np.zeros(max(n, 1), kind), allow_pickle=False)
    reserve(path, content.getvalue())
    created: NDArray[Any] = np.lib.format.open_memmap(path, mode="r+")
    return created


def shown_counts(folder: Path, bundle_id: str) -> dict[str, NDArray[np.int32]]:
    """Return what each worker counted since its start: file name -> int32 [N]."""
    return {path.name: np.array(_read(path)) for path in (folder / "shown" / bundle_id).glob("*.npy")}


def kept_searches(folder: Path, bundle_id: str) -> Iterator[tuple[str, NDArray[np.float32], list[NDArray[np.int32]]]]:
    """Yield (source, vectors float32 [Q, D], rows of each search) of the searches that workers kept."""
    for of_source in sorted((folder / "searches" / bundle_id).glob("*")):
        kept = np.concatenate([_read(path) for path in of_source.glob("*.npy")] or [np.empty(0, [("k", "i4")])])
        kept = kept[kept["k"] > 0]
        if len(kept):
            yield of_source.name, kept["vector"], [each["rows"][: each["k"]] for each in kept]


def _read(path: Path) -> NDArray[np.void]:
    read: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    return read


def recall(vectors: NDArray[np.float32], queries: NDArray[np.float32], found: list[NDArray[np.int32]]) -> float:
    """Return the mean share of each query's true nearest that a search found, as many as it found; ties count.

    vectors: float32 [N, D], of the catalogue, may be mapped from a file. queries: float32 [Q, D], Q >= 1.
    """
    shares = []
    for query, rows in zip(queries, found, strict=True):
        scores = vectors @ query
        k = len(rows)
        last = np.partition(scores, len(scores) - k)[len(scores) - k]
        # One product may round another way than the index's own sums: as near as that counts as found.
        near = scores[rows] >= last - 1e-5 * max(1.0, abs(float(last)))
        shares.append(np.count_nonzero(near) / k)
    return float(np.mean(shares))
