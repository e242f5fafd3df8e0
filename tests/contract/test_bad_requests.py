"""What is rejected, field by field: INVALID_ARGUMENT with a violation that names the field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tandem.common.v1 import filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_testing import StubRanking, StubRetrieval, serve

NOT_A_TIME = {"seconds": 10**15}


@pytest.fixture(scope="module")
def grpc_servicer(retrieval_servicer: Any, ranking_servicer: Any) -> tuple[Any, Any]:
    return retrieval_servicer, ranking_servicer


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    def add(servicers: tuple[Any, Any], server: grpc.Server) -> None:
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicers[0], server)
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicers[1], server)

    return add


@pytest.fixture(scope="module", params=["service", "stub"])
def channel(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[grpc.Channel]:
    """The real services, and the stubs with the same catalogue: callers' tests must meet the same refusals."""
    if request.param == "service":
        yield request.getfixturevalue("grpc_channel")
        return
    item_ids = bundle.catalog.item_ids
    with serve(StubRetrieval(item_ids, "newer"), StubRanking(item_ids, "newer")) as running:
        yield running.channel


@pytest.fixture
def knows_all(channel: grpc.Channel, request: pytest.FixtureRequest) -> bool:
    """Whether columns and placements are known: stubs have none of their own, and take any name."""
    return bool(request.node.callspec.params["channel"] == "service")


@pytest.fixture
def violations(channel: grpc.Channel, refused: Callable[..., Any]) -> Callable[..., dict[str, str]]:
    """violations(method, **fields) sends a request that must be refused for its fields, and returns them."""
    retrieval = retrieval_pb2_grpc.RetrievalServiceStub(channel)
    ranking = ranking_pb2_grpc.RankingServiceStub(channel)
    methods = {
        "Retrieve": (retrieval.Retrieve, retrieval_pb2.RetrieveRequest),
        "Recommend": (ranking.Recommend, ranking_pb2.RecommendRequest),
        "Rank": (ranking.Rank, ranking_pb2.RankRequest),
    }

    def send(method: str, **fields: Any) -> dict[str, str]:
        call, kind = methods[method]
        if method == "Rank":
            fields = {"candidates": {"item_ids": ["i001", "i002"]}} | fields
        got = refused(call, kind(**fields))
        assert got.code is grpc.StatusCode.INVALID_ARGUMENT, got
        assert got.violations, "a refusal names the field"
        assert all(got.violations.values()), "a violation says what is wrong"
        found: dict[str, str] = got.violations
        return found

    return send


def nested(depth: int) -> dict[str, Any]:
    """Return a filter of so many levels."""
    inner: dict[str, Any] = {"exists": {"column": "price"}}
    for _ in range(depth - 1):
        inner = {"not_of": inner}
    return inner


def attributes(n: int) -> list[dict[str, str]]:
    return [{"name": f"a{i}", "string_value": "v"} for i in range(n)]


def event(**fields: Any) -> dict[str, Any]:
    return {"recent_events": [{"item_id": "i001"}, {"item_id": "i002", **fields}]}


