"""For whom and for which items it works: means within slices of users and of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tandem_core.metrics.accuracy import Hits, Relevant, Rows

COLD_BELOW = 5  # training events; the serving rules call the same users and items cold
ACTIVITY_EDGES = (COLD_BELOW, 20, 100)


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """names: one per slice; of: int64 [n], the slice (place in names) of each user or item."""

    names: tuple[str, ...]
    of: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SliceMean:
    """A mean over the n entries of a slice; NaN where n is 0."""

    mean: float
    n: int


def activity_slices(user_counts: NDArray[np.integer], edges: Sequence[int] = ACTIVITY_EDGES) -> Slices:
    """Slice users by their number of training events, int [U]: "cold <5", "5-19", "20-99", "100+".

    edges: rising, above 0; each begins a slice. Raises ValueError otherwise.
    """
    if not len(edges) or edges[0] < 1 or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"activity edges {list(edges)} must rise from 1 or more, as in {ACTIVITY_EDGES}")
    between = (f"{low}-{high - 1}" for low, high in pairwise(edges))
    names = (f"cold <{edges[0]}", *between, f"{edges[-1]}+")
    return Slices(names, np.searchsorted(np.asarray(edges), user_counts, side="right").astype(np.int64))


def popularity_slices(
    item_counts: NDArray[np.integer],
    head_share: float = 0.2,
    tail_share: float = 0.2,
    cold_below: int = COLD_BELOW,
) -> Slices:
    """Slice items by their number of training events, int [N]: "head", "mid", "tail", "cold".

    head: the most popular items that together draw the first head_share of all events; tail: those that draw
    the last tail_share; cold: fewer than cold_below events, whichever share they fall in. Items with equal
    counts share a slice, so the order of rows changes nothing. Raises ValueError for shares that overlap or
    leave 0..1.
    """
    if min(head_share, tail_share) < 0 or head_share + tail_share > 1:
        raise ValueError(f"head share {head_share}, tail share {tail_share}: 0 or more, together at most 1")
    falling = np.sort(item_counts)[::-1].astype(np.int64)
    drawn = np.concatenate([[0], np.cumsum(falling)])
    # Events on items strictly more popular than each item.
    above = drawn[np.searchsorted(-falling, -item_counts.astype(np.int64), side="left")]
    of = np.full(len(item_counts), 1, np.int64)
    of[above < head_share * drawn[-1]] = 0
    of[above >= (1 - tail_share) * drawn[-1]] = 2
    of[item_counts < cold_below] = 3
    return Slices(("head", "mid", "tail", "cold"), of)


def mean_by_slice(values: NDArray[np.float64], slices: Slices) -> dict[str, SliceMean]:
    """Return the mean of values, float [n], within each slice; NaNs are dropped and not counted.

    Raises ValueError where values and slices differ in length.
    """
    if len(values) != len(slices.of):
        raise ValueError(f"{len(values)} values against {len(slices.of)} sliced entries: pass one for each")
    kept = ~np.isnan(values)
    counts = np.bincount(slices.of[kept], minlength=len(slices.names))
    sums = np.bincount(slices.of[kept], weights=values[kept], minlength=len(slices.names))
    return {
        name: SliceMean(float(total / n) if n else float("nan"), int(n))
        for name, total, n in zip(slices.names, sums, counts, strict=True)
    }


def pair_hits(ranked: Rows, hit: Hits, relevant: Relevant, k: int) -> NDArray[np.float64]:
    """Say of each (user, relevant item) pair whether the item is among the user's first k.

    ranked, hit: [U, K]; hit is `hits(ranked, relevant)`. Returns float64 [P], 1 or 0, in the order of
    relevant.rows. With the pair as the unit, recall and hit rate are the same number: the mean.
    """
    if k < 1:
        raise ValueError(f"k is {k}: ask for at least the first place")
    found = np.zeros(len(relevant.rows))
    users, places = np.nonzero(hit[:, :k])
    stride = int(relevant.rows.max(initial=0)) + 1
    keys = relevant.users * stride + relevant.rows
    found[np.searchsorted(keys, users * stride + ranked[users, places])] = 1.0
    return found


def pair_hits_by_item(found: NDArray[np.float64], relevant: Relevant, items: Slices) -> dict[str, SliceMean]:
    """Return the mean of `pair_hits` within each slice of the pairs' items; n counts pairs."""
    return mean_by_slice(found, Slices(items.names, items.of[relevant.rows]))
