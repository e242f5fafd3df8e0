"""RetrievalService on a trained bundle, over a real socket: what its proto promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from tandem.common.v1 import context_pb2, filter_pb2
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_testing import assert_valid_candidates

Stub = retrieval_pb2_grpc.RetrievalServiceStub
Request = retrieval_pb2.RetrieveRequest


@pytest.fixture(scope="module")
def grpc_servicer(retrieval_servicer: Any) -> Any:
    return retrieval_servicer


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[Stub]:
    return Stub


PROFILE = [{"name": "age_bucket", "string_value": "25-34"}, {"name": "country", "string_value": "DE"}]
JUST_DID = [{"item_id": "i007", "event_type": "click"}, {"item_id": "i010"}]
CONTEXTS = {
    "warm": {"user_id": "warm"},
    "few": {"user_id": "few"},
    "just arrived with two events": {"user_id": "new", "recent_events": JUST_DID},
    "onboarding answers": {"seed_item_ids": ["i001", "i002", "i003", "i004", "i005", "not in the catalogue"]},
    "stored profile": {"user_id": "profile"},
    "sent profile": {"user_attributes": PROFILE},
    "profile of unknown values": {"user_attributes": [{"name": "country", "string_value": "Atlantis"}]},
    "unknown": {"user_id": "nobody has ever seen this user"},
    "nobody": {},
    "anonymous": {"user_id": "warm", "anonymous": True},
    "events on unknown items": {"recent_events": [{"item_id": "not in the catalogue"}] * 5},
    "only dislikes": {"recent_events": [{"item_id": f"i{i:03}", "event_type": "dislike"} for i in range(1, 8)]},
}
REGIMES = {
    "warm": "WARM",
    "few": "FEW_EVENTS",
    "just arrived with two events": "FEW_EVENTS",
    "onboarding answers": "WARM",
    "stored profile": "PROFILE_ONLY",
    "sent profile": "PROFILE_ONLY",
    "profile of unknown values": "UNKNOWN",
    "unknown": "UNKNOWN",
    "nobody": "UNKNOWN",
    "anonymous": "UNKNOWN",
    "events on unknown items": "UNKNOWN",
    "only dislikes": "UNKNOWN",
}


@pytest.fixture
def request_of(now_s: int) -> Callable[..., Request]:
    """request_of(context name, **fields): the same request at the same moment each time."""

    def make(who: str = "warm", **fields: Any) -> Request:
        context = {"request_id": f"r-{who}", "event_time": {"seconds": now_s}} | CONTEXTS[who]
        return Request(context=context, **fields)

    return make


@pytest.mark.parametrize("who", CONTEXTS)
@pytest.mark.parametrize("item_form", [retrieval_pb2.ITEM_FORM_IDS, retrieval_pb2.ITEM_FORM_ROWS])
@pytest.mark.parametrize("max_candidates", [0, 1, 40, 2000])
def test_retrieve_keeps_every_promise(
    grpc_stub: Stub,
    request_of: Callable[..., Request],
    seen_by: Callable[[str], set[str]],
    bundle: Bundle,
    who: str,
    item_form: Any,
    max_candidates: int,
) -> None:
    request = request_of(
        who, max_candidates=max_candidates, item_form=item_form, exclude_item_ids=["i020", "not in the catalogue"]
    )
    response = grpc_stub.Retrieve(request)
    assert_valid_candidates(response, request)
    assert not response.degradations
    assert response.bundle_id == response.candidates.bundle_id == "newer"
    # Never short while eligible items exist: of the catalogue go what was excluded, what was sent and what is stored.
    sent = {event.item_id for event in request.context.recent_events} | set(request.context.seed_item_ids)
    stored = set() if request.context.anonymous else seen_by(request.context.user_id)
    eligible = set(bundle.catalog.item_ids) - sent - stored - {"i020"}
    found = response.candidates.item_ids or [bundle.catalog.item_ids[row] for row in response.candidates.rows]
    assert set(found) <= eligible
    assert len(found) == min(max_candidates or 500, len(eligible))


@pytest.mark.parametrize(("who", "regime"), REGIMES.items())
def test_what_is_known_of_the_user_is_said(
    grpc_stub: Stub, request_of: Callable[..., Request], who: str, regime: str
) -> None:
    response = grpc_stub.Retrieve(request_of(who, max_candidates=30))
    assert context_pb2.UserRegime.Name(response.regime) == f"USER_REGIME_{regime}"
    assert len(response.candidates.item_ids) == 30
    assert response.empty_reason == ""


def test_the_sources_asked_suit_the_user(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    def sources(who: str) -> set[str]:
        response = grpc_stub.Retrieve(request_of(who, fill_policy=filter_pb2.FILL_POLICY_STRICT))
        return {column.source for column in response.candidates.source_columns}

    assert sources("warm") == {
        *("two_tower", "item_to_item", "als", "popularity_7d", "popularity_30d", "cold_items", "fresh")
    }
    # The segment's popularity is asked too, and has nothing to say: no attributes of this user are known.
    assert sources("few") == {
        *("two_tower", "item_to_item", "als", "popularity_category", "popularity_30d", "cold_items", "fresh")
    }
    assert sources("stored profile") == {"popularity_segment", "two_tower", "popularity"}
    assert sources("unknown") == {"popularity"}


def test_a_missing_request_id_is_made_and_a_given_one_returned(grpc_stub: Stub) -> None:
    made = {grpc_stub.Retrieve(Request(max_candidates=1)).request_id for _ in range(3)}
    assert len(made) == 3
    assert all(made)
    given = Request(context={"request_id": "mine"}, max_candidates=1)
    assert grpc_stub.Retrieve(given).request_id == "mine"


def test_the_same_request_gets_the_same_answer(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    assert grpc_stub.Retrieve(request_of("warm")) == grpc_stub.Retrieve(request_of("warm"))


@pytest.mark.parametrize("who", CONTEXTS)
def test_rows_and_ids_are_two_names_of_the_same_list(
    grpc_stub: Stub, request_of: Callable[..., Request], bundle: Bundle, who: str
) -> None:
    by_id = grpc_stub.Retrieve(request_of(who, item_form=retrieval_pb2.ITEM_FORM_IDS)).candidates
    by_row = grpc_stub.Retrieve(request_of(who, item_form=retrieval_pb2.ITEM_FORM_ROWS)).candidates
    assert [bundle.catalog.item_ids[row] for row in by_row.rows] == list(by_id.item_ids)
    by_row.ClearField("rows")
    by_id.ClearField("item_ids")
    assert by_row == by_id


def test_a_batch_equals_single_calls(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    requests = [request_of(who, max_candidates=50, exclude_item_ids=["i020"]) for who in CONTEXTS]
    batch = grpc_stub.BatchRetrieve(retrieval_pb2.BatchRetrieveRequest(requests=requests))
    assert [result.response for result in batch.results] == [grpc_stub.Retrieve(request) for request in requests]


def test_what_is_wrong_with_one_request_of_a_batch_leaves_the_others_alone(
    grpc_stub: Stub, request_of: Callable[..., Request], refused: Callable[..., Any]
) -> None:
    wrong = [request_of("few", max_candidates=-1), request_of("few", acceptable_bundle_ids=["lost"])]
    good = [request_of("warm", max_candidates=5), request_of("nobody", max_candidates=5)]
    requests = [wrong[0], good[0], wrong[1], good[1]]
    results = grpc_stub.BatchRetrieve(retrieval_pb2.BatchRetrieveRequest(requests=requests)).results
    assert [result.WhichOneof("outcome") for result in results] == ["error", "response"] * 2
    assert [result.response for result in results[1::2]] == [grpc_stub.Retrieve(request) for request in good]
    for result, request in zip(results[0::2], wrong, strict=True):
        single = refused(grpc_stub.Retrieve, request)
        assert (result.error.code, result.error.message) == (single.code.value[0], single.message)
        assert {v.field: v.description for v in result.error.field_violations} == single.violations


@pytest.mark.parametrize("n", [0, 65])
def test_a_batch_of_none_or_too_many_is_rejected(grpc_stub: Stub, refused: Callable[..., Any], n: int) -> None:
    got = refused(grpc_stub.BatchRetrieve, retrieval_pb2.BatchRetrieveRequest(requests=[Request()] * n))
    assert got.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(got.violations) == {"requests"}


def test_a_batch_of_the_most_allowed_is_answered(grpc_stub: Stub) -> None:
    requests = [Request(max_candidates=2000)] * 64
    results = grpc_stub.BatchRetrieve(retrieval_pb2.BatchRetrieveRequest(requests=requests)).results
    assert [len(result.response.candidates.item_ids) for result in results] == [300] * 64


@pytest.mark.parametrize(
    ("acceptable", "answering"),
    [([], "newer"), (["older"], "older"), (["lost", "older", "newer"], "older"), (["newer", "older"], "newer")],
)
def test_the_first_acceptable_bundle_that_is_loaded_answers(
    grpc_stub: Stub, request_of: Callable[..., Request], acceptable: list[str], answering: str
) -> None:
    request = request_of("warm", acceptable_bundle_ids=acceptable, item_form=retrieval_pb2.ITEM_FORM_ROWS)
    response = grpc_stub.Retrieve(request)
    assert_valid_candidates(response, request)
    assert response.bundle_id == response.candidates.bundle_id == answering


def test_no_acceptable_bundle_is_a_mismatch(grpc_stub: Stub, refused: Callable[..., Any]) -> None:
    got = refused(grpc_stub.Retrieve, Request(acceptable_bundle_ids=["lost", "lost too"]))
    assert got.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (got.reason, got.domain) == ("BUNDLE_MISMATCH", "tandem")
    assert "newer" in got.message


@pytest.mark.parametrize("who", ["warm", "few"])
def test_seen_items_are_left_out_unless_they_are_allowed(
    grpc_stub: Stub, request_of: Callable[..., Request], seen_by: Callable[[str], set[str]], who: str
) -> None:
    def found(mode: Any) -> set[str]:
        request = request_of(who, seen_policy={"interacted": mode})
        return set(grpc_stub.Retrieve(request).candidates.item_ids)

    seen = seen_by(who)
    assert seen
    assert not found(filter_pb2.SEEN_MODE_UNSPECIFIED) & seen
    assert not found(filter_pb2.SEEN_MODE_EXCLUDE) & seen
    assert seen <= found(filter_pb2.SEEN_MODE_ALLOW)
    assert seen <= found(filter_pb2.SEEN_MODE_DISCOUNT)


def test_disliked_items_are_seen_items(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    request = request_of("only dislikes")
    disliked = {event.item_id for event in request.context.recent_events}
    assert not disliked & set(grpc_stub.Retrieve(request).candidates.item_ids)


def test_an_anonymous_request_does_not_read_the_user(
    grpc_stub: Stub, request_of: Callable[..., Request], seen_by: Callable[[str], set[str]]
) -> None:
    response = grpc_stub.Retrieve(request_of("anonymous"))
    assert seen_by("warm") <= set(response.candidates.item_ids)


def test_attributes_sent_go_before_stored_ones(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    stored = request_of("stored profile", sources=[{"source": "popularity_segment"}], max_candidates=100)
    sent = request_of("stored profile", sources=[{"source": "popularity_segment"}], max_candidates=100)
    for name, value in (("age_bucket", "55+"), ("gender", "male"), ("country", "US")):
        sent.context.user_attributes.add(name=name, string_value=value)
    assert grpc_stub.Retrieve(sent).candidates.item_ids != grpc_stub.Retrieve(stored).candidates.item_ids


FILTERS: dict[str, tuple[dict[str, Any], Callable[[Bundle], Any]]] = {
    "one creator": (
        {"in_set": {"column": "creator", "values": {"values": ["Aiko Brandt", "nobody"]}}},
        lambda bundle: text(bundle, "creator") == "Aiko Brandt",
    ),
    "two categories": (
        {"in_set": {"column": "categories", "values": {"values": ["music", "nature"]}}},
        lambda bundle: np.isin(text(bundle, "categories"), ["music", "nature"]),
    ),
    "cheap": (
        {"in_range": {"column": "price", "max": 10}},
        lambda bundle: bundle.catalog.numbers["price"] <= 10,
    ),
    "a price between": (
        {"in_range": {"column": "price", "min": 10, "max": 20}},
        lambda bundle: (bundle.catalog.numbers["price"] >= 10) & (bundle.catalog.numbers["price"] <= 20),
    ),
    "new": (
        {"in_range": {"column": "created_at", "min": 1_735_000_000}},
        lambda bundle: bundle.catalog.numbers["created_at"] >= 1_735_000_000,
    ),
    "has a creator": ({"exists": {"column": "creator"}}, lambda bundle: text(bundle, "creator") != ""),
    "five by name": (
        {"in_set": {"column": "item_id", "values": {"values": [f"i{i:03}" for i in range(101, 106)]}}},
        lambda bundle: np.isin(bundle.catalog.item_ids, [f"i{i:03}" for i in range(101, 106)]),
    ),
    "neither music nor dear": (
        {
            "not_of": {
                "any_of": {
                    "filters": [
                        {"in_set": {"column": "categories", "values": {"values": ["music"]}}},
                        {"in_range": {"column": "price", "min": 15}},
                    ]
                }
            }
        },
        lambda bundle: (text(bundle, "categories") != "music") & ~(bundle.catalog.numbers["price"] >= 15),
    ),
}


def text(bundle: Bundle, name: str) -> Any:
    """Return a text column of the catalogue, "" where an item has none."""
    return np.array([(bundle.catalog.codes[name].values(row) or [""])[0] for row in bundle.catalog.all_rows])


@pytest.mark.parametrize("who", ["warm", "few", "stored profile", "unknown"])
@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_holds_for_every_item_and_never_makes_the_list_short(
    grpc_stub: Stub,
    request_of: Callable[..., Request],
    seen_by: Callable[[str], set[str]],
    bundle: Bundle,
    name: str,
    who: str,
) -> None:
    condition, matches = FILTERS[name]
    request = request_of(who, filter=condition)
    response = grpc_stub.Retrieve(request)
    assert_valid_candidates(response, request)
    matching = {bundle.catalog.item_ids[row] for row in np.flatnonzero(matches(bundle))}
    eligible = matching - seen_by(request.context.user_id)
    assert eligible
    assert set(response.candidates.item_ids) == eligible


def test_strict_returns_what_the_sources_found_and_backfill_goes_on(
    grpc_stub: Stub, request_of: Callable[..., Request]
) -> None:
    plan = {"sources": [{"source": "popularity", "limit": 7}], "max_candidates": 20}
    strict = grpc_stub.Retrieve(request_of("warm", fill_policy=filter_pb2.FILL_POLICY_STRICT, **plan)).candidates
    filled = grpc_stub.Retrieve(request_of("warm", fill_policy=filter_pb2.FILL_POLICY_BACKFILL, **plan)).candidates
    unsaid = grpc_stub.Retrieve(request_of("warm", **plan)).candidates
    assert len(strict.item_ids) == 7
    assert len(filled.item_ids) == 20
    assert filled.item_ids[:7] == strict.item_ids
    assert unsaid == filled
    assert [column.source for column in filled.source_columns] == ["popularity", "backfill"]
    assert list(filled.source_masks) == [0b01] * 7 + [0b10] * 13


@pytest.mark.parametrize("fill", [filter_pb2.FILL_POLICY_STRICT, filter_pb2.FILL_POLICY_BACKFILL])
def test_an_empty_list_says_why(grpc_stub: Stub, request_of: Callable[..., Request], fill: Any) -> None:
    request = request_of("warm", filter={"in_range": {"column": "price", "max": -1}}, fill_policy=fill)
    response = grpc_stub.Retrieve(request)
    assert_valid_candidates(response, request)
    assert not response.candidates.item_ids
    assert response.empty_reason


def test_weights_decide_whose_word_counts(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    def first_ten(two_tower: float, als: float) -> list[str]:
        plans = [{"source": "two_tower", "weight": two_tower}, {"source": "als", "weight": als}]
        return list(grpc_stub.Retrieve(request_of("warm", sources=plans)).candidates.item_ids[:10])

    def alone(source: str) -> list[str]:
        return list(grpc_stub.Retrieve(request_of("warm", sources=[{"source": source}])).candidates.item_ids[:10])

    assert alone("two_tower") != alone("als")
    assert first_ten(1, 1e-6) == alone("two_tower")
    assert first_ten(1e-6, 1) == alone("als")


def test_every_source_that_is_named_can_be_asked_alone(
    grpc_stub: Stub, request_of: Callable[..., Request], bundle: Bundle
) -> None:
    state = grpc_stub.GetServingState(retrieval_pb2.GetServingStateRequest())
    assert set(state.sources) == {
        *("popularity", "popularity_segment", "popularity_category", "popularity_7d", "popularity_30d", "trending"),
        *("two_tower", "als", "item_to_item", "content_neighbours", "content_cold", "fresh", "search"),
        *("cold_items", "weighted_average", "interests", "kmeans", "mixture", "live"),
    }
    strict = filter_pb2.FILL_POLICY_STRICT
    for source in set(state.sources) - {"live"}:  # without live items it finds none
        request = request_of("warm", sources=[{"source": source, "limit": 15}], max_candidates=10, fill_policy=strict)
        request.context.query_text = bundle.catalog.titles[-1]
        request.context.event_time.FromMilliseconds(bundle.manifest.data.last_event_ms)
        response = grpc_stub.Retrieve(request)
        assert_valid_candidates(response, request)
        assert [column.source for column in response.candidates.source_columns] == [source]
        assert 1 <= max(response.candidates.source_columns[0].ranks) <= 15


def test_without_a_query_text_search_has_nothing_to_say(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    request = request_of("warm", sources=[{"source": "search"}], fill_policy=filter_pb2.FILL_POLICY_STRICT)
    response = grpc_stub.Retrieve(request)
    assert not response.candidates.item_ids
    assert "no source found" in response.empty_reason
    assert not response.degradations


def test_the_order_of_recent_events_does_not_matter(
    grpc_stub: Stub, request_of: Callable[..., Request], now_s: int
) -> None:
    events = [{"item_id": f"i{i:03}", "timestamp": {"seconds": now_s - 60 * i}} for i in range(1, 9)]
    forth, back = request_of("nobody"), request_of("nobody")
    forth.context.recent_events.extend(context_pb2.UserEvent(**event) for event in events)
    back.context.recent_events.extend(context_pb2.UserEvent(**event) for event in reversed(events))
    assert grpc_stub.Retrieve(forth) == grpc_stub.Retrieve(back)


def test_a_deadline_that_has_passed_is_said_as_such(grpc_stub: Stub, refused: Callable[..., Any]) -> None:
    long_work = retrieval_pb2.BatchRetrieveRequest(requests=[Request(max_candidates=2000)] * 64)
    assert refused(grpc_stub.BatchRetrieve, long_work, timeout=0.01).code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_serving_state_tells_of_the_bundle(grpc_stub: Stub, bundle: Bundle, now_s: int) -> None:
    state = grpc_stub.GetServingState(retrieval_pb2.GetServingStateRequest()).state
    assert state.serving
    assert (state.bundle_id, state.previous_bundle_id) == ("newer", "older")
    assert (state.refusal, state.refused_bundle_id) == ("", "")
    assert state.catalogue_size == 300
    assert state.bundle_created.ToMilliseconds() == bundle.manifest.created_ms
    assert {metric.name: metric.value for metric in state.bundle_metrics} == bundle.manifest.metrics
    assert [metric.name for metric in state.bundle_metrics] == sorted(bundle.manifest.metrics)
    assert state.started.seconds > now_s