CONTEXTS: list[tuple[str, dict[str, Any]]] = [
    ("context.request_id", {"request_id": "r" * 129}),
    ("context.placement", {"placement": "p" * 129}),
    ("context.user_id", {"user_id": "u" * 257}),
    ("context.session_id", {"session_id": "s" * 257}),
    ("context.query_text", {"query_text": "q" * 257}),
    ("context.user_attributes", {"user_attributes": attributes(65)}),
    ("context.user_attributes[0].name", {"user_attributes": [{"string_value": "v"}]}),
    ("context.user_attributes[0].name", {"user_attributes": [{"name": "n" * 65, "string_value": "v"}]}),
    ("context.user_attributes[1].value", {"user_attributes": [*attributes(1), {"name": "a"}]}),
    ("context.user_attributes[0].string_value", {"user_attributes": [{"name": "a", "string_value": "v" * 257}]}),
    ("context.user_attributes[0].number_value", {"user_attributes": [{"name": "a", "number_value": math.nan}]}),
    ("context.user_attributes[0].number_value", {"user_attributes": [{"name": "a", "number_value": math.inf}]}),
    (
        "context.user_attributes[0].strings_value",
        {"user_attributes": [{"name": "a", "strings_value": {"values": ["v"] * 65}}]},
    ),
    (
        "context.user_attributes[0].strings_value",
        {"user_attributes": [{"name": "a", "strings_value": {"values": ["v", "v" * 257]}}]},
    ),
    ("context.seed_item_ids", {"seed_item_ids": [f"i{i}" for i in range(51)]}),
    ("context.seed_item_ids[1]", {"seed_item_ids": ["i001", ""]}),
    ("context.recent_events", {"recent_events": [{"item_id": "i001"}] * 201}),
    ("context.recent_events[1].item_id", event(item_id="")),
    ("context.recent_events[1].item_id", event(item_id="i" * 257)),
    ("context.recent_events[1].event_type", event(event_type="t" * 65)),
    ("context.recent_events[1].value", event(value=math.nan)),
    ("context.recent_events[1].value", event(value=-math.inf)),
    ("context.recent_events[1].timestamp", event(timestamp=NOT_A_TIME)),
    ("context.context", {"context": attributes(65)}),
    ("context.context[0].value", {"context": [{"name": "hour"}]}),
    ("context.event_time", {"event_time": {"seconds": -1}}),
    ("context.event_time", {"event_time": NOT_A_TIME}),
    ("context.event_time", {"event_time": {"seconds": 5, "nanos": -7}}),
    ("context.experiments", {"experiments": [{"experiment": "e", "variant": "v"}] * 33}),
    ("context.experiments[0].experiment", {"experiments": [{"variant": "v"}]}),
    ("context.experiments[0].variant", {"experiments": [{"experiment": "e", "variant": "v" * 129}]}),
]
FILTERS: list[tuple[str, dict[str, Any]]] = [
    ("filter.condition", {}),
    ("filter.all_of.filters", {"all_of": {}}),
    ("filter.any_of[1].condition", {"any_of": {"filters": [{"exists": {"column": "price"}}, {}]}}),
    ("filter" + ".not_of" * 8, nested(9)),
    ("filter.all_of[99]", {"all_of": {"filters": [{"exists": {"column": "price"}}] * 100}}),
    ("filter.in_set.values", {"in_set": {"column": "creator"}}),
    ("filter.in_set.values", {"in_set": {"column": "creator", "values": {"values": [str(i) for i in range(1001)]}}}),
    ("filter.in_set.column", {"in_set": {"column": "colour", "values": {"values": ["red"]}}}),
    ("filter.in_set.column", {"in_set": {"column": "price", "values": {"values": ["5"]}}}),
    ("filter.in_set.column", {"in_set": {"values": {"values": ["red"]}}}),
    ("filter.in_range", {"in_range": {"column": "price"}}),
    ("filter.in_range.min", {"in_range": {"column": "price", "min": math.nan}}),
    ("filter.in_range.max", {"in_range": {"column": "price", "min": 1, "max": math.nan}}),
    ("filter.in_range.column", {"in_range": {"column": "creator", "min": 1}}),
    ("filter.not_of.exists.column", {"not_of": {"exists": {"column": "colour"}}}),
]
LIMITS: list[tuple[str, dict[str, Any]]] = [
    ("fill_policy", {"fill_policy": 99}),
    ("exclude_item_ids", {"exclude_item_ids": [f"i{i}" for i in range(1001)]}),
    ("exclude_item_ids[0]", {"exclude_item_ids": [""]}),
    ("exclude_item_ids[0]", {"exclude_item_ids": ["i" * 257]}),
]
SEEN: list[tuple[str, dict[str, Any]]] = [
    ("seen_policy.interacted", {"seen_policy": {"interacted": 99}}),
    ("seen_policy.served_within", {"seen_policy": {"served_within": {"seconds": -1}}}),
]
RETRIEVE: list[tuple[str, dict[str, Any]]] = [
    ("max_candidates", {"max_candidates": -1}),
    ("max_candidates", {"max_candidates": 2001}),
    ("sources", {"sources": [{"source": f"s{i}"} for i in range(33)]}),
    ("sources", {"sources": [{"source": "als"}, {"source": "als"}]}),
    ("sources[1].source", {"sources": [{"source": "als"}, {"source": "oracle"}]}),
    ("sources[0].source", {"sources": [{}]}),
    ("sources[0].limit", {"sources": [{"source": "als", "limit": -1}]}),
    ("sources[0].limit", {"sources": [{"source": "als", "limit": 2001}]}),
    ("sources[0].weight", {"sources": [{"source": "als", "weight": 0}]}),
    ("sources[0].weight", {"sources": [{"source": "als", "weight": -1}]}),
    ("sources[0].weight", {"sources": [{"source": "als", "weight": math.nan}]}),
    ("sources[0].weight", {"sources": [{"source": "als", "weight": math.inf}]}),
    ("acceptable_bundle_ids", {"acceptable_bundle_ids": [f"b{i}" for i in range(9)]}),
    ("item_form", {"item_form": 99}),
]
RECOMMEND: list[tuple[str, dict[str, Any]]] = [
    ("max_results", {"max_results": -1}),
    ("max_results", {"max_results": 501}),
    ("return_attributes", {"return_attributes": ["title"] * 17}),
    ("return_attributes", {"return_attributes": ["title", "colour"]}),
    ("context.placement", {"context": {"placement": "nowhere"}}),
]


