"""DPP, calibration, creator decay, group penalty: against their definitions, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.candidates import order
from tandem_core.features import History
from tandem_core.rules.base import Given, ItemTables, Order, OrderRule
from tandem_core.rules.calibrated import SMOOTHING, Calibrated
from tandem_core.rules.dpp import RIDGE, Dpp
from tandem_core.rules.groups import CreatorDecay, GroupPenalty
from tandem_core.rules.mmr import Mmr

MakeGiven = Callable[..., Given]
SCORES = st.lists(st.floats(0, 1, width=32), max_size=12)
SEEDS = st.integers(0, 99)
RULES: list[OrderRule] = [
    Dpp(0.5, 6),
    Dpp(0.0, 100, "categories"),
    Calibrated(0.5, 8),
    Dpp(0.5, 8, kept=3),
    Mmr(0.2, 8, "categories", kept=3),
    CreatorDecay("creator", 0.5, 0.25),
    GroupPenalty("categories", 0.3),
]
NO_OPS: list[OrderRule] = [
    Dpp(1.0, 100),
    Calibrated(0.0, 100),
    Dpp(0.0, 100, kept=500),
    Mmr(0.0, 100, "categories", kept=500),
    Calibrated(0.9, 100, kept=500),
    CreatorDecay("creator", 1.0, 0.25),
    GroupPenalty("categories", 0.0),
]


def sorted_(given_: Given) -> Order:
    return order(given_.batch.scores, given_.batch.rows)


def ordered(rule: OrderRule, given_: Given) -> list[int]:
    return rule(sorted_(given_), given_.batch.scores, given_)[0].tolist()


def with_history(given_: Given, *rows: int) -> Given:
    """Return the candidates for a user who chose items 0 to 3 of categories (0), (0), (1), (2, 0)."""
    n = len(rows)
    history = History(np.array(rows, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int64), np.ones(n, np.float32))
    codes = np.array([[0, -1], [0, -1], [1, -1], [2, 0]])
    tables = ItemTables(given_.items.catalog, {**given_.items.tables, "codes:categories": codes})
    return Given(given_.batch, replace(given_.request, history=history), tables)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(scores=st.lists(st.floats(width=32), max_size=12), seed=SEEDS, slots=st.integers(1, 15))
def test_nothing_is_lost_or_doubled_and_the_answer_repeats(
    rule: OrderRule, scores: list[float], seed: int, slots: int, given_of: MakeGiven
) -> None:
    given_ = with_history(given_of(scores, seed, slots), 0, 2)
    with np.errstate(invalid="ignore", over="ignore"):
        got = ordered(rule, given_)
        assert sorted(got) == list(range(len(scores)))
        assert got == ordered(rule, given_)


@pytest.mark.parametrize("rule", NO_OPS, ids=repr)
@given(scores=SCORES, seed=SEEDS)
def test_the_settings_that_mean_relevance_alone_change_nothing(
    rule: OrderRule, scores: list[float], seed: int, given_of: MakeGiven
) -> None:
    given_ = with_history(given_of(scores, seed), 0, 2)
    before = sorted_(given_)
    got, after = rule(before, given_.batch.scores, given_)
    assert got.tolist() == before.tolist()
    np.testing.assert_array_equal(after, given_.batch.scores)


@pytest.mark.parametrize("rule", [Dpp(0.2, 5), Calibrated(0.8, 5)], ids=repr)
@given(scores=SCORES, seed=SEEDS)
def test_places_beyond_the_pool_stay(rule: OrderRule, scores: list[float], seed: int, given_of: MakeGiven) -> None:
    given_ = with_history(given_of(scores, seed, slots=20), 1, 2)
    assert ordered(rule, given_)[5:] == sorted_(given_).tolist()[5:]


@given(SCORES, SEEDS, st.sampled_from([0.0, 0.5, 0.9]))
def test_dpp_takes_what_adds_most_to_score_and_log_determinant(
    given_of: MakeGiven, scores: list[float], seed: int, theta: float
) -> None:
    given_ = given_of(scores, seed, slots=4)
    vectors = given_.column("vectors").astype(np.float64)
    alike = (1 - RIDGE) * vectors @ vectors.T + RIDGE * np.eye(len(scores))
    chosen: list[int] = []
    for got in ordered(Dpp(theta, 100), given_)[:4] if len(scores) > 1 else []:

        def gain(i: int) -> float:
            both = alike[np.ix_([*chosen, i], [*chosen, i])]
            return theta * float(given_.batch.scores[i]) + (1 - theta) * float(np.linalg.slogdet(both)[1])

        left = [i for i in range(len(scores)) if i not in chosen]
        assert gain(got) == pytest.approx(max(gain(i) for i in left), abs=1e-4)
        chosen.append(got)


def test_dpp_prefers_the_item_that_is_unlike_and_less_so_with_more_theta(given_of: MakeGiven) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    given_ = given_of([1.0, 0.9, 0.5], vectors=vectors)
    # The twin adds 1 - .99 ** 2 = .02 of volume, log -3.92: .5 * .9 - 1.96 against .5 * .5 - 0.
    assert ordered(Dpp(0.5, 10), given_) == [0, 2, 1]
    assert ordered(Dpp(0.95, 10), given_) == [0, 1, 2]  # .855 - .196 against .475


@given(SCORES, SEEDS)
def test_calibration_takes_what_brings_the_list_nearest_to_the_history(
    given_of: MakeGiven, scores: list[float], seed: int
) -> None:
    given_ = with_history(given_of(scores, seed, slots=3), 0, 2, 3)
    wanted = np.array([1.5, 1, 0.5]) / 3
    codes, weight = given_.column("codes:categories"), 0.6
    parts = np.zeros((len(scores), 3))
    for i, own in enumerate(codes):
        known = [code for code in own if code >= 0]
        for code in known:
            parts[i, code] += 1 / len(known)

    def gain(i: int, chosen: list[int]) -> float:
        shares = (1 - SMOOTHING) * parts[[*chosen, i]].sum(axis=0) / (len(chosen) + 1) + SMOOTHING * wanted
        return (1 - weight) * float(given_.batch.scores[i]) - weight * float((wanted * np.log(wanted / shares)).sum())

    chosen: list[int] = []
    for got in ordered(Calibrated(weight, 100), given_)[:3] if len(scores) > 1 else []:
        left = [i for i in range(len(scores)) if i not in chosen]
        assert gain(got, chosen) == pytest.approx(max(gain(i, chosen) for i in left), abs=1e-5)
        chosen.append(got)


@pytest.mark.parametrize(
    "rule", [Mmr(0.2, 20, "categories", kept=2), Dpp(0.2, 20, kept=2), Calibrated(0.8, 20, kept=2)], ids=repr
)
@given(scores=SCORES, seed=SEEDS)
def test_kept_slots_go_by_score_and_the_rest_is_as_the_rule_would_have_it(
    rule: Mmr | Dpp | Calibrated, scores: list[float], seed: int, given_of: MakeGiven
) -> None:
    given_ = with_history(given_of(scores, seed), 0, 2)
    got = ordered(rule, given_)
    assert got[:2] == sorted_(given_).tolist()[:2]
    # Where the rule itself would have put these two first, keeping them changes nothing.
    free = ordered(replace(rule, kept=0), given_)
    if free[:2] == got[:2]:
        assert got == free


def test_a_calibrated_list_has_the_categories_of_the_history(given_of: MakeGiven) -> None:
    codes = np.array([[0], [0], [0], [1], [1]])
    given_ = with_history(given_of([1.0, 0.9, 0.8, 0.2, 0.1], slots=4, **{"codes:categories": codes}), 0, 2)
    assert sorted(codes[ordered(Calibrated(0.9, 10), given_)[:4], 0].tolist()) == [0, 0, 1, 1]
    nobody = given_of([1.0, 0.9, 0.8, 0.2, 0.1], **{"codes:categories": codes})
    assert ordered(Calibrated(0.9, 10), nobody) == [0, 1, 2, 3, 4]  # without a history there is nothing to keep to


def test_each_earlier_item_of_the_creator_halves_the_score_down_to_a_quarter(given_of: MakeGiven) -> None:
    given_ = given_of([1.0, 0.9, 0.8, 0.7, 0.4, 0.3], code_creator=[0, 0, 0, 0, 1, -1])
    got, scores = CreatorDecay("creator", 0.5, 0.25)(sorted_(given_), given_.batch.scores, given_)
    assert scores.tolist() == pytest.approx([1.0, 0.45, 0.2, 0.175, 0.4, 0.3])
    assert got.tolist() == [0, 1, 4, 5, 2, 3]


@given(SCORES, SEEDS, st.floats(0, 1))
def test_the_penalty_is_the_greedy_choice_of_its_definition(
    given_of: MakeGiven, scores: list[float], seed: int, weight: float
) -> None:
    given_ = given_of(scores, seed)
    codes, left, counts, expected = given_.column("code:categories"), sorted_(given_).tolist(), [0] * 4, []
    while left:
        best = max(left, key=lambda i: np.float32(float(given_.batch.scores[i]) - weight * counts[codes[i]]))
        expected.append(best)
        counts[codes[best]] += 1
        left.remove(best)
    got, after = GroupPenalty("categories", weight)(sorted_(given_), given_.batch.scores, given_)
    assert got.tolist() == expected
    assert np.all(np.diff(after[got]) <= 0)  # the scores it returns fall down the list
