from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tandem_trainer.split import LeakError, SplitError
from tandem_trainer.split_rolling import assert_no_leak, rolling_origin


def events(times: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"user_id": "u", "item_id": [f"i{n}" for n in range(len(times))], "timestamp": times})


@given(
    times=st.lists(st.integers(0, 60), min_size=4, max_size=80),
    folds=st.integers(1, 5),
    first=st.sampled_from([0.3, 0.5, 0.8]),
)
def test_each_fold_trains_on_all_before_its_cut_and_tests_on_the_window_after_it(
    times: list[int], folds: int, first: float
) -> None:
    try:
        made = rolling_origin(events(times), folds, first)
    except SplitError:
        assume(False)
    at = np.array(times)
    assert len(made) == folds
    for fold in made:
        assert sorted(fold.train.index) == np.flatnonzero(at < fold.cut_ms).tolist()
        assert sorted(fold.test.index) == np.flatnonzero((at >= fold.cut_ms) & (at < fold.end_ms)).tolist()
        assert len(fold.train)
        assert len(fold.test)
    assert [one.end_ms for one in made[:-1]] == [other.cut_ms for other in made[1:]]
    assert made[-1].end_ms == max(times) + 1


def test_windows_hold_as_many_events_each_where_times_allow() -> None:
    made = rolling_origin(events(list(range(100))[::-1]), 5)
    assert [(len(fold.train), len(fold.test)) for fold in made] == [(50, 10), (60, 10), (70, 10), (80, 10), (90, 10)]


@pytest.mark.parametrize("times", [[], [5] * 20, [1, 2], [1] * 50 + [2] * 50])
def test_too_few_times_for_the_windows_are_refused(times: list[int]) -> None:
    with pytest.raises(SplitError, match="fewer folds"):
        rolling_origin(events(times), 4)


def test_a_fold_that_knows_its_future_or_forgets_its_past_is_caught() -> None:
    given_events = events(list(range(40)))
    one, two = rolling_origin(given_events, 2)
    future = replace(two, train=pd.concat([two.train, two.test.iloc[:1]]))
    with pytest.raises(LeakError, match="fold 2 trains until"):
        assert_no_leak([one, future], 40)
    with pytest.raises(LeakError, match="does not train on all before its cut"):
        assert_no_leak([one, replace(two, train=two.train.iloc[1:])], 40)
    with pytest.raises(LeakError, match="leave its window"):
        assert_no_leak([replace(one, test=pd.concat([one.test, two.test]))], 40)
    with pytest.raises(LeakError, match="hold 30 of 40 events"):
        assert_no_leak([one], 40)
