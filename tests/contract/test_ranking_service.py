"""RankingService on a trained bundle, its retrieval behind a real socket: what its proto promises."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tandem.common.v1 import context_pb2, degradation_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_testing import assert_valid_slate

Stub = ranking_pb2_grpc.RankingServiceStub
Request = ranking_pb2.RecommendRequest

COLUMNS = ["title", "categories", "creator", "price", "created_at", "item_id", "price_bucket"]


@pytest.fixture(scope="module")
def grpc_servicer(ranking_servicer: Any) -> Any:
    return ranking_servicer


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return ranking_pb2_grpc.add_RankingServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[Stub]:
    return Stub


PROFILE = [{"name": "age_bucket", "string_value": "25-34"}, {"name": "country", "string_value": "DE"}]
CONTEXTS: dict[str, tuple[dict[str, Any], str]] = {
    "warm": ({"user_id": "warm"}, "WARM"),
    "few": ({"user_id": "few"}, "FEW_EVENTS"),
    "just arrived": ({"user_id": "new", "recent_events": [{"item_id": "i007"}, {"item_id": "i010"}]}, "FEW_EVENTS"),
    "onboarding": ({"seed_item_ids": ["i001", "i002", "i003", "i004", "i005", "unheard of"]}, "WARM"),
    "stored profile": ({"user_id": "profile"}, "PROFILE_ONLY"),
    "sent profile": ({"user_attributes": PROFILE}, "PROFILE_ONLY"),
    "unknown": ({"user_id": "nobody has ever seen this user"}, "UNKNOWN"),
    "nobody": ({}, "UNKNOWN"),
    "anonymous": ({"user_id": "warm", "anonymous": True}, "UNKNOWN"),
}
PLACEMENTS = ["", "default", "plain", "capped", "seen_too", "short_of_time"]


@pytest.fixture
def request_of(now_s: int) -> Callable[..., Request]:
    """request_of(context name, placement, **fields): the same request at the same moment each time."""

    def make(who: str = "warm", placement: str = "plain", **fields: Any) -> Request:
        context = {"request_id": f"r-{who}", "event_time": {"seconds": now_s}, "placement": placement}
        return Request(context=context | CONTEXTS[who][0], **fields)

    return make


def ids(response: Any) -> list[str]:
    return [item.item_id for item in response.items]


def kinds(response: Any) -> set[str]:
    return {degradation_pb2.DegradationKind.Name(d.kind)[len("DEGRADATION_KIND_") :] for d in response.degradations}


@pytest.mark.parametrize("who", CONTEXTS)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("max_results", [0, 1, 500])
def test_recommend_keeps_every_promise(
    grpc_stub: Stub,
    request_of: Callable[..., Request],
    seen_by: Callable[[str], set[str]],
    who: str,
    placement: str,
    max_results: int,
) -> None:
    request = request_of(
        who,
        placement,
        max_results=max_results,
        exclude_item_ids=["i020", "unheard of"],
        return_attributes=["creator", "title", "price"],
    )
    request.context.experiments.add(experiment="button", variant="green")
    response = grpc_stub.Recommend(request)
    assert_valid_slate(response, request)
    assert response.bundle_id == "newer"
    assert context_pb2.UserRegime.Name(response.regime) == f"USER_REGIME_{CONTEXTS[who][1]}"
    assert response.experiments == request.context.experiments
    assert all(math.isfinite(item.score) for item in response.items)
    assert all(item.reasons for item in response.items)
    if max_results != 500:
        assert len(response.items) == (max_results or 20)
    if placement != "seen_too" and not request.context.anonymous:
        sent = {event.item_id for event in request.context.recent_events} | set(request.context.seed_item_ids)
        assert not (seen_by(request.context.user_id) | sent) & set(ids(response))


def test_the_longest_list_has_every_eligible_item(
    grpc_stub: Stub, request_of: Callable[..., Request], seen_by: Callable[[str], set[str]], bundle: Bundle
) -> None:
    response = grpc_stub.Recommend(request_of("warm", max_results=500))
    assert set(ids(response)) == set(bundle.catalog.item_ids) - seen_by("warm")


def test_nothing_is_degraded_where_nothing_is_missing(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    for who in CONTEXTS:
        assert kinds(grpc_stub.Recommend(request_of(who))) == set()


def test_what_time_does_not_allow_is_left_out_and_declared(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    hurried = grpc_stub.Recommend(request_of("warm", "short_of_time"), timeout=20)
    assert {"RANKER_SKIPPED", "DIVERSITY_SKIPPED"} <= kinds(hurried)
    assert len(hurried.items) == 20
    patient = grpc_stub.Recommend(request_of("warm", "short_of_time"))  # no deadline: all the time in the world
    assert not {"RANKER_SKIPPED", "DIVERSITY_SKIPPED"} & kinds(patient)


def test_a_rule_that_had_to_give_way_is_declared(
    grpc_stub: Stub, request_of: Callable[..., Request], bundle: Bundle
) -> None:
    (creator, *_) = bundle.catalog.codes["creator"].vocabulary
    one = {"in_set": {"column": "creator", "values": {"values": [creator]}}}
    response = grpc_stub.Recommend(request_of("nobody", "capped", filter=one))
    assert len(response.items) > 3  # this placement shows three of a creator, if there are others
    (relaxed,) = [d for d in response.degradations if d.kind == degradation_pb2.DEGRADATION_KIND_RULE_RELAXED]
    assert relaxed.component == "cap:creator"
    assert relaxed.message


def test_the_same_request_gets_the_same_answer(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    assert grpc_stub.Recommend(request_of("warm", "default")) == grpc_stub.Recommend(request_of("warm", "default"))


def test_a_retry_is_the_same_decision_and_another_request_another_one(
    grpc_stub: Stub, request_of: Callable[..., Request]
) -> None:
    first, retry, other = request_of("warm"), request_of("warm", max_results=5), request_of("warm")
    other.context.request_id = "another"
    decisions = [grpc_stub.Recommend(request).decision_id for request in (first, retry, other)]
    assert decisions[0] == decisions[1] != decisions[2]


def test_requests_without_an_id_get_ids_of_their_own(grpc_stub: Stub) -> None:
    answers = [grpc_stub.Recommend(Request()) for _ in range(3)]
    assert len({answer.request_id for answer in answers}) == 3
    assert len({answer.decision_id for answer in answers}) == 3
    again = Request(context={"request_id": answers[0].request_id})
    assert grpc_stub.Recommend(again).decision_id == answers[0].decision_id


@pytest.mark.parametrize("who", ["warm", "nobody"])
def test_the_columns_asked_for_are_those_of_the_catalogue(
    grpc_stub: Stub, request_of: Callable[..., Request], bundle: Bundle, who: str
) -> None:
    catalog = bundle.catalog
    for item in grpc_stub.Recommend(request_of(who, return_attributes=COLUMNS)).items:
        row = catalog.row_of[item.item_id]
        got = {attribute.name: attribute for attribute in item.attributes}
        assert got["title"].string_value == catalog.titles[row]
        assert got["item_id"].string_value == item.item_id
        assert got["price"].number_value == catalog.numbers["price"][row]
        assert got["created_at"].number_value == catalog.numbers["created_at"][row]
        assert got["creator"].string_value == catalog.codes["creator"].values(row)[0]
    assert not any(item.attributes for item in grpc_stub.Recommend(request_of(who)).items)


@pytest.mark.parametrize("who", ["warm", "few", "sent profile", "unknown"])
@pytest.mark.parametrize("max_results", [0, 500])
def test_a_filter_never_makes_the_list_short_while_matching_items_exist(
    grpc_stub: Stub,
    request_of: Callable[..., Request],
    seen_by: Callable[[str], set[str]],
    bundle: Bundle,
    who: str,
    max_results: int,
) -> None:
    request = request_of(who, max_results=max_results, filter={"in_range": {"column": "price", "max": 9}})
    response = grpc_stub.Recommend(request)
    assert_valid_slate(response, request)
    catalog = bundle.catalog
    cheap = {item_id for item_id, price in zip(catalog.item_ids, catalog.numbers["price"], strict=True) if price <= 9}
    eligible = cheap - seen_by(request.context.user_id)
    assert set(ids(response)) <= eligible
    assert len(response.items) == min(max_results or 20, len(eligible))


def test_strict_does_not_fill_up(grpc_stub: Stub, request_of: Callable[..., Request], bundle: Bundle) -> None:
    # Items without events: the popularity source never finds them, the towers do.
    cold = [i for i, n in zip(bundle.catalog.item_ids, bundle.catalog.event_counts, strict=True) if n == 0]
    only = {"in_set": {"column": "item_id", "values": {"values": cold}}}
    strict = grpc_stub.Recommend(request_of("warm", filter=only, fill_policy=filter_pb2.FILL_POLICY_STRICT))
    filled = grpc_stub.Recommend(request_of("warm", filter=only, fill_policy=filter_pb2.FILL_POLICY_BACKFILL))
    assert set(ids(strict)) <= set(ids(filled)) <= set(cold)
    assert len(filled.items) == min(20, len(cold))
    assert not any(source.source == "backfill" for item in strict.items for source in item.sources)


def test_an_empty_list_says_why(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    request = request_of("warm", filter={"in_range": {"column": "price", "max": -1}})
    response = grpc_stub.Recommend(request)
    assert_valid_slate(response, request)
    assert not response.items
    assert response.empty_reason


def test_the_request_says_what_to_do_with_seen_items_or_else_the_placement(
    grpc_stub: Stub, request_of: Callable[..., Request], seen_by: Callable[[str], set[str]]
) -> None:
    def shown(placement: str, **seen: Any) -> set[str]:
        return set(ids(grpc_stub.Recommend(request_of("warm", placement, max_results=500, **seen)))) & seen_by("warm")

    exclude = {"seen_policy": {"interacted": filter_pb2.SEEN_MODE_EXCLUDE}}
    allow = {"seen_policy": {"interacted": filter_pb2.SEEN_MODE_ALLOW}}
    discount = {"seen_policy": {"interacted": filter_pb2.SEEN_MODE_DISCOUNT}}
    everything = seen_by("warm")
    assert shown("plain") == shown("seen_too", **exclude) == set()
    assert shown("seen_too") == shown("plain", **allow) == shown("plain", **discount) == everything


def test_discounted_items_stand_lower_than_allowed_ones(
    grpc_stub: Stub, request_of: Callable[..., Request], seen_by: Callable[[str], set[str]]
) -> None:
    def places(mode: Any) -> list[int]:
        response = grpc_stub.Recommend(request_of("warm", max_results=500, seen_policy={"interacted": mode}))
        return [item.position for item in response.items if item.item_id in seen_by("warm")]

    assert sum(places(filter_pb2.SEEN_MODE_DISCOUNT)) > sum(places(filter_pb2.SEEN_MODE_ALLOW))


def test_what_the_user_typed_brings_matching_items(
    grpc_stub: Stub, request_of: Callable[..., Request], bundle: Bundle
) -> None:
    word = bundle.catalog.titles[-1].split()[0]
    request = request_of("unknown")
    request.context.query_text = word
    response = grpc_stub.Recommend(request)
    found = {item.item_id for item in response.items if "search" in {source.source for source in item.sources}}
    assert found
    titles = {bundle.catalog.titles[bundle.catalog.row_of[item_id]].casefold() for item_id in found}
    assert all(word.casefold() in title for title in titles)


def test_a_batch_equals_single_calls(grpc_stub: Stub, request_of: Callable[..., Request]) -> None:
    requests = [request_of(who, "default", return_attributes=["title"]) for who in CONTEXTS]
    batch = grpc_stub.BatchRecommend(ranking_pb2.BatchRecommendRequest(requests=requests))
    assert [result.response for result in batch.results] == [grpc_stub.Recommend(request) for request in requests]


def test_what_is_wrong_with_one_request_of_a_batch_leaves_the_others_alone(
    grpc_stub: Stub, request_of: Callable[..., Request], refused: Callable[..., Any]
) -> None:
    wrong = [
        request_of("few", max_results=-1),
        request_of("few", "nowhere"),
        request_of("few", return_attributes=["colour"]),
    ]
    good = [request_of("warm"), request_of("nobody")]
    requests = [wrong[0], good[0], wrong[1], good[1], wrong[2]]
    results = grpc_stub.BatchRecommend(ranking_pb2.BatchRecommendRequest(requests=requests)).results
    assert [result.response for result in results[1::2]] == [grpc_stub.Recommend(request) for request in good]
    for result, request in zip(results[0::2], wrong, strict=True):
        single = refused(grpc_stub.Recommend, request)
        assert (result.error.code, result.error.message) == (single.code.value[0], single.message)
        assert {v.field: v.description for v in result.error.field_violations} == single.violations


@pytest.mark.parametrize("n", [0, 65])
def test_a_batch_of_none_or_too_many_is_rejected(grpc_stub: Stub, refused: Callable[..., Any], n: int) -> None:
    got = refused(grpc_stub.BatchRecommend, ranking_pb2.BatchRecommendRequest(requests=[Request()] * n))
    assert got.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(got.violations) == {"requests"}


def test_a_batch_whose_answers_fit_no_message_is_refused_and_told_how_many_would(
    grpc_stub: Stub, request_of: Callable[..., Request], refused: Callable[..., Any], bundle: Bundle
) -> None:
    """The caller's own gRPC would only say RESOURCE_EXHAUSTED, as an overloaded service does."""
    wide = request_of("warm", max_results=300, explain=True, return_attributes=[*bundle.catalog.columns][:16])
    got = refused(grpc_stub.BatchRecommend, ranking_pb2.BatchRecommendRequest(requests=[wide] * 64))
    assert got.code is grpc.StatusCode.INVALID_ARGUMENT
    found = re.search(r"send at most (\d+) of them at once", got.violations["requests"])
    assert found, got
    fitting = ranking_pb2.BatchRecommendRequest(requests=[wide] * int(found[1]))
    assert len(grpc_stub.BatchRecommend(fitting).results) == int(found[1])


