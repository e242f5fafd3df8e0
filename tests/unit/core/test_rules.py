from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.candidates import order
from tandem_core.query import Regime, Seen
from tandem_core.rules.base import Given, Order, OrderRule, ScoreRule, Scores
from tandem_core.rules.caps import Cap
from tandem_core.rules.cold_start import ColdItemScore, PopularityBlend
from tandem_core.rules.mmr import Mmr
from tandem_core.rules.normalise import Normalise
from tandem_core.rules.recency import Recency
from tandem_core.rules.seen import SeenDiscount
from tandem_core.rules.slots import Filled, fill_slots

SCORING: list[ScoreRule] = [
    Normalise(),
    PopularityBlend(dict.fromkeys(Regime, 0.3)),
    ColdItemScore(cold_events=5, neighbours=2),
    SeenDiscount(0.5),
    Recency(weight=0.1, half_life_days=30),
]
ORDERING: list[OrderRule] = [
    Mmr(lambda_relevance=0.5, pool_size=6),
    Mmr(lambda_relevance=0.0, pool_size=100),
    Mmr(lambda_relevance=0.4, pool_size=100, similarity="categories"),
]
# The ranker may give anything; after Normalise scores are in [0, 1].
ANY_SCORES = st.lists(st.floats(width=32), max_size=14)
SCORES = st.lists(st.floats(0, 1, width=32), max_size=14)
MakeGiven = Callable[..., Given]


def scored(rule: ScoreRule, given_: Given) -> Scores:
    return rule(given_.batch.scores, given_)


def sorted_(given_: Given) -> Order:
    return order(given_.batch.scores, given_.batch.rows)


def ordered(rule: OrderRule, given_: Given) -> list[int]:
    """Return the positions in the order that the rule makes of the order by score."""
    return rule(sorted_(given_), given_.batch.scores, given_)[0].tolist()


@pytest.mark.parametrize("rule", SCORING, ids=repr)
@given(scores=SCORES, seed=st.integers(0, 99))
def test_rules_of_scores_leave_them_finite_and_answer_alike_twice(
    given_of: MakeGiven, rule: ScoreRule, scores: list[float], seed: int
) -> None:
    given_ = given_of(scores, seed)
    got = scored(rule, given_)
    assert got.shape == given_.batch.scores.shape
    assert np.isfinite(got).all()
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, scored(rule, given_))


@pytest.mark.parametrize("rule", ORDERING, ids=repr)
@given(scores=ANY_SCORES, seed=st.integers(0, 99), slots=st.integers(1, 20))
def test_rules_of_order_lose_and_double_nothing_and_answer_alike_twice(
    given_of: MakeGiven, rule: OrderRule, scores: list[float], seed: int, slots: int
) -> None:
    given_ = given_of(scores, seed, slots)
    with np.errstate(invalid="ignore", over="ignore"):  # rules may take scores to be in [0, 1]
        got, again = ordered(rule, given_), ordered(rule, given_)
    assert sorted(got) == list(range(len(scores)))
    assert got == again


@pytest.mark.parametrize("rule", [*SCORING, *ORDERING], ids=repr)
def test_empty_and_one_item_lists_pass(given_of: MakeGiven, rule: ScoreRule | OrderRule) -> None:
    for scores in ([], [0.5]):
        given_ = given_of(scores)
        if rule in SCORING:
            assert len(scored(rule, given_)) == len(scores)  # type: ignore[arg-type]
        else:
            assert ordered(rule, given_) == list(range(len(scores)))  # type: ignore[arg-type]


@given(ANY_SCORES)
def test_normalising_gives_0_to_1_in_the_same_order_and_0_to_what_is_not_finite(
    given_of: MakeGiven, scores: list[float]
) -> None:
    given_ = given_of(scores)
    got = scored(Normalise(), given_)
    assert np.all((got >= 0) & (got <= 1))
    finite = np.isfinite(given_.batch.scores)
    assert not got[~finite].any()
    if finite.any():
        assert got[finite].max() == 1
        by_score = np.argsort(given_.batch.scores[finite], kind="stable")
        assert np.all(np.diff(got[finite][by_score]) >= 0)


def test_normalising_worked_out_by_hand(given_of: MakeGiven) -> None:
    assert scored(Normalise(), given_of([-3, 1, np.nan, 0, np.inf])).tolist() == [0, 1, 0, 0.75, 0]
    assert scored(Normalise(), given_of([7, 7, np.nan])).tolist() == [1, 1, 0]
    assert scored(Normalise(), given_of([np.nan, -np.inf])).tolist() == [0, 0]


def test_normalising_stands_scores_as_far_apart_as_floats_can_be(given_of: MakeGiven) -> None:
    assert scored(Normalise(), given_of([-3e38, 0, 3e38])).tolist() == [0, 0.5, 1]


