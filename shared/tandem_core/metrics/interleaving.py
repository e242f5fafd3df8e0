"""Which of two mixed lists is better: clicks counted by team.

Credit as in Radlinski, Kurup and Joachims (2008): a list with more clicks on one team's items is a win of that team.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.metrics.bootstrap import LEVEL, RESAMPLES, Interval, mean_interval


@dataclass(frozen=True, slots=True)
class Credit:
    """What the mixed lists say of team "ours" against "theirs".

    wins, losses, ties: of units (see credit). preference: wins and half the ties, as a share of all units, less one
    half: above 0 where ours is better, -0.5 to 0.5, with its bootstrap interval over units; NaN without units.
    p_value: of the exact two-sided sign test on wins against losses, 1 where there are neither.
    """

    wins: int
    losses: int
    ties: int
    preference: Interval
    p_value: float


def credit(
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    *,
    units: NDArray[np.int64] | None = None,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Credit:
    """Return who won. ours, theirs: int [n], clicks on each team's items in each of n lists, 0 or more.

    units: int [n], who saw the list; the lists of one unit are judged together, since they are not independent. None:
    every list is a unit. Items of nobody's (team "") count for neither. Raises ValueError for other lengths or
    negative clicks.
    """
    if ours.shape != theirs.shape or (units is not None and units.shape != ours.shape):
        raise ValueError("clicks of both teams and units must be of one length: an entry for each list")
    if len(ours) and min(ours.min(), theirs.min()) < 0:
        raise ValueError("clicks below 0: count the clicks on each team's items")
    sign = np.sign(ours - theirs).astype(np.float64)
    if units is not None:
        _, unit = np.unique(units, return_inverse=True)
        sign = np.sign(np.bincount(unit, sign))
    wins, losses = int((sign > 0).sum()), int((sign < 0).sum())
    preference = mean_interval(sign / 2, rng=rng, resamples=resamples, level=level)
    return Credit(wins, losses, len(sign) - wins - losses, preference, sign_test(wins, losses))


def sign_test(wins: int, losses: int) -> float:
    """Return the chance of a result at least as one-sided if both were equally likely (exact, two-sided)."""
    n, fewer = wins + losses, min(wins, losses)
    if wins == losses:
        return 1.0
    i = np.arange(1, fewer + 1)
    terms = np.concatenate([[0.0], np.cumsum(np.log((n - i + 1) / i))]) - n * math.log(2)  # log of C(n, i) / 2^n
    return min(1.0, 2 * float(np.exp(terms).sum()))
