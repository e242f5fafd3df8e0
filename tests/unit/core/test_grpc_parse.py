from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from google.protobuf import timestamp_pb2

from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.errors import InvalidRequest
from tandem_core.filters import AllOf, AnyOf, Exists, InRange, InSet, NotOf
from tandem_core.grpc_parse import parse_retrieve
from tandem_core.query import Fill, Query, Seen, SourcePlan, seed_of

CLOCK_MS = 1_700_000_000_000


def request(**fields: Any) -> retrieval_pb2.RetrieveRequest:
    return retrieval_pb2.RetrieveRequest(**fields)


def parsed(**fields: Any) -> Query:
    return parse_retrieve(request(**fields), CLOCK_MS)


def violated(**fields: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    return {violation.field: violation.description for violation in caught.value.violations}


def time(ms: int) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromMilliseconds(ms)
    return stamp


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"exists": {"column": "price"}}
    for _ in range(depth - 1):
        inner = {"not_of": inner}
    return inner


def in_set(n: int) -> dict[str, Any]:
    return {"in_set": {"column": "creator", "values": {"values": [str(i) for i in range(n)]}}}


def test_an_empty_request_means_the_defaults() -> None:
    query = parsed()
    assert (query.max_results, query.placement, query.fill, query.interacted) == (500, "default", Fill.BACKFILL, None)
    assert (query.now_ms, query.condition, query.plans, len(query.events)) == (CLOCK_MS, None, (), 0)
    assert len(query.request_id) == 32
    assert query.request_id != parsed().request_id
    assert query.seed == seed_of(query.request_id, 0)


def test_every_field_of_a_request_reaches_the_query() -> None:
    query = parsed(
        context={
            "request_id": "r",
            "placement": "home",
            "user_id": "ann",
            "session_id": "s",
            "anonymous": True,
            "seed_item_ids": ["i1", "i2"],
            "query_text": "cats",
            "event_time": time(5_250),
            "seed": 9,
            "experiments": [{"experiment": "e", "variant": "v"}],
        },
        max_candidates=2000,
        fill_policy="FILL_POLICY_STRICT",
        seen_policy={"interacted": "SEEN_MODE_DISCOUNT"},
        exclude_item_ids=["i9"],
        sources=[{"source": "als", "limit": 7, "weight": 0.5}, {"source": "popularity"}],
        acceptable_bundle_ids=["b1"],
        item_form="ITEM_FORM_ROWS",
    )
    assert (query.request_id, query.placement, query.user_id, query.session_id) == ("r", "home", "ann", "s")
    assert query.anonymous
    assert query.query_text == "cats"
    assert query.seed_item_ids == ["i1", "i2"]
    assert (query.now_ms, query.seed, query.max_results) == (5_250, 9, 2000)
    assert (query.fill, query.interacted, query.exclude_item_ids) == (Fill.STRICT, Seen.DISCOUNT, ["i9"])
    assert query.plans == (SourcePlan("als", 7, 0.5), SourcePlan("popularity", 2000, 1.0))


def test_a_seen_policy_that_says_nothing_leaves_it_to_the_service() -> None:
    assert parsed(seen_policy={}).interacted is None


def test_recent_events_are_sorted_by_time_and_unset_times_are_now() -> None:
    events = parsed(
        context={
            "event_time": time(1000),
            "recent_events": [
                {"item_id": "now", "event_type": "buy", "value": 0.0},
                {"item_id": "old", "timestamp": time(10), "value": 2.5},
                {"item_id": "now too"},
                {"item_id": "before 1970", "timestamp": time(-5)},
            ],
        }
    ).events
    assert list(events.item_ids) == ["before 1970", "old", "now", "now too"]
    assert events.timestamps.tolist() == [-5, 10, 1000, 1000]
    assert events.timestamps.dtype == np.int64
    assert list(events.event_types) == ["", "", "buy", ""]
    np.testing.assert_array_equal(events.values, np.array([np.nan, 2.5, 0, np.nan], np.float32))


def test_attributes_become_texts() -> None:
    query = parsed(
        context={
            "user_attributes": [
                {"name": "city", "string_value": "Köln"},
                {"name": "age", "number_value": 25},
                {"name": "score", "number_value": 0.1},
                {"name": "vip", "bool_value": True},
                {"name": "new", "bool_value": False},
                {"name": "tags", "strings_value": {"values": ["a", "b"]}},
                {"name": "none", "strings_value": {}},
                {"name": "city", "string_value": "Bonn"},
            ],
            "context": [{"name": "device", "string_value": "phone"}],
        }
    )
    assert query.attributes == {
        "city": "Bonn", "age": "25", "score": "0.1", "vip": "true", "new": "false", "tags": "a",
    }  # fmt: skip
    assert query.context == {"device": "phone"}


