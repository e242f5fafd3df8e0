from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.metrics import Relevant, hits
from tandem_core.metrics.accuracy import (
    PerUser,
    Rows,
    average_precision_at,
    average_precision_seed2_variant_at,
    hit_rate_at,
    mrr_at,
    ndcg_at,
    ndcg_seed2_variant_at,
    precision_at,
    recall_at,
)

METRICS = [
    recall_at,
    hit_rate_at,
    precision_at,
    ndcg_at,
    mrr_at,
    average_precision_at,
    average_precision_seed2_variant_at,
    ndcg_seed2_variant_at,
]
Metric = Callable[..., PerUser]
every_metric = pytest.mark.parametrize("metric", METRICS)

# One user, whose list holds relevant items at places 1 and 3, and who has a third that was not found.
ONE_LIST = np.array([[7, 3, 9, 4, -1]], np.int32)
ONE_USER = Relevant.from_lists([[7, 9, 50]])

CATALOGUE = 12
Case = tuple[list[list[int]], list[list[int]]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Lists without repeats and relevant items, of the same users; either may be empty."""
    users = draw(st.integers(1, 6))
    rows = st.integers(0, CATALOGUE - 1)
    ranked = [draw(st.lists(rows, unique=True, max_size=8)) for _ in range(users)]
    relevant = [draw(st.lists(rows, max_size=8)) for _ in range(users)]
    return ranked, relevant


def padded(lists: list[list[int]], width: int = 8) -> Rows:
    return np.array([each + [-1] * (width - len(each)) for each in lists], np.int32)


def value(metric: Metric, k: int) -> float:
    return float(metric(hits(ONE_LIST, ONE_USER), ONE_USER, k)[0])


@pytest.mark.parametrize(
    ("metric", "k", "expected"),
    [
        (recall_at, 1, 1 / 3),
        (recall_at, 3, 2 / 3),
        (hit_rate_at, 3, 1),
        (precision_at, 3, 2 / 3),
        (precision_at, 10, 2 / 10),  # the list holds four items, ten places were asked for
        # Hits at i = 0 and 2: 1/log2(2) + 1/log2(4) = 1.5, against three hits: 1 + 1/log2(3) + 1/2.
        (ndcg_at, 3, 1.5 / (1.5 + 1 / math.log2(3))),
        (ndcg_at, 1, 1),  # the best list of one place holds one item
        (mrr_at, 3, 1),
        # Precision 1/1 at place 1 and 2/3 at place 3.
        (average_precision_at, 3, (1 + 2 / 3) / 3),
        (average_precision_at, 2, 1 / 2),
        (average_precision_seed2_variant_at, 3, (1 + 2 / 3) / 2),
        (average_precision_seed2_variant_at, 2, 1),
        # The same two hits, in the best order at i = 0 and 1.
        (ndcg_seed2_variant_at, 3, 1.5 / (1 + 1 / math.log2(3))),
        (ndcg_seed2_variant_at, 2, 1),
    ],
)
def test_a_list_worked_out_by_hand_gets_its_value(metric: Metric, k: int, expected: float) -> None:
    assert value(metric, k) == pytest.approx(expected, abs=1e-15)


def test_mrr_looks_at_the_first_hit_alone() -> None:
    relevant = Relevant.from_lists([[3, 9]])
    hit = hits(ONE_LIST, relevant)
    assert mrr_at(hit, relevant, 5).tolist() == [1 / 2]
    assert mrr_at(hit, relevant, 1).tolist() == [0]


@every_metric
def test_a_user_without_relevant_items_is_nan_and_a_miss_is_zero(metric: Metric) -> None:
    relevant = Relevant.from_lists([[], [8]])
    values = metric(hits(np.array([[1, 2], [1, 2]], np.int32), relevant), relevant, 2)
    assert np.isnan(values[0])
    assert values[1] == 0
    assert values.dtype == np.float64


@every_metric
def test_lists_without_any_place_miss_everything(metric: Metric) -> None:
    relevant = Relevant.from_lists([[1]])
    assert metric(hits(np.empty((1, 0), np.int32), relevant), relevant, 5).tolist() == [0]


@every_metric
@given(cases(), st.integers(1, 10))
def test_every_metric_stays_between_0_and_1(metric: Metric, case: Case, k: int) -> None:
    ranked, relevant = padded(case[0]), Relevant.from_lists(case[1])
    values = metric(hits(ranked, relevant), relevant, k)
    known = values[~np.isnan(values)]
    assert len(known) == sum(bool(rows) for rows in case[1])
    assert ((known >= 0) & (known <= 1)).all()


@every_metric
@given(cases(), st.integers(1, 10))
def test_a_batch_of_users_equals_single_calls(metric: Metric, case: Case, k: int) -> None:
    ranked, relevant = padded(case[0]), Relevant.from_lists(case[1])
    batch = metric(hits(ranked, relevant), relevant, k)
    for user, rows in enumerate(case[1]):
        alone = Relevant.from_lists([rows])
        one = metric(hits(ranked[[user]], alone), alone, k)
        np.testing.assert_array_equal(one, batch[[user]])


@every_metric
@given(cases(), st.randoms(use_true_random=False))
def test_permuting_users_permutes_their_values(metric: Metric, case: Case, random: Random) -> None:
    order = list(range(len(case[0])))
    random.shuffle(order)
    relevant, shuffled = Relevant.from_lists(case[1]), Relevant.from_lists([case[1][u] for u in order])
    ranked = padded(case[0])
    before = metric(hits(ranked, relevant), relevant, 5)
    after = metric(hits(ranked[order], shuffled), shuffled, 5)
    np.testing.assert_array_equal(after, before[order])


@every_metric
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True))
def test_a_perfect_list_scores_1(metric: Metric, rows: list[int]) -> None:
    relevant = Relevant.from_lists([rows])
    assert metric(hits(padded([rows], 20), relevant), relevant, len(rows)).tolist() == [1]


@given(cases(), st.integers(1, 8))
def test_appending_a_miss_never_raises_precision(case: Case, k: int) -> None:
    relevant = Relevant.from_lists(case[1])
    longer = [[*each, CATALOGUE + 1] for each in case[0]]
    before = precision_at(hits(padded(case[0], 9), relevant), relevant, k)
    after = precision_at(hits(padded(longer, 9), relevant), relevant, k)
    known = ~np.isnan(before)
    assert (after[known] <= before[known]).all()


@given(cases(), st.integers(1, 8))
def test_recall_never_falls_with_k(case: Case, k: int) -> None:
    relevant = Relevant.from_lists(case[1])
    hit = hits(padded(case[0]), relevant)
    shorter, longer = recall_at(hit, relevant, k), recall_at(hit, relevant, k + 1)
    known = ~np.isnan(shorter)
    assert (longer[known] >= shorter[known]).all()


@given(cases(), st.integers(1, 8))
def test_the_seed_2_variants_are_never_below_the_metrics(case: Case, k: int) -> None:
    relevant = Relevant.from_lists(case[1])
    hit = hits(padded(case[0]), relevant)
    for metric, variant in (
        (average_precision_at, average_precision_seed2_variant_at),
        (ndcg_at, ndcg_seed2_variant_at),
    ):
        strict, loose = metric(hit, relevant, k), variant(hit, relevant, k)
        known = ~np.isnan(strict)
        assert (loose[known] >= strict[known] - 1e-12).all()


@given(cases())
def test_hits_agree_with_python_sets(case: Case) -> None:
    found = hits(padded(case[0]), Relevant.from_lists(case[1]))
    naive = [
        [place < len(rows) and rows[place] in set(relevant) for place in range(8)]
        for rows, relevant in zip(*case, strict=True)
    ]
    assert found.tolist() == naive


def test_a_row_above_every_relevant_row_is_no_hit_of_the_next_user() -> None:
    # The largest relevant row is 4, so user 0's row 5 + 2 and user 1's row 2 would share a key unguarded.
    relevant = Relevant.from_lists([[4], [2]])
    assert not hits(np.array([[7], [3]], np.int32), relevant).any()


def test_hits_are_the_same_across_blocks_of_users() -> None:
    rng = np.random.default_rng(0)
    ranked = np.argsort(rng.random((3000, 500)), axis=1).astype(np.int32)  # blocks hold 2^20 entries
    users, rows = rng.integers(0, 3000, 20_000), rng.integers(0, 500, 20_000)
    relevant = Relevant.from_pairs(users, rows, 3000)
    table = np.zeros((3000, 500), np.bool_)
    table[users, rows] = True
    np.testing.assert_array_equal(hits(ranked, relevant), np.take_along_axis(table, ranked, axis=1))


def test_relevant_items_are_sorted_and_made_distinct() -> None:
    relevant = Relevant(np.array([0, 4, 4, 5]), np.array([5, 2, 5, 2, 5], np.int32))
    assert relevant.indptr.tolist() == [0, 2, 2, 3]
    assert relevant.rows.tolist() == [2, 5, 5]
    assert relevant.sizes.tolist() == [2, 0, 1]
    assert relevant.users.tolist() == [0, 0, 2]
    assert relevant.rows.dtype == np.int32


def test_pairs_and_lists_make_the_same_relevant_items() -> None:
    pairs = Relevant.from_pairs(np.array([2, 0, 2, 0]), np.array([1, 3, 0, 3]), 4)
    lists = Relevant.from_lists([[3], [], [0, 1], []])
    assert pairs.indptr.tolist() == lists.indptr.tolist()
    assert pairs.rows.tolist() == lists.rows.tolist()


@pytest.mark.parametrize(
    ("indptr", "rows"),
    [([0, 1], [1, 2]), ([1, 2], [1, 2]), ([0, 2, 1, 2], [1, 2]), ([], []), ([0, 1], [-1])],
)
def test_arrays_that_disagree_are_refused(indptr: list[int], rows: list[int]) -> None:
    with pytest.raises(ValueError, match="relevant"):
        Relevant(np.array(indptr, np.int64), np.array(rows, np.int32))


def test_users_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="number them 0 to 1"):
        Relevant.from_pairs(np.array([0, 2]), np.array([1, 1]), 2)
    with pytest.raises(ValueError, match="one of each per pair"):
        Relevant.from_pairs(np.array([0, 1]), np.array([1]), 2)


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ([[1, 2, 3], [4, 5, 4]], "list of user 1 holds row 4 twice"),
        ([[1, 2, 3], [4, -1, 5]], "list of user 1: -1 may only stand at the end"),
        ([[1, -2, -2], [4, 5, 6]], "list of user 0: -1 may only stand at the end"),
        ([[1, 2, 3]], "one list for each of 2 users"),
    ],
)
def test_lists_that_would_be_miscounted_are_refused(lists: list[list[int]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        hits(np.array(lists, np.int32), Relevant.from_lists([[1], [2]]))


@every_metric
def test_a_cut_off_below_1_and_other_users_are_refused(metric: Metric) -> None:
    hit = hits(ONE_LIST, ONE_USER)
    with pytest.raises(ValueError, match="k is 0"):
        metric(hit, ONE_USER, 0)
    with pytest.raises(ValueError, match="pass the same users"):
        metric(hit, Relevant.from_lists([[1], [2]]), 5)
