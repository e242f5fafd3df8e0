"""What an A/B test can say: difference, interval, p-value, smallest effect it would find, users it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arm b less arm a in the mean of an outcome over users: Welch's t-test (1947), two-sided.

    low, high: of the 95 % interval. smallest: the least true difference that such a test finds with POWER.
    """

    difference: float
    low: float
    high: float
    p_value: float
    smallest: float
    users: tuple[int, int]


def compare(a: NDArray[np.float64], b: NDArray[np.float64]) -> Comparison:
    """Compare outcomes, float [n_a] and [n_b], an entry for each user. Raises ValueError for an arm under 2 users."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"arms of {len(a)} and {len(b)} users: an arm needs 2, and many more to find anything")
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    error = math.sqrt(parts.sum())
    difference = float(b.mean() - a.mean())
    if error == 0:
        return Comparison(difference, difference, difference, float(difference == 0), 0.0, (len(a), len(b)))
    freedom = parts.sum() ** 2 / (parts**2 / [len(a) - 1, len(b) - 1]).sum()
    half = float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    return Comparison(
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_value=float(2 * stats.t.sf(abs(difference) / error, freedom)),
        smallest=_both_tails() * error,
        users=(len(a), len(b)),
    )


def users_needed(effect: float, variance_a: float, variance_b: float) -> float:
    """Return how many users an arm needs so that a test finds a true difference with POWER; inf for no effect."""
    return math.inf if effect == 0 else math.ceil((variance_a + variance_b) * (_both_tails() / effect) ** 2)


def rejections_expected(runs: int) -> tuple[int, int]:
    """Return between how many rejections 99 % of A/A series of so many runs have."""
    low, high = stats.binom.interval(0.99, runs, ALPHA)
    return int(low), int(high)


def _both_tails() -> float:
    return float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))
