from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.catalog import Catalog
from tandem_core.features import User
from tandem_core.filters import Eligibility, InRange
from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.sources.base import nearest
from tandem_core.sources.interests import Interests, groups
from tandem_core.sources.weighted_average import WeightedAverage

N, D = 60, 6
NONE = np.empty(0, np.int32)

UserOf = Callable[..., User]


def unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


VECTORS = unit(np.random.default_rng(0).normal(size=(N, D)))


def catalog_of(n: int) -> Catalog:
    price = np.where(np.arange(n) % 3 == 0, 1.0, np.nan)
    return Catalog([f"i{row}" for row in range(n)], [""] * n, {}, {"price": price}, np.ones(n, np.int32))


CATALOG = catalog_of(N)


def at(*degrees: float) -> np.ndarray:
    """Vectors in the plane: the cosine of two is that of the angle between them."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_two_far_apart_tastes_are_both_found_where_their_mean_finds_neither(user_of_rows: UserOf) -> None:
    # Rows 0 and 1 were chosen, 2 to 5 are like one of them, 6 and 7 like the mean, which is like neither.
    vectors = at(0, 120, 5, 126, 8, 129, 60, 61)
    user, eligible = user_of_rows([0, 1]), Eligibility(catalog_of(8), np.array([0, 1], np.int32), None)
    found = Interests(ExactIndex(vectors)).find(user, eligible, 4)
    assert found.rows.tolist() == [2, 3, 4, 5]
    np.testing.assert_allclose(found.scores, np.cos(np.radians([5, 6, 8, 9])), atol=1e-6)
    assert WeightedAverage(ExactIndex(vectors)).find(user, eligible, 2).rows.tolist() == [6, 7]


def test_the_merge_asks_for_the_largest_score_and_not_for_the_weight_of_an_interest(user_of_rows: UserOf) -> None:
    vectors = at(0, 120, 9, 121)
    heavy_first = user_of_rows([0, 0, 0, 1])
    found = Interests(ExactIndex(vectors)).find(heavy_first, Eligibility(catalog_of(4), np.array([0, 1]), None), 2)
    assert found.rows.tolist() == [3, 2]


def test_one_interest_finds_the_nearest_of_that_one_vector(user_of_rows: UserOf) -> None:
    index, eligible = ExactIndex(VECTORS), Eligibility(CATALOG, np.array([7], np.int32), None)
    found = Interests(index, most=1).find(user_of_rows([7]), eligible, 10)
    alone = nearest(index, VECTORS[7], eligible, 10)
    assert found.rows.tolist() == alone.rows.tolist()
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-6)


def test_without_a_history_nothing_is_found(user_of_rows: UserOf) -> None:
    source, user = Interests(ExactIndex(VECTORS)), user_of_rows([])
    assert len(source.find(user, Eligibility(CATALOG, NONE, None), 5)) == 0
    assert source.vectors(user).shape == (0, D)


def test_the_group_that_weighs_most_comes_first_around_its_middle_and_strays_are_left_out() -> None:
    # Three around 100 degrees, two around 0, one stray: up to 53 degrees apart is alike.
    vectors = at(0, 70, 100, 130, 10, 250)

    def grouped(weights: list[float], most: int = 3, share: float = 0.0) -> list[list[int]]:
        return [each.tolist() for each in groups(vectors, np.array(weights), most, 0.6, share)]

    assert grouped([1, 1, 1, 1, 1, 1]) == [[1, 2, 3], [0, 4], [5]]
    assert grouped([5, 1, 1, 1, 1, 1]) == [[0, 4], [1, 2, 3], [5]]
    assert grouped([1, 1, 1, 1, 1, 1], most=1) == [[1, 2, 3]]
    assert grouped([1, 1, 1, 1, 1, 1], share=0.2) == [[1, 2, 3], [0, 4]]
    assert grouped([1, 1, 1, 1, 1, 9], most=1) == [[5]]
    assert grouped([0, 0, 0, 0, 0, 0], share=0.2)[0] == [0, 4]  # no group weighs more: the first event's


def test_an_interest_is_the_weighted_average_of_its_group(user_of_rows: UserOf) -> None:
    vectors = at(0, 30, 150)
    source = Interests(ExactIndex(vectors), half_life=1e9)
    got = source.vectors(user_of_rows([0, 1, 2], [3.0, 1.0, 1.0]))
    first = 3 * vectors[0] + vectors[1]
    np.testing.assert_allclose(got, [first / np.linalg.norm(first), vectors[2]], atol=1e-6)


def test_one_group_of_everything_is_the_weighted_average_source(user_of_rows: UserOf) -> None:
    index, eligible = ExactIndex(VECTORS), Eligibility(CATALOG, NONE, None)
    user = user_of_rows([3, 9, 4], [1.0, 2.0, 0.5])
    one = Interests(index, alike=-1, half_life=1e9).find(user, eligible, 20)
    average = WeightedAverage(index).find(user, eligible, 20)
    assert one.rows.tolist() == average.rows.tolist()
    np.testing.assert_allclose(one.scores, average.scores, atol=1e-6)


def test_what_was_chosen_lately_weighs_more(user_of_rows: UserOf) -> None:
    vectors = at(0, 120)
    user = user_of_rows([0, *[1] * 3])  # newest first
    for half_life, first in ((1, 0), (99, 1)):
        source = Interests(ExactIndex(vectors), most=1, half_life=half_life)
        np.testing.assert_allclose(source.vectors(user), vectors[[first]], atol=1e-6)


@given(
    rows=st.lists(st.integers(0, N - 1), min_size=1, max_size=30),
    weights=st.lists(st.floats(0, 5), min_size=30, max_size=30),
    most=st.integers(1, 6),
    alike=st.floats(-1, 1),
    share=st.floats(0, 1),
)
def test_groups_are_apart_never_empty_and_each_but_the_first_has_its_share(
    rows: list[int], weights: list[float], most: int, alike: float, share: float
) -> None:
    vectors, weighs = VECTORS[rows], np.array(weights[: len(rows)])
    found = groups(vectors, weighs, most, alike, share)
    assert 1 <= len(found) <= most
    assert all(len(each) for each in found)
    together = np.concatenate(found).tolist()
    assert len(set(together)) == len(together)
    sums = [weighs[each].sum() for each in found]
    assert all(weight >= share * weighs.sum() - 1e-9 for weight in sums[1:])
    assert (np.diff(sums) <= 1e-9).all()
    if len(found) < most and share == 0:
        assert sorted(together) == list(range(len(rows)))


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
    index: str, history: list[int], excluded: list[int], priced: bool, limit: int, most: int, user_of_rows: UserOf
) -> None:
    eligible = Eligibility(CATALOG, np.array(excluded, np.int32), InRange("price") if priced else None)
    source, user = Interests(INDEXES[index], most), user_of_rows(history)
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


def test_a_long_history_is_cut_to_its_newest_events(user_of_rows: UserOf) -> None:
    vectors = at(0, 120)
    user = user_of_rows([*[0] * 100, *[1] * 400])
    got = Interests(ExactIndex(vectors), half_life=1e9).vectors(user)
    np.testing.assert_allclose(got, vectors[:1], atol=1e-6)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="most is 0"):
        Interests(ExactIndex(VECTORS), most=0)
    with pytest.raises(ValueError, match="half_life is 0"):
        Interests(ExactIndex(VECTORS), half_life=0)
