"""Slots where chance takes part, so that items get known: each choice with its exact probability.

Thompson's choice (1933) takes an item as often as it is the best one, given what is known: here these probabilities are
computed, by integration over what is believed of the items, and one item is drawn from just them. What is noted as the
propensity is so the probability of the draw itself, however coarse the integration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tandem_core.manifest import UNCERTAINTY
from tandem_core.rules.base import Given, Mask, Order
from tandem_core.rules.slots import Placed

GRID = 64  # places at which the integrand is computed
REACH = 4.0  # standard deviations of each item's distribution that the grid covers
_DEVIATION = f"head:{UNCERTAINTY}"
_COUNTS = ("item_impressions", "item_clicks")
_STEPS = np.linspace(0, 1, GRID)
# What is below each place of the grid, and half of what is there: equal ones share the first place.
_BELOW = np.triu(np.ones((GRID, GRID))) - np.eye(GRID) / 2


class Beliefs(Protocol):
    """What is known of items, and how surely."""

    def chances(self, given: Given, at: Order) -> NDArray[np.float64]:
        """Return float64 [m], summing to 1: for each of the items at positions `at` how probably it is the best one."""
        ...


@dataclass(frozen=True, slots=True)
class ClickRates:
    """What is believed of click rates before anything was seen: as if `impressions` had brought `rate` clicks each."""

    rate: float = 0.05
    impressions: float = 20.0

    def of(self, given: Given, at: Order) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return float64 [m] twice: the parameters of the Beta distributions of m items, those at positions `at`."""
        clicks = np.maximum(given.column("item_clicks", at), 0)
        without = np.maximum(given.column("item_impressions", at) - clicks, 0)
        return clicks + self.rate * self.impressions, without + (1 - self.rate) * self.impressions

    def chances(self, given: Given, at: Order) -> NDArray[np.float64]:
        if given.batch.columns.keys().isdisjoint(_COUNTS):  # nothing is known of any: nothing to integrate over
            return np.full(len(at), 1 / len(at))
        return best_of(*self.of(given, at))


@dataclass(frozen=True, slots=True)
class RankerScores:
    """The ranker's scores, each with the deviation that the models it is the mean of have, as normal distributions."""

    @staticmethod
    def known(given: Given) -> bool:
        """Tell whether the ranker said how sure it is."""
        return given.has(_DEVIATION)

    def chances(self, given: Given, at: Order) -> NDArray[np.float64]:
        return best_of_normal(given.batch.scores[at].astype(np.float64), given.column(_DEVIATION, at))


@dataclass(frozen=True, slots=True)
class Exploration:
    """At each of `slots`, with probability `weight`, show Thompson's choice of the `pool_size` best that are left.

    Else, and where the choice falls on it, the best one stands there. The choice believes click rates; without
    item_impressions and item_clicks in the batch, all of the pool are equally likely. by_ranker: it believes the ranker
    instead, where that says how sure it is. weight 0 changes nothing.
    """

    slots: frozenset[int]
    weight: float
    pool_size: int
    rates: ClickRates = ClickRates()
    by_ranker: bool = False
    name: str = "exploration"

    def claim(self, given: Given) -> Draw | None:
        if self.weight <= 0 or min(self.slots, default=len(given)) >= given.request.slots:
            return None
        beliefs: Beliefs = RankerScores() if self.by_ranker and RankerScores.known(given) else self.rates
        return Draw(self.name, self.slots, Placed.EXPLORED, None, self.weight, self.pool_size, beliefs, given)


@dataclass(frozen=True, slots=True)
class ColdSlots:
    """Give `slots` to items younger than max_age_s with fewer than max_impressions, by Thompson's choice among them.

    Training events count as impressions where the batch has no counts. Without such items the slots are as others.
    """

    slots: frozenset[int]
    max_impressions: int
    max_age_s: float
    pool_size: int
    rates: ClickRates = ClickRates()
    name: str = "cold_slots"

    def claim(self, given: Given) -> Draw | None:
        if min(self.slots, default=len(given)) >= given.request.slots:
            return None
        shown = np.maximum(given.column("item_impressions"), given.column("events"))
        cold = (shown < self.max_impressions) & (given.age_s <= self.max_age_s)  # of unknown age: not
        if not cold.any():
            return None
        return Draw(self.name, self.slots, Placed.COLD_START, cold, 1.0, self.pool_size, self.rates, given)


@dataclass(frozen=True, slots=True)
class Draw:
    """Draws of one list, `given`. among: bool [n], None for all. weight: probability that the draw counts; else the
    best one stands there.
    """

    name: str
    slots: frozenset[int]
    how: Placed
    among: Mask | None
    weight: float
    pool_size: int
    beliefs: Beliefs
    given: Given

    def choose(self, slot: int, free: Order) -> tuple[int, Placed, float]:
        pool = (free if self.among is None else free[self.among[free]])[: self.pool_size]
        if not len(pool):
            return -1, self.how, 0.0
        chances = self.weight * self.beliefs.chances(self.given, pool)
        chances[0] += 1 - self.weight
        drawn = min(int(np.searchsorted(np.cumsum(chances), self._uniform(slot), side="right")), len(pool) - 1)
        # Where the best one stands after all, it does so as it would have without the draw.
        how = Placed.BY_ORDER if drawn == 0 and self.among is None else self.how
        return int(pool[drawn]), how, float(chances[drawn])

    def missed(self, slots: Sequence[int]) -> str:
        return ""  # the slots are offered, not promised: nothing is lost

    def _uniform(self, slot: int) -> float:
        """Return the slot's random number in [0, 1): the same for the same request, free of other slots and rules."""
        text = f"{self.given.request.seed}:{self.name}:{slot}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48


def best_of(alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return float64 [m], summing to 1: for each of m Beta distributions how probably its draw is the largest."""
    if len(alpha) == 1:
        return np.ones(1)
    # Over log-odds: there the distributions of small and large rates are equally wide.
    middle, width = np.log(alpha / beta), np.sqrt(1 / alpha + 1 / beta)
    low, high = (middle - REACH * width).min(), (middle + REACH * width).max()
    grid = low + (high - low) * _STEPS
    density = alpha[:, None] * grid
    density -= (alpha + beta)[:, None] * np.logaddexp(0, grid)
    return _won(density)


def best_of_normal(mean: NDArray[np.float64], deviation: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return float64 [m], summing to 1: for each of m normal distributions how probably its draw is the largest."""
    if len(mean) == 1:
        return np.ones(1)
    # Below a thousandth of the pool's range an item is sure for all that the grid can tell.
    width = np.maximum(deviation.astype(np.float64), max(float(np.ptp(mean)) / 1000, 1e-9))
    low, high = (mean - REACH * width).min(), (mean + REACH * width).max()
    grid = low + (high - low) * _STEPS
    return _won(-0.5 * ((grid - mean[:, None]) / width[:, None]) ** 2)


def _won(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how probably each is the largest; density: float64 [m, GRID], logarithms up to a constant; changed."""
    density -= density.max(axis=1, keepdims=True)
    np.maximum(density, -50, out=density)  # smaller products are subnormal numbers, and slow
    np.exp(density, out=density)
    density /= density.sum(axis=1, keepdims=True)
    # The floor keeps products of many from vanishing.
    below = np.maximum(density @ _BELOW, 1e-9)
    won = (density / below) @ below.prod(axis=0)
    total = won.sum()
    return won / total if total > 0 else np.full(len(won), 1 / len(won))