def test_a_deadline_that_has_passed_is_said_as_such(
    grpc_stub: Stub, request_of: Callable[..., Request], refused: Callable[..., Any]
) -> None:
    long_work = ranking_pb2.BatchRecommendRequest(requests=[request_of("warm")] * 64)
    assert refused(grpc_stub.BatchRecommend, long_work, timeout=0.01).code is grpc.StatusCode.DEADLINE_EXCEEDED


SOME = [f"i{i:03}" for i in range(1, 61)]


@pytest.fixture
def rank_of(now_s: int) -> Callable[..., ranking_pb2.RankRequest]:
    """rank_of(user, **fields): candidates are SOME unless given."""

    def make(user: str = "warm", **fields: Any) -> ranking_pb2.RankRequest:
        context = {"request_id": "r", "event_time": {"seconds": now_s}, "placement": "plain", "user_id": user}
        return ranking_pb2.RankRequest(context=context, **({"candidates": {"item_ids": SOME}} | fields))

    return make


@pytest.mark.parametrize("user", ["warm", "few", "profile", "nobody knows"])
def test_rank_returns_the_candidates_in_the_best_order(
    grpc_stub: Stub, rank_of: Callable[..., ranking_pb2.RankRequest], user: str
) -> None:
    request = rank_of(user, return_attributes=["title"])
    request.context.experiments.add(experiment="button", variant="green")
    response = grpc_stub.Rank(request)
    assert sorted(ids(response)) == SOME  # seen ones too: the caller chose them
    assert [item.position for item in response.items] == list(range(1, 61))
    scores = [item.score for item in response.items]
    assert scores == sorted(scores, reverse=True)
    assert all(math.isfinite(score) for score in scores)
    assert response.bundle_id == "newer"
    assert response.request_id == "r"
    assert response.decision_id
    assert response.experiments == request.context.experiments
    assert not response.unknown_item_ids
    assert not response.empty_reason
    assert not response.degradations


