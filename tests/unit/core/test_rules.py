from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.candidates import CandidateBatch
from tandem_core.rules.base import Rule
from tandem_core.rules.caps import CapPerGroup
from tandem_core.rules.cold_start import ColdItemScore, PopularityBlend
from tandem_core.rules.mmr import Mmr
from tandem_core.rules.normalise import Normalise
from tandem_core.rules.recency import Recency
from tandem_core.rules.seen import SeenDiscount

RULES: list[Rule] = [
    Normalise(),
    PopularityBlend(0.3),
    ColdItemScore(cold_events=5, neighbours=2),
    SeenDiscount(0.5),
    Recency(weight=0.1, half_life_days=30),
    Mmr(lambda_relevance=0.5, pool_size=6),
    Mmr(lambda_relevance=0.0, pool_size=100),
    CapPerGroup("creator", 2),
]
SCORING, ORDERING = RULES[:5], RULES[5:]
# The ranker may give anything; after Normalise scores are in [0, 1].
ANY_SCORES = st.lists(st.floats(width=32), max_size=14)
SCORES = st.lists(st.floats(0, 1, width=32), max_size=14)


def batch_of(scores: Sequence[float], seed: int = 0, **columns: object) -> CandidateBatch:
    """Return candidates with all the columns that rules read, made up from the seed; columns override."""
    n, rng = len(scores), np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = {
        "age_days": np.where(rng.random(n) < 0.2, np.nan, rng.uniform(-2, 400, n)),
        "events": rng.integers(0, 12, n),
        "content": vectors,
        "vectors": vectors[::-1].copy(),
        "popularity": rng.random(n).astype(np.float32),
        "seen": rng.random(n) < 0.3,
        "code:creator": rng.integers(-1, 3, n),
    }
    given_columns = {name.replace("code_", "code:"): np.asarray(value) for name, value in columns.items()}
    rows = rng.permutation(100)[:n].astype(np.int32)
    return CandidateBatch(rows, np.array(scores, np.float32), {**made, **given_columns})


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(scores=ANY_SCORES, seed=st.integers(0, 99), slots=st.integers(1, 20))
def test_no_rule_loses_or_doubles_an_item_or_answers_differently_twice(
    rule: Rule, scores: list[float], seed: int, slots: int
) -> None:
    given_ = batch_of(scores, seed)
    with np.errstate(invalid="ignore", over="ignore"):  # rules may take scores to be in [0, 1]
        outcome, again = rule(given_, slots), rule(given_, slots)
    assert sorted(outcome.batch.rows.tolist()) == sorted(given_.rows.tolist())
    np.testing.assert_array_equal(outcome.batch.rows, again.batch.rows)
    np.testing.assert_array_equal(outcome.batch.scores, again.batch.scores)
    # Columns go with their rows.
    seen = dict(zip(given_.rows.tolist(), given_.columns["popularity"].tolist(), strict=True))
    assert dict(zip(outcome.batch.rows.tolist(), outcome.batch.columns["popularity"].tolist(), strict=True)) == seen


@pytest.mark.parametrize("rule", SCORING, ids=repr)
@given(scores=SCORES, seed=st.integers(0, 99))
def test_rules_before_the_sort_change_scores_alone_and_leave_them_finite(
    rule: Rule, scores: list[float], seed: int
) -> None:
    given_ = batch_of(scores, seed)
    outcome = rule(given_, 5)
    np.testing.assert_array_equal(outcome.batch.rows, given_.rows)
    assert np.isfinite(outcome.batch.scores).all()
    assert outcome.batch.scores.dtype == np.float32


@pytest.mark.parametrize("rule", ORDERING, ids=repr)
@given(scores=SCORES, seed=st.integers(0, 99), slots=st.integers(1, 20))
def test_rules_after_the_sort_move_items_with_their_scores(
    rule: Rule, scores: list[float], seed: int, slots: int
) -> None:
    given_ = batch_of(scores, seed).best_first()
    got = rule(given_, slots).batch
    before = dict(zip(given_.rows.tolist(), given_.scores.tolist(), strict=True))
    assert dict(zip(got.rows.tolist(), got.scores.tolist(), strict=True)) == before


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_empty_and_one_item_lists_pass(rule: Rule) -> None:
    assert len(rule(batch_of([]), 5).batch) == 0
    assert rule(batch_of([0.5]), 5).batch.rows.tolist() == batch_of([0.5]).rows.tolist()
    assert rule(batch_of([0.5]), 5).relaxed == ""


@given(ANY_SCORES)
def test_normalising_gives_0_to_1_in_the_same_order_and_0_to_what_is_not_finite(scores: list[float]) -> None:
    given_ = batch_of(scores)
    got = Normalise()(given_, 5).batch.scores
    assert np.all((got >= 0) & (got <= 1))
    finite = np.isfinite(given_.scores)
    assert not got[~finite].any()
    if finite.any():
        assert got[finite].max() == 1
        by_score = np.argsort(given_.scores[finite], kind="stable")
        assert np.all(np.diff(got[finite][by_score]) >= 0)


