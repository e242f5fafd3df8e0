from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem_core.index.base import VectorIndex, top_k
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex

Vectors = NDArray[np.float32]


def clustered(n: int, dim: int, seed: int) -> Vectors:
    """Unit vectors around 40 centres, as item vectors are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, dim))
    vectors = centres[rng.integers(0, 40, n)] + 0.4 * rng.normal(size=(n, dim))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return clustered(2000, 16, 0)


@pytest.fixture(scope="module")
def graph(vectors: Vectors) -> HnswIndex:
    return HnswIndex.build(vectors, m=16, ef_construction=100, ef=100, seed=1)


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.5, np.nan, np.inf]), max_size=20), st.integers(1, 25))
def test_top_k_gives_ties_to_the_smaller_rows_also_at_the_cut(scores: list[float], k: int) -> None:
    rows = np.arange(len(scores), dtype=np.int32) * 3
    got, values = top_k(np.array(scores, np.float32), rows, k)
    naive = sorted(range(len(scores)), key=lambda i: (-scores[i] if np.isfinite(scores[i]) else np.inf, i))[:k]
    assert got.tolist() == [3 * i for i in naive]
    np.testing.assert_array_equal(values, np.array([scores[i] for i in naive], np.float32))
    assert values.dtype == np.float32


def test_exact_search_finds_the_largest_inner_products(vectors: Vectors) -> None:
    query = vectors[3] * 2
    rows, scores = ExactIndex(vectors).search(query, 10)
    products = [float(sum(a * b for a, b in zip(vector, query, strict=True))) for vector in vectors.tolist()]
    naive = sorted(range(len(vectors)), key=lambda row: -products[row])[:10]
    assert rows.tolist() == naive
    assert scores.tolist() == pytest.approx([products[row] for row in naive], abs=1e-5)


def test_the_graph_finds_more_than_95_percent_of_the_true_neighbours(vectors: Vectors, graph: HnswIndex) -> None:
    exact, queries = ExactIndex(vectors), clustered(50, 16, 9)
    hits = [len({*exact.search(q, 20)[0].tolist()} & {*graph.search(q, 20)[0].tolist()}) for q in queries]
    assert sum(hits) / (20 * len(queries)) > 0.95


def test_the_graph_scores_by_inner_product_best_first(vectors: Vectors, graph: HnswIndex) -> None:
    rows, scores = graph.search(vectors[7], 30)
    assert rows[0] == 7
    assert rows.dtype == np.int32
    np.testing.assert_allclose(scores, vectors[rows] @ vectors[7], atol=1e-5)
    assert np.all(np.diff(scores) <= 0)


def test_a_saved_graph_finds_the_same_and_takes_its_breadth_from_the_caller(
    vectors: Vectors, graph: HnswIndex, tmp_path: Path
) -> None:
    graph.save(tmp_path / "graph.hnsw")
    loaded = HnswIndex.load(tmp_path / "graph.hnsw", vectors, ef=100)
    narrow = HnswIndex.load(tmp_path / "graph.hnsw", vectors, ef=20)
    queries, exact = clustered(30, 16, 4), ExactIndex(vectors)
    for query in queries:
        np.testing.assert_array_equal(loaded.search(query, 20), graph.search(query, 20))

    def recall(index: VectorIndex) -> int:
        return sum(len({*exact.search(q, 20)[0].tolist()} & {*index.search(q, 20)[0].tolist()}) for q in queries)

    assert recall(narrow) < recall(loaded) <= recall(narrow.with_ef(400))


def test_the_same_vectors_and_seed_give_the_same_file(tmp_path: Path) -> None:
    vectors = clustered(300, 8, 2)
    for name in ("one", "two"):
        HnswIndex.build(vectors, 8, 50, 50, seed=3).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("n", [1, 5, 2000])
def test_asking_for_more_than_there_is_gives_everything(vectors: Vectors, n: int) -> None:
    some = vectors[:n].copy()
    some[n // 2] = 0  # an item without events has the zero vector as its ALS factor
    exact = ExactIndex(some).search(vectors[0], n + 5)
    graph = HnswIndex.build(some, 8, 50, 20, seed=0).search(vectors[0], n + 5)
    for rows, scores in (exact, graph):
        assert sorted(rows.tolist()) == list(range(n))
        assert np.all(np.diff(scores) <= 0)


def test_a_graph_that_cannot_reach_every_vector_answers_all_the_same() -> None:
    rng = np.random.default_rng(0)
    factors = (rng.normal(size=(2000, 16)) * rng.lognormal(0, 1, (2000, 1))).astype(np.float32)
    rows, _ = HnswIndex.build(factors, 8, 50, 50, seed=0).search(factors[0], 2000)
    assert sorted(rows.tolist()) == list(range(2000))
