"""Did the list hold what the user wanted: accuracy per user, all users at once.

A list is judged in two steps: `hits` finds which entries are relevant, once; each metric is then a short
function of (hit, relevant, k) that returns float64 [U]. A user without a relevant item gets NaN, for no list
could be right for them: means leave them out, and whoever takes the mean says how many they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem_core.metrics._chunks import blocks

Rows = NDArray[np.int32]  # [U, K], catalogue rows, best first, -1 after the end of a list
Hits = NDArray[np.bool_]  # [U, K], where `ranked` holds a relevant item
PerUser = NDArray[np.float64]  # [U], NaN where the metric says nothing about that user


@dataclass(frozen=True, slots=True, eq=False)
class Relevant:
    """The items that are right for each user, as compressed rows.

    indptr: int64 [U + 1]; rows: int32 [P], catalogue rows; user u owns rows[indptr[u]:indptr[u + 1]].
    Once made, each user's rows rise and none is there twice. Raises ValueError where the arrays disagree.
    """

    indptr: NDArray[np.int64]
    rows: NDArray[np.int32]

    def __post_init__(self) -> None:
        indptr, rows = np.asarray(self.indptr, np.int64), np.asarray(self.rows, np.int32)
        spans = indptr.ndim == 1 and len(indptr) > 0 and indptr[0] == 0 and indptr[-1] == len(rows)
        if not spans or (np.diff(indptr) < 0).any():
            raise ValueError(
                f"indptr of relevant items must rise from 0 to the number of rows, {len(rows)}: its shape is "
                f"{indptr.shape}, its end {indptr.ravel()[-1:].tolist()}; from_pairs builds it for you"
            )
        if len(rows) and rows.min() < 0:
            raise ValueError(f"relevant row {rows.min()} at {rows.argmin()} is below 0: leave padding out")
        users = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        stride = int(rows.max(initial=0)) + 1
        keys = np.unique(users * stride + rows)
        counts = np.bincount(keys // stride, minlength=len(indptr) - 1)
        object.__setattr__(self, "indptr", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        object.__setattr__(self, "rows", (keys % stride).astype(np.int32))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @classmethod
    def from_pairs(cls, users: NDArray[np.integer], rows: NDArray[np.integer], n_users: int) -> Relevant:
        """Group pairs given in any order; users: int [n] in 0..n_users-1, rows: int [n].

        Raises ValueError where the lengths differ or a user is out of range.
        """
        if len(users) != len(rows):
            raise ValueError(f"{len(users)} users against {len(rows)} rows: pass one of each per pair")
        if len(users) and (users.min() < 0 or users.max() >= n_users):
            raise ValueError(f"users run from {users.min()} to {users.max()}: number them 0 to {n_users - 1}")
        counts = np.bincount(users, minlength=n_users)
        grouped = np.argsort(users, kind="stable")
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), rows[grouped].astype(np.int32))

    @classmethod
    def from_lists(cls, lists: Sequence[Iterable[int]]) -> Relevant:
        """Make it from one collection of rows per user: for tests and small tables."""
        each = [list(rows) for rows in lists]
        ends = np.cumsum([0, *map(len, each)])
        return cls(ends.astype(np.int64), np.array([row for rows in each for row in rows], np.int32))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of relevant items of each user, int64 [U]."""
        return np.diff(self.indptr)

    @property
    def users(self) -> NDArray[np.int64]:
        """The user of each pair, int64 [len(rows)]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.sizes)


def hits(ranked: Rows, relevant: Relevant) -> Hits:
    """Find which entries of the lists are relevant to their user.

    ranked: int32 [U, K], best first, -1 after the end. Returns bool [U, K], False at the padding.
    Raises ValueError where the numbers of users differ, padding is not at the end, or a list holds an item
    twice (which would count one find twice and let recall pass 1).
    """
    if ranked.ndim != 2 or len(ranked) != len(relevant):
        raise ValueError(f"ranked has shape {ranked.shape}: pass one list for each of {len(relevant)} users")
    found = np.zeros(ranked.shape, np.bool_)
    stride = int(relevant.rows.max(initial=0)) + 1
    for block in blocks(len(ranked), ranked.shape[1]):
        lists = ranked[block]
        _check_lists(lists, block.start)
        begin, end = relevant.indptr[block.start], relevant.indptr[block.stop]
        if begin == end:
            continue
        # One sorted key per (user, row) pair turns U set look-ups into a single binary search.
        owners = np.repeat(np.arange(len(lists)), relevant.sizes[block])
        keys = owners * stride + relevant.rows[begin:end]
        wanted = np.arange(len(lists))[:, None] * stride + lists
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        # A row outside 0..stride-1 would pass for a row of the user before or after.
        found[block] = (keys[at] == wanted) & (lists >= 0) & (lists < stride)
    return found


def _check_lists(lists: Rows, first_user: int) -> None:
    """Raise ValueError for a list with holes, rows below -1 or an item twice."""
    if ((lists[:, 1:] >= 0) & (lists[:, :-1] < 0)).any() or lists.min(initial=0) < -1:
        bad = ((lists[:, 1:] >= 0) & (lists[:, :-1] < 0)).any(axis=1) | (lists < -1).any(axis=1)
        raise ValueError(f"list of user {first_user + int(bad.argmax())}: -1 may only stand at the end")
    ordered = np.sort(lists, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        user, at = np.argwhere(twice)[0]
        row = ordered[user, at]
        raise ValueError(f"list of user {first_user + user} holds row {row} twice: remove repeats first")


def recall_at(hit: Hits, relevant: Relevant, k: int) -> PerUser:
    """Share of the user's relevant items found among the first k: hits / |rel|, 0 to 1."""
    return _ratio(_top(hit, relevant, k).sum(axis=1), relevant.sizes, relevant)