def test_rank_does_not_care_for_the_order_of_candidates(
    grpc_stub: Stub, rank_of: Callable[..., ranking_pb2.RankRequest]
) -> None:
    shuffled = random.Random(3).sample(SOME, len(SOME))
    assert grpc_stub.Rank(rank_of(candidates={"item_ids": shuffled})) == grpc_stub.Rank(rank_of())


def test_rank_takes_rows_as_well_as_ids(
    grpc_stub: Stub, rank_of: Callable[..., ranking_pb2.RankRequest], bundle: Bundle
) -> None:
    rows = [bundle.catalog.row_of[item_id] for item_id in SOME]
    for bundle_id in ("newer", "older"):
        by_row = grpc_stub.Rank(rank_of(candidates={"rows": rows, "bundle_id": bundle_id}))
        assert by_row.bundle_id == bundle_id
        assert by_row.items == grpc_stub.Rank(rank_of()).items
    named = grpc_stub.Rank(rank_of(candidates={"item_ids": SOME, "bundle_id": "ignored with ids"}))
    assert named == grpc_stub.Rank(rank_of())


def test_rank_of_rows_of_a_bundle_that_is_not_loaded_is_a_mismatch(
    grpc_stub: Stub, rank_of: Callable[..., ranking_pb2.RankRequest], refused: Callable[..., Any]
) -> None:
    got = refused(grpc_stub.Rank, rank_of(candidates={"rows": [1, 2], "bundle_id": "lost"}))
    assert got.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (got.reason, got.domain) == ("BUNDLE_MISMATCH", "tandem")


