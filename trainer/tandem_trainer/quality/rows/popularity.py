"""What most people turn to, ever or lately."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.rows.base import Row, Scorer, Scores

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

DAY_MS = 86_400_000


class PopularityRow(Row):
    """Training events per item."""

    def fit(self, fitting: Fitting) -> Fit:
        training = fitting.training
        return Fit({"counts": np.bincount(training.rows, minlength=training.n_items)})

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        return _the_same_for_all(fit.arrays["counts"])


class WindowPopularityRow(Row):
    """Training events per item in the days before the question; equal items by their events ever."""

    fits = False

    def __init__(self, name: str, days: int) -> None:
        super().__init__(name)
        self.days = days

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        times, rows, n = fitting.training.times, fitting.training.rows, fitting.training.n_items
        ever = np.bincount(rows, minlength=n)
        below_one = ever / (ever.max(initial=0) + 1)

        def scores(queries: Queries) -> Scores:
            moments, place = np.unique(queries.now_ms, return_inverse=True)
            first = np.searchsorted(times, moments - self.days * DAY_MS, side="left")
            last = np.searchsorted(times, moments, side="left")
            counts = [np.bincount(rows[a:b], minlength=n) + below_one for a, b in zip(first, last, strict=True)]
            found: Scores = np.array(counts, np.float32).reshape(len(moments), n)[place]
            return found

        return scores


class LeakedPopularityRow(Row):
    """Test answers per item: no model can know them. Says how much of a cold item's truth is its popularity."""

    leaks = True
    fits = False

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        return _the_same_for_all(fitting.leaked_counts())


class RandomRow(Row):
    """Seeded noise, for each user the same in every run."""

    fits = False

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        seed, n = fitting.config.seed, fitting.training.n_items

        def scores(queries: Queries) -> Scores:
            seeds = [[seed, zlib.crc32(str(user).encode())] for user in queries.user_ids]
            drawn = [np.random.default_rng(each).random(n, np.float32) for each in seeds]
            return np.array(drawn, np.float32).reshape(len(queries), n)

        return scores


def _the_same_for_all(counts: NDArray[np.integer]) -> Scorer:
    one = counts.astype(np.float32)
    return lambda queries: np.broadcast_to(one, (len(queries), len(one)))
