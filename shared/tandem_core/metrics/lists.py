"""What the lists are like, right or not: coverage, diversity, novelty, exposure, ties, nearness to taste.

ranked: int32 [U, K] item rows, best first, -1 after the end. N is the catalogue's size, D a vector's length.
Cut the lists to the places that are shown (`ranked[:, :k]`) before asking.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem_core.metrics._chunks import blocks
from tandem_core.metrics.accuracy import PerUser, Relevant, Rows

Vectors = NDArray[np.float32]  # [N, D]


def exposure(ranked: Rows, catalogue_size: int) -> NDArray[np.int64]:
    """Count the lists that hold each item: int64 [N]. Raises ValueError for a row outside the catalogue."""
    _check_rows(ranked, catalogue_size)
    # Shifted by one, the padding falls into place 0 and needs no mask.
    return np.bincount(ranked.ravel() + np.int64(1), minlength=catalogue_size + 1)[1:].astype(np.int64)


def catalogue_coverage(shown: NDArray[np.integer]) -> float:
    """Share of items, int [N] from `exposure`, that are in at least one list: 0 to 1; NaN for N = 0."""
    return float(np.count_nonzero(shown) / len(shown)) if len(shown) else float("nan")


def gini(shown: NDArray[np.integer]) -> float:
    """Inequality of exposure, int [N] from `exposure`: 0 where all items are shown alike (Gini, 1912).

    Not scaled up for small catalogues: one item taking all gives 1 - 1/N. NaN where nothing was shown.
    """
    n, total = len(shown), int(shown.sum())
    if not total:
        return float("nan")
    rising = np.sort(shown).astype(np.float64)
    return float(((2 * np.arange(1, n + 1) - n - 1) * rising).sum() / (n * total))


def intra_list_diversity(ranked: Rows, item_vectors: Vectors) -> PerUser:
    """Mean cosine distance between two items of a list, 0 (all alike) to 2 (Ziegler et al., WWW 2005).

    item_vectors: float [N, D], of any length. Items with a zero vector have no direction and are left out; a
    list with fewer than two others is NaN. Good to about 1e-6. Raises ValueError for NaN in a vector or a row
    outside the catalogue.
    """
    _check_rows(ranked, len(item_vectors))
    directions = _with_padding(item_vectors)
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    np.divide(directions, norms, out=directions, where=norms > 0)
    known = norms[:, 0] > 0
    diversity = np.full(len(ranked), np.nan)
    for block in blocks(len(ranked), ranked.shape[1] * directions.shape[1]):
        lists = ranked[block]
        n = known[lists].sum(axis=1)
        total = directions[lists].sum(axis=1).astype(np.float64)
        # The squared length of the sum holds each pair twice and each item's own 1: K steps, not K * K.
        pairs = (total * total).sum(axis=1) - n
        distance = 1 - np.divide(pairs, n * (n - 1), out=np.full(len(n), np.nan), where=n > 1)
        diversity[block] = np.clip(distance, 0, 2)
    return diversity


def novelty(ranked: Rows, item_counts: NDArray[np.integer], smoothing: float = 1.0) -> PerUser:
    """Mean surprise -log2 p(item) of a list, in bits, 0 or more; NaN if it is empty (Zhou et al., PNAS 2010).

    item_counts: int [N], training events; p is an item's share of them once `smoothing` events are added to
    every item, above 0 so that an item never seen has a finite surprise. Raises ValueError for smoothing of 0
    or below, or a row outside the catalogue.
    """
    if smoothing <= 0:
        raise ValueError(f"smoothing is {smoothing}: above 0, or an item without events is infinitely novel")
    _check_rows(ranked, len(item_counts))
    p = (item_counts + smoothing) / (item_counts.sum() + smoothing * len(item_counts))
    return _list_mean(np.append(-np.log2(p), 0.0)[ranked], ranked)


def score_ties(scores: NDArray[np.floating], ranked: Rows, tolerance: float = 0.0) -> PerUser:
    """1 where two items of a list have the same score, else 0; NaN for lists of fewer than two items.

    scores: float [U, K] beside ranked, in any order. tolerance: how far apart still counts as the same; .001
    finds what looks tied in three decimals. The mean is the share of users whose order is partly arbitrary.
    Raises ValueError where shapes differ or an item's score is NaN.
    """
    if scores.shape != ranked.shape:
        raise ValueError(f"scores of shape {scores.shape} for lists of {ranked.shape}: pass one per item")
    listed = ranked >= 0
    if (wrong := np.isnan(scores) & listed).any():
        user, place = np.argwhere(wrong)[0]
        raise ValueError(f"score of user {user} at place {place} is NaN: mend the model before judging it")
    ordered = np.sort(np.where(listed, scores, np.nan), axis=1)  # NaN goes last and equals nothing
    with np.errstate(invalid="ignore"):  # inf - inf
        same = (ordered[:, 1:] == ordered[:, :-1]) | (ordered[:, 1:] - ordered[:, :-1] <= tolerance)
    return np.where(listed.sum(axis=1) > 1, same.any(axis=1).astype(np.float64), np.nan)


def centroids(history: Relevant, item_vectors: Vectors) -> NDArray[np.float64]:
    """Mean vector of the items that each user rated: float64 [U, D]; NaN for a user without history.

    Raises ValueError for NaN in a vector or a row outside the catalogue.
    """
    _check_rows(history.rows, len(item_vectors))
    _check_vectors(item_vectors)
    means = np.full((len(history), item_vectors.shape[1]), np.nan)
    sizes = history.sizes
    longest = int(sizes.max(initial=1))
    for block in blocks(len(history), longest * item_vectors.shape[1]):
        # reduceat would give an empty segment its neighbour's first row.
        some = np.flatnonzero(sizes[block] > 0)
        if not len(some):
            continue
        begin, end = history.indptr[block.start], history.indptr[block.stop]
        starts = history.indptr[block][some] - begin
        sums = np.add.reduceat(item_vectors[history.rows[begin:end]], starts, axis=0, dtype=np.float64)
        means[block.start + some] = sums / sizes[block][some, None]
    return means


def centroid_distance(ranked: Rows, item_vectors: Vectors, user_centroids: NDArray[np.floating]) -> PerUser:
    """Mean Euclidean distance of a list's items to the centre of what the user rated, 0 or more.

    user_centroids: float [U, D], from `centroids`, or rating-weighted ones. In the unit of the vectors: pass
    unit vectors for a distance that ignores length. NaN where the list is empty or the centroid NaN. Raises
    ValueError for shapes that do not match, NaN in a vector or a row outside the catalogue.
    """
    _check_rows(ranked, len(item_vectors))
    if user_centroids.shape != (len(ranked), item_vectors.shape[1]):
        raise ValueError(
            f"centroids of shape {user_centroids.shape}: pass one of length {item_vectors.shape[1]} "
            f"for each of the {len(ranked)} users"
        )
    padded = _with_padding(item_vectors)
    centres = user_centroids.astype(np.float32)
    distance = np.full(len(ranked), np.nan)
    for block in blocks(len(ranked), ranked.shape[1] * padded.shape[1]):
        apart = padded[ranked[block]] - centres[block, None, :]
        each = np.sqrt(np.einsum("ukd,ukd->uk", apart, apart))
        distance[block] = _list_mean(each, ranked[block])
    return distance


def _list_mean(values: NDArray[np.floating], ranked: Rows) -> PerUser:
    """Mean of values [U, K] over the places of each list that hold an item, NaN where none does."""
    listed = ranked >= 0
    n = listed.sum(axis=1)
    total = np.where(listed, values, 0.0).sum(axis=1, dtype=np.float64)
    means: PerUser = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    return means


def _with_padding(item_vectors: Vectors) -> NDArray[np.float32]:
    """Return a copy with a zero vector below, which is where row -1 points."""
    _check_vectors(item_vectors)
    padded = np.zeros((len(item_vectors) + 1, item_vectors.shape[1]), np.float32)
    padded[:-1] = item_vectors
    return padded


def _check_vectors(item_vectors: Vectors) -> None:
    finite = np.isfinite(item_vectors).all(axis=1)
    if not finite.all():
        raise ValueError(f"vector of item row {int(finite.argmin())} holds NaN or infinity: export it again")


def _check_rows(rows: Rows, catalogue_size: int) -> None:
    if rows.size and (rows.max() >= catalogue_size or rows.min() < -1):
        raise ValueError(
            f"rows run from {rows.min()} to {rows.max()}, the catalogue has 0 to {catalogue_size - 1}: "
            "number items by the catalogue that the vectors and counts belong to"
        )
