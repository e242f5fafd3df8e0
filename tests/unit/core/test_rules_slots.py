"""Filling slots: pins, caps in a window, promotions, and slots where chance takes part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_core.filters import InRange, InSet
from tandem_core.rules.base import Given, RuleRequest
from tandem_core.rules.caps import Cap
from tandem_core.rules.exploration import ClickRates, ColdSlots, Exploration, best_of, best_of_normal
from tandem_core.rules.promotions import Promotion, PromotionClaim
from tandem_core.rules.slots import Placed, fill_slots
from tandem_core.rules.when import When

MakeGiven = Callable[..., Given]
CODES = st.lists(st.integers(-1, 3), min_size=1, max_size=20)
NO_ROWS = np.empty(0, np.int32)


@given(CODES, st.integers(1, 25), st.data())
def test_pins_are_exact_nothing_is_lost_and_an_item_falls_by_no_more_than_what_was_put_before_it(
    codes: list[int], slots: int, data: st.DataObject
) -> None:
    n = len(codes)
    pins = data.draw(st.dictionaries(st.integers(0, min(slots, n) - 1), st.integers(0, n - 1), max_size=4))
    pins = dict(zip(pins, dict.fromkeys(pins.values()), strict=False))  # no item twice
    promoted = np.array(codes) == 0
    claim = PromotionClaim("promotion:p", frozenset(range(1, 25, 3)), promoted)
    filled = fill_slots(np.arange(n), slots, pins, [claim], [])
    rows = filled.order.tolist()
    assert sorted(rows) == list(range(n))
    assert all(rows[slot] == row for slot, row in pins.items())
    assert {slot for slot, how in enumerate(filled.placed) if how == Placed.PINNED} == set(pins)
    put = set(np.flatnonzero(filled.placed).tolist())
    for place, row in enumerate(rows):
        if place not in put:
            assert place - row <= sum(slot < place for slot in put)
    # A promoted item has each of its slots, unless a pin has it or none is left.
    for slot in claim.slots & set(range(min(slots, n))):
        left = promoted[[row for row in rows[slot:] if row not in pins.values()]].any()
        assert filled.placed[slot] in (Placed.PINNED, Placed.PROMOTED if left else Placed.BY_ORDER)
        assert (slot in filled.missed.get("promotion:p", ())) == (filled.placed[slot] == Placed.BY_ORDER)


@given(CODES, st.integers(1, 25), st.integers(1, 3), st.integers(1, 6), st.booleans())
def test_an_item_breaks_a_cap_only_where_every_one_that_is_left_would(
    codes: list[int], slots: int, limit: int, window: int, pinned: bool
) -> None:
    n, cap = len(codes), Cap("x", limit, window)
    k = min(slots, n)
    pins = {k - 1: 0} if pinned and k > 1 else {}
    rows = fill_slots(np.arange(n), slots, pins, [], [(cap, np.array(codes, np.intp))]).order.tolist()

    def breaks(list_: list[int], row: int, slot: int) -> bool:
        """Tell whether any window that holds the slot, pins ahead counted, has too many of the row's group."""
        shown = [*(codes[r] for r in list_), codes[row], *([-1] * (k - slot - 1))]
        for at, pin in pins.items():
            shown[at] = codes[pin]
        starts = range(max(0, slot - window + 1), slot + 1)
        return codes[row] >= 0 and any(shown[s : s + window].count(codes[row]) > limit for s in starts)

    for slot in range(k):
        if slot not in pins and breaks(rows[:slot], rows[slot], slot):
            left = [row for row in rows[slot:] if row not in pins.values()]
            assert all(breaks(rows[:slot], row, slot) for row in left)


def test_a_window_worked_out_by_hand() -> None:
    codes = np.array([0, 0, 0, 1, 1, 2])
    rows = fill_slots(np.arange(6), 6, {}, [], [(Cap("x", 1, 2), codes)]).order.tolist()
    assert codes[rows].tolist() == [0, 1, 0, 1, 0, 2]
    assert Cap("x", 1, 2).excess(codes[rows]) == 0
    assert Cap("x", 1, 2).excess(codes) == 3
    assert Cap("x", 1, 2).broken(3) == "3 more than 1 of one x within 2"


