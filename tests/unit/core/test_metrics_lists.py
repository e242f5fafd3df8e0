from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.metrics import Relevant, hits
from tandem_core.metrics.cold_start import cold_start, share_listed
from tandem_core.metrics.lists import (
    catalogue_coverage,
    centroid_distance,
    centroids,
    exposure,
    gini,
    intra_list_diversity,
    novelty,
    score_ties,
)

RANKED = np.array([[0, 1, 2], [0, -1, -1], [-1, -1, -1], [3, 0, -1]], np.int32)


def some_lists(seed: int, users: int = 7, width: int = 6, catalogue: int = 9) -> np.ndarray:
    """Lists of every length from none to width, without repeats."""
    rng = np.random.default_rng(seed)
    ranked = np.argsort(rng.random((users, catalogue)), axis=1)[:, :width].astype(np.int32)
    ranked[np.arange(width)[None, :] >= rng.integers(0, width + 1, users)[:, None]] = -1
    return ranked


def test_exposure_counts_lists_and_never_the_padding() -> None:
    shown = exposure(RANKED, 5)
    assert shown.tolist() == [3, 1, 1, 1, 0]
    assert catalogue_coverage(shown) == 4 / 5
    assert math.isnan(catalogue_coverage(exposure(RANKED[2:3], 5)[:0]))


def test_rows_outside_the_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match="the catalogue has 0 to 2"):
        exposure(RANKED, 3)


def test_gini_of_equal_exposure_is_0_and_of_one_item_1_less_1_over_n() -> None:
    assert gini(np.full(7, 3)) == 0
    assert gini(np.array([0, 0, 12, 0])) == pytest.approx(1 - 1 / 4)


def test_gini_worked_out_by_hand() -> None:
    # Mean difference over all ordered pairs of (1, 3): (0 + 2 + 2 + 0) / 4 = 1; over twice the mean 2: 1/4.
    assert gini(np.array([3, 1])) == pytest.approx(1 / 4)
    assert math.isnan(gini(np.zeros(3, np.int64)))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_gini_is_half_the_relative_mean_difference(shown: list[int]) -> None:
    array = np.array(shown, np.float64)
    naive = np.abs(array[:, None] - array).mean() / (2 * array.mean())
    assert gini(np.array(shown)) == pytest.approx(naive)
    assert -1e-12 <= gini(np.array(shown)) < 1


def test_identical_items_have_no_diversity_and_orthogonal_ones_1() -> None:
    vectors = np.array([[2, 0], [5, 0], [0, 3], [-1, 0]], np.float32)
    ranked = np.array([[0, 1], [0, 2], [0, 3]], np.int32)
    # Length does not count; opposite directions are at distance 2.
    np.testing.assert_allclose(intra_list_diversity(ranked, vectors), [0, 1, 2], atol=1e-6)


def test_diversity_is_the_mean_over_pairs() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    # Pairs: 0-1 at 0, 0-2 at 1, 1-2 at 1.
    assert intra_list_diversity(np.array([[0, 1, 2]], np.int32), vectors)[0] == pytest.approx(2 / 3)


def test_lists_of_fewer_than_two_items_have_no_diversity() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 0], [1, 1]], np.float32)
    # User 3 has items 3 and 0, at 45 degrees; in the second case item 2 has no direction, so one is left.
    found = intra_list_diversity(RANKED[1:], vectors)
    assert np.isnan(found[:2]).all()
    assert found[2] == pytest.approx(1 - math.sqrt(0.5))
    assert np.isnan(intra_list_diversity(np.array([[0, 2]], np.int32), vectors)).all()


@given(st.integers(0, 1000))
def test_diversity_agrees_with_a_loop_over_pairs(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32)
    ranked = some_lists(seed)
    for user, value in enumerate(intra_list_diversity(ranked, vectors)):
        chosen = [vectors[row] / np.linalg.norm(vectors[row]) for row in ranked[user] if row >= 0]
        pairs = [1 - a @ b for i, a in enumerate(chosen) for b in chosen[:i]]
        np.testing.assert_allclose(value, np.mean(pairs) if pairs else np.nan, atol=1e-5)


def test_a_nan_in_a_vector_is_refused() -> None:
    broken = np.array([[1], [np.nan]], np.float32)
    with pytest.raises(ValueError, match="vector of item row 1"):
        intra_list_diversity(np.array([[0]], np.int32), broken)
    with pytest.raises(ValueError, match="vector of item row 1"):
        centroids(Relevant.from_lists([[0]]), broken)


def test_novelty_is_the_mean_surprise_in_bits() -> None:
    # With one event added to each of four items: 8/16, 4/16, 2/16, 2/16, so 1, 2, 3 and 3 bits.
    found = novelty(RANKED, np.array([7, 3, 1, 1]))
    np.testing.assert_allclose(found, [(1 + 2 + 3) / 3, 1, np.nan, (3 + 1) / 2])


def test_novelty_without_smoothing_is_refused() -> None:
    with pytest.raises(ValueError, match="smoothing is 0"):
        novelty(RANKED, np.ones(4, np.int64), smoothing=0)


def test_ties_are_found_in_any_order_and_never_in_the_padding() -> None:
    ranked = np.array([[0, 1, 2], [0, 1, 2], [0, 1, -1], [0, -1, -1], [-1, -1, -1]], np.int32)
    scores = np.array([[0.9, 0.5, 0.9], [0.9, 0.8, 0.7], [0.9, 0.0, 0.0], [0.9, 0, 0], [0, 0, 0]], np.float32)
    found = score_ties(scores, ranked)
    np.testing.assert_array_equal(found, [1, 0, 0, np.nan, np.nan])