def candidates(**fields: Any) -> dict[str, Any]:
    return {"candidates": {"item_ids": ["i001", "i002"], **fields}}


def column(**fields: Any) -> dict[str, Any]:
    return candidates(source_columns=[{"source": "als", **fields}])


def rows(*rows: int, bundle_id: str = "newer") -> dict[str, Any]:
    return {"candidates": {"rows": rows, "bundle_id": bundle_id}}


RANK: list[tuple[str, dict[str, Any]]] = [
    ("max_results", {"max_results": -1}),
    ("max_results", {"max_results": 1001}),
    ("return_attributes", {"return_attributes": ["title"] * 17}),
    ("return_attributes", {"return_attributes": ["colour"]}),
    ("context.placement", {"context": {"placement": "nowhere"}}),
    ("candidates", {"candidates": {}}),
    ("candidates", {"candidates": {"item_ids": [f"i{i}" for i in range(1001)]}}),
    ("candidates", candidates(rows=[1, 2], bundle_id="newer")),
    ("candidates", candidates(item_ids=["i001", "i001"])),
    ("candidates", candidates(item_ids=["i001", "not there", "not there"])),
    ("candidates", rows(1, 2, 1)),
    ("candidates.rows", rows(0, 300)),
    ("candidates.bundle_id", rows(0, 1, bundle_id="")),
    ("candidates.scores", candidates(scores=[1.0])),
    ("candidates.scores", candidates(scores=[1.0, math.nan])),
    ("candidates.scores", candidates(scores=[1.0, math.inf])),
    ("candidates.source_masks", candidates(source_masks=[1, 1, 1])),
    ("candidates.source_columns", candidates(source_columns=[{"source": f"s{i}"} for i in range(33)])),
    ("candidates.source_columns[0].source", candidates(source_columns=[{"ranks": [1, 2]}])),
    ("candidates.source_columns[1].source", candidates(source_columns=[{"source": "als"}, {"source": "als"}])),
    ("candidates.source_columns[0].ranks", column(ranks=[1, 2, 3])),
    ("candidates.source_columns[0].scores", column(scores=[1.0])),
    ("candidates.source_columns[0].scores", column(scores=[1.0, math.nan])),
]


def cases() -> list[Any]:
    """Return method, the field that must be named, and what is sent, with readable ids."""
    found = []
    tables = {
        "Retrieve": [*LIMITS, *SEEN, *RETRIEVE],
        "Recommend": [*LIMITS, *SEEN, *RECOMMEND],
        "Rank": [*SEEN, *RANK],
    }
    for method, table in tables.items():
        common = [(field, {"context": fields}) for field, fields in CONTEXTS]
        common += [(field, {"filter": fields}) for field, fields in FILTERS]
        for i, (field, fields) in enumerate([*common, *table]):
            found.append(pytest.param(method, field, fields, id=f"{method}-{field}-{i}"))
    return found