def test_normalising_worked_out_by_hand() -> None:
    assert Normalise()(batch_of([-3, 1, np.nan, 0, np.inf]), 5).batch.scores.tolist() == [0, 1, 0, 0.75, 0]
    assert Normalise()(batch_of([7, 7, np.nan]), 5).batch.scores.tolist() == [1, 1, 0]
    assert Normalise()(batch_of([np.nan, -np.inf]), 5).batch.scores.tolist() == [0, 0]


def test_normalising_stands_scores_as_far_apart_as_floats_can_be() -> None:
    assert Normalise()(batch_of([-3e38, 0, 3e38]), 5).batch.scores.tolist() == [0, 0.5, 1]


@given(SCORES, st.integers(0, 99), st.floats(0, 1))
def test_a_popularity_blend_lies_between_score_and_popularity(scores: list[float], seed: int, weight: float) -> None:
    given_ = batch_of(scores, seed)
    popularity = given_.columns["popularity"]
    got = PopularityBlend(weight)(given_, 5).batch.scores
    assert np.all(got >= np.minimum(given_.scores, popularity) - 1e-6)
    assert np.all(got <= np.maximum(given_.scores, popularity) + 1e-6)


def test_a_blend_of_0_changes_nothing_and_of_1_is_popularity_alone() -> None:
    given_ = batch_of([0.1, 0.9, 0.4])
    np.testing.assert_array_equal(PopularityBlend(0)(given_, 5).batch.scores, given_.scores)
    np.testing.assert_allclose(PopularityBlend(1)(given_, 5).batch.scores, given_.columns["popularity"], rtol=1e-6)


@given(SCORES, st.integers(0, 99), st.integers(1, 20))
def test_cold_items_borrow_from_warm_ones_and_no_score_is_lowered(
    scores: list[float], seed: int, neighbours: int
) -> None:
    given_ = batch_of(scores, seed)
    got = ColdItemScore(cold_events=5, neighbours=neighbours)(given_, 5).batch.scores
    warm = given_.columns["events"] >= 5
    assert np.all(got >= given_.scores)
    np.testing.assert_array_equal(got[warm], given_.scores[warm])
    if warm.any():
        assert np.all(got <= np.maximum(given_.scores, given_.scores[warm].max() + 1e-6))


def test_a_cold_item_gets_the_mean_of_its_nearest_warm_ones_weighed_by_likeness() -> None:
    content = np.array([[1, 0], [0.6, 0.8], [-1, 0], [0.8, 0.6], [0, -1]], np.float32)
    events = [9, 9, 9, 0, 0]
    given_ = batch_of([0.9, 0.5, 1.0, 0.1, 0.3], content=content, events=events)
    got = ColdItemScore(cold_events=5, neighbours=2)(given_, 5).batch.scores
    # Row 3 is .8 like the first and .96 like the second; row 4 is like none: 0 and -.8 are not above 0.
    assert got.tolist() == pytest.approx([0.9, 0.5, 1.0, (0.8 * 0.9 + 0.96 * 0.5) / (0.8 + 0.96), 0.3])


def test_lists_of_cold_or_of_warm_items_alone_keep_their_scores() -> None:
    for events in ([0, 0], [9, 9]):
        given_ = batch_of([0.2, 0.8], events=events)
        assert ColdItemScore(5, 3)(given_, 5).batch is given_


@given(SCORES, st.integers(0, 99), st.floats(0, 1))
def test_seen_items_are_multiplied_and_others_left_alone(scores: list[float], seed: int, factor: float) -> None:
    given_ = batch_of(scores, seed)
    got = SeenDiscount(factor)(given_, 5).batch.scores
    expected = np.where(given_.columns["seen"], given_.scores * np.float32(factor), given_.scores)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_newer_of_two_equal_items_wins_and_unknown_ages_get_nothing() -> None:
    given_ = batch_of([0.5] * 5, age_days=[60.0, 0.0, 30.0, np.nan, -10.0])
    got = Recency(weight=0.2, half_life_days=30)(given_, 5).batch.scores
    assert got.tolist() == pytest.approx([0.55, 0.7, 0.6, 0.5, 0.7])  # an item of tomorrow counts as one of today


@given(st.lists(st.floats(0, 5000), min_size=2, max_size=9), st.floats(0.01, 1), st.floats(0.5, 400))
def test_recency_never_gives_more_to_the_older(ages: list[float], weight: float, half_life: float) -> None:
    given_ = batch_of([0.5] * len(ages), age_days=sorted(ages))
    bonus = Recency(weight, half_life)(given_, 5).batch.scores - np.float32(0.5)
    assert np.all(np.diff(bonus) <= 0)
    assert np.all((bonus >= 0) & (bonus <= weight + 1e-6))


