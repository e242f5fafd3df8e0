"""Live items on top of one bundle, through a real store: what they cost a request, and how fast they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.live.serving import LiveServing
from tandem_core.policy import load_policies
from tandem_core.query import Query, UserEvents
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import Held
from tandem_core.stores.live import Encoding, LiveItem
from tandem_core.stores.live_sqlite import SqliteLiveStore

_NOISE = 0.3  # length of what sets a live item's vector apart from that of the item it is made of
_AT_ONCE = 500
_WARM = 20
_HISTORY = 30
_ASKED = 2000  # of the store's version


def measure(bundle: Bundle, count: int, calls: int, folder: Path) -> dict[str, float]:
    """Return figures by name; times of requests are medians of milliseconds of CPU, others of wall clock."""
    rng = np.random.default_rng(0)
    few, many = (_Served(bundle, folder / name) for name in ("few.db", "many.db"))
    few.write(*_made(bundle, 1, rng))
    begun = time.perf_counter()
    for start in range(0, count, _AT_ONCE):
        many.write(*_made(bundle, min(_AT_ONCE, count - start), rng, start))
    written_s = time.perf_counter() - begun
    begun = time.perf_counter()
    many.start()
    loaded_s = time.perf_counter() - begun
    few.start()
    none = _Served(bundle, folder / "none.db")
    none.start()
    query = _query(bundle, rng)
    names = ("none", "one", f"{count:,}")
    variants: dict[str, Callable[[], object]] = {}
    for name, served in zip(names, (none, few, many), strict=True):
        variants[f"Retrieve, live items: {name}"] = partial(served.retrieve, query)
        variants[f"Recommend, live items: {name}"] = partial(served.recommend, query)
    figures = {name: float(np.median(times)) * 1e3 for name, times in _interleaved(variants, calls).items()}
    for kind in ("Retrieve", "Recommend"):
        base = figures[f"{kind}, live items: none"]
        figures[f"{kind}, ratio of {names[2]} to none"] = figures[f"{kind}, live items: {names[2]}"] / base
    figures["one look at the version, microseconds"] = _each(none.store.version, _ASKED) * 1e6
    figures["stored items per second, encoded before"] = count / written_s
    figures["seconds to take them all in at the start"] = loaded_s
    figures[f"taking in {_AT_ONCE} more"] = many.take_in(*_made(bundle, _AT_ONCE, rng, count)) * 1e3
    figures["items of the bundle"] = len(bundle.catalog)
    for served in (none, few, many):
        served.close()
    return figures


_Pipelines = tuple[RetrievalPipeline, RankingPipeline]


class _Served:
    """One store of live items, and what serves them, made anew for every version of the catalogue as services do."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        self._bundle = bundle
        self._policies = load_policies(None)
        self.store, self._writer = SqliteLiveStore(path), SqliteLiveStore(path)
        self.held: Held[_Pipelines] = Held(bundle.id, "", ((bundle.id, self._over(bundle)),), "", "")
        self._live = LiveServing(self, self.store, self._over, lambda pipelines: pipelines[0].bundle)

    def _over(self, bundle: Bundle) -> _Pipelines:
        return RetrievalPipeline(bundle), RankingPipeline(bundle, self._policies)

    def write(self, items: list[LiveItem], encodings: list[Encoding]) -> None:
        self._writer.upsert(items, {self._bundle.id: encodings})

    def start(self) -> None:
        _ = self._live.held

    def retrieve(self, query: Query) -> object:
        retrieval, _ = self._live.held.choose()
        return retrieval.retrieve(query, Budget())

    def recommend(self, query: Query) -> object:
        retrieval, ranking = self._live.held.choose()
        return ranking.recommend(query, Budget(), retrieval.retrieve)

    def take_in(self, items: list[LiveItem], encodings: list[Encoding]) -> float:
        """Return the seconds that the first request after a write waits."""
        self.write(items, encodings)
        begun = time.perf_counter()
        _ = self._live.held
        return time.perf_counter() - begun

    def close(self) -> None:
        self.store.close()
        self._writer.close()


def _made(
    bundle: Bundle, count: int, rng: np.random.Generator, first: int = 0
) -> tuple[list[LiveItem], list[Encoding]]:
    """Return items like those of the bundle, their vectors some way off."""
    rows = rng.integers(len(bundle.catalog), size=count)
    moved = [_moved(vectors[rows], rng) for vectors in (bundle.item_vectors, bundle.content_vectors)]
    codes = bundle.catalog.codes
    items = [
        LiveItem(f"live-{first + i}", "A title", "", {name: column.values(row) for name, column in codes.items()}, {})
        for i, row in enumerate(rows.tolist())
    ]
    return items, [Encoding(*pair) for pair in zip(*moved, strict=True)]


def _moved(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(size=vectors.shape).astype(np.float32)
    moved = vectors + _NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


def _query(bundle: Bundle, rng: np.random.Generator) -> Query:
    """Return the request of a user with a history of items near each other."""
    seed = int(rng.integers(len(bundle.catalog)))
    near = np.argsort(-(bundle.item_vectors @ bundle.item_vectors[seed]), kind="stable")[:_HISTORY]
    now_ms = bundle.manifest.data.last_event_ms
    events = UserEvents(
        [bundle.catalog.item_ids[row] for row in near],
        now_ms - 60_000 * np.arange(len(near), 0, -1, dtype=np.int64),
        [bundle.schema.event_types[0].name] * len(near),
        np.full(len(near), np.nan, np.float32),
    )
    return Query(request_id="bench", now_ms=now_ms, max_results=20, events=events)


def _each(call: Callable[[], object], times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begun) / times


def _interleaved(variants: dict[str, Callable[[], object]], calls: int) -> dict[str, list[float]]:
    """Return CPU seconds of each call, variants taking turns, so that a busy machine troubles all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(calls + _WARM):
        for name, call in variants.items():
            begun = time.thread_time()
            call()
            if i >= _WARM:
                times[name].append(time.thread_time() - begun)
    return times
