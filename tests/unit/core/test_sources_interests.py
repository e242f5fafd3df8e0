from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.catalog import Catalog
from tandem_core.features import History, User
from tandem_core.filters import Eligibility, InRange
from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.query import Regime
from tandem_core.sources.base import nearest
from tandem_core.sources.interests import Interests, medoids
from tandem_core.sources.weighted_average import WeightedAverage

N, D = 60, 6
NONE = np.empty(0, np.int32)


def unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


VECTORS = unit(np.random.default_rng(0).normal(size=(N, D)))


def catalog_of(n: int) -> Catalog:
    price = np.where(np.arange(n) % 3 == 0, 1.0, np.nan)
    return Catalog([f"i{row}" for row in range(n)], [""] * n, {}, {"price": price}, np.ones(n, np.int32))


CATALOG = catalog_of(N)


def user_of(rows: list[int], weights: list[float] | None = None) -> User:
    h = len(rows)
    history = History(
        np.array(rows, np.int32),
        np.zeros(h, np.int32),
        np.zeros(h, np.int64),
        np.array(weights or [1.0] * h, np.float32),
    )
    codes = np.zeros(0, np.int64)
    return User(
        Regime.WARM if h else Regime.UNKNOWN, history, history.rows, {}, codes, np.zeros(2, np.int64), [], now_ms=0
    )


def at(*degrees: float) -> np.ndarray:
    """Vectors in the plane: the cosine of two is that of the angle between them."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_two_far_apart_tastes_are_both_found_where_their_mean_finds_neither() -> None:
    # Rows 0 and 1 were chosen, 2 to 5 are like one of them, 6 and 7 like the mean, which is like neither.
    vectors = at(0, 120, 5, 126, 8, 129, 60, 61)
    user, eligible = user_of([0, 1]), Eligibility(catalog_of(8), np.array([0, 1], np.int32), None)
    found = Interests(ExactIndex(vectors)).find(user, eligible, 4)
    assert found.rows.tolist() == [2, 3, 4, 5]
    np.testing.assert_allclose(found.scores, np.cos(np.radians([5, 6, 8, 9])), atol=1e-6)
    assert WeightedAverage(ExactIndex(vectors)).find(user, eligible, 2).rows.tolist() == [6, 7]


def test_the_merge_asks_for_the_largest_score_and_not_for_the_weight_of_an_interest() -> None:
    vectors = at(0, 120, 9, 121)
    heavy_first = user_of([0, 0, 0, 1])
    found = Interests(ExactIndex(vectors)).find(heavy_first, Eligibility(catalog_of(4), np.array([0, 1]), None), 2)
    assert found.rows.tolist() == [3, 2]


def test_one_interest_finds_the_nearest_of_that_one_vector() -> None:
    index, eligible = ExactIndex(VECTORS), Eligibility(CATALOG, np.array([7], np.int32), None)
    found = Interests(index, most=1).find(user_of([7]), eligible, 10)
    alone = nearest(index, VECTORS[7], eligible, 10)
    assert found.rows.tolist() == alone.rows.tolist()
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-6)


def test_without_a_history_nothing_is_found() -> None:
    source, user = Interests(ExactIndex(VECTORS)), user_of([])
    assert len(source.find(user, Eligibility(CATALOG, NONE, None), 5)) == 0
    assert source.vectors(user).shape == (0, D)


def test_the_group_that_weighs_most_comes_first_and_is_stood_for_by_its_middle() -> None:
    # Three around 100 degrees, two around 0, one stray: up to 53 degrees apart is alike.
    vectors = at(0, 70, 100, 130, 10, 250)
    assert medoids(vectors, np.ones(6), 3, 0.6).tolist() == [2, 0, 5]
    assert medoids(vectors, np.array([5.0, 1, 1, 1, 1, 1]), 3, 0.6).tolist() == [0, 2, 5]
    assert medoids(vectors, np.array([1.0, 1, 1, 1, 1, 9]), 1, 0.6).tolist() == [5]
    assert medoids(vectors, np.ones(6), 1, 0.6).tolist() == [2]


def test_what_was_chosen_lately_weighs_more() -> None:
    vectors = at(0, 120)
    newest_first = user_of([0, *[1] * 3])
    assert Interests(ExactIndex(vectors), most=1, half_life=1).vectors(newest_first).tolist() == vectors[:1].tolist()
    assert Interests(ExactIndex(vectors), most=1, half_life=99).vectors(newest_first).tolist() == vectors[1:].tolist()


@given(
    rows=st.lists(st.integers(0, N - 1), min_size=1, max_size=30),
    weights=st.lists(st.floats(0, 5), min_size=30, max_size=30),
    most=st.integers(1, 6),
    alike=st.floats(-1, 1),
)
def test_no_two_interests_are_alike_and_all_is_stood_for_where_there_are_enough(
    rows: list[int], weights: list[float], most: int, alike: float
) -> None:
    vectors = VECTORS[rows]
    taken = medoids(vectors, np.array(weights[: len(rows)]), most, alike)
    between = vectors[taken] @ vectors[taken].T
    assert 1 <= len(taken) <= most
    assert len(set(taken.tolist())) == len(taken)
    assert (between[~np.eye(len(taken), dtype=bool)] < alike).all()
    if len(taken) < most:
        same = np.array(rows)[:, None] == np.array(rows)[taken]
        assert ((vectors @ vectors[taken].T >= alike - 1e-6) | same).any(axis=1).all()


INDEXES: dict[str, VectorIndex] = {"exact": ExactIndex(VECTORS), "hnsw": HnswIndex.build(VECTORS, 8, 50, 60, seed=0)}


@pytest.mark.parametrize("index", INDEXES)
@given(
    history=st.lists(st.integers(0, N - 1), min_size=1, max_size=12),
    excluded=st.lists(st.integers(0, N - 1), max_size=N),
    priced=st.booleans(),
    limit=st.integers(1, N + 5),
    most=st.integers(1, 5),
)
def test_the_list_is_that_of_brute_force_over_eligible_items(
    index: str, history: list[int], excluded: list[int], priced: bool, limit: int, most: int
) -> None:
    eligible = Eligibility(CATALOG, np.array(excluded, np.int32), InRange("price") if priced else None)
    source, user = Interests(INDEXES[index], most), user_of(history)
    found = source.find(user, eligible, limit)
    may = eligible.matching_rows()
    assert np.isin(found.rows, may).all()
    assert len(set(found.rows.tolist())) == len(found) == min(limit, len(may))
    assert (np.diff(found.scores) <= 0).all()
    best = (VECTORS @ source.vectors(user).T).max(axis=1)
    np.testing.assert_allclose(found.scores, np.sort(best[may])[::-1][:limit], atol=1e-6)
    assert found.score_rows is not None
    np.testing.assert_allclose(found.score_rows(found.rows), found.scores, atol=1e-6)
    np.testing.assert_allclose(found.score_rows(CATALOG.all_rows), best, atol=1e-6)


def test_a_long_history_is_cut_to_its_newest_events() -> None:
    vectors = at(0, 120)
    user = user_of([*[0] * 100, *[1] * 400])
    assert Interests(ExactIndex(vectors), half_life=1e9).vectors(user).tolist() == vectors[:1].tolist()


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="most is 0"):
        Interests(ExactIndex(VECTORS), most=0)
    with pytest.raises(ValueError, match="half_life is 0"):
        Interests(ExactIndex(VECTORS), half_life=0)
