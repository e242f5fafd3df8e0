from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.metrics import Relevant, SliceMean, hits
from tandem_core.metrics.accuracy import recall_at
from tandem_core.metrics.slices import (
    Slices,
    activity_slices,
    mean_by_slice,
    pair_hits,
    pair_hits_by_item,
    popularity_slices,
)


def test_users_are_sliced_at_5_20_and_100_events() -> None:
    slices = activity_slices(np.array([0, 4, 5, 19, 20, 99, 100, 5000]))
    assert slices.names == ("cold <5", "5-19", "20-99", "100+")
    assert slices.of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_edges_of_activity_can_be_chosen() -> None:
    slices = activity_slices(np.array([0, 1, 2]), edges=(1, 2))
    assert slices.names == ("cold <1", "1-1", "2+")
    assert slices.of.tolist() == [0, 1, 2]


@pytest.mark.parametrize("edges", [(), (0, 5), (5, 5), (20, 5)])
def test_edges_that_do_not_rise_are_refused(edges: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="activity edges"):
        activity_slices(np.array([1]), edges)


def test_items_are_sliced_by_their_share_of_events() -> None:
    # 100 events. Items with fewer than 20 of them on more popular items are head, those with 80 or more tail.
    counts = np.array([15, 15, 25, 20, 15, 7, 3])
    slices = popularity_slices(counts)
    assert slices.names == ("head", "mid", "tail", "cold")
    # 25: 0 above it, head. 20: 25 above, mid. The equal 15s: 45 above, mid. 7: 90 above, tail. 3: cold.
    assert slices.of.tolist() == [1, 1, 0, 1, 1, 2, 3]


def test_an_item_that_begins_at_the_edge_of_a_share_is_outside_the_head_and_inside_the_tail() -> None:
    # Of 100 events exactly 20 are on more popular items than the second, so mid; 80 than the last, so tail.
    assert popularity_slices(np.array([20, 18, 17, 16, 15, 14])).of.tolist() == [0, 1, 1, 1, 1, 2]
    assert popularity_slices(np.array([30, 26, 24, 20])).of.tolist() == [0, 1, 1, 2]


def test_a_catalogue_without_events_is_all_cold() -> None:
    assert popularity_slices(np.zeros(3, np.int64)).of.tolist() == [3, 3, 3]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_renumbering_items_leaves_them_in_their_slices(counts: list[int], random: Random) -> None:
    order = list(range(len(counts)))
    random.shuffle(order)
    before = popularity_slices(np.array(counts)).of
    np.testing.assert_array_equal(popularity_slices(np.array(counts)[order]).of, before[order])


@given(st.lists(st.integers(5, 200), min_size=1, max_size=30))
def test_the_head_draws_its_share_and_would_not_without_its_last_group(counts: list[int]) -> None:
    array = np.array(counts)
    head = array[popularity_slices(array).of == 0]
    assert head.sum() >= 0.2 * array.sum()
    assert head[head > head.min()].sum() < 0.2 * array.sum()


@pytest.mark.parametrize(("head", "tail"), [(-0.1, 0.2), (0.2, -0.1), (0.6, 0.6)])
def test_shares_that_overlap_are_refused(head: float, tail: float) -> None:
    with pytest.raises(ValueError, match="together at most 1"):
        popularity_slices(np.array([1]), head, tail)


def test_the_mean_of_a_slice_leaves_out_users_without_a_value() -> None:
    slices = Slices(("a", "b", "c"), np.array([0, 0, 0, 1]))
    means = mean_by_slice(np.array([1.0, 0.5, np.nan, np.nan]), slices)
    assert means["a"] == SliceMean(0.75, 2)
    assert means["b"].n == means["c"].n == 0
    assert np.isnan([means["b"].mean, means["c"].mean]).all()


def test_slices_of_other_users_are_refused() -> None:
    with pytest.raises(ValueError, match="pass one for each"):
        mean_by_slice(np.ones(2), Slices(("a",), np.zeros(3, np.int64)))


def test_each_wanted_item_is_found_or_not() -> None:
    relevant = Relevant.from_lists([[9, 1, 2], [], [1]])
    ranked = np.array([[5, 9, 1], [1, 2, 9], [2, 5, -1]], np.int32)
    hit = hits(ranked, relevant)
    # Pairs in order: user 0 with rows 1, 2, 9; user 2 with row 1.
    assert pair_hits(ranked, hit, relevant, 2).tolist() == [0, 0, 1, 0]
    assert pair_hits(ranked, hit, relevant, 3).tolist() == [1, 0, 1, 0]
    items = Slices(("odd", "even"), np.array([1, 0] * 5))
    found = pair_hits_by_item(pair_hits(ranked, hit, relevant, 3), relevant, items)
    # Odd rows: 1 and 9 of user 0 found, 1 of user 2 missed. Even: 2 of user 0 missed.
    assert found == {"odd": SliceMean(2 / 3, 3), "even": SliceMean(0.0, 1)}
    with pytest.raises(ValueError, match="k is 0"):
        pair_hits(ranked, hit, relevant, 0)


@given(
    st.lists(st.lists(st.integers(0, 9), unique=True, max_size=6), min_size=1, max_size=5),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(1, 7),
)
def test_a_users_found_pairs_make_up_its_recall(lists: list[list[int]], rows: list[int], k: int) -> None:
    relevant = Relevant.from_lists([rows] * len(lists))
    ranked = np.array([each + [-1] * (6 - len(each)) for each in lists], np.int32)
    hit = hits(ranked, relevant)
    per_user = pair_hits(ranked, hit, relevant, k).reshape(len(lists), -1).mean(axis=1)
    np.testing.assert_allclose(per_user, recall_at(hit, relevant, k))
