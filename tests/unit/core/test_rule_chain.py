"""The chain as a whole: precedence, relaxation, traces, and what a bundle without a column means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.degradation import DegradationKind
from tandem_core.errors import BundleRefused
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query, Regime
from tandem_core.rule_build import build_chain
from tandem_core.rule_chain import Arranged, RuleChain
from tandem_core.rule_trace import displaced_by, parts_of
from tandem_core.rules.base import RuleRequest
from tandem_core.rules.slots import Placed
from tandem_core.settings import parse_settings

NOW_MS = 1_700_000_000_000
Build = Callable[..., RuleChain]
OFF: dict[str, Any] = {"recency": False, "mmr": False, "cold_items": False, "popularity_blend": {"unknown": 0}}
ALL: dict[str, Any] = {
    "list_length": 3,
    "blocked_item_ids": ["i5"],
    "filters": [{"name": "cheap", "items": {"column": "price", "max": 100}}],
    "no_repeat": {"within_hours": 1},
    "pins": [{"item_id": "i9", "position": 2}],
    "caps": [{"column": "creator", "limit": 2, "window": 4}],
    "promotions": [{"name": "p", "items": {"column": "categories", "in": "News"}, "every": 3}],
    "cold_slots": {"every": 4, "max_age_hours": 2000},
    "exploration": {"every": 5, "weight": 0.5},
    "creator_decay": {},
    "group_penalty": {"weight": 0.1},
    "mmr": {"lambda_relevance": 0.6},
    "impression_discount": {},
    "boosts": [{"name": "b", "items": {"column": "creator", "in": "c2"}, "factor": 1.5, "add": -0.1}],
}


@pytest.fixture(scope="module")
def build(make_bundle: Callable[..., Bundle]) -> Build:
    """build(**policy): the chain of a placement over the hand-made items, rules off but for what is given."""

    def make(**policy: Any) -> RuleChain:
        return build_chain("home", parse_settings(PlacementPolicy, {**OFF, **policy}, "test"), make_bundle())

    return make


def batch_of(*rows: int, **columns: Any) -> CandidateBatch:
    """Return candidates, the first the best."""
    made = {name: np.asarray(column) for name, column in columns.items()}
    return CandidateBatch(np.array(rows, np.int32), np.linspace(1, 0.1, len(rows), dtype=np.float32), made)


def request(**fields: Any) -> RuleRequest:
    return RuleRequest(**{"slots": 5, "now_ms": NOW_MS, **fields})


def shown(arranged: Arranged) -> list[int]:
    return arranged.shown().rows.tolist()


def relaxed(arranged: Arranged) -> dict[str, str]:
    assert all(each.kind is DegradationKind.RULE_RELAXED for each in arranged.relaxed)
    return {each.component: each.message for each in arranged.relaxed}


@given(
    st.lists(st.tuples(st.integers(0, 11), st.floats(width=32), st.integers(0, 3)), unique_by=lambda each: each[0]),
    st.integers(1, 14),
    st.integers(0, 50),
    st.sampled_from(Regime),
)
def test_under_all_rules_nothing_vanishes_no_id_stands_twice_and_the_answer_repeats(
    build: Build, items: list[tuple[int, float, int]], slots: int, seed: int, regime: Regime
) -> None:
    rows, scores, impressions = (list(column) for column in zip(*items, strict=True)) if items else ([], [], [])
    columns = {"impressions": np.array(impressions, np.int64), "last_shown_age_s": np.full(len(rows), 1800.0)}
    batch = CandidateBatch(np.array(rows, np.int32), np.array(scores, np.float32), columns)
    chain, asked = build(**ALL), request(slots=slots, seed=seed, regime=regime)
    got, traced = chain.apply(batch, asked), chain.apply(batch, asked, trace=True)
    kept = got.batch.rows[got.order].tolist()
    dropped = [row for each in got.dropped.values() for row in each.tolist()]
    assert sorted(kept + dropped) == sorted(rows)
    assert not {5, 11} & set(kept)  # blocked, and of unknown price
    assert all(columns["impressions"][rows.index(row)] == 0 for row in kept)
    assert len(got.placed) == len(got.propensities) == len(shown(got)) == min(slots, len(kept))
    top = got.shown().scores
    assert np.isfinite(top).all()
    assert np.all(np.diff(top) <= 0)
    if 9 in kept and len(shown(got)) >= 2:
        assert shown(got)[1] == 9
    assert shown(chain.apply(batch, asked)) == shown(got) == shown(traced)
    assert got.stages == ()
    assert traced.stages[-1].rows.tolist() == kept


@given(st.permutations(range(12)), st.integers(1, 12))
def test_without_rules_the_order_is_that_of_the_scores(build: Build, rows: list[int], slots: int) -> None:
    got = build().apply(batch_of(*rows), request(slots=slots))
    assert shown(got) == rows[:slots]
    assert not got.placed.any()
    assert not got.propensities.any()
    assert got.relaxed == ()


def test_a_pin_is_stronger_than_a_cap_and_a_cap_than_a_promotion(build: Build) -> None:
    cap = {"column": "creator", "limit": 1}
    chain = build(list_length=3, caps=[cap], pins=[{"item_id": "i1", "position": 1}, {"item_id": "i2", "position": 2}])
    got = chain.apply(batch_of(0, 3, 9, 1, 2), request(slots=4))
    assert shown(got) == [1, 2, 3, 9]  # 0 would be the third of c0
    assert relaxed(got) == {"cap:creator": "1 more than 1 of one creator"}
    assert [Placed(how) for how in got.placed[:3]] == [Placed.PINNED, Placed.PINNED, Placed.BY_ORDER]
    promoting = build(list_length=3, caps=[cap], promotions=[{"name": "p", "item_ids": ["i1"], "every": 2}])
    got = promoting.apply(batch_of(0, 3, 9, 1), request(slots=3))
    assert shown(got) == [0, 3, 9]
    assert relaxed(got) == {"promotion:p": "no promoted item for 1 of its slots"}


def test_a_promotion_is_stronger_than_diversity_and_boosts(build: Build) -> None:
    chain = build(
        promotions=[{"name": "p", "item_ids": ["i7"], "every": 2}],
        boosts=[{"name": "b", "items": {"column": "creator", "in": "c2"}, "factor": 0}],
        mmr={"lambda_relevance": 0.3},
    )
    assert shown(chain.apply(batch_of(0, 3, 9, 7), request(slots=2)))[1] == 7


def test_a_pin_of_an_item_that_is_not_there_is_declared(build: Build) -> None:
    chain = build(pins=[{"item_id": "i9", "position": 2}, {"item_id": "nowhere", "position": 1}])
    got = chain.apply(batch_of(0, 1), request())
    assert relaxed(got) == {"pin:nowhere": "not among the candidates", "pin:i9": "not among the candidates"}
    assert relaxed(chain.apply(batch_of(9), request()))["pin:i9"] == "the list is shorter"
    assert "pin:i9" not in relaxed(chain.apply(batch_of(9), request(slots=1)))  # nobody asked for its position


def test_filters_drop_by_name_and_say_who(build: Build) -> None:
    chain = build(
        blocked_item_ids=["i5", "not in this bundle"],
        filters=[
            {"name": "adult", "items": {"column": "creator", "in": "c0"}, "when": {"unless": {"verified": "yes"}}},
            {"name": "dear", "items": {"not": {"column": "price", "min": 60}}},
        ],
        no_repeat={"within_hours": 1},
    )
    columns = {"impressions": [1, 0, 1, 0, 0, 0], "last_shown_age_s": [60.0, 0, 7200, 0, 0, 0]}
    got = chain.apply(batch_of(0, 1, 2, 3, 5, 7, **columns), request())
    assert shown(got) == [1, 2]
    assert {name: rows.tolist() for name, rows in got.dropped.items()} == {
        "blocked": [5],
        "filter:adult": [3, 7],
        "no_repeat": [0],
    }
    verified = chain.apply(batch_of(0, 1, 2, 3, 5, 7), request(facts={"verified": "yes"}))
    assert shown(verified) == [0, 1, 2, 3]
    assert {name: rows.tolist() for name, rows in verified.dropped.items()} == {"blocked": [5], "filter:dear": [7]}


def test_a_filter_may_compare_items_with_facts(build: Build) -> None:
    region = {"any": [{"column": "creator", "fact": "country"}, {"column": "creator", "exists": False}]}
    chain = build(filters=[{"name": "region", "items": region}])
    got = {who: shown(chain.apply(batch_of(0, 3, 6, 9), request(facts={"country": who}))) for who in ("c1", "")}
    assert got == {"c1": [3, 9], "": [9]}


def test_boosts_and_buries_move_items_the_way_they_say(build: Build) -> None:
    items = {"column": "creator", "in": "c1"}
    # Of scores 1, .67, .33 and 0, the second is boosted or buried.
    for numbers, place in (({"factor": 3}, 0), ({"add": 1}, 0), ({}, 1), ({"factor": 0.1}, 2), ({"add": -1}, 3)):
        chain = build(boosts=[{"name": "b", "items": items, **numbers}])
        assert shown(chain.apply(batch_of(0, 3, 6, 9), request())).index(3) == place


def test_what_was_shown_often_stands_lower_and_recovers_with_time(build: Build) -> None:
    chain = build(impression_discount={"factor": 0.5, "half_life_hours": 1})
    columns = {"impressions": [2, 0, 2], "last_shown_age_s": [0.0, 0, 3600.0]}
    traced = chain.apply(
        CandidateBatch(np.array([0, 1, 2], np.int32), np.array([1.0, 0.5, 0.0], np.float32) + 1)
        .with_columns({name: np.array(column) for name, column in columns.items()})
        .with_scores(np.array([1.0, 0.0, 1.0])),
        request(),
    )
    assert traced.scores.tolist() == pytest.approx([0.25, 0, 0.625])  # 1 - .75, 1 - .75 / 2


def test_heads_are_weighed_where_they_are_there_and_declared_where_not(build: Build) -> None:
    chain = build(value_weights={"click": 1, "regret": -2})
    heads = {"head:click": np.array([0.9, 0.8, 0.1]), "head:regret": np.array([0.5, 0.1, 0.0])}
    assert shown(chain.apply(batch_of(0, 1, 2).with_columns(heads), request())) == [1, 2, 0]
    got = chain.apply(batch_of(0, 1, 2), request())
    assert shown(got) == [0, 1, 2]
    assert relaxed(got) == {"value_weights": "the ranker gave no click, regret: its own score was used"}


def test_an_exploration_by_the_ranker_is_declared_where_the_ranker_does_not_say_how_sure_it_is(build: Build) -> None:
    chain = build(exploration={"every": 2, "by": "ranker"})
    sure = {"head:uncertainty": np.full(3, 0.1, np.float32)}
    assert relaxed(chain.apply(batch_of(0, 1, 2).with_columns(sure), request())) == {}
    told = relaxed(chain.apply(batch_of(0, 1, 2), request()))
    assert told == {"exploration": "the ranker did not say how sure it is: click rates were used"}


def test_a_trace_tells_what_each_rule_did_to_an_item_and_which_displaced_it(build: Build) -> None:
    chain = build(
        list_length=3,
        caps=[{"column": "creator", "limit": 1}],
        pins=[{"item_id": "i9", "position": 1}],
        boosts=[{"name": "b", "items": {"column": "creator", "in": "c0"}, "add": 0.5}],
        blocked_item_ids=["i5"],
    )
    stages = chain.apply(batch_of(0, 1, 3, 5, 9), request(slots=3), trace=True).stages
    names = [stage.name for stage in stages]
    assert names == [
        *("given", "blocked", "normalise", "popularity_blend", "seen", "boost:b"),
        *("slots", "promotions", "caps", "pins"),
    ]
    boost = next(part for part in parts_of(stages, 1) if part.stage == "boost:b")
    assert boost.after == pytest.approx(boost.before + 0.5)
    assert (boost.place_before, boost.place_after) == (2, 2)
    pinned = parts_of(stages, 9)[-1]
    assert (pinned.stage, pinned.place_before, pinned.place_after) == ("pins", 3, 1)
    # Shown: 9, 0, 3. The cap put 1 below; 5 was dropped; 0 is there.
    assert [displaced_by(stages, row, 3) for row in (1, 5, 0)] == ["caps", "blocked", ""]
    assert parts_of(stages, 7) == []


def test_a_soft_rule_without_its_column_is_left_out_and_declared(build: Build) -> None:
    chain = build(
        caps=[{"column": "colour", "limit": 1}],
        boosts=[{"name": "b", "items": {"column": "weight", "min": 3}}],
        creator_decay={"column": "price"},
    )
    got = chain.apply(batch_of(0, 1, 2), request())
    assert shown(got) == [0, 1, 2]
    assert set(relaxed(got)) == {"cap:colour", "boost:b", "creator_decay"}
    assert relaxed(got)["cap:colour"] == "no text column 'colour' in bundle b1; there are categories, creator"


def test_a_bundle_that_lacks_the_column_of_a_hard_filter_is_refused(build: Build) -> None:
    with pytest.raises(BundleRefused, match=r"placement home, filter rating: .*no text column 'age_rating'"):
        build(filters=[{"name": "rating", "items": {"column": "age_rating", "in": ["12"]}}])


def test_caps_that_cannot_fill_a_list_with_all_items_are_refused(build: Build) -> None:
    with pytest.raises(BundleRefused, match="at most 1 of one categories fill 3 of 12 places"):
        build(caps=[{"column": "categories", "limit": 1}])
    build(caps=[{"column": "categories", "limit": 1}], list_length=3)  # Drama, Comedy, and the one without
    build(caps=[{"column": "categories", "limit": 1, "window": 2}])


def test_retrieval_gets_the_conditions_that_hold(build: Build, make_query: Callable[..., Query]) -> None:
    chain = build(
        filters=[
            {"name": "a", "items": {"column": "price", "min": 1}},
            {"name": "b", "items": {"column": "price", "max": 9}, "when": {"facts": {"country": "DE"}}},
        ]
    )
    assert len(chain.conditions(make_query())) == 1
    assert len(chain.conditions(make_query(context={"country": "DE"}))) == 2


def test_items_that_are_named_are_those_that_hold_now(build: Build) -> None:
    chain = build(
        pins=[{"item_id": "i3", "position": 1}, {"item_id": "i4", "position": 9}, {"item_id": "gone", "position": 2}],
        promotions=[
            {"name": "p", "item_ids": ["i3", "i7"], "every": 2},
            {"name": "q", "item_ids": ["i8"], "every": 3, "when": {"facts": {"country": "DE"}}},
        ],
    )
    assert chain.named_rows(request()).tolist() == [3, 7]
    assert chain.named_rows(replace(request(slots=9), facts={"country": "DE"})).tolist() == [3, 4, 7, 8]