def test_a_filter_becomes_the_same_tree_of_conditions() -> None:
    condition = parsed(
        filter={
            "all_of": {
                "filters": [
                    {"in_set": {"column": "creator", "values": {"values": ["c1", "c1"]}}},
                    {"not_of": {"any_of": {"filters": [{"in_range": {"column": "price", "min": 0}}]}}},
                    {"in_range": {"column": "price", "max": math.inf}},
                    {"exists": {"column": "price"}},
                ]
            }
        }
    ).condition
    assert condition == AllOf(
        [
            InSet("creator", frozenset({"c1"})),
            NotOf(AnyOf([InRange("price", 0, math.inf)])),
            InRange("price", -math.inf, math.inf),
            Exists("price"),
        ]
    )


def test_limits_themselves_are_allowed() -> None:
    hundred = {"all_of": {"filters": [{"exists": {"column": "price"}}] * 99}}
    attributes = [{"name": "n" * 64, "string_value": "v" * 256}] * 64
    parsed(
        context={
            "request_id": "r" * 128,
            "user_id": "u" * 256,
            "user_attributes": attributes,
            "seed_item_ids": ["i" * 256] * 50,
            "recent_events": [{"item_id": "i", "event_type": "t" * 64}] * 200,
            "experiments": [{"experiment": "e" * 128, "variant": "v" * 128}] * 32,
            "event_time": time(0),
        },
        filter=hundred,
        exclude_item_ids=["x"] * 1000,
        sources=[{"source": f"s{i}", "limit": 2000} for i in range(32)],
        acceptable_bundle_ids=["b"] * 8,
    )
    parsed(filter=nested(8))
    parsed(filter=in_set(1000))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_candidates": -1}, "max_candidates"),
        ({"max_candidates": 2001}, "max_candidates"),
        ({"fill_policy": 9}, "fill_policy"),
        ({"seen_policy": {"interacted": 9}}, "seen_policy.interacted"),
        ({"seen_policy": {"served_mode": 9}}, "seen_policy.served_mode"),
        ({"seen_policy": {"served_within": {"seconds": -1}}}, "seen_policy.served_within"),
        ({"item_form": 9}, "item_form"),
        ({"exclude_item_ids": ["x"] * 1001}, "exclude_item_ids"),
        ({"exclude_item_ids": ["x", "", "y"]}, "exclude_item_ids[1]"),
        ({"exclude_item_ids": ["x" * 257]}, "exclude_item_ids[0]"),
        ({"acceptable_bundle_ids": ["b"] * 9}, "acceptable_bundle_ids"),
        ({"acceptable_bundle_ids": [""]}, "acceptable_bundle_ids[0]"),
        ({"sources": [{"source": "a"}, {"source": "a"}]}, "sources"),
        ({"sources": [{"source": str(i)} for i in range(33)]}, "sources"),
        ({"sources": [{"source": "a", "limit": -1}]}, "sources[0].limit"),
        ({"sources": [{"source": "a", "limit": 2001}]}, "sources[0].limit"),
        ({"sources": [{"source": "a", "weight": 0.0}]}, "sources[0].weight"),
        ({"sources": [{"source": "a", "weight": math.nan}]}, "sources[0].weight"),
        ({"sources": [{"source": "a", "weight": math.inf}]}, "sources[0].weight"),
        ({"filter": {}}, "filter.condition"),
        ({"filter": {"all_of": {}}}, "filter.all_of.filters"),
        ({"filter": {"any_of": {"filters": [{"not_of": {}}]}}}, "filter.any_of[0].not_of.condition"),
        ({"filter": nested(9)}, "filter" + ".not_of" * 8),
        ({"filter": {"any_of": {"filters": [{"exists": {"column": "x"}}] * 100}}}, "filter.any_of[99]"),
        ({"filter": in_set(0)}, "filter.in_set.values"),
        ({"filter": in_set(1001)}, "filter.in_set.values"),
        ({"filter": {"in_range": {"column": "price"}}}, "filter.in_range"),
        ({"filter": {"in_range": {"column": "price", "min": math.nan}}}, "filter.in_range.min"),
        ({"filter": {"in_range": {"column": "price", "max": math.nan}}}, "filter.in_range.max"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(fields: dict[str, Any], field: str) -> None:
    assert list(violated(**fields)) == [field]


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"request_id": "r" * 129}, "request_id"),
        ({"placement": "p" * 129}, "placement"),
        ({"user_id": "u" * 257}, "user_id"),
        ({"session_id": "s" * 257}, "session_id"),
        ({"query_text": "q" * 257}, "query_text"),
        ({"seed_item_ids": ["i"] * 51}, "seed_item_ids"),
        ({"seed_item_ids": [""]}, "seed_item_ids[0]"),
        ({"event_time": {"seconds": -1}}, "event_time"),
        ({"event_time": {"seconds": 2**62}}, "event_time"),
        ({"event_time": {"seconds": 5, "nanos": -1}}, "event_time"),
        ({"experiments": [{"experiment": "e", "variant": "v"}] * 33}, "experiments"),
        ({"experiments": [{"variant": "v"}]}, "experiments[0].experiment"),
        ({"experiments": [{"experiment": "e", "variant": "v" * 129}]}, "experiments[0].variant"),
        ({"recent_events": [{"item_id": "i"}] * 201}, "recent_events"),
        ({"recent_events": [{"item_id": "i"}, {}]}, "recent_events[1].item_id"),
        ({"recent_events": [{"item_id": "i", "event_type": "t" * 65}]}, "recent_events[0].event_type"),
        ({"recent_events": [{"item_id": "i", "value": math.nan}]}, "recent_events[0].value"),
        ({"recent_events": [{"item_id": "i", "value": -math.inf}]}, "recent_events[0].value"),
        ({"recent_events": [{"item_id": "i", "timestamp": {"seconds": 2**62}}]}, "recent_events[0].timestamp"),
        ({"user_attributes": [{"name": "a", "string_value": "x"}] * 65}, "user_attributes"),
        ({"user_attributes": [{"string_value": "x"}]}, "user_attributes[0].name"),
        ({"user_attributes": [{"name": "a"}]}, "user_attributes[0].value"),
        ({"user_attributes": [{"name": "a", "number_value": math.inf}]}, "user_attributes[0].number_value"),
        ({"context": [{"name": "a", "string_value": "x" * 257}]}, "context[0].string_value"),
        ({"context": [{"name": "a", "strings_value": {"values": ["x"] * 65}}]}, "context[0].strings_value"),
    ],
)
def test_what_is_wrong_with_the_context_is_named_by_its_field(context: dict[str, Any], field: str) -> None:
    assert list(violated(context=context)) == [f"context.{field}"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = violated(
        context={"user_id": "u" * 300, "recent_events": [{"item_id": "", "value": math.nan}]},
        max_candidates=-5,
        filter={"all_of": {"filters": [{}, {"in_range": {"column": "price"}}]}},
        fill_policy=77,
    )
    assert set(wrong) == {
        "context.user_id",
        "context.recent_events[0].item_id",
        "context.recent_events[0].value",
        "max_candidates",
        "filter.all_of[0].condition",
        "filter.all_of[1].in_range",
        "fill_policy",
    }
    assert wrong["max_candidates"] == "is -5; 0 means 500, otherwise 1 to 2000"
    assert wrong["context.user_id"] == "has 300 characters, at most 256 are allowed"
    assert "77" in wrong["fill_policy"]


def test_impressions_that_are_sent_along_stay_apart_from_the_history() -> None:
    sent = [
        {"item_id": "a", "event_type": "impression", "timestamp": time(5)},
        {"item_id": "b", "event_type": "buy", "timestamp": time(4), "value": 2.0},
        {"item_id": "a", "event_type": "impression"},
    ]
    query = parsed(context={"recent_events": sent})
    assert (list(query.events.item_ids), query.events.timestamps.tolist()) == (["b"], [4])
    assert query.events.values.tolist() == [2.0]
    assert (list(query.shown.item_ids), query.shown.counts.tolist()) == (["a"], [2])
    assert query.shown.last_ms.tolist() == [CLOCK_MS]


def test_a_seen_policy_says_how_long_and_how_served_items_count() -> None:
    query = parsed(seen_policy={"served_within": {"seconds": 90, "nanos": 500_000_000}})
    assert (query.served_within_s, query.served) == (90.5, Seen.DISCOUNT)
    assert parsed(seen_policy={"served_within": {"seconds": 1}, "served_mode": 1}).served is Seen.EXCLUDE
    assert parsed(seen_policy={"served_mode": 3}).served_within_s == 0
    assert parsed(seen_policy={"served_within": {"seconds": 365 * 86_400}}).served_within_s == 365 * 86_400
