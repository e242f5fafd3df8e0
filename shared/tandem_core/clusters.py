"""Items in groups that lie together: K-means clusters, or the components of a Gaussian mixture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_CHUNK = 256  # vectors compared with all centres at once


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a Gaussian mixture with diagonal covariances has beside its means.

    log_weights: float32 [C], logarithm of each component's share. precisions_cholesky: float32 [C, D], one over the
    standard deviation, above 0. Diagonal suffices: full covariances of 150 components of 64 dimensions are 600,000
    numbers, more than the vectors of most catalogues that they would be fitted on.
    """

    log_weights: NDArray[np.float32]
    precisions_cholesky: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Clusters:
    """N items in C clusters; a cluster is its number in every array, so labels and centres cannot be mixed up.

    labels: int32 [N], the cluster each item is nearest to. centres: float32 [C, D], K-means centroids or component
    means. mixture: None for K-means. Raises ValueError where shapes disagree, a number is not finite or a label is
    no cluster.
    """

    labels: NDArray[np.int32]
    centres: NDArray[np.float32]
    mixture: Mixture | None = None
    _members: NDArray[np.int32] = field(init=False, repr=False)
    _starts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.labels, self.centres, self.mixture)
        ends = np.cumsum(np.bincount(self.labels, minlength=len(self.centres)))
        object.__setattr__(self, "_members", np.argsort(self.labels, kind="stable").astype(np.int32))
        object.__setattr__(self, "_starts", np.concatenate([[0], ends]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Items of each cluster, int64 [C]; 0 is possible."""
        return np.diff(self._starts)

    def nearness(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [C], larger is nearer; vector: float32 [D].

        K-means: minus the squared Euclidean distance. Mixture: log of weight times density, so that its softmax is
        the posterior of the components.
        """
        apart = self.centres - vector
        if self.mixture is None:
            nearness: NDArray[np.float32] = -np.einsum("cd,cd->c", apart, apart)
            return nearness
        apart *= self.mixture.precisions_cholesky
        log_scale = np.log(self.mixture.precisions_cholesky).sum(axis=1) + self.mixture.log_weights
        near: NDArray[np.float32] = log_scale - (np.einsum("cd,cd->c", apart, apart) + _log_2_pi(apart.shape[1])) / 2
        return near

    def nearest(self, vector: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return all clusters, nearest first, ties to the smaller number."""
        return np.argsort(-self.nearness(vector), kind="stable")

    def log_posterior(self, vector: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64 [C], log p(component | vector), of a mixture."""
        near = self.nearness(vector).astype(np.float64)
        near -= near.max()
        posterior: NDArray[np.float64] = near - np.log(np.exp(near).sum())
        return posterior

    def members(self, clusters: NDArray[np.intp]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Return the rows of these clusters, one cluster after another, and each row's place in `clusters`."""
        sizes = self.sizes[clusters]
        ends = np.cumsum(sizes)
        place = np.repeat(np.arange(len(clusters)), sizes)
        within = np.arange(len(place)) - (ends - sizes)[place]
        return self._members[self._starts[clusters][place] + within], place

    def save(self, path: Path) -> None:
        """Write as npz without pickle."""
        arrays: dict[str, NDArray[np.generic]] = {"labels": self.labels, "centres": self.centres}
        if self.mixture is not None:
            arrays |= {
                "log_weights": self.mixture.log_weights,
                "precisions_cholesky": self.mixture.precisions_cholesky,
            }
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Clusters:
        """Read what `save` wrote; raises ValueError where it does not fit together."""
        with np.load(path, allow_pickle=False) as arrays:
            mixture = None
            if "log_weights" in arrays.files:
                mixture = Mixture(arrays["log_weights"], arrays["precisions_cholesky"])
            return cls(arrays["labels"], arrays["centres"], mixture)

    @classmethod
    def of(cls, vectors: NDArray[np.float32], centres: NDArray[np.float32], mixture: Mixture | None = None) -> Clusters:
        """Put each vector, float32 [N, D], into the cluster it is nearest to, by the rule that users meet later."""
        if mixture is None:
            near_to = [_by_distance(part, centres) for part in _chunks(vectors)]
        else:
            near_to = [_by_density(part, centres, mixture) for part in _chunks(vectors)]
        labels = np.concatenate(near_to) if near_to else np.empty(0, np.intp)
        return cls(labels.astype(np.int32), centres, mixture)


def _by_distance(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    near = vectors @ centres.T - np.einsum("cd,cd->c", centres, centres) / 2
    nearest: NDArray[np.intp] = np.argmax(near, axis=1)
    return nearest


def _by_density(vectors: NDArray[np.float32], centres: NDArray[np.float32], mixture: Mixture) -> NDArray[np.intp]:
    apart = (vectors[:, None, :] - centres) * mixture.precisions_cholesky  # [n, C, D]
    log_scale = np.log(mixture.precisions_cholesky).sum(axis=1) + mixture.log_weights
    nearest: NDArray[np.intp] = np.argmax(log_scale - np.einsum("ncd,ncd->nc", apart, apart) / 2, axis=1)
    return nearest


def _chunks(vectors: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [vectors[start : start + _CHUNK] for start in range(0, len(vectors), _CHUNK)]


def _log_2_pi(dims: int) -> float:
    return dims * float(np.log(2 * np.pi))


def _check(labels: NDArray[np.int32], centres: NDArray[np.float32], mixture: Mixture | None) -> None:
    if centres.ndim != 2 or not len(centres) or labels.ndim != 1:
        raise ValueError(f"labels of shape {labels.shape}, centres of {centres.shape}: they must be [N] and [C, D]")
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(centres):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, there are {len(centres)} clusters")
    arrays = {"centres": centres}
    if mixture is not None:
        arrays |= {"log_weights": mixture.log_weights, "precisions_cholesky": mixture.precisions_cholesky}
        shapes = mixture.log_weights.shape, mixture.precisions_cholesky.shape
        if shapes != ((len(centres),), centres.shape):
            raise ValueError(f"log_weights and precisions_cholesky have shapes {shapes}, centres {centres.shape}")
        if not (mixture.precisions_cholesky > 0).all():
            raise ValueError("precisions_cholesky has entries that are not above 0: fit the mixture again")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinity: fit the clusters again")
