"""One similarity or another: on vectors of unit length they agree, on others the largest inner product is meant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem_core.bundle import Bundle
from tandem_core.clusters import Clusters
from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.index.ivf import IvfIndex

Vectors = NDArray[np.float32]
CLOSE = 1e-5  # what float32 may lose of a product or a squared distance of vectors of length 1


def unit(vectors: NDArray[np.float64]) -> Vectors:
    found: Vectors = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return found


def lists_of(vectors: Vectors) -> IvfIndex:
    clusters = Clusters.of(vectors, vectors[:8])
    return IvfIndex(vectors, clusters, len(clusters))


def graph_of(vectors: Vectors) -> HnswIndex:
    return HnswIndex.build(vectors, m=16, ef_construction=100, ef=len(vectors), seed=0)


INDEXES: dict[str, Callable[[Vectors], VectorIndex]] = {"exact": ExactIndex, "ivf": lists_of, "hnsw": graph_of}
SIMILARITIES: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "inner product": lambda vectors, query: vectors @ query,
    "cosine": lambda vectors, query: vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query),
    "Euclid": lambda vectors, query: -np.square(vectors - query).sum(axis=1),
}


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("kind", INDEXES)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(2, 24), k=st.integers(1, 60))
def test_on_unit_vectors_every_index_finds_the_nearest_by_any_of_the_three(
    kind: str, similarity: str, seed: int, dim: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors, query = unit(rng.normal(size=(60, dim))), unit(rng.normal(size=dim))
    rows, _ = INDEXES[kind](vectors).search(query, k)
    near = SIMILARITIES[similarity](vectors.astype(np.float64), query.astype(np.float64))
    assert len(set(rows.tolist())) == k
    assert (np.diff(near[rows]) <= CLOSE).all()  # nearest first
    assert near[rows[-1]] >= np.delete(near, rows).max(initial=-np.inf) - CLOSE  # and none left out is nearer


@pytest.mark.parametrize("kind", ["exact", "ivf"])
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 60))
def test_on_vectors_of_any_length_the_largest_inner_products_are_found(kind: str, seed: int, k: int) -> None:
    """Maximum inner product search, as ALS factors need it: a longer vector means a more popular item."""
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(60, 8)) * rng.lognormal(0, 1, (60, 1))).astype(np.float32)
    query = rng.normal(size=8).astype(np.float32)
    rows, scores = INDEXES[kind](vectors).search(query, k)
    products = vectors.astype(np.float64) @ query
    np.testing.assert_allclose(scores, np.sort(products)[::-1][:k], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(products[rows], scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", INDEXES)
def test_lengths_decide_between_inner_product_and_the_other_two(kind: str) -> None:
    """Towards (1, 0): (3, 3) has the largest product, 3; (1, 0) the largest cosine, 1, and the least distance, 0."""
    vectors = np.array([[3, 3], [1, 0], [0.9, 0.1], [0, 1], [-1, 0], [0, -1], [-2, 1], [-1, -2]], np.float32)
    query = np.array([1, 0], np.float32)
    rows, scores = INDEXES[kind](vectors).search(query, 3)
    assert rows.tolist() == [0, 1, 2]
    assert scores.tolist() == pytest.approx([3, 1, 0.9])
    cosine, distance = SIMILARITIES["cosine"](vectors, query), SIMILARITIES["Euclid"](vectors, query)
    assert np.argsort(-cosine, kind="stable")[:3].tolist() == [1, 2, 0]
    assert np.argsort(-distance, kind="stable")[:3].tolist() == [1, 2, 3]
    alike = INDEXES[kind](unit(vectors.astype(np.float64)))
    rows, scores = alike.search(query, 3)
    assert rows.tolist() == [1, 2, 0]
    assert scores.tolist() == pytest.approx([1, 0.9 / np.sqrt(0.82), np.sqrt(0.5)])


def test_what_the_towers_and_the_content_model_give_is_of_unit_length_and_factors_are_not(bundle: Bundle) -> None:
    np.testing.assert_allclose(np.linalg.norm(bundle.item_vectors, axis=1), 1, atol=1e-5)
    content = np.linalg.norm(bundle.content_vectors, axis=1)
    np.testing.assert_allclose(content[content > 0], 1, atol=1e-5)  # an item without a known word has none
    factors = np.linalg.norm(bundle.sources["als"].index.vectors, axis=1)  # type: ignore[attr-defined]
    assert np.ptp(factors) > 0.1
