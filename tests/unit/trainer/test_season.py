"""When the month may be an input."""

from __future__ import annotations

import numpy as np
import pytest

from tandem_trainer.season import shows_season, without_an_unseen_season

NEVER: list[float] = []


def times(monthly: list[float], first: str = "2021-01") -> np.ndarray:
    """Return milliseconds: so many events in each month from the first on, in its middle."""
    start = np.datetime64(first, "M") + np.arange(len(monthly))
    middle = start.astype("datetime64[ms]").astype(np.int64) + 14 * 86_400_000
    return np.repeat(middle, np.array(monthly, np.int64))


@pytest.mark.parametrize(
    ("monthly", "shown"),
    [
        (NEVER, False),
        ([50] * 12, False),
        ([50] * 13, False),
        ([50] * 23, False),
        ([50] * 24, True),
        ([50] * 30, True),
        ([300] * 12 + [0] * 36 + [50] * 12, True),  # what lies between does not matter
        ([1000] * 12 + [20] * 12, False),  # a tail is no second year
        ([50] * 12 + [1000] * 12, False),  # nor is a first try
        ([50] * 6 + [0] + [50] * 5 + [50] * 6 + [0] + [50] * 5, False),  # of one month nothing is known
    ],
)
def test_the_season_is_seen_where_every_month_was_in_two_years(monthly: list[float], shown: bool) -> None:
    assert shows_season(times(monthly)) is shown


def test_where_the_data_begins_does_not_matter() -> None:
    assert [shows_season(times([9] * n, "2020-08")) for n in (23, 24)] == [False, True]
    assert shows_season(times([9] * 24, "1968-05"))


def test_a_stray_event_of_long_ago_is_no_year() -> None:
    assert not shows_season(np.append(times([50] * 12), times([1] * 12, "1995-01")))
    assert not shows_season(np.zeros(5, np.int64))  # events without a time


def test_a_ranker_reads_the_month_only_where_its_own_requests_show_the_season() -> None:
    names = ["hour_sin", "month_sin", "month_cos", "log_events"]
    assert without_an_unseen_season(names, times([9] * 24)) == names
    assert without_an_unseen_season(names, times([9] * 6)) == ["hour_sin", "log_events"]
