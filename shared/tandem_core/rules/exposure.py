"""What this user was shown lately: not again so soon, or lower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.rules.base import Given, Mask, Scores, scaled


@dataclass(frozen=True, slots=True)
class NoRepeat:
    """Drop items that the user was shown within the last `within_s` seconds."""

    within_s: float

    def keep(self, given: Given) -> Mask:
        shown = given.column("impressions") > 0
        if not shown.any():
            return ~shown
        kept: Mask = ~(shown & (given.column("last_shown_age_s") < self.within_s))
        return kept


@dataclass(frozen=True, slots=True)
class ImpressionDiscount:
    """Lower what was shown and not chosen: score * (1 - (1 - factor ** impressions) * .5 ** (age / half_life_s)).

    age: seconds since the item was last shown; the discount fades with it. factor: in [0, 1]; 1 changes nothing.
    """

    factor: float
    half_life_s: float

    def __call__(self, scores: Scores, given: Given) -> Scores:
        shown = np.flatnonzero(given.column("impressions"))
        if not len(shown):
            return scores
        impressions, age = given.column("impressions", shown), given.column("last_shown_age_s", shown)
        age = np.maximum(np.nan_to_num(age), 0)
        lost = (1 - np.power(float(self.factor), impressions)) * np.exp2(-age / self.half_life_s)
        lowered = scores.copy()
        lowered[shown] = scaled(scores[shown], 1 - lost)
        return lowered
