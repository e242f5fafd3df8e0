"""What a user had written or rated before: the mean of earlier vectors, the current one left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def previous_means(
    users: NDArray[np.integer],
    times: NDArray[np.int64],
    vectors: NDArray[np.floating],
    known: NDArray[np.bool_] | None = None,
    anonymous: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Return float32 [P, T]: for each event the mean of the vectors of its user's earlier known events.

    users: int [P], 0 or more. times: int64 [P]; at equal times the order of rows counts. vectors: [P, T]. known: bool
    [P], events that may be averaged (those of the training cut); None: all. anonymous: bool [P], events of nobody in
    particular: they get the mean over all known vectors. A user's first event gets zeros.
    """
    n = len(users)
    known = np.ones(n, np.bool_) if known is None else known
    means = np.zeros(vectors.shape, np.float32)
    if not n:
        return means
    order = np.lexsort((np.arange(n), times, users))
    counts = np.bincount(users)
    rank = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)  # of an event among its user's, in time
    by_rank = order[np.argsort(rank, kind="stable")]
    sums, seen = np.zeros((len(counts), vectors.shape[1])), np.zeros(len(counts))
    # One step per place in the histories, all users at once: the sums of one user never meet those of another, so
    # that a later event cannot change a mean by as much as a rounding.
    for rows in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]):
        of = users[rows]
        means[rows] = sums[of] / np.maximum(seen[of], 1)[:, None]
        sums[of] += vectors[rows] * known[rows, None]
        seen[of] += known[rows]
    if anonymous is not None and anonymous.any() and known.any():
        means[anonymous] = vectors[known].mean(axis=0)
    return means
