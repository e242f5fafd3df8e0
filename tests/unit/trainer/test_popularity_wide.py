from __future__ import annotations

import numpy as np
import pytest

from tandem_core.catalog import Catalog
from tandem_trainer.freshness import born_ms
from tandem_trainer.popularity_wide import (
    DAY_MS,
    PopularitySettings,
    published_weighted_rating,
    rating_table,
    type_tables,
    weighted_rating,
    window_tables,
)

SETTINGS = PopularitySettings(windows_days=(7, 30), trending_half_life_days=2.0)
ROWS = np.array([0, 1, 1, 2, 3, -1, 2])
DAYS_AGO = np.array([40, 7, 6.5, 2, 0, 0, -5])
WEIGHTS = np.array([9, 1, 1, 3, 1, 5, -2.0])  # the newest event of all is negative: it sets no clock
TIMES = (10_000 * DAY_MS - DAYS_AGO * DAY_MS).astype(np.int64)


def test_windows_end_at_the_last_counted_event_and_count_their_own_days_alone() -> None:
    tables = window_tables(ROWS, WEIGHTS, TIMES, 5, SETTINGS)
    assert set(tables) == {"window:7", "window:30", "trending"}
    assert tables["window:7"].rows.tolist() == [2, 1, 3]  # the event of exactly seven days ago is out; ties by row
    np.testing.assert_allclose(tables["window:7"].scores, [3 / 5, 1 / 5, 1 / 5])
    np.testing.assert_allclose(tables["window:30"].scores, [3 / 6, 2 / 6, 1 / 6])


def test_trending_halves_each_event_by_its_age() -> None:
    table = window_tables(ROWS, WEIGHTS, TIMES, 5, SETTINGS)["trending"]
    totals = {0: 9 * 2**-20, 1: 2**-3.5 + 2**-3.25, 2: 3 / 2, 3: 1}
    assert table.rows.tolist() == [2, 3, 1, 0]
    np.testing.assert_allclose(table.scores, [totals[row] / sum(totals.values()) for row in (2, 3, 1, 0)], rtol=1e-5)


def test_each_kind_of_event_has_its_own_table_of_shares_whatever_it_weighs() -> None:
    names = ["view", "like", "never seen", "dislike"]
    rows, types = np.array([1, 1, 0, 2, -1, 1, 2, 3]), np.array([1, 1, 1, 2, 1, 4, 4, 0])
    tables = type_tables(rows, types, names, 5)
    assert list(tables) == ["events:view", "events:like", "events:dislike"]
    assert {key: table.rows.tolist() for key, table in tables.items()} == {
        "events:view": [1, 0], "events:like": [2], "events:dislike": [1, 2],
    }  # fmt: skip
    np.testing.assert_allclose(tables["events:view"].scores, [2 / 3, 1 / 3])
    np.testing.assert_allclose(tables["events:dislike"].scores, [1 / 2, 1 / 2])


def test_one_kind_of_event_says_no_more_than_the_table_over_everybody() -> None:
    assert type_tables(np.array([0, 1]), np.array([2, 2]), ["view", "like"], 3) == {}
    assert type_tables(np.array([0, 1, -1]), np.array([2, 0, 1]), ["view", "like"], 3) == {}
    assert type_tables(ROWS[:0], ROWS[:0], ["view", "like"], 3) == {}


def test_without_events_the_tables_are_empty() -> None:
    tables = window_tables(ROWS[:0], WEIGHTS[:0], TIMES[:0], 5, SETTINGS)
    assert [len(table.rows) for table in tables.values()] == [0, 0, 0]


MEANS = np.array([9.0, 6.0, 8.0, np.nan, 5.0])
MEMBERS = np.array([2, 100, 40, 0, 10])
V = 8.0  # lower quartile of 2, 10, 40, 100: between 2 and 10 at three quarters
C = 7.0


def test_the_weighted_rating_draws_small_samples_towards_the_catalogues_mean() -> None:
    expected = [(m * r + V * C) / (m + V) for m, r in [(2, 9), (100, 6), (40, 8), (0, 0), (10, 5)]]
    np.testing.assert_allclose(weighted_rating(MEANS, MEMBERS), expected)


def test_the_published_form_is_computed_to_the_letter() -> None:
    expected = []
    for members, rating in zip(MEMBERS, np.nan_to_num(MEANS), strict=True):
        m = 10 * (members - 0) / (100 - 0)
        expected.append(m / (m + V) * rating + V / (m + V) * C)
    expected[3] = C
    np.testing.assert_allclose(published_weighted_rating(MEANS, MEMBERS), expected)


def test_ratings_are_never_nan_and_do_not_depend_on_scale_of_nothing() -> None:
    equal = np.array([3, 3, 3])
    np.testing.assert_allclose(published_weighted_rating(np.array([1.0, 2, 6]), equal), 3)  # m is 0 everywhere
    for score in (weighted_rating, published_weighted_rating):
        assert score(np.full(3, np.nan), np.zeros(3, np.int64)).tolist() == [0, 0, 0]
        assert np.isfinite(score(np.array([4.0, np.nan]), np.array([1, 0]))).all()


@pytest.mark.parametrize("form", ["bayesian", "published"])
def test_the_table_of_ratings_holds_the_whole_catalogue_best_first(form: str) -> None:
    rows = np.array([0, 0, 1, 1, 1, 1, 2, -1, 3])
    values = np.array([5, 5, 4, 4, 4, 4, 1, 5, np.nan])
    settings = PopularitySettings.model_validate({"rating_form": form})
    table = rating_table(rows, values, 5, settings)["weighted_rating"]
    score = weighted_rating if form == "bayesian" else published_weighted_rating
    expected = score(np.array([5, 4, 1, np.nan, np.nan]), np.array([2, 4, 1, 0, 0]))
    np.testing.assert_allclose(table.scores, np.sort(expected)[::-1], rtol=1e-6)
    assert sorted(table.rows.tolist()) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(table.scores, expected[table.rows], rtol=1e-6)


def test_data_without_ratings_have_no_such_table() -> None:
    assert rating_table(np.array([0, 1]), np.array([np.nan, np.nan]), 2, SETTINGS) == {}


def test_an_item_is_born_when_created_or_at_its_first_event_or_nobody_knows() -> None:
    created = {"created_at": np.array([5.0, np.nan, np.nan])}
    catalog = Catalog(["a", "b", "c"], [""] * 3, {}, created, np.zeros(3, np.int32))
    rows, times = np.array([0, 1, 1, -1]), np.array([9000, 8000, 7000, 1])
    np.testing.assert_array_equal(born_ms(catalog, rows, times), [5000, 7000, np.nan])
    bare = Catalog(["a", "b", "c"], [""] * 3, {}, {}, np.zeros(3, np.int32))
    np.testing.assert_array_equal(born_ms(bare, rows, times), [9000, 7000, np.nan])
