from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.clusters import Clusters, Mixture
from tandem_core.index.exact import ExactIndex
from tandem_core.index.ivf import IvfIndex


def unit(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


VECTORS, CENTRES = unit((60, 5)), unit((7, 5), 1)
MIXTURE = Mixture(
    np.log(np.full(7, 1 / 7, np.float32)),
    np.random.default_rng(2).uniform(1, 4, (7, 5)).astype(np.float32),
)


@pytest.mark.parametrize("mixture", [None, MIXTURE])
def test_each_item_is_in_the_cluster_that_a_user_with_its_vector_goes_to_first(mixture: Mixture | None) -> None:
    clusters = Clusters.of(VECTORS, CENTRES, mixture)
    assert [clusters.nearest(vector)[0] for vector in VECTORS] == clusters.labels.tolist()


def test_nearness_of_kmeans_is_the_euclidean_distance() -> None:
    near = Clusters.of(VECTORS, CENTRES).nearness(VECTORS[3])
    np.testing.assert_allclose(np.sqrt(-near), np.linalg.norm(CENTRES - VECTORS[3], axis=1), atol=1e-6)


def test_the_posterior_adds_up_to_one_and_follows_bayes() -> None:
    clusters = Clusters.of(VECTORS, CENTRES, MIXTURE)
    deviation = 1 / MIXTURE.precisions_cholesky.astype(np.float64)
    z = (VECTORS[0] - CENTRES) / deviation
    density = np.exp(-(z**2).sum(axis=1) / 2) / (np.sqrt(2 * np.pi) * deviation).prod(axis=1) / 7
    np.testing.assert_allclose(np.exp(clusters.log_posterior(VECTORS[0])), density / density.sum(), rtol=1e-4)


@given(st.lists(st.integers(0, 5), min_size=0, max_size=40), st.permutations(range(6)))
def test_members_are_every_row_of_the_clusters_asked_for_in_their_order(labels: list[int], order: list[int]) -> None:
    clusters = Clusters(np.array(labels, np.int32), unit((6, 3)))
    asked = np.array(order[:4])
    rows, place = clusters.members(asked)
    assert rows.tolist() == [row for cluster in asked for row, label in enumerate(labels) if label == cluster]
    assert asked[place].tolist() == clusters.labels[rows].tolist()


@pytest.mark.parametrize("mixture", [None, MIXTURE])
def test_what_is_saved_is_loaded_without_pickle(mixture: Mixture | None, tmp_path: Path) -> None:
    clusters = Clusters.of(VECTORS, CENTRES, mixture)
    clusters.save(tmp_path / "clusters.npz")
    loaded = Clusters.load(tmp_path / "clusters.npz")
    np.testing.assert_array_equal(loaded.labels, clusters.labels)
    np.testing.assert_array_equal(loaded.nearness(VECTORS[1]), clusters.nearness(VECTORS[1]))


@pytest.mark.parametrize(
    ("labels", "centres", "mixture", "said"),
    [
        ([0, 7], CENTRES, None, "there are 7 clusters"),
        ([0, -1], CENTRES, None, "run from -1"),
        ([0], CENTRES * np.nan, None, "centres holds NaN"),
        ([0], CENTRES[0], None, "must be"),
        ([0], CENTRES, Mixture(MIXTURE.log_weights[:3], MIXTURE.precisions_cholesky), "have shapes"),
        ([0], CENTRES, Mixture(MIXTURE.log_weights, -MIXTURE.precisions_cholesky), "not above 0"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    labels: list[int], centres: np.ndarray, mixture: Mixture | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Clusters(np.array(labels, np.int32), centres, mixture)


def test_inverted_lists_probed_completely_are_exact_search() -> None:
    index, exact = IvfIndex(VECTORS, Clusters.of(VECTORS, CENTRES), 7), ExactIndex(VECTORS)
    for query in unit((20, 5), 3):
        rows, scores = index.search(query, 9)
        true_rows, true_scores = exact.search(query, 9)
        assert rows.tolist() == true_rows.tolist()
        np.testing.assert_allclose(scores, true_scores, atol=1e-6)


def test_more_probes_find_more_and_no_list_is_short() -> None:
    clusters = Clusters.of(VECTORS, CENTRES)
    exact = ExactIndex(VECTORS)
    recalls = []
    for probes in range(1, 8):
        index = IvfIndex(VECTORS, clusters, probes)
        found = [(set(index.search(q, 5)[0].tolist()), set(exact.search(q, 5)[0].tolist())) for q in unit((40, 5), 4)]
        assert all(len(rows) == 5 for rows, _ in found)
        recalls.append(np.mean([len(rows & true) / 5 for rows, true in found]))
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1] == 1
    assert len(IvfIndex(VECTORS, clusters, 1).search(VECTORS[0], 60)[0]) == 60


def test_an_inverted_list_over_other_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="fit the clusters on these vectors"):
        IvfIndex(VECTORS[:-1], Clusters.of(VECTORS, CENTRES), 1)
