"""How sure a mean over users is: percentile bootstrap (Efron and Tibshirani, 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.metrics._chunks import blocks

RESAMPLES = 1000  # the ends of a 95 % interval then rest on 25 means each
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over n users and its interval's ends; all three NaN where n is 0, all equal where n is 1."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(
    values: NDArray[np.float64], *, rng: np.random.Generator, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Return the mean of values, float [U], and its interval over users; NaNs are dropped.

    level: share of resampled means inside, above 0 and below 1. Raises ValueError for an infinite value.
    """
    return mean_intervals({"values": values}, rng=rng, resamples=resamples, level=level)["values"]


def paired_difference(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return the mean of ours - theirs and its interval; both float [U], the same user at the same place.

    A user NaN in either arm is dropped. An interval that excludes 0 is a difference that the users agree on.
    Raises ValueError where the lengths differ or a value is infinite.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"arms of shapes {ours.shape} and {theirs.shape}: measure both on the same users")
    for arm in (ours, theirs):
        _refuse_infinite("an arm", arm)  # in a difference inf - inf would pass for a missing user
    return mean_interval(ours - theirs, rng=rng, resamples=resamples, level=level)


def mean_intervals(
    columns: Mapping[str, NDArray[np.float64]],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Return the interval of each column's mean, name -> float [U], in the order given; NaNs are dropped.

    Columns with NaN at the same users share their resamples: 40 metrics then cost little more than one.
    Raises ValueError for an infinite value, resamples below 1 or a level outside 0..1.
    """
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples is {resamples} and level {level}: at least 1, and between 0 and 1")
    groups: dict[bytes, list[str]] = {}
    for name, values in columns.items():
        _refuse_infinite(name, values)
        groups.setdefault(np.isnan(values).tobytes(), []).append(name)
    found: dict[str, Interval] = {}
    for names in groups.values():
        table = np.stack([np.asarray(columns[name], np.float64) for name in names], axis=1)  # [U, M]
        found |= zip(names, _intervals(table[~np.isnan(table[:, 0])], rng, resamples, level), strict=True)
    return {name: found[name] for name in columns}


def _intervals(
    table: NDArray[np.float64],
    rng: np.random.Generator,
    resamples: int,
    level: float,
) -> list[Interval]:
    """Return an interval per column of table, float64 [n, M] without NaN."""
    n, width = table.shape
    if n == 0:
        return [Interval(np.nan, np.nan, np.nan, 0)] * width
    means = table.mean(axis=0)
    centred = table - means  # so that a constant column has an interval of no width
    resampled = np.empty((resamples, width))
    for block in blocks(resamples, n):
        size = block.stop - block.start
        drawn = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        # How often each user was drawn: the means of all columns are then one matrix product.
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        resampled[block] = times.astype(np.float64) @ centred / n
    tail = (1 - level) / 2
    low, high = means + np.quantile(resampled, [tail, 1 - tail], axis=0)
    return [Interval(float(m), float(a), float(b), n) for m, a, b in zip(means, low, high, strict=True)]


def _refuse_infinite(name: str, values: NDArray[np.float64]) -> None:
    if np.isinf(values).any():
        at = int(np.isinf(values).argmax())
        raise ValueError(f"{name} is infinite at user {at}: no mean is possible; mark it NaN to leave it out")
