"""Exact below a size; above it the fastest kind, each as wide as the least recall needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.index.ivf import IvfIndex
from tandem_core.manifest import IndexInfo
from tandem_trainer.config import IndexSettings
from tandem_trainer.indexes import BREADTHS, RecallTooLow, build_index

HNSW = ("hnsw",)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return unit(np.random.default_rng(0).normal(size=(3000, 32)))


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return unit(np.random.default_rng(1).normal(size=(40, 32)))


def test_a_small_catalogue_is_searched_exactly_and_writes_no_file(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    info = build_index(vectors, queries, IndexSettings(exact_below=3001), tmp_path / "i.hnsw", 0)
    assert (info.kind, info.recall, info.recall_at) == ("exact", 1.0, 300)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("items", [120, 300])
def test_of_a_catalogue_of_fewer_items_than_the_depth_all_are_looked_for(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path, items: int
) -> None:
    exact = build_index(vectors[:items], queries, IndexSettings(), tmp_path / "i.hnsw", 0)
    assert (exact.kind, exact.recall_at) == ("exact", items)
    hnsw = build_index(vectors[:items], queries, IndexSettings(kinds=HNSW, exact_below=0), tmp_path / "i.hnsw", 0)
    assert (hnsw.kind, hnsw.recall, hnsw.recall_at) == ("hnsw", 1.0, items)


def test_the_breadth_is_the_smallest_that_meets_the_least_recall_on_real_queries(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    settings = IndexSettings(kinds=HNSW, exact_below=0, m=4, ef_construction=20)
    info = build_index(vectors, queries, settings, tmp_path / "i.hnsw", 0)
    assert (info.kind, info.recall_at) == ("hnsw", 300)
    assert info.ef is not None
    assert info.recall is not None
    assert info.recall >= 0.98
    loaded = HnswIndex.load(tmp_path / "i.hnsw", vectors, info.ef)
    assert recall(loaded, vectors, queries) == pytest.approx(info.recall)
    assert info.ef > BREADTHS[0]  # or nothing was chosen
    narrower = BREADTHS[BREADTHS.index(info.ef) - 1]
    assert recall(loaded.with_ef(narrower), vectors, queries) < 0.98


def test_the_defaults_meet_98_percent_at_300_on_30_000_clustered_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(200, 32))
    near = [centres[rng.integers(200, size=n)] + 0.3 * rng.normal(size=(n, 32)) for n in (30_000, 50)]
    vectors, queries = (unit(part) for part in near)
    info = build_index(vectors, queries, IndexSettings(), tmp_path / "i", 0)
    assert set(info.microseconds) == {"exact", "ivf", "hnsw"}
    assert info.kind == min(info.microseconds, key=info.microseconds.__getitem__)
    written = {"exact": [], "ivf": ["i.ivf.npz"], "hnsw": ["i.hnsw"]}
    assert [path.name for path in tmp_path.iterdir()] == written[info.kind]  # nothing is left of those that lost
    loaded = index_of(info, tmp_path, vectors)
    assert recall(loaded, vectors, queries) >= 0.98


@pytest.mark.parametrize("lengths", [np.ones(8000), np.random.default_rng(3).lognormal(0, 1, 8000)])
def test_inverted_lists_meet_the_least_recall_on_vectors_of_any_length(
    lengths: NDArray[np.floating], tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(100, 32))
    near = [centres[rng.integers(100, size=n)] + 0.5 * rng.normal(size=(n, 32)) for n in (8000, 50)]
    vectors, queries = (unit(near[0]) * lengths[:, None]).astype(np.float32), unit(near[1])
    info = build_index(vectors, queries, IndexSettings(kinds=("ivf",), exact_below=0), tmp_path / "i", 0)
    assert (info.kind, info.recall_at) == ("ivf", 300)
    assert info.probes is not None
    loaded = index_of(info, tmp_path, vectors)
    assert recall(loaded, vectors, queries) >= 0.98
    compared = np.mean([len(loaded.compared(query, 300)) for query in queries])
    assert compared < 0.5 * len(vectors)  # or the lists were of no use


def test_an_index_that_cannot_meet_the_least_recall_is_not_published(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_trainer.indexes.BREADTHS", (300,))
    settings = IndexSettings(kinds=HNSW, exact_below=0, m=2, ef_construction=10)
    with pytest.raises(RecallTooLow, match=r"i\.hnsw: recall@300 is 0\.\d+ at ef 300.*below.*0\.98; raise index\.m"):
        build_index(vectors, queries, settings, tmp_path / "i.hnsw", 0)
    assert not list(tmp_path.iterdir())


def test_which_of_equal_vectors_are_found_does_not_count_against_an_index(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    mostly_wordless = np.where(np.arange(3000)[:, None] < 100, vectors, np.float32(0))
    info = build_index(mostly_wordless, queries, IndexSettings(kinds=HNSW, exact_below=0), tmp_path / "i.hnsw", 0)
    assert info.recall == 1.0
    assert info.ef is not None
    loaded = HnswIndex.load(tmp_path / "i.hnsw", mostly_wordless, info.ef)
    assert recall(loaded, mostly_wordless, queries) < 0.5  # by row


def test_a_catalogue_sorted_into_runs_of_equal_vectors_is_still_searched_well(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    runs = np.repeat(vectors[:15], 200, axis=0)
    info = build_index(runs, queries, IndexSettings(kinds=HNSW, exact_below=0), tmp_path / "i.hnsw", 0)
    assert info.recall is not None
    assert info.recall >= 0.98


def test_without_a_real_query_the_catalogue_stands_in(vectors: NDArray[np.float32], tmp_path: Path) -> None:
    settings, nobody = IndexSettings(kinds=HNSW, exact_below=0), np.array([], np.float32)
    wordless = build_index(np.zeros((3000, 1), np.float32), nobody, settings, tmp_path / "i.hnsw", 0)
    assert wordless.recall == 1.0
    broken = IndexSettings(kinds=HNSW, exact_below=0, m=2, ef_construction=10, min_recall=1.0)
    with pytest.raises(RecallTooLow):
        build_index(vectors, nobody, broken, tmp_path / "j.hnsw", 0)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def index_of(info: IndexInfo, folder: Path, vectors: NDArray[np.float32]) -> Any:
    if info.kind == "ivf":
        return IvfIndex.load(folder / "i.ivf.npz", vectors, info.probes)
    return ExactIndex(vectors) if info.kind == "exact" else HnswIndex.load(folder / "i.hnsw", vectors, info.ef)


def recall(index: VectorIndex, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> float:
    exact = ExactIndex(vectors)
    shares = [len(set(exact.search(q, 300)[0].tolist()) & set(index.search(q, 300)[0].tolist())) / 300 for q in queries]
    return float(np.mean(shares))
