from __future__ import annotations

import numpy as np

from tandem_core.query import UserEvents, decision_id_of, seed_of


def events(*timed: tuple[str, int]) -> UserEvents:
    n = len(timed)
    return UserEvents(
        [item for item, _ in timed],
        np.array([time for _, time in timed], np.int64),
        [f"type of {item}" for item, _ in timed],
        np.arange(n, dtype=np.float32),
    )


def test_merged_events_stand_by_time_and_the_others_come_later_at_equal_times() -> None:
    merged = events(("a", 1), ("b", 5)).merged_with(events(("c", 5), ("d", 3)))
    assert list(merged.item_ids) == ["a", "d", "b", "c"]
    assert merged.timestamps.tolist() == [1, 3, 5, 5]
    assert list(merged.event_types) == ["type of a", "type of d", "type of b", "type of c"]
    assert merged.values.tolist() == [0, 1, 1, 0]


def test_merging_with_nothing_changes_nothing() -> None:
    some = events(("a", 1))
    assert some.merged_with(UserEvents()) is some
    assert UserEvents().merged_with(some) is some


def test_the_seed_of_a_request_is_the_given_one_or_follows_from_its_id() -> None:
    assert seed_of("r", 7) == 7
    assert seed_of("r", 0) == seed_of("r", 0) != seed_of("s", 0)
    assert 0 < seed_of("r", 0) < 2**64


def test_a_decision_is_the_same_for_the_same_request_alone() -> None:
    assert decision_id_of("r") == decision_id_of("r")
    assert len({decision_id_of(request_id) for request_id in ("r", "s", "rs", "")}) == 4
