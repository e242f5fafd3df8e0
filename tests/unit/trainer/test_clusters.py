from __future__ import annotations

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from tandem_trainer.clusters import (
    ClusterSettings,
    capped,
    choose_count,
    compare_counts,
    default_grid,
    fit_gmm,
    fit_kmeans,
    size_entropy,
)


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    """float32 [240, 8], unit length: 12 tight groups of 20."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 8))
    points = np.repeat(centres, 20, axis=0) + 0.05 * rng.normal(size=(240, 8))
    found: np.ndarray = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return found


TRUTH = np.repeat(np.arange(12), 20)


def groups(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@pytest.mark.parametrize("fit", [fit_kmeans, fit_gmm])
def test_planted_groups_are_found(fit: type, blobs: np.ndarray) -> None:
    assert groups(fit(blobs, ClusterSettings(count=12, n_init=10), 0).labels) == groups(TRUTH)


def test_a_mixture_labels_items_as_sklearn_predicts() -> None:
    vectors = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    settings = ClusterSettings(count=15)
    ours = fit_gmm(vectors, settings, seed=3)
    assert ours.mixture is not None
    theirs = GaussianMixture(15, covariance_type="diag")
    theirs.weights_ = np.exp(ours.mixture.log_weights.astype(np.float64))
    theirs.means_ = ours.centres.astype(np.float64)
    theirs.precisions_cholesky_ = ours.mixture.precisions_cholesky.astype(np.float64)
    theirs.covariances_ = theirs.precisions_cholesky_**-2
    np.testing.assert_array_equal(ours.labels, theirs.predict(vectors.astype(np.float64)))
    for vector in vectors[:20]:
        np.testing.assert_allclose(
            np.exp(ours.log_posterior(vector)), theirs.predict_proba(vector[None].astype(np.float64))[0], atol=1e-4
        )


def test_the_same_seed_gives_the_same_bits(blobs: np.ndarray) -> None:
    one, same, other = (fit_kmeans(blobs, ClusterSettings(count=20, n_init=1), seed).centres for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_there_are_at_most_a_tenth_as_many_clusters_as_items(blobs: np.ndarray) -> None:
    assert len(fit_kmeans(blobs, ClusterSettings(), 0)) == capped(150, 240) == 24
    assert capped(150, 5) == 1
    with pytest.raises(ValueError, match="at least 2"):
        fit_kmeans(blobs[:1], ClusterSettings(), 0)


def test_the_rule_finds_the_planted_number_of_groups(blobs: np.ndarray) -> None:
    criteria = compare_counts(blobs, [3, 6, 9, 12, 15, 18, 24], ClusterSettings(n_init=10), 0)
    assert choose_count(criteria).count == 12
    assert max(criteria, key=lambda each: each.silhouette).count == 12
    assert max(criteria, key=lambda each: each.elbow).count in {9, 12}
    assert [each.inertia for each in criteria] == sorted((each.inertia for each in criteria), reverse=True)
    assert sum(each.mean_rank for each in criteria) == pytest.approx(7 * 4)  # ranks 1 to 7, whoever has them


def test_a_grid_that_cannot_be_clustered_is_refused(blobs: np.ndarray) -> None:
    for grid in ([5, 10], [1, 5, 10], [5, 10, 240]):
        with pytest.raises(ValueError, match="at least three"):
            compare_counts(blobs, grid, ClusterSettings(), 0)
    assert default_grid(1682)[0] == 10
    assert default_grid(1682)[-1] == 168
    assert default_grid(100_000)[-1] == 400


def test_entropy_of_sizes_is_one_when_even_and_zero_when_one_has_all() -> None:
    assert size_entropy(np.array([4, 4, 4])) == pytest.approx(1)
    assert size_entropy(np.array([12, 0, 0])) == 0
    assert 0 < size_entropy(np.array([10, 1, 1])) < 1