@given(SCORES, st.integers(0, 99), st.floats(0, 1))
def test_a_popularity_blend_lies_between_score_and_popularity(
    given_of: MakeGiven, scores: list[float], seed: int, weight: float
) -> None:
    given_ = given_of(scores, seed)
    popularity = given_.column("popularity")
    got = scored(PopularityBlend(dict.fromkeys(Regime, weight)), given_)
    assert np.all(got >= np.minimum(given_.batch.scores, popularity) - 1e-6)
    assert np.all(got <= np.maximum(given_.batch.scores, popularity) + 1e-6)


def test_a_blend_of_0_changes_nothing_and_of_1_is_popularity_alone(given_of: MakeGiven) -> None:
    given_ = given_of([0.1, 0.9, 0.4])
    none, whole = (scored(PopularityBlend(dict.fromkeys(Regime, weight)), given_) for weight in (0.0, 1.0))
    np.testing.assert_array_equal(none, given_.batch.scores)
    np.testing.assert_allclose(whole, given_.column("popularity"), rtol=1e-6)


@given(SCORES, st.integers(0, 99), st.integers(1, 20))
def test_cold_items_borrow_from_warm_ones_and_no_score_is_lowered(
    given_of: MakeGiven, scores: list[float], seed: int, neighbours: int
) -> None:
    given_ = given_of(scores, seed)
    got = scored(ColdItemScore(cold_events=5, neighbours=neighbours), given_)
    before, warm = given_.batch.scores, given_.column("events") >= 5
    assert np.all(got >= before)
    np.testing.assert_array_equal(got[warm], before[warm])
    if warm.any():
        assert np.all(got <= np.maximum(before, before[warm].max() + 1e-6))


def test_a_cold_item_gets_the_mean_of_its_nearest_warm_ones_weighed_by_likeness(given_of: MakeGiven) -> None:
    content = np.array([[1, 0], [0.6, 0.8], [-1, 0], [0.8, 0.6], [0, -1]], np.float32)
    events = [9, 9, 9, 0, 0]
    given_ = given_of([0.9, 0.5, 1.0, 0.1, 0.3], content=content, events=events)
    got = scored(ColdItemScore(cold_events=5, neighbours=2), given_)
    # Row 3 is .8 like the first and .96 like the second; row 4 is like none: 0 and -.8 are not above 0.
    assert got.tolist() == pytest.approx([0.9, 0.5, 1.0, (0.8 * 0.9 + 0.96 * 0.5) / (0.8 + 0.96), 0.3])


def test_lists_of_cold_or_of_warm_items_alone_keep_their_scores(given_of: MakeGiven) -> None:
    for events in ([0, 0], [9, 9]):
        given_ = given_of([0.2, 0.8], events=events)
        assert scored(ColdItemScore(5, 3), given_) is given_.batch.scores


@given(SCORES, st.integers(0, 99), st.floats(0, 1))
def test_seen_items_are_multiplied_and_others_left_alone(
    given_of: MakeGiven, scores: list[float], seed: int, factor: float
) -> None:
    given_ = given_of(scores, seed)
    before, seen = given_.batch.scores, np.isin(given_.batch.rows, given_.request.interacted)
    got = scored(SeenDiscount(factor), given_)
    np.testing.assert_allclose(got, np.where(seen, before * np.float32(factor), before), rtol=1e-5, atol=1e-7)
    allowed = Given(given_.batch, replace(given_.request, seen=Seen.ALLOW), given_.items)
    assert scored(SeenDiscount(factor), allowed) is before


def test_the_newer_of_two_equal_items_wins_and_unknown_ages_get_nothing(given_of: MakeGiven) -> None:
    given_ = given_of([0.5] * 5, age_days=[60.0, 0.0, 30.0, np.nan, -10.0])
    got = scored(Recency(weight=0.2, half_life_days=30), given_)
    assert got.tolist() == pytest.approx([0.55, 0.7, 0.6, 0.5, 0.7])  # an item of tomorrow counts as one of today


@given(st.lists(st.floats(0, 5000), min_size=2, max_size=9), st.floats(0.01, 1), st.floats(0.5, 400))
def test_recency_never_gives_more_to_the_older(
    given_of: MakeGiven, ages: list[float], weight: float, half_life: float
) -> None:
    given_ = given_of([0.5] * len(ages), age_days=sorted(ages))
    bonus = scored(Recency(weight, half_life), given_) - np.float32(0.5)
    assert np.all(np.diff(bonus) <= 0)
    assert np.all((bonus >= 0) & (bonus <= weight + 1e-6))


