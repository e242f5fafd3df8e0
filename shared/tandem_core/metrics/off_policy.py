"""What another policy would have earned, from decisions that were logged with their propensities.

Each position of a list is taken as a choice of its own: the reward of an item may depend on the request, on the item
and on its position, not on the other items (Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen, "Offline
evaluation of ranking policies with click models", 2018: the item-position model). Where that is far from true, only an
experiment tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.metrics.bootstrap import LEVEL, RESAMPLES, Interval, mean_interval

LEAST_EFFECTIVE = 100.0  # below it an interval rests on a handful of large weights, and is no interval
MOST_OFF = 4.0  # standard errors that the mean weight may be away from 1: 6 false alarms in 100,000 positions
SHRINKAGE = 20.0  # shown items that the reward model's prior counts for


class EvidenceTooThin(ValueError):  # noqa: N818
    """The log does not support a word about the target policy: says where and why."""


@dataclass(frozen=True, slots=True, eq=False)
class Alternatives:
    """What the target policy could have shown in place of each logged item: m entries, the item itself among them.

    rows: int64 [m], which logged item. items: int64 [m]. probabilities: float64 [m], together 1 for each logged item.
    """

    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LoggedItems:
    """n shown items of logged decisions, as columns.

    decisions, items: int64 [n], codes. positions: int64 [n], from 1, none twice in a decision. propensities: float64
    [n], probability that the logging policy put the item there, above 0 to 1; 1 where no chance took part. targets:
    float64 [n], the target policy's probability of the same, 0 to 1. rewards: float64 [n], finite.
    alternatives: only the doubly robust estimate needs them. Raises ValueError naming the first entry that is wrong.
    """

    decisions: NDArray[np.int64]
    items: NDArray[np.int64]
    positions: NDArray[np.int64]
    propensities: NDArray[np.float64]
    targets: NDArray[np.float64]
    rewards: NDArray[np.float64]
    alternatives: Alternatives | None = None

    def __post_init__(self) -> None:
        columns = (self.items, self.positions, self.propensities, self.targets, self.rewards)
        if any(len(column) != len(self.decisions) for column in columns):
            raise ValueError("columns of different lengths: one entry for each shown item")
        _all(self.positions >= 1, self.positions, "position", "counts from 1")
        possible = (self.propensities > 0) & (self.propensities <= 1)
        _all(possible, self.propensities, "propensity", "is above 0 and at most 1: write 1 where no chance took part")
        _all((self.targets >= 0) & (self.targets <= 1), self.targets, "target probability", "is 0 to 1")
        _all(np.isfinite(self.rewards), self.rewards, "reward", "is a finite number")
        places = np.stack([self.decisions, self.positions])
        if np.unique(places, axis=1).shape[1] < len(self):
            raise ValueError("a decision has two items at one position")
        if (others := self.alternatives) is not None:
            total = np.bincount(others.rows, others.probabilities, len(self))
            _all(others.probabilities >= 0, others.probabilities, "probability of an alternative", "is 0 to 1")
            _all(np.abs(total - 1) <= 1e-6, total, "sum of the alternatives' probabilities", "is 1")

    def __len__(self) -> int:
        return len(self.decisions)

    def down_to(self, depth: int) -> LoggedItems:
        """Return the items at positions 1 to depth."""
        kept = self.positions <= depth
        others = self.alternatives
        if others is not None:
            inside = kept[others.rows]
            new_row = np.cumsum(kept) - 1
            others = Alternatives(new_row[others.rows[inside]], others.items[inside], others.probabilities[inside])
        return LoggedItems(
            self.decisions[kept],
            self.items[kept],
            self.positions[kept],
            self.propensities[kept],
            self.targets[kept],
            self.rewards[kept],
            others,
        )


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """Reward per decision, with bootstrap intervals over decisions.

    logged: what was earned. ips: inverse propensity scoring (Horvitz and Thompson, 1952): unbiased, wide. snips:
    self-normalised position by position (Swaminathan and Joachims, 2015): a little biased, narrower. dr: doubly robust
    (Dudik, Langford and Li, 2011) with cross-fitted mean rewards as its model; None without alternatives.
    effective: smallest effective number of decisions of any position (Kish, 1965). largest_weight: of any item.
    """

    logged: Interval
    ips: Interval
    snips: Interval
    dr: Interval | None
    decisions: int
    effective: float
    largest_weight: float


def off_policy(
    logged: LoggedItems, *, rng: np.random.Generator, resamples: int = RESAMPLES, level: float = LEVEL
) -> OffPolicy:
    """Return what the target policy would have earned per decision.

    Raises EvidenceTooThin where a position's effective number of decisions is below LEAST_EFFECTIVE, or where its
    weights do not average 1 (by more than MOST_OFF standard errors): then the target shows what the logging policy
    never could, or a propensity is wrong, and every estimate would be off by an unknown amount.
    """
    weights = logged.targets / logged.propensities
    effective = _check_support(logged, weights)
    _, decision = np.unique(logged.decisions, return_inverse=True)

    def per_decision(values: NDArray[np.float64]) -> Interval:
        sums = np.bincount(decision, values).astype(np.float64)
        return mean_interval(sums, rng=rng, resamples=resamples, level=level)

    position = logged.positions - 1
    total_weight = np.bincount(position, weights)[position]
    mean_weight = total_weight / np.bincount(position)[position]
    normalised = np.bincount(position, weights * logged.rewards)[position] / total_weight
    dr = None
    if logged.alternatives is not None:
        of_shown, of_target = _modelled(logged, decision, logged.alternatives)
        dr = per_decision(of_target + weights * (logged.rewards - of_shown))
    return OffPolicy(
        logged=per_decision(logged.rewards),
        ips=per_decision(weights * logged.rewards),
        # A ratio's interval from its linear parts: their mean is the ratio itself.
        snips=per_decision(normalised + weights * (logged.rewards - normalised) / mean_weight),
        dr=dr,
        decisions=int(decision.max()) + 1,
        effective=effective,
        largest_weight=float(weights.max()),
    )


def _check_support(logged: LoggedItems, weights: NDArray[np.float64]) -> float:
    """Return the smallest effective number of decisions of any position; raises EvidenceTooThin."""
    if not len(logged):
        raise EvidenceTooThin("no decision is logged")
    least = np.inf
    for position in np.unique(logged.positions).tolist():
        w = weights[logged.positions == position]
        squares = float((w**2).sum())
        effective = float(w.sum()) ** 2 / squares if squares > 0 else 0.0
        least = min(least, effective)
        if effective < LEAST_EFFECTIVE:
            raise EvidenceTooThin(
                f"position {position}: {len(w)} decisions are worth {effective:.1f} under the target policy, at least "
                f"{LEAST_EFFECTIVE:g} are needed. Log more, judge fewer positions, or try a policy nearer to the logged"
            )
        error = float(w.std(ddof=1)) / np.sqrt(len(w))
        if abs(w.mean() - 1) > MOST_OFF * error + 1e-3:
            raise EvidenceTooThin(
                f"position {position}: weights average {w.mean():.3f} ± {error:.3f}, where 1 is expected: the target "
                "policy shows items that the logging policy never could there, or propensities are wrong"
            )
    return least


def _modelled(
    logged: LoggedItems, decision: NDArray[np.intp], others: Alternatives
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return expected rewards, float64 [n] each: of the shown item, and of what the target would show in its place.

    The model: the position's mean reward and the item's mean difference from it, shrunk. Fitted on the other half of
    the decisions: fitted on its own rewards it would bias the estimate.
    """
    of_shown, of_target = np.zeros(len(logged)), np.zeros(len(logged))
    n_items = int(max(logged.items.max(), others.items.max(initial=0))) + 1
    half = decision % 2
    for fold in (0, 1):
        fitted, used = half != fold, half == fold
        count = np.bincount(logged.positions[fitted], minlength=int(logged.positions.max()) + 1)
        total = np.bincount(logged.positions[fitted], logged.rewards[fitted], len(count))
        at_position = np.divide(total, count, out=np.zeros(len(count)), where=count > 0)
        surplus = logged.rewards[fitted] - at_position[logged.positions[fitted]]
        shown = np.bincount(logged.items[fitted], minlength=n_items)
        of_item = np.bincount(logged.items[fitted], surplus, n_items) / (shown + SHRINKAGE)
        of_shown[used] = at_position[logged.positions[used]] + of_item[logged.items[used]]
        expected = at_position[logged.positions[others.rows]] + of_item[others.items]
        of_target[used] = np.bincount(others.rows, others.probabilities * expected, len(logged))[used]
    return of_shown, of_target


def _all(right: NDArray[np.bool_], values: NDArray[np.generic], name: str, rule: str) -> None:
    if not right.all():
        at = int((~right).argmax())
        raise ValueError(f"entry {at + 1}: the {name} is {values[at]}; it {rule}")