def hit_rate_at(hit: Hits, relevant: Relevant, k: int) -> PerUser:
    """1 where at least one of the first k is relevant, else 0."""
    return _ratio(_top(hit, relevant, k).any(axis=1), 1, relevant)


def precision_at(hit: Hits, relevant: Relevant, k: int) -> PerUser:
    """Share of k places that hold a relevant item, 0 to 1; places a short list leaves empty are misses."""
    return _ratio(_top(hit, relevant, k).sum(axis=1), k, relevant)


def ndcg_at(hit: Hits, relevant: Relevant, k: int) -> PerUser:
    """Discounted gain over that of the best possible list, 0 to 1 (Järvelin and Kekäläinen, TOIS 2002).

    The gain at place i (from 0) is 1 / log2(i + 2); the best list begins with min(|rel|, k) relevant items.
    """
    return _ratio(_dcg(_top(hit, relevant, k)), _ideal_dcg(np.minimum(relevant.sizes, k)), relevant)


def mrr_at(hit: Hits, relevant: Relevant, k: int) -> PerUser:
    """1 / place (from 1) of the first relevant item, 0 if none is in the first k (Voorhees, TREC-8, 1999)."""
    top = _top(hit, relevant, k)
    if not top.shape[1]:
        return _ratio(0, 1, relevant)
    return _ratio(top.any(axis=1), top.argmax(axis=1) + 1, relevant)


def average_precision_at(hit: Hits, relevant: Relevant, k: int) -> PerUser:
    """Sum of the precision at each hit of the first k over min(|rel|, k), 0 to 1; its mean is MAP@k."""
    return _ratio(_sum_of_precisions(_top(hit, relevant, k)), np.minimum(relevant.sizes, k), relevant)


def average_precision_seed2_variant_at(hit: Hits, relevant: Relevant, k: int) -> PerUser:
    """Average precision over the number of hits, 0 where there are none: for comparison only.

    A single hit in first place scores 1 however many relevant items were missed: never below
    `average_precision_at`.
    """
    top = _top(hit, relevant, k)
    return _ratio(_sum_of_precisions(top), np.maximum(top.sum(axis=1), 1), relevant)


def ndcg_seed2_variant_at(hit: Hits, relevant: Relevant, k: int) -> PerUser:
    """NDCG against the best order of the hits themselves, 0 where there are none: for comparison only.

    Judges only the order of what was found, not what was missed: never below `ndcg_at`.
    """
    top = _top(hit, relevant, k)
    return _ratio(_dcg(top), _ideal_dcg(np.maximum(top.sum(axis=1), 1)), relevant)


def _top(hit: Hits, relevant: Relevant, k: int) -> Hits:
    if k < 1:
        raise ValueError(f"k is {k}: ask for at least the first place")
    if len(hit) != len(relevant):
        raise ValueError(f"hits of {len(hit)} users, relevant items of {len(relevant)}: pass the same users")
    return hit[:, :k]


def _ratio(part: ArrayLike, whole: ArrayLike, relevant: Relevant) -> PerUser:
    """Return part / whole per user, NaN for a user without relevant items."""
    values = np.full(len(relevant), np.nan)
    np.divide(part, whole, out=values, where=relevant.sizes > 0)
    return values


def _discounts(n: int) -> NDArray[np.float64]:
    discounts: NDArray[np.float64] = 1 / np.log2(np.arange(2, n + 2))
    return discounts


def _dcg(top: Hits) -> NDArray[np.float64]:
    # Added up in the order of _ideal_dcg, so that a perfect list gives exactly 1 and no list more, and a user
    # scores alone as in a batch; a sum or a matrix product adds in another order for each shape.
    running = np.cumsum(np.where(top, _discounts(top.shape[1]), 0.0), axis=1)
    gains: NDArray[np.float64] = running[:, -1:].sum(axis=1)  # 0 for lists without places
    return gains


def _ideal_dcg(sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    best = np.concatenate([[0.0], np.cumsum(_discounts(int(sizes.max(initial=0))))])
    gains: NDArray[np.float64] = best[sizes]
    return gains


def _sum_of_precisions(top: Hits) -> NDArray[np.float64]:
    places = np.arange(1, top.shape[1] + 1)
    precisions: NDArray[np.float64] = np.where(top, np.cumsum(top, axis=1) / places, 0.0).sum(axis=1)
    return precisions