def needs_knowledge(field: str, fields: dict[str, Any]) -> bool:
    """Whether only who has columns and placements can see the mistake."""
    by_name = field.startswith("filter") and field.endswith(".column")
    return by_name or "colour" in fields.get("return_attributes", ()) or "nowhere" in str(fields.get("context"))


@pytest.mark.parametrize(("method", "field", "fields"), cases())
def test_what_is_wrong_is_named(
    violations: Callable[..., dict[str, str]], knows_all: bool, method: str, field: str, fields: dict[str, Any]
) -> None:
    if knows_all or not needs_knowledge(field, fields):  # a stub takes any name of a column or placement
        assert field in violations(method, **fields)


@pytest.mark.parametrize("method", ["Retrieve", "Recommend", "Rank"])
def test_everything_wrong_is_said_at_once(violations: Callable[..., dict[str, str]], method: str) -> None:
    found = violations(
        method,
        context={"user_id": "u" * 257, "recent_events": [{"item_id": "", "value": math.nan}]},
        filter={"in_range": {"column": "price"}},
        seen_policy={"served_within": {"seconds": 366 * 86_400}},
    )
    assert set(found) == {
        "context.user_id",
        "context.recent_events[0].item_id",
        "context.recent_events[0].value",
        "filter.in_range",
        "seen_policy.served_within",
    }


def test_of_very_many_mistakes_the_first_are_named(violations: Callable[..., dict[str, str]]) -> None:
    """All of them fit no trailers: the caller would see RESOURCE_EXHAUSTED, and not what is wrong."""
    found = violations("Recommend", context={"recent_events": [{"item_id": ""}] * 200})
    assert list(found) == [f"context.recent_events[{i}].item_id" for i in range(20)]


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("Retrieve", {"filter": nested(8)}),
        ("Retrieve", {"filter": {"all_of": {"filters": [{"exists": {"column": "price"}}] * 99}}}),
        ("Retrieve", {"exclude_item_ids": ["i" * 256] * 1000, "max_candidates": 2000}),
        ("Retrieve", {"context": {"recent_events": [{"item_id": "i001"}] * 200, "user_id": "u" * 256}}),
        ("Retrieve", {"context": {"user_attributes": attributes(64), "context": attributes(64)}}),
        ("Retrieve", {"acceptable_bundle_ids": [*(f"b{i}" for i in range(7)), "newer"]}),
        ("Retrieve", {"sources": [{"source": "als", "limit": 2000, "weight": 1e-6}]}),
        ("Retrieve", {"fill_policy": filter_pb2.FILL_POLICY_STRICT, "item_form": retrieval_pb2.ITEM_FORM_ROWS}),
        ("Recommend", {"max_results": 500, "return_attributes": ["title"] * 16}),
        ("Recommend", {"context": {"experiments": [{"experiment": "e" * 128, "variant": "v" * 128}] * 32}}),
        ("Recommend", {"context": {"request_id": "r" * 128, "seed_item_ids": ["i001"] * 50, "query_text": "q" * 256}}),
        ("Rank", {"candidates": {"item_ids": [f"i{i}" for i in range(1000)]}, "max_results": 1000}),
    ],
)
def test_the_limits_themselves_are_allowed(channel: grpc.Channel, method: str, fields: dict[str, Any]) -> None:
    retrieval = retrieval_pb2_grpc.RetrievalServiceStub(channel)
    ranking = ranking_pb2_grpc.RankingServiceStub(channel)
    calls: dict[str, Callable[[], Any]] = {
        "Retrieve": lambda: retrieval.Retrieve(retrieval_pb2.RetrieveRequest(**fields)),
        "Recommend": lambda: ranking.Recommend(ranking_pb2.RecommendRequest(**fields)),
        "Rank": lambda: ranking.Rank(ranking_pb2.RankRequest(**fields)),
    }
    assert calls[method]().bundle_id == "newer"
