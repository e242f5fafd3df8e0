"""Clusters of item vectors: fitting them, and choosing how many by a rule that is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import rankdata
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import davies_bouldin_score, silhouette_score
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tandem_core.clusters import Clusters, Mixture

MINI_BATCH_FROM = 20_000  # items; below, full K-means takes seconds and finds tighter clusters
SILHOUETTE_SAMPLE = 5_000  # it compares all pairs


class ClusterSettings(BaseModel):
    """How item vectors are clustered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(default=150, ge=1)  # at most a tenth of the items, so that a cluster is more than its centre
    n_init: int = Field(default=3, ge=1)  # K-means starts (k-means++), the tightest is kept; mini-batch K-means too
    iterations: int = Field(default=100, ge=1)
    # Added to every variance: without it a component of one item has none, and is likely for nothing else.
    # Unit vectors of 64 dimensions have a variance of 1/64 = .016 in each.
    least_variance: float = Field(default=1e-3, gt=0)


@dataclass(frozen=True, slots=True)
class Criteria:
    """What speaks for a number of clusters. inertia: sum of squared distances to the centres, the elbow's curve.

    elbow: height of the curve's chord above the curve, both scaled to 0..1 (Satopaa et al., ICDCSW 2011); more is
    better. silhouette: -1 to 1, more is better. davies_bouldin: 0 or more, less is better. entropy: of the clusters'
    sizes over its maximum, 0 to 1; more is more even, and better. mean_rank: over the four, 1 is best.
    """

    count: int
    inertia: float
    elbow: float
    silhouette: float
    davies_bouldin: float
    entropy: float
    mean_rank: float


def capped(count: int, n_items: int) -> int:
    """Return the number of clusters that many items can have: at most a tenth of them, at least 1."""
    return max(1, min(count, n_items // 10))


def fit_kmeans(vectors: NDArray[np.float32], settings: ClusterSettings, seed: int) -> Clusters:
    """Cluster item vectors, float32 [N, D], by Euclidean distance (Lloyd 1982); on unit vectors that is the cosine.

    One thread: the result is the same to the bit for the same seed. Raises ValueError for no items.
    """
    return Clusters.of(vectors, _kmeans(vectors, settings, seed).cluster_centers_.astype(np.float32))


def fit_gmm(vectors: NDArray[np.float32], settings: ClusterSettings, seed: int) -> Clusters:
    """Fit a Gaussian mixture with diagonal covariances to item vectors, float32 [N, D], from K-means' centres.

    An item's label is its likeliest component, weight included, as sklearn's `predict`. Raises ValueError for
    fewer than 2 items.
    """
    start = _kmeans(vectors, settings, seed).cluster_centers_
    model = GaussianMixture(
        len(start),
        covariance_type="diag",
        means_init=start,
        reg_covar=settings.least_variance,
        max_iter=settings.iterations,
        random_state=seed,
    )
    with threadpool_limits(1):
        model.fit(vectors.astype(np.float64))
    mixture = Mixture(np.log(model.weights_).astype(np.float32), model.precisions_cholesky_.astype(np.float32))
    return Clusters.of(vectors, model.means_.astype(np.float32), mixture)


def default_grid(n_items: int, steps: int = 8) -> list[int]:
    """Return numbers of clusters to compare, evenly spaced in their logarithm up to a tenth of the items."""
    most = max(2, min(400, n_items // 10))
    return sorted({round(float(count)) for count in np.geomspace(min(10, most), most, steps)})


def compare_counts(
    vectors: NDArray[np.float32], grid: Sequence[int], settings: ClusterSettings, seed: int
) -> list[Criteria]:
    """Return the criteria of K-means for each number of clusters in the grid, rising; the curve's ends have elbow 0.

    Raises ValueError where a number is not between 2 and N - 1, or fewer than three are given.
    """
    counts = sorted(set(grid))
    if len(counts) < 3 or counts[0] < 2 or counts[-1] >= len(vectors):
        raise ValueError(f"grid {list(grid)}: give at least three numbers of clusters from 2 to {len(vectors) - 1}")
    fitted = [_kmeans(vectors, settings.model_copy(update={"count": c}), seed, cap=False) for c in counts]
    inertia = np.array([model.inertia_ for model in fitted])
    elbow = _above_curve(np.array(counts, np.float64), inertia)
    with threadpool_limits(1):
        silhouette = np.array(
            [
                silhouette_score(
                    vectors, m.labels_, sample_size=min(SILHOUETTE_SAMPLE, len(vectors)), random_state=seed
                )
                for m in fitted
            ]
        )
        davies_bouldin = np.array([davies_bouldin_score(vectors, m.labels_) for m in fitted])
    entropy = np.array([size_entropy(np.bincount(m.labels_, minlength=c)) for m, c in zip(fitted, counts, strict=True)])
    ranks = np.mean([rankdata(-elbow), rankdata(-silhouette), rankdata(davies_bouldin), rankdata(-entropy)], axis=0)
    columns = zip(counts, inertia, elbow, silhouette, davies_bouldin, entropy, ranks, strict=True)
    return [Criteria(int(count), *map(float, values)) for count, *values in columns]


def choose_count(criteria: Sequence[Criteria]) -> Criteria:
    """Return the number of clusters with the best mean rank over the four criteria, the smaller where two tie."""
    return min(criteria, key=lambda each: (each.mean_rank, each.count))


def size_entropy(sizes: NDArray[np.integer]) -> float:
    """Return the entropy of clusters' sizes, int [C], over log C: 1 where all are as large, 0 where one has all."""
    share = sizes[sizes > 0] / max(int(sizes.sum()), 1)
    return float(-(share * np.log(share)).sum() / np.log(len(sizes))) if len(sizes) > 1 else 0.0


def _above_curve(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the chord of a falling curve lies above it, both axes scaled to 0..1."""
    across = (x - x[0]) / (x[-1] - x[0])
    fallen = (y - y[-1]) / max(y[0] - y[-1], 1e-12)
    height: NDArray[np.float64] = 1 - across - fallen
    return height


def _kmeans(vectors: NDArray[np.float32], settings: ClusterSettings, seed: int, *, cap: bool = True) -> KMeans:
    if len(vectors) < 2:
        raise ValueError(f"{len(vectors)} item vectors cannot be clustered: give at least 2")
    count = capped(settings.count, len(vectors)) if cap else settings.count
    method = KMeans if len(vectors) < MINI_BATCH_FROM else MiniBatchKMeans
    model = method(count, n_init=settings.n_init, max_iter=settings.iterations, random_state=seed)
    with threadpool_limits(1):  # the threads of its inner products add up in an order of their own
        return model.fit(vectors)
