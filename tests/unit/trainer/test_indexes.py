"""Exact below a size, HNSW above, as wide as the recall target needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_trainer.config import IndexSettings
from tandem_trainer.indexes import BREADTHS, RecallTooLow, build_index


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    found = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    found = np.random.default_rng(1).normal(size=(40, 32)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_a_small_catalogue_is_searched_exactly_and_writes_no_file(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    info = build_index(vectors, queries, IndexSettings(exact_below=3001), tmp_path / "i.hnsw", 0)
    assert (info.kind, info.recall_at_100) == ("exact", 1.0)
    assert not list(tmp_path.iterdir())


def test_the_breadth_is_the_smallest_that_meets_the_target_on_real_queries(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    settings = IndexSettings(exact_below=0, m=8, ef_construction=60, recall_target=0.97, recall_gate=0.5)
    info = build_index(vectors, queries, settings, tmp_path / "i.hnsw", 0)
    assert info.kind == "hnsw"
    assert info.ef is not None
    assert info.recall_at_100 is not None
    assert info.recall_at_100 >= 0.97
    loaded = HnswIndex.load(tmp_path / "i.hnsw", vectors, info.ef)
    assert recall(loaded, vectors, queries) == pytest.approx(info.recall_at_100)
    if info.ef > BREADTHS[0]:
        narrower = BREADTHS[BREADTHS.index(info.ef) - 1]
        assert recall(loaded.with_ef(narrower), vectors, queries) < 0.97


def test_an_index_that_cannot_meet_the_gate_is_not_published(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_trainer.indexes.BREADTHS", (100,))
    settings = IndexSettings(exact_below=0, m=2, ef_construction=10, recall_gate=0.99)
    with pytest.raises(RecallTooLow, match=r"below the gate.*raise index\.m"):
        build_index(vectors, queries, settings, tmp_path / "i.hnsw", 0)
    assert not list(tmp_path.iterdir())


def recall(index: HnswIndex, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> float:
    exact = ExactIndex(vectors)
    shares = [len(set(exact.search(q, 100)[0].tolist()) & set(index.search(q, 100)[0].tolist())) / 100 for q in queries]
    return float(np.mean(shares))