def test_rank_reports_candidates_that_nobody_knows_in_the_order_given(
    grpc_stub: Stub, rank_of: Callable[..., ranking_pb2.RankRequest]
) -> None:
    mixed = ["zebra", *SOME[:3], "aardvark", SOME[5]]
    response = grpc_stub.Rank(rank_of(candidates={"item_ids": mixed}))
    assert sorted(ids(response)) == [*SOME[:3], SOME[5]]
    assert list(response.unknown_item_ids) == ["zebra", "aardvark"]
    nobody = grpc_stub.Rank(rank_of(candidates={"item_ids": ["zebra"]}))
    assert not nobody.items
    assert nobody.empty_reason


@pytest.mark.parametrize(("max_results", "n"), [(0, 60), (1, 1), (7, 7), (1000, 60)])
def test_rank_returns_as_many_as_were_asked_for(
    grpc_stub: Stub, rank_of: Callable[..., ranking_pb2.RankRequest], max_results: int, n: int
) -> None:
    assert ids(grpc_stub.Rank(rank_of(max_results=max_results))) == ids(grpc_stub.Rank(rank_of()))[:n]


def test_rank_drops_what_the_filter_and_the_seen_policy_take_out(
    grpc_stub: Stub,
    rank_of: Callable[..., ranking_pb2.RankRequest],
    seen_by: Callable[[str], set[str]],
    bundle: Bundle,
) -> None:
    seen = seen_by("warm")
    all_ids = list(bundle.catalog.item_ids)
    request = rank_of(
        candidates={"item_ids": all_ids},
        filter={"in_range": {"column": "price", "max": 12}},
        seen_policy={"interacted": filter_pb2.SEEN_MODE_EXCLUDE},
    )
    prices = dict(zip(all_ids, bundle.catalog.numbers["price"], strict=True))
    assert set(ids(grpc_stub.Rank(request))) == {i for i in all_ids if prices[i] <= 12} - seen