def test_a_tolerance_finds_what_looks_tied_when_printed() -> None:
    scores, ranked = np.array([[0.9481, 0.9479, 0.5]]), np.array([[0, 1, 2]], np.int32)
    assert score_ties(scores, ranked).tolist() == [0]
    assert score_ties(scores, ranked, tolerance=0.0005).tolist() == [1]
    assert score_ties(np.array([[0.75, 0.5, 0.0]]), ranked, tolerance=0.25).tolist() == [1]  # inclusive


def test_two_infinite_scores_tie_and_nan_is_refused() -> None:
    ranked = np.array([[0, 1]], np.int32)
    assert score_ties(np.array([[-np.inf, -np.inf]]), ranked).tolist() == [1]
    with pytest.raises(ValueError, match="user 0 at place 1 is NaN"):
        score_ties(np.array([[1.0, np.nan]]), ranked)
    with pytest.raises(ValueError, match="pass one per item"):
        score_ties(np.ones((1, 3)), ranked)


def test_centroids_are_means_of_what_each_user_rated() -> None:
    vectors = np.array([[0, 0], [4, 0], [0, 2]], np.float32)
    found = centroids(Relevant.from_lists([[], [0, 1], [], [2], [0, 1, 2], []]), vectors)
    nan = [np.nan, np.nan]
    np.testing.assert_allclose(found, np.array([nan, [2, 0], nan, [0, 2], [4 / 3, 2 / 3], nan]))


def test_centroid_distance_worked_out_by_hand() -> None:
    vectors = np.array([[3, 4], [0, 0], [6, 8], [0, 5]], np.float32)
    centres = np.array([[0, 0], [3, 4], [0, 0], [np.nan, np.nan]])
    # User 0: 5, 0 and 10 from the origin. User 1 is served its centroid. User 2 has no list, 3 no history.
    np.testing.assert_allclose(centroid_distance(RANKED, vectors, centres), [5, 0, np.nan, np.nan])
    with pytest.raises(ValueError, match="for each of the 4 users"):
        centroid_distance(RANKED, vectors, centres[:2])


@given(st.integers(0, 1000))
def test_permuting_users_and_single_calls_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranked, vectors = some_lists(seed), rng.normal(size=(9, 4)).astype(np.float32)
    scores, centres = rng.integers(0, 9, ranked.shape) / 8, rng.normal(size=(len(ranked), 4))
    counts = rng.integers(0, 9, 9)

    def measure(users: np.ndarray) -> np.ndarray:
        chosen = ranked[users]
        return np.stack(
            [
                intra_list_diversity(chosen, vectors),
                novelty(chosen, counts),
                score_ties(scores[users], chosen),
                centroid_distance(chosen, vectors, centres[users]),
            ]
        )

    everyone, order = measure(np.arange(len(ranked))), rng.permutation(len(ranked))
    np.testing.assert_allclose(measure(order), everyone[:, order], rtol=1e-6)
    alone = np.concatenate([measure(np.array([user])) for user in range(len(ranked))], axis=1)
    np.testing.assert_allclose(alone, everyone, rtol=1e-6)
    assert gini(exposure(ranked[order], 9)) == gini(exposure(ranked, 9)) or not (ranked >= 0).any()


def test_blocks_of_users_change_nothing() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 64)).astype(np.float32)
    ranked = np.argsort(rng.random((1000, 200)), axis=1)[:, :40].astype(np.int32)  # 2.4 blocks
    history = Relevant.from_pairs(rng.integers(0, 1000, 20_000), rng.integers(0, 200, 20_000), 1000)
    centres = centroids(history, vectors)
    last = Relevant.from_lists([history.rows[history.indptr[-2] :].tolist()])
    np.testing.assert_allclose(centres[-1:], centroids(last, vectors))
    for measure in (
        intra_list_diversity,
        lambda lists, v: centroid_distance(lists, v, centres[-len(lists) :]),
    ):
        np.testing.assert_allclose(measure(ranked, vectors)[-3:], measure(ranked[-3:], vectors), rtol=1e-6)


def test_cold_start_is_measured_in_both_senses() -> None:
    relevant = Relevant.from_lists([[1, 4], [3], [2], [3, 4]])
    found = cold_start(
        RANKED,
        hits(RANKED, relevant),
        relevant,
        cold_users=np.array([True, True, True, False]),
        cold_items=np.array([False, False, False, True, True]),
    )
    assert found.users_listed == pytest.approx(2 / 3)  # user 2 got nothing
    assert found.items_listed == 1 / 2  # item 3 is in user 3's list, item 4 in none
    assert found.user_hit_rate == pytest.approx(1 / 3)  # user 0 finds item 1
    assert found.item_hit_rate == pytest.approx(1 / 4)  # of (0, 4), (1, 3), (3, 3), (3, 4) the third
    assert (found.users, found.items, found.judged_users, found.judged_pairs) == (3, 2, 3, 4)


def test_cold_users_without_relevant_items_are_listed_but_not_judged() -> None:
    relevant = Relevant.from_lists([[1], [], [], []])
    cold = np.array([True, True, False, False])
    none = np.zeros(4, np.bool_)
    found = cold_start(RANKED, hits(RANKED, relevant), relevant, cold_users=cold, cold_items=none)
    assert (found.users_listed, found.user_hit_rate, found.judged_users) == (1, 1, 1)
    assert math.isnan(found.items_listed)
    assert math.isnan(found.item_hit_rate)
    assert math.isnan(share_listed(RANKED, none))


def test_cold_flags_of_other_users_are_refused() -> None:
    relevant = Relevant.from_lists([[1]] * 4)
    with pytest.raises(ValueError, match="pass the same users to all"):
        cold_start(
            RANKED,
            hits(RANKED, relevant),
            relevant,
            cold_users=np.ones(3, np.bool_),
            cold_items=np.ones(4, np.bool_),
        )
