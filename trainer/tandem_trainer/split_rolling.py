"""Rolling origin: several cuts in time, each with all before it to train on and the next window to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from tandem_trainer.split import LeakError, SplitError


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """train: all events before cut_ms; test: those from cut_ms on and before end_ms. Index: position in the events."""

    number: int  # from 1
    cut_ms: int
    end_ms: int
    train: pd.DataFrame
    test: pd.DataFrame


def rolling_origin(events: pd.DataFrame, folds: int, first_train: float = 0.5) -> list[Fold]:
    """Cut events into folds whose test windows follow each other (Tashman, Int. J. of Forecasting 2000).

    events: with a column timestamp, in any order. first_train: share of events before the first cut, above 0 and below
    1; the rest makes `folds` windows of as equal numbers of events as times allow (events at a cut time are all after
    it). Raises SplitError where there are too few different times.
    """
    if folds < 1 or not 0 < first_train < 1:
        raise SplitError(
            f"rolling_origin: {folds} folds after a share of {first_train}; at least 1, and between 0 and 1"
        )
    events = events.reset_index(drop=True)
    times = events["timestamp"].to_numpy(dtype=np.int64)
    ordered = np.sort(times)
    shares = first_train + (1 - first_train) * np.arange(folds) / folds
    cuts = [
        *(int(ordered[int(share * len(ordered))]) for share in shares if len(ordered)),
        int(times.max(initial=0)) + 1,
    ]
    if len(cuts) <= folds or cuts[0] == ordered[0] or any(one >= other for one, other in pairwise(cuts)):
        raise SplitError(
            f"rolling_origin: {len(events)} events have {len(np.unique(times))} different times, too few or too uneven "
            f"for {folds} windows; ask for fewer folds"
        )
    window = np.searchsorted(cuts, times, side="right")  # 0: before the first cut
    made = [
        Fold(n, cut, end, events[window < n], events[window == n])
        for n, (cut, end) in enumerate(pairwise(cuts), start=1)
    ]
    assert_no_leak(made, len(events))
    return made


def assert_no_leak(folds: Sequence[Fold], given: int) -> None:
    """Raise LeakError unless each fold trains on exactly what came before its test window, and no event is lost."""
    before: set[int] | None = None
    for fold in folds:
        train, test = (part["timestamp"] for part in (fold.train, fold.test))
        if train.empty or test.empty or int(train.max()) >= int(test.min()):
            raise LeakError(
                f"rolling_origin: fold {fold.number} trains until {train.max()} and tests from {test.min()} on"
            )
        if int(test.min()) < fold.cut_ms or int(test.max()) >= fold.end_ms:
            raise LeakError(f"rolling_origin: the test events of fold {fold.number} leave its window")
        known = set(fold.train.index)
        if before is not None and known != before:
            raise LeakError(f"rolling_origin: fold {fold.number} does not train on all before its cut and only that")
        before = known | set(fold.test.index)
    if before is not None and before != set(range(given)):
        raise LeakError(f"rolling_origin: the folds hold {len(before)} of {given} events")