def test_a_pin_ahead_counts_for_the_cap() -> None:
    codes = np.array([0, 0, 1, 2])
    filled = fill_slots(np.arange(4), 3, {2: 1}, [], [(Cap("x", 1), codes)])
    assert filled.order.tolist() == [2, 3, 1, 0]  # the pinned item is the one of its group


def test_a_promoted_item_that_breaks_a_cap_gives_way_to_the_next_one() -> None:
    codes = np.array([0, 0, 0, 1])
    claim = PromotionClaim("promotion:p", frozenset({1}), np.array([False, True, False, True]))
    filled = fill_slots(np.arange(4), 3, {}, [claim], [(Cap("x", 1), codes)])
    assert filled.order.tolist()[:2] == [0, 3]
    assert filled.missed == {}


def test_a_promotion_takes_items_by_condition_and_by_name_while_it_holds(given_of: MakeGiven) -> None:
    given_ = given_of([0.5] * 12)
    rule = Promotion("promotion:p", frozenset({0}), InRange("price", high=20), np.array([7], np.int32))
    claim = rule.claim(given_)
    assert claim is not None
    assert set(given_.batch.rows[claim.promoted].tolist()) == {0, 1, 2, 7}
    assert replace(rule, when=When(facts={"country": frozenset({"DE"})})).claim(given_) is None
    assert claim.missed([4, 8]) == "no promoted item for 2 of its slots"


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        (When(), True),
        (When(start_ms=1000), True),
        (When(start_ms=1001), False),
        (When(end_ms=1000), False),
        (When(facts={"country": frozenset({"DE", "FR"})}), True),
        (When(facts={"device": frozenset({"phone"})}), False),
        (When(unless={"country": frozenset({"DE"})}), False),
        (When(unless={"device": frozenset({"phone"})}), True),
    ],
)
def test_rules_hold_between_moments_and_for_facts(when: When, holds: bool) -> None:
    assert when.holds(RuleRequest(slots=1, now_ms=1000, facts={"country": "DE"})) is holds


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 200)), min_size=2, max_size=6))
def test_chances_of_the_best_are_those_that_drawing_finds(counts: list[tuple[int, int]]) -> None:
    alpha, beta = np.array(counts, np.float64).T + np.array([[1], [19]])
    got = best_of(alpha, beta)
    assert got.sum() == pytest.approx(1)
    drawn = np.random.default_rng(0).beta(alpha, beta, size=(4000, len(counts))).argmax(axis=1)
    np.testing.assert_allclose(got, np.bincount(drawn, minlength=len(counts)) / 4000, atol=0.05)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.05, 2)), min_size=2, max_size=6))
def test_chances_of_the_highest_score_are_those_that_drawing_finds(believed: list[tuple[float, float]]) -> None:
    mean, deviation = np.array(believed).T
    got = best_of_normal(mean, deviation)
    assert got.sum() == pytest.approx(1)
    drawn = np.random.default_rng(0).normal(mean, deviation, size=(4000, len(mean))).argmax(axis=1)
    np.testing.assert_allclose(got, np.bincount(drawn, minlength=len(mean)) / 4000, atol=0.06)


def test_where_the_ranker_is_sure_its_best_stands_and_where_it_is_not_others_get_a_chance(given_of: MakeGiven) -> None:
    rule = Exploration(frozenset({0}), 1.0, pool_size=4, by_ranker=True)
    scores = [0.9, 0.8, 0.2, 0.1]

    def chance_of_the_first(deviation: list[float]) -> float:
        claim = rule.claim(given_of(scores, **{"head:uncertainty": np.array(deviation, np.float32)}))
        assert claim is not None
        return float(claim.beliefs.chances(claim.given, np.arange(4))[0])

    assert chance_of_the_first([0, 0, 0, 0]) == pytest.approx(1)
    assert chance_of_the_first([0.1] * 4) == pytest.approx(0.76, abs=0.02)  # P(N(.1, .1414) > 0)
    assert chance_of_the_first([0.1, 0.1, 3, 3]) < 0.5
    without = rule.claim(given_of(scores))  # click rates, of which nothing is known
    assert without is not None
    assert without.beliefs.chances(without.given, np.arange(4)).tolist() == pytest.approx([0.25] * 4)


