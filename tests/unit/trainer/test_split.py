"""Splits: what each protocol promises, checked on any events, and that the check itself finds leaks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_trainer.data import filter_min_interactions, load_dataset
from tandem_trainer.split import (
    PROTOCOLS,
    LeakError,
    Split,
    SplitError,
    assert_no_leak,
    global_time,
    leave_last_out,
    make_split,
    random_within_user,
    user_disjoint,
)

DATA = os.environ.get("TANDEM_DATA_DIR", "")


def events(pairs: list[tuple[int, int]]) -> pd.DataFrame:
    """Events of (user, time); the item is the row, so that every row can be told apart."""
    return pd.DataFrame(
        {
            "user_id": pd.Series([f"u{user}" for user, _ in pairs], dtype="str"),
            "item_id": pd.Series([f"i{row}" for row in range(len(pairs))], dtype="str"),
            "timestamp": np.array([time for _, time in pairs], dtype=np.int64),
            "event_type": "view",
            "value": np.float32(1),
        }
    )


def of_user(user: int, times: list[int]) -> list[tuple[int, int]]:
    return [(user, time) for time in times]


any_events = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), min_size=1, max_size=60).map(events)


@settings(max_examples=80, deadline=None)
@given(any_events, st.sampled_from(PROTOCOLS), st.integers(0, 3), st.booleans())
def test_any_split_keeps_every_row_once_and_unchanged(given: pd.DataFrame, protocol: str, seed: int, mix: bool) -> None:
    try:
        split = make_split(protocol, given, seed=seed, test_fraction=0.3, shuffle_history=mix)
    except SplitError:
        return
    together = pd.concat(list(split.parts().values())).sort_index()
    pd.testing.assert_frame_equal(together, given)
    json.dumps(split.detail)


@settings(max_examples=80, deadline=None)
@given(any_events, st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_global_time_never_trains_on_what_comes_later(given: pd.DataFrame, validation: float, test: float) -> None:
    try:
        split = global_time(given, validation, test)
    except SplitError:
        return
    t1, t2 = split.detail["t1_ms"], split.detail["t2_ms"]
    assert split.train["timestamp"].max() < t1 <= split.validation["timestamp"].min()
    assert split.validation["timestamp"].max() < t2 <= split.test["timestamp"].min()


def test_global_time_cuts_at_the_wanted_shares_when_times_differ() -> None:
    split = global_time(events([(n % 3, n) for n in range(100)]), 0.1, 0.2)
    assert [len(part) for part in split.parts().values()] == [70, 10, 20]
    without = global_time(events([(0, n) for n in range(10)]), 0.0, 0.2)
    assert [len(part) for part in without.parts().values()] == [8, 0, 2]


def test_rows_at_a_cut_time_fall_on_one_side() -> None:
    split = global_time(events([(0, time) for time in (0, 0, 0, 1, 1, 1, 2, 2, 2, 2)]), 0.1, 0.1)
    assert [len(part) for part in split.parts().values()] == [3, 3, 4]


@pytest.mark.parametrize("times", [[0] * 20, [0, 1], [5]])
def test_global_time_refuses_too_few_different_times(times: list[int]) -> None:
    with pytest.raises(SplitError, match="different times"):
        global_time(events(of_user(0, times)))


@settings(max_examples=80, deadline=None)
@given(any_events)
def test_leave_last_out_takes_the_last_two_of_each_user_in_stable_order(given: pd.DataFrame) -> None:
    split = leave_last_out(given)
    for user, rows in given.sort_values("timestamp", kind="stable").groupby("user_id"):
        order = rows["item_id"].tolist()
        mine = [part.loc[part["user_id"] == user, "item_id"].tolist() for part in split.parts().values()]
        expected = [order, [], []] if len(order) < 3 else [order[:-2], order[-2:-1], order[-1:]]
        assert [sorted(part) for part in mine] == [sorted(part) for part in expected]


def test_a_user_with_two_events_stays_in_train() -> None:
    split = leave_last_out(events([*of_user(0, [1, 2]), *of_user(1, [1, 2, 3])]))
    assert split.train["user_id"].tolist() == ["u0", "u0", "u1"]
    assert split.detail == {"users_all_in_train": 1}


def test_of_events_at_the_same_time_the_later_row_is_the_later_event() -> None:
    split = leave_last_out(events(of_user(0, [5, 5, 5, 1])))
    assert (split.validation["item_id"].tolist(), split.test["item_id"].tolist()) == (["i1"], ["i2"])


@settings(max_examples=60, deadline=None)
@given(any_events, st.integers(0, 5), st.booleans())
def test_held_out_users_are_unknown_to_train_and_halved(given: pd.DataFrame, seed: int, mix: bool) -> None:
    try:
        split = user_disjoint(given, n_users=1, seed=seed, shuffle_history=mix)
    except SplitError:
        return
    assert split.test_history is not None
    [user] = split.test["user_id"].unique()
    n = (given["user_id"] == user).sum()
    assert (len(split.test_history), len(split.test)) == ((n + 1) // 2, n // 2)
    assert user not in set(split.train["user_id"]) | set(split.validation["user_id"])
    if not mix:
        assert split.test_history["timestamp"].max() <= split.test["timestamp"].min()


def test_held_out_users_are_drawn_uniformly_over_users_not_rows() -> None:
    pairs = of_user(0, list(range(400)))
    for user in range(1, 20):
        pairs += of_user(user, [1, 2])
    draws = [user_disjoint(events(pairs), n_users=1, n_validation_users=0, seed=seed) for seed in range(100)]
    assert sum("u0" in set(draw.test["user_id"]) for draw in draws) < 20  # 5 expected; 91 if by rows


def test_the_drawn_users_do_not_depend_on_the_order_of_the_rows() -> None:
    given = events([(user, time) for user in range(9) for time in range(3)])
    one, other = (user_disjoint(e, n_users=3, seed=4) for e in (given, given.iloc[::-1]))
    assert set(one.test["user_id"]) == set(other.test["user_id"])


def test_a_shuffled_history_is_another_half_and_repeats_with_its_seed() -> None:
    given = events(of_user(0, list(range(40))) + of_user(1, list(range(40))))
    by_time, mixed, again = (
        user_disjoint(given, n_users=1, n_validation_users=0, seed=3, shuffle_history=mix)
        for mix in (False, True, True)
    )
    assert mixed.test.index.tolist() == again.test.index.tolist() != by_time.test.index.tolist()


@pytest.mark.parametrize(
    "options",
    [{}, {"n_users": 1, "fraction": 0.1}, {"n_users": 0}, {"n_users": 2}, {"n_users": 1, "n_validation_users": -1}],
)
def test_impossible_numbers_of_held_out_users_are_refused(options: dict[str, Any]) -> None:
    given = events([*of_user(0, [1, 2]), *of_user(1, [1, 2]), *of_user(2, [1, 2]), *of_user(3, [1])])
    with pytest.raises(SplitError, match="user_disjoint"):
        user_disjoint(given, seed=1, **options)


@settings(max_examples=60, deadline=None)
@given(any_events, st.integers(0, 5))
def test_within_each_user_int_of_nine_tenths_are_train(given: pd.DataFrame, seed: int) -> None:
    split = random_within_user(given, seed=seed)
    in_train = split.train["user_id"].value_counts().to_dict()
    for user, n in given["user_id"].value_counts().items():
        assert in_train[user] == (1 if n == 1 else int(n * 0.9))


def test_a_random_split_repeats_with_its_seed_and_differs_with_another() -> None:
    given = events([(user, time) for user in range(5) for time in range(20)])
    one, same, other = (random_within_user(given, seed=seed).test.index.tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_parts_keep_the_position_in_the_given_events_whatever_their_index_was() -> None:
    given = events(of_user(0, [1, 2, 3])).set_index(pd.Index([7, 7, 7]))
    assert leave_last_out(given).test.index.tolist() == [2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_events_are_refused(protocol: str) -> None:
    with pytest.raises(SplitError, match="no events"):
        make_split(protocol, events([]), seed=1)


def test_unknown_protocols_and_fractions_are_refused() -> None:
    with pytest.raises(SplitError, match="unknown split protocol 'by_magic'; known: global_time"):
        make_split("by_magic", events([(0, 1)]), seed=1)
    for validation, test in ((-0.1, 0.1), (0.5, 0.5), (0.1, 0.0), (0.1, 1.0)):
        with pytest.raises(SplitError, match="fractions"):
            global_time(events([(0, 1)]), validation, test)


def some_split(protocol: str) -> Split:
    given = events([(user, 10 * time + user) for time in range(10) for user in range(6)])
    return make_split(protocol, given, seed=1, n_users=2)


def moved(split: Split, source: str, target: str, rows: int = 1, *, keep: bool = False) -> Split:
    """The split with the first rows of one part moved (or copied) to another."""
    parts = split.parts()
    taken = parts[source].iloc[:rows]
    changes: dict[str, Any] = {target: pd.concat([parts[target], taken])}
    if not keep:
        changes[source] = parts[source].iloc[rows:]
    return replace(split, **changes)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_row_in_two_parts_is_found(protocol: str) -> None:
    with pytest.raises(LeakError, match=r"row \d+ of the events is in train and in test"):
        assert_no_leak(moved(some_split(protocol), "test", "train", keep=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_lost_row_is_found(protocol: str) -> None:
    split = some_split(protocol)
    with pytest.raises(LeakError, match="are not the 60 rows given"):
        assert_no_leak(replace(split, train=split.train.iloc[1:]))


def test_a_row_that_was_never_given_is_found() -> None:
    split = some_split("leave_last_out")
    strange = split.train.rename(index={split.train.index[0]: 999})
    with pytest.raises(LeakError, match="are not the 60 rows given"):
        assert_no_leak(replace(split, train=strange))


def _swap_last_two(split: Split) -> Split:
    return replace(split, validation=split.test, test=split.validation)


def _rest_of_test_user(split: Split) -> Split:
    return replace(split, train=split.test, test=split.train)


@pytest.mark.parametrize(
    ("protocol", "harm", "message"),
    [
        ("global_time", lambda s: moved(s, "test", "train"), "validation begins at .* but train lasts until"),
        ("global_time", lambda s: moved(s, "validation", "test"), "test begins at .* but validation lasts"),
        ("leave_last_out", lambda s: moved(s, "train", "test"), "has several events in test"),
        ("leave_last_out", lambda s: moved(s, "test", "train"), "not of the same users"),
        ("leave_last_out", _swap_last_two, "has a test event before a validation event"),
        ("user_disjoint", lambda s: moved(s, "test", "train"), "1 users are in train and test|in test and train"),
        ("user_disjoint", lambda s: moved(s, "test_history", "validation"), "are in validation and test"),
        ("user_disjoint", lambda s: moved(s, "test", "test_history", 10), "test and test_history are not of the same"),
        ("random_within_user", _rest_of_test_user, None),
        ("random_within_user", lambda s: moved(s, "train", "test", len(s.train)), "have no train event"),
    ],
)
def test_a_broken_promise_is_found_and_named(
    protocol: str, harm: Callable[[Split], Split], message: str | None
) -> None:
    harmed = harm(some_split(protocol))
    if message is None:
        assert_no_leak(harmed)  # any rows may be test here, as long as their users are known
        return
    with pytest.raises(LeakError, match=message):
        assert_no_leak(harmed)


@pytest.mark.skipif(not DATA, reason="needs MovieLens 1M: set TANDEM_DATA_DIR to the folder that holds ml-1m")
def test_ml_1m_leaves_one_event_per_user_for_validation_and_test() -> None:
    data = filter_min_interactions(load_dataset("ml-1m", Path(DATA) / "ml-1m"), min_item_events=5)
    split = leave_last_out(data.events)
    assert [len(part) for part in split.parts().values()] == [999_611 - 2 * 6040, 6040, 6040]
