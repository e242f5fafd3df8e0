"""The mean of what a user had written before: nothing of now or later is in it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tandem_trainer.ratings.text_means import previous_means

EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), max_size=25)


def columns(events: list[tuple[int, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    users, times, known = zip(*events, strict=True) if events else ((), (), ())
    return np.array(users, np.int64), np.array(times, np.int64), np.array(known, np.bool_)


@given(EVENTS)
def test_means_are_those_of_a_plain_loop(events: list[tuple[int, int, bool]]) -> None:
    users, times, known = columns(events)
    vectors = np.random.default_rng(0).normal(size=(len(events), 3))
    means = previous_means(users, times, vectors, known)
    for row, (user, time, _) in enumerate(events):
        before = [
            r
            for r, (u, t, k) in enumerate(events)
            if u == user and k and r != row and (t < time or (t == time and r < row))
        ]
        expected = vectors[before].mean(axis=0) if before else np.zeros(3)
        np.testing.assert_allclose(means[row], expected, atol=1e-6)


@given(EVENTS.filter(bool), st.data())
def test_changing_an_event_changes_no_mean_but_those_of_the_users_later_events(
    events: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    users, times, known = columns(events)
    vectors = np.random.default_rng(0).normal(size=(len(events), 3))
    changed = data.draw(st.integers(0, len(events) - 1))
    other = vectors.copy()
    other[changed] = 1e6
    same = (previous_means(users, times, vectors, known) == previous_means(users, times, other, known)).all(axis=1)
    rows = np.arange(len(events))
    later = (times > times[changed]) | ((times == times[changed]) & (rows > changed))
    np.testing.assert_array_equal(same, ~((users == users[changed]) & later & known[changed]))


def test_the_first_event_of_a_user_gets_zeros_and_an_anonymous_one_the_mean_of_all_known() -> None:
    users, times = np.array([0, 1, 1, 0]), np.array([1, 2, 3, 4])
    vectors = np.array([[2.0], [4.0], [6.0], [100.0]])
    known = np.array([True, True, True, False])
    means = previous_means(users, times, vectors, known, anonymous=users == 1)
    assert means[:, 0].tolist() == [0.0, 4.0, 4.0, 2.0]


def test_a_long_history_is_summed_without_losing_digits() -> None:
    n = 20_000
    means = previous_means(np.zeros(n, np.int64), np.arange(n), np.full((n, 1), 0.1))
    assert abs(means[-1, 0] - 0.1) < 1e-7