def test_of_equals_each_is_equally_likely_and_one_alone_is_certain() -> None:
    np.testing.assert_allclose(best_of(np.full(8, 1.0), np.full(8, 19.0)), 1 / 8)
    assert best_of(np.array([3.0]), np.array([5.0])).tolist() == [1]
    assert best_of(np.array([1e6, 1.0]), np.array([1.0, 1e6])).tolist() == pytest.approx([1, 0], abs=1e-6)


def test_the_propensity_is_how_often_the_item_gets_the_slot(given_of: MakeGiven) -> None:
    n, weight = 5, 0.6
    columns = {"item_impressions": np.array([100, 50, 0, 10, 200]), "item_clicks": np.array([10, 1, 0, 3, 8])}
    rule = Exploration(frozenset({1}), weight, pool_size=3)
    shown, said = np.zeros(n), np.zeros(n)
    made = given_of([0.9, 0.8, 0.7, 0.6, 0.5], slots=3, **columns)
    for seed in range(3000):
        given_ = Given(made.batch, replace(made.request, seed=seed), made.items)
        claim = rule.claim(given_)
        assert claim is not None
        filled = fill_slots(np.arange(n), 3, {}, [claim], [])
        row = int(filled.order[1])
        shown[row] += 1
        said[row] = filled.propensities[1]
        assert filled.propensities[[0, 2]].tolist() == [0, 0]
        assert filled.placed[1] == (Placed.BY_ORDER if row == 1 else Placed.EXPLORED)
    np.testing.assert_allclose(shown / 3000, said, atol=0.03)
    assert said[[0, 4]].tolist() == [0, 0]  # shown above, and outside the pool
    assert said.sum() == pytest.approx(1)


def test_the_same_request_draws_the_same_and_weight_0_draws_nothing(given_of: MakeGiven) -> None:
    given_ = given_of([0.5] * 12, seed=7, slots=10)
    rule = Exploration(frozenset({2, 5}), 1.0, pool_size=12)
    lists = []
    for _ in range(2):
        claim = rule.claim(given_)
        assert claim is not None
        lists.append(fill_slots(np.arange(12), 10, {}, [claim], []).order.tolist())
    assert lists[0] == lists[1]
    assert replace(rule, weight=0.0).claim(given_) is None
    assert replace(rule, slots=frozenset({10})).claim(given_) is None  # beyond this list


def test_cold_slots_are_for_young_items_that_few_have_seen(given_of: MakeGiven) -> None:
    given_ = given_of(
        [0.9, 0.8, 0.7, 0.6, 0.5],
        slots=3,
        age_days=[0.5, 0.5, 0.5, 2, np.nan],
        item_impressions=[0, 5000, 10, 0, 0],
        events=[2000, 0, 3, 0, 0],
    )
    rule = ColdSlots(frozenset({1}), max_impressions=1000, max_age_s=86_400, pool_size=20)
    claim = rule.claim(given_)
    assert claim is not None
    filled = fill_slots(np.arange(5), 3, {}, [claim], [])
    assert filled.order.tolist() == [0, 2, 1, 3, 4]
    assert (filled.placed[1], filled.propensities[1]) == (Placed.COLD_START, 1)
    assert ColdSlots(frozenset({1}), 5, 86_400, 20).claim(given_) is None


def test_what_is_believed_before_anything_was_seen_counts_as_so_many_impressions(given_of: MakeGiven) -> None:
    given_ = given_of([0.5, 0.5], item_impressions=[0, 100], item_clicks=[0, 150])  # more clicks than impressions
    alpha, beta = ClickRates(0.1, 10).of(given_, np.arange(len(given_)))
    assert alpha.tolist() == [1, 151]
    assert beta.tolist() == [9, 9]


def test_conditions_of_promotions_read_the_catalogue(given_of: MakeGiven) -> None:
    claim = Promotion("p", frozenset({0}), InSet("creator", frozenset({"c1"})), NO_ROWS).claim(given_of([0.5] * 12))
    assert claim is not None
    assert claim.promoted.sum() == 3
