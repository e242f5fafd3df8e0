"""The item-to-item source: what comes next after a recency-weighted bag of items, by one ridge regression."""

from __future__ import annotations

import logging

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tandem_core.sparse_rows import SparseRows

log = logging.getLogger(__name__)

FARTHEST = 10  # half-lives: events further apart weigh less than 1 / 1,000 of neighbouring ones and are left out


class SlistSettings(BaseModel):
    """Sparse linear item model, autoregressive part (SLIT of Choi et al., WWW 2021)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    half_life: float = Field(default=4.0, gt=0)  # in events, of the history when fitting
    serving_half_life: float = Field(default=4.0, gt=0)  # in events, of the history when asked
    regularization: float = Field(default=500.0, gt=0)
    neighbours: int = Field(default=100, ge=1)  # entries kept per item, the largest by absolute value
    most_items: int = Field(default=10_000, ge=2)  # the most popular ones take part: 16 bytes of memory per pair


def fit_slist(
    rows_user: NDArray[np.integer],
    rows_item: NDArray[np.integer],
    weights: NDArray[np.floating],
    n_items: int,
    settings: SlistSettings,
) -> SparseRows:
    """Return B of least squares, [N, N]: history item -> next items, the largest entries of each row.

    rows_user, rows_item, weights: [E], events in the order of time; those of weight 0 or less are left out. An event
    with earlier events of its user is an example: x is the sum of the earlier items, each with its weight halved every
    `half_life` events back; y is the event's own item; the example counts with the event's weight. B minimises
    sum of weight * |xB - y|^2 + regularization * |B|^2: B = (X'X + rI)^-1 X'Y. Items without events have empty rows.
    Where the catalogue has more than `most_items` items with events, the most popular so many take part, and of the
    others nothing is learned. One thread, no randomness: the same events give the same matrix.
    """
    kept = (weights > 0) & (rows_item >= 0)
    counts = np.bincount(rows_item[kept], minlength=n_items)
    with_events = int(np.count_nonzero(counts))
    taking_part = np.sort(np.lexsort((np.arange(n_items), -counts))[: min(settings.most_items, with_events)])
    if (left_out := with_events - len(taking_part)) > 0:
        log.warning(
            "item-to-item model: the least popular items take no part",
            extra={"left_out": left_out, "taking_part": len(taking_part)},
        )
    place = np.full(n_items, -1, np.int64)
    place[taking_part] = np.arange(len(taking_part))
    kept &= place[rows_item] >= 0
    by_user = np.argsort(rows_user[kept], kind="stable")
    gram, targets = _moments(
        rows_user[kept][by_user],
        place[rows_item[kept][by_user]],
        weights[kept][by_user].astype(np.float64),
        len(taking_part),
        settings.half_life,
    )
    gram[np.diag_indices_from(gram)] += settings.regularization
    # LAPACK works in place on columns: the upper triangle in rows is the lower one in columns.
    factor = scipy.linalg.cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
    solved: NDArray[np.float64] = scipy.linalg.cho_solve(factor, targets.T, overwrite_b=True, check_finite=False)
    return _largest(solved, taking_part, n_items, settings.neighbours)


def _moments(
    users: NDArray[np.integer],
    items: NDArray[np.int64],
    weights: NDArray[np.float64],
    n: int,
    half_life: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return X'X (its upper triangle) and Y'X, float64 [n, n], without making X.

    users, items, weights: [E], sorted by user, then by time.

    With a = .5 ** (1 / half_life), example t of a user holds event i < t with weights[i] * a^(t - 1 - i). So events i
    and j, d = j - i >= 0 places apart, add weights[i] * weights[j] * a^d * later[j] to X'X, where later[j] is the sum
    over the examples t > j of weights[t] * a^(2 (t - 1 - j)); and event i adds weights[i] * weights[j] * a^(d - 1) to
    X'Y in the column of j's item. One pass per distance d; what they add fades as d grows.
    """
    fade = 0.5 ** (1 / half_life)
    later = _sums_over_later_examples(users, weights, fade**2)
    gram, targets = np.zeros(n * n), np.zeros(n * n)
    np.add.at(gram, items * (n + 1), weights**2 * later)
    for d in range(1, min(len(items), int(np.ceil(FARTHEST * half_life)) + 1)):
        older = np.flatnonzero(users[:-d] == users[d:])
        newer = older + d
        one, other = items[older], items[newer]
        together = weights[older] * weights[newer] * fade ** (d - 1)
        np.add.at(targets, other * n + one, together)
        # A pair stands on both sides of the diagonal, of which one is kept; two events on one item are twice on it.
        in_gram = together * fade * later[newer] * np.where(one == other, 2, 1)
        np.add.at(gram, np.minimum(one, other) * n + np.maximum(one, other), in_gram)
    return gram.reshape(n, n), targets.reshape(n, n)


def _sums_over_later_examples(
    users: NDArray[np.integer], weights: NDArray[np.float64], fade: float
) -> NDArray[np.float64]:
    """Return float64 [E]: later[j] = weights[j + 1] + fade * later[j + 1] within a user, 0 at its last event."""
    later = np.zeros(len(users))
    last = np.flatnonzero(np.diff(users, append=-1) != 0)
    first = np.concatenate([[0], last[:-1] + 1])
    at = last - 1
    at = at[at >= first]  # all users step back together, one event at a time
    start = first[last - 1 >= first]
    while len(at):
        later[at] = weights[at + 1] + fade * later[at + 1]
        at = at - 1
        going = at >= start
        at, start = at[going], start[going]
    return later


def _largest(matrix: NDArray[np.float64], items: NDArray[np.int64], n_items: int, most: int) -> SparseRows:
    """Return the `most` entries of each row that are largest by absolute value; items: catalogue rows, rising."""
    counts, columns, values = np.zeros(n_items, np.int64), [], []
    for row, entries in zip(items, matrix, strict=True):
        best = np.argsort(-np.abs(entries), kind="stable")[:most]
        best = np.sort(best[entries[best] != 0])
        counts[row] = len(best)
        columns.append(items[best])
        values.append(entries[best])
    return SparseRows(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([np.empty(0), *columns]).astype(np.int32),
        np.concatenate([np.empty(0), *values]).astype(np.float32),
        n_items,
    )
