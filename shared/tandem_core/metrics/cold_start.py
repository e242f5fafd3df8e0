"""Cold start, in both senses of "hit rate": did the cold get a list at all, and was it right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem_core.metrics.accuracy import Hits, Relevant, Rows, hit_rate_at
from tandem_core.metrics.slices import pair_hits


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Shares from 0 to 1; NaN where nothing could be counted, for the last four say of how many.

    users_listed: cold users whose list is not empty. items_listed: cold items that are in at least one list.
    user_hit_rate: cold users with a relevant item in their list, of those that have relevant items.
    item_hit_rate: (user, relevant cold item) pairs whose item is in that user's list.
    users, items: how many are cold. judged_users, judged_pairs: how many the two hit rates rest on.
    """

    users_listed: float
    items_listed: float
    user_hit_rate: float
    item_hit_rate: float
    users: int
    items: int
    judged_users: int
    judged_pairs: int


def cold_start(
    ranked: Rows,
    hit: Hits,
    relevant: Relevant,
    *,
    cold_users: NDArray[np.bool_],
    cold_items: NDArray[np.bool_],
) -> ColdStart:
    """Measure the lists of cold users and the reach of cold items.

    ranked, hit: [U, K], hit from `hits`; cut both to the places that are shown. cold_users: bool [U];
    cold_items: bool [N], N the catalogue. Raises ValueError where the numbers of users differ.
    """
    if not len(ranked) == len(hit) == len(relevant) == len(cold_users):
        raise ValueError(
            f"{len(ranked)} lists, {len(hit)} rows of hits, {len(relevant)} users with relevant items and "
            f"{len(cold_users)} cold flags: pass the same users to all"
        )
    k = max(1, ranked.shape[1])
    served = np.zeros(len(cold_items), np.bool_)
    served[ranked[ranked >= 0]] = True
    right = hit_rate_at(hit, relevant, k)[cold_users & (relevant.sizes > 0)]
    found = pair_hits(ranked, hit, relevant, k)[cold_items[relevant.rows]]
    return ColdStart(
        users_listed=share_listed(ranked, cold_users),
        items_listed=_mean(served[cold_items]),
        user_hit_rate=_mean(right),
        item_hit_rate=_mean(found),
        users=int(cold_users.sum()),
        items=int(cold_items.sum()),
        judged_users=len(right),
        judged_pairs=len(found),
    )


def share_listed(ranked: Rows, cold: NDArray[np.bool_]) -> float:
    """Return the share of the cold whose list is not empty, 0 to 1, NaN where none is cold.

    ranked: [U, K] with cold: bool [U] for users, or one list of similar items per item with a flag per item.
    """
    return _mean((ranked[cold] >= 0).any(axis=1))


def _mean(values: ArrayLike) -> float:
    array = np.asarray(values)
    return float(array.mean()) if array.size else float("nan")