def naive_mmr(batch: CandidateBatch, lambda_: float, pool: int, slots: int) -> list[int]:
    """Return positions in the order that the definition of MMR gives, one comparison at a time."""
    vectors = batch.columns["vectors"].astype(np.float64)
    left, chosen = list(range(min(pool, len(batch)))), list[int]()
    while left and len(chosen) < slots:
        value = {
            i: lambda_ * float(batch.scores[i])
            - (1 - lambda_) * max((float(vectors[i] @ vectors[j]) for j in chosen), default=0.0)
            for i in left
        }
        best = max(left, key=lambda i: (value[i], -i))
        chosen.append(best)
        left.remove(best)
    return [*chosen, *(i for i in range(len(batch)) if i not in chosen)]


@given(
    st.lists(st.floats(0, 1, width=32), unique=True, max_size=14),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 0.7, 0.95]),
    st.integers(1, 16),
    st.integers(1, 16),
)
def test_mmr_agrees_with_its_definition(scores: list[float], seed: int, lambda_: float, pool: int, slots: int) -> None:
    given_ = batch_of(scores, seed).best_first()
    got = Mmr(lambda_, pool)(given_, slots).batch
    # Too small a pool leaves nothing to choose from.
    expected = naive_mmr(given_, lambda_, pool, slots) if min(pool, len(scores)) > 1 else list(range(len(scores)))
    assert got.rows.tolist() == given_.rows[expected].tolist()


def test_mmr_puts_scores_that_are_not_finite_last() -> None:
    given_ = batch_of([1.0, 0.5, -np.inf, np.nan, np.inf])
    got = Mmr(0.5, 10)(given_, 5).batch
    assert sorted(got.rows.tolist()) == sorted(given_.rows.tolist())
    assert np.isfinite(got.scores).tolist() == [True, True, False, False, False]


def test_mmr_worked_out_by_hand() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    given_ = batch_of([1.0, 0.9, 0.7], vectors=vectors)
    # After the first: .5 * .9 - .5 * .8 = .05 for its likeness, .5 * .7 - 0 = .35 for the other.
    assert Mmr(0.5, 10)(given_, 3).batch.scores.tolist() == pytest.approx([1.0, 0.7, 0.9])
    # .9 * .9 - .1 * .8 = .73 against .9 * .7 = .63: relevance wins.
    assert Mmr(0.9, 10)(given_, 3).batch.scores.tolist() == pytest.approx([1.0, 0.9, 0.7])


@given(SCORES, st.integers(0, 99))
def test_lambda_1_changes_nothing(scores: list[float], seed: int) -> None:
    given_ = batch_of(scores, seed).best_first()
    assert Mmr(1.0, 100)(given_, 5).batch.rows.tolist() == given_.rows.tolist()


def test_lambda_0_is_diversity_alone() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [-1, 0], [0, 1]], np.float32)
    given_ = batch_of([1.0, 0.9, 0.2, 0.1], vectors=vectors)
    order = Mmr(0.0, 10)(given_, 4).batch.scores.tolist()
    assert order == pytest.approx([1.0, 0.2, 0.1, 0.9])  # the best, its opposite, then what is least like either


def test_what_lies_beyond_the_pool_is_not_looked_at() -> None:
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    given_ = batch_of([1.0, 0.9, 0.8, 0.7], vectors=vectors)
    assert Mmr(0.1, 3)(given_, 4).batch.rows.tolist() == given_.rows.tolist()
    assert Mmr(0.1, 4)(given_, 4).batch.rows[1] == given_.rows[3]


@given(st.lists(st.integers(-1, 3), max_size=20), st.integers(1, 4), st.integers(1, 25))
def test_a_cap_holds_among_the_slots_or_says_by_how_much_it_does_not(codes: list[int], limit: int, slots: int) -> None:
    n = len(codes)
    given_ = CandidateBatch(
        np.arange(n, dtype=np.int32), np.linspace(1, 0, n, dtype=np.float32), {"code:x": np.array(codes, np.intp)}
    )
    outcome = CapPerGroup("x", limit)(given_, slots)
    shown = outcome.batch.columns["code:x"][:slots].tolist()
    counts = Counter(code for code in shown if code >= 0)
    possible = sum(min(limit, count) for code, count in Counter(codes).items() if code >= 0) + codes.count(-1)
    excess = sum(max(0, count - limit) for count in counts.values())
    assert excess == max(0, min(slots, n) - possible)
    assert outcome.relaxed == (f"{excess} more than {limit} of one x" if excess else "")
    # Those kept stand in their order, then those moved in theirs.
    rows = outcome.batch.rows.tolist()
    assert rows[:possible] == sorted(rows[:possible])
    assert rows[possible:] == sorted(rows[possible:])


def test_a_cap_worked_out_by_hand() -> None:
    codes = np.array([0, 0, 1, 0, -1, 1, -1, -1])
    given_ = CandidateBatch(np.arange(8, dtype=np.int32), np.zeros(8, np.float32), {"code:creator": codes})
    outcome = CapPerGroup("creator", 1)(given_, 5)
    assert outcome.batch.rows.tolist() == [0, 2, 4, 6, 7, 1, 3, 5]
    assert outcome.relaxed == ""
    assert CapPerGroup("creator", 1)(given_, 7).relaxed == "2 more than 1 of one creator"
