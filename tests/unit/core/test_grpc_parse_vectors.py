from __future__ import annotations

import math
from typing import Any

import pytest

from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.errors import InvalidRequest
from tandem_core.filters import InRange
from tandem_core.grpc_parse_vectors import parse_embeddings, parse_similar_items
from tandem_core.query import Query
from tandem_core.similar_items import SimilarQuery

CLOCK_MS = 1_700_000_000_000


def similar(**fields: Any) -> SimilarQuery:
    return parse_similar_items(retrieval_pb2.SimilarItemsRequest(**fields))


def embeddings(**fields: Any) -> list[Query]:
    return parse_embeddings(retrieval_pb2.GetEmbeddingsRequest(**fields), CLOCK_MS)


def violated(parse: Any, **fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert all(violation.description for violation in caught.value.violations)
    return [violation.field for violation in caught.value.violations]


def test_every_field_of_a_request_for_similar_items_reaches_the_query() -> None:
    assert similar(item_ids=["a"]) == SimilarQuery(["a"], 20)
    query = similar(item_ids=["b", "a", "b"], max_results=7, filter={"in_range": {"column": "price", "max": 3}})
    assert query == SimilarQuery(["b", "a", "b"], 7, InRange("price", high=3))


@pytest.mark.parametrize(("max_results", "wanted"), [(0, 20), (1, 1), (500, 500)])
def test_how_many_are_wanted(max_results: int, wanted: int) -> None:
    assert similar(item_ids=["a"], max_results=max_results).max_results == wanted


def test_limits_themselves_are_allowed() -> None:
    assert len(similar(item_ids=["i" * 256] * 50).item_ids) == 50
    assert len(embeddings(item_ids=["i" * 256] * 500, users=[{"user_id": "u" * 256}] * 64)) == 64
    assert embeddings() == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "item_ids"),
        ({"item_ids": ["i"] * 51}, "item_ids"),
        ({"item_ids": ["i", ""]}, "item_ids[1]"),
        ({"item_ids": ["i" * 257]}, "item_ids[0]"),
        ({"item_ids": ["i"], "max_results": -1}, "max_results"),
        ({"item_ids": ["i"], "max_results": 501}, "max_results"),
        ({"item_ids": ["i"], "filter": {}}, "filter.condition"),
        ({"item_ids": ["i"], "filter": {"in_range": {"column": "price", "min": math.nan}}}, "filter.in_range.min"),
    ],
)
def test_what_is_wrong_with_a_request_for_similar_items_is_named(fields: dict[str, Any], field: str) -> None:
    assert violated(similar, **fields) == [field]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"item_ids": ["i"] * 501}, "item_ids"),
        ({"item_ids": [""]}, "item_ids[0]"),
        ({"users": [{}] * 65}, "users"),
        ({"users": [{"user_id": "ann"}, {"user_id": "u" * 257}]}, "users[1].user_id"),
        ({"users": [{"recent_events": [{"item_id": "i", "value": math.nan}]}]}, "users[0].recent_events[0].value"),
        ({"users": [{"context": [{"name": "hour"}]}]}, "users[0].context[0].value"),
        ({"users": [{}, {}, {"event_time": {"seconds": -1}}]}, "users[2].event_time"),
    ],
)
def test_what_is_wrong_with_a_request_for_vectors_is_named(fields: dict[str, Any], field: str) -> None:
    assert violated(embeddings, **fields) == [field]


def test_everything_wrong_is_said_at_once() -> None:
    both = {"item_ids": [""], "max_results": -1, "filter": {"in_range": {"column": "price"}}}
    assert violated(similar, **both) == ["item_ids[0]", "max_results", "filter.in_range"]
    users = [{"user_id": "u" * 257}, {}, {"request_id": "r" * 129, "seed_item_ids": [""]}]
    assert violated(embeddings, item_ids=[""], users=users) == [
        "item_ids[0]",
        "users[0].user_id",
        "users[2].request_id",
        "users[2].seed_item_ids[0]",
    ]


def test_users_are_read_as_a_recommendation_reads_them() -> None:
    users = [
        {"user_id": "ann", "seed_item_ids": ["i1"], "user_attributes": [{"name": "age", "number_value": 25}]},
        {"user_id": "bob", "anonymous": True, "recent_events": [{"item_id": "i2"}], "event_time": {"seconds": 5}},
    ]
    ann, bob = embeddings(users=users)
    assert (ann.user_id, ann.seed_item_ids, ann.attributes, ann.now_ms) == ("ann", ["i1"], {"age": "25"}, CLOCK_MS)
    assert (bob.user_id, bob.anonymous, bob.now_ms, list(bob.events.item_ids)) == ("bob", True, 5000, ["i2"])