def test_rank_passes_on_what_the_sources_said(grpc_stub: Stub, rank_of: Callable[..., ranking_pb2.RankRequest]) -> None:
    columns = [{"source": "als", "ranks": [2, 0, 1], "scores": [0.5, 0, 0.75]}, {"source": "mine", "ranks": [1, 2, 3]}]
    response = grpc_stub.Rank(
        rank_of(candidates={"item_ids": SOME[:3], "scores": [3, 2, 1], "source_columns": columns})
    )
    said = {item.item_id: {s.source: (s.rank, s.score) for s in item.sources} for item in response.items}
    assert said == {
        SOME[0]: {"als": (2, 0.5), "mine": (1, 0)},
        SOME[1]: {"mine": (2, 0)},
        SOME[2]: {"als": (1, 0.75), "mine": (3, 0)},
    }


def test_the_serving_state_names_placements_and_the_way_to_retrieval(
    grpc_stub: Stub, policies: dict[str, Any], until: Callable[..., Any]
) -> None:
    grpc_stub.Recommend(Request())
    state = until(
        lambda: (
            (s := grpc_stub.GetServingState(ranking_pb2.GetServingStateRequest())).retrieval_connection == "ready" and s
        )
    )
    assert list(state.placements) == sorted(policies)
    assert state.state.serving
    assert (state.state.bundle_id, state.state.previous_bundle_id) == ("newer", "older")
    assert state.state.catalogue_size == 300


def test_what_was_shown_lately_is_left_out_or_lowered_or_as_before(
    grpc_stub: Stub, request_of: Callable[..., Request], now_s: int
) -> None:
    before = ids(grpc_stub.Recommend(request_of("warm", max_results=500)))
    lately, long_ago = before[0], before[1]

    def asked(**policy: Any) -> list[str]:
        request = request_of("warm", max_results=500, seen_policy=policy)
        for item_id, age_s in ((lately, 60), (long_ago, 7200)):
            shown = request.context.recent_events.add(item_id=item_id, event_type="impression")
            shown.timestamp.FromSeconds(now_s - age_s)
        response = grpc_stub.Recommend(request)
        assert_valid_slate(response, request)
        return ids(response)

    assert asked() == before
    assert asked(served_within={"seconds": 3600}, served_mode=filter_pb2.SEEN_MODE_ALLOW) == before
    excluded = asked(served_within={"seconds": 3600}, served_mode=filter_pb2.SEEN_MODE_EXCLUDE)
    assert set(before) - set(excluded) == {lately}
    for lowered in (
        asked(served_within={"seconds": 3600}),
        asked(served_within={"seconds": 3600}, served_mode=filter_pb2.SEEN_MODE_DISCOUNT),
    ):
        assert lowered.index(lately) > lowered.index(long_ago)
        assert set(lowered) == set(before)