def naive_mmr(given_: Given, lambda_: float, pool: int) -> list[int]:
    """Return positions in the order that the definition of MMR gives, one comparison at a time."""
    vectors, scores = given_.column("vectors").astype(np.float64), given_.batch.scores
    left, chosen = sorted_(given_).tolist()[:pool], list[int]()
    while left and len(chosen) < given_.request.slots:
        value = {
            i: lambda_ * float(scores[i])
            - (1 - lambda_) * max((float(vectors[i] @ vectors[j]) for j in chosen), default=0.0)
            for i in left
        }
        best = max(left, key=lambda i: value[i])
        chosen.append(best)
        left.remove(best)
    return [*chosen, *(i for i in sorted_(given_).tolist() if i not in chosen)]


@given(
    st.lists(st.floats(0, 1, width=32), unique=True, max_size=14),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    st.integers(1, 16),
    st.integers(1, 16),
)
def test_mmr_agrees_with_its_definition(
    given_of: MakeGiven, scores: list[float], seed: int, lambda_: float, pool: int, slots: int
) -> None:
    given_ = given_of(scores, seed, slots)
    # Too small a pool leaves nothing to choose from.
    expected = naive_mmr(given_, lambda_, pool) if min(pool, len(scores)) > 1 else sorted_(given_).tolist()
    assert ordered(Mmr(lambda_, pool), given_) == expected


def test_mmr_puts_scores_that_are_not_finite_last(given_of: MakeGiven) -> None:
    got = ordered(Mmr(0.5, 10), given_of([-np.inf, 0.5, np.nan, 1.0, np.inf]))
    assert got[0] == 3
    assert got[1] == 1


def test_mmr_worked_out_by_hand(given_of: MakeGiven) -> None:
    given_ = given_of([1.0, 0.9, 0.7], vectors=np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32))
    # After the first: .5 * .9 - .5 * .8 = .05 for its likeness, .5 * .7 - 0 = .35 for the other.
    assert ordered(Mmr(0.5, 10), given_) == [0, 2, 1]
    # .9 * .9 - .1 * .8 = .73 against .9 * .7 = .63: relevance wins.
    assert ordered(Mmr(0.9, 10), given_) == [0, 1, 2]


@given(SCORES, st.integers(0, 99))
def test_lambda_1_changes_nothing(given_of: MakeGiven, scores: list[float], seed: int) -> None:
    given_ = given_of(scores, seed)
    assert ordered(Mmr(1.0, 100), given_) == sorted_(given_).tolist()


def test_lambda_0_is_diversity_alone(given_of: MakeGiven) -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [-1, 0], [0, 1]], np.float32)
    # The best, its opposite, then what is least like either.
    assert ordered(Mmr(0.0, 10), given_of([1.0, 0.9, 0.2, 0.1], vectors=vectors)) == [0, 2, 3, 1]


def test_what_lies_beyond_the_pool_is_not_looked_at(given_of: MakeGiven) -> None:
    given_ = given_of([1.0, 0.9, 0.8, 0.7], vectors=np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32))
    assert ordered(Mmr(0.1, 3), given_) == [0, 1, 2, 3]
    assert ordered(Mmr(0.1, 4), given_)[1] == 3


def capped(codes: Sequence[int], slots: int, *caps: Cap) -> Filled:
    return fill_slots(np.arange(len(codes)), slots, {}, (), [(cap, np.array(codes, np.intp)) for cap in caps])


@given(st.lists(st.integers(-1, 3), max_size=20), st.integers(1, 4), st.integers(1, 25))
def test_a_cap_holds_among_the_slots_or_says_by_how_much_it_does_not(codes: list[int], limit: int, slots: int) -> None:
    n = len(codes)
    rows = capped(codes, slots, Cap("x", limit)).order.tolist()
    shown = [codes[row] for row in rows[:slots]]
    possible = sum(min(limit, count) for code, count in Counter(codes).items() if code >= 0) + codes.count(-1)
    excess = sum(max(0, count - limit) for code, count in Counter(shown).items() if code >= 0)
    assert excess == max(0, min(slots, n) - possible) == Cap("x", limit).excess(np.array(shown, np.intp))
    # Those kept stand in their order, then those moved in theirs.
    kept = min(slots, possible)
    assert rows[:kept] == sorted(rows[:kept])
    assert rows[kept:slots] == sorted(rows[kept:slots])
    assert rows[slots:] == sorted(rows[slots:])


def test_a_cap_worked_out_by_hand() -> None:
    codes = [0, 0, 1, 0, -1, 1, -1, -1]
    cap = Cap("creator", 1)
    assert capped(codes, 5, cap).order.tolist() == [0, 2, 4, 6, 7, 1, 3, 5]
    longer = capped(codes, 7, cap).order[:7]
    assert cap.broken(cap.excess(np.array(codes)[longer])) == "2 more than 1 of one creator"
