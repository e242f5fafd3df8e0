"""StubRanking through a real socket."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tandem.common.v1 import candidates_pb2, context_pb2, degradation_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_testing import StubRanking, assert_valid_slate
from tandem_testing.plugin import StubServer

Served = StubServer[StubRanking]


def request_for(user_id: str = "ann", **fields: object) -> ranking_pb2.RecommendRequest:
    return ranking_pb2.RecommendRequest(
        context=context_pb2.RequestContext(user_id=user_id),
        **fields,  # type: ignore[arg-type]
    )


def client(served: Served) -> ranking_pb2_grpc.RankingServiceStub:
    return ranking_pb2_grpc.RankingServiceStub(served.channel)


def refused(call: Any, request: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return caught.value


def item_ids(response: ranking_pb2.RecommendResponse | ranking_pb2.RankResponse) -> list[str]:
    return [item.item_id for item in response.items]


@pytest.mark.parametrize(("asked", "given"), [(0, 20), (1, 1), (500, 500)])
def test_max_results_is_kept_and_0_means_20(tandem_ranking_stub: Served, asked: int, given: int) -> None:
    request = request_for(max_results=asked)
    response = client(tandem_ranking_stub).Recommend(request)
    assert len(response.items) == given
    assert_valid_slate(response, request)


def test_the_same_request_gets_the_same_answer_and_users_and_placements_differ(tandem_ranking_stub: Served) -> None:
    recommend = client(tandem_ranking_stub).Recommend
    first = recommend(request_for())
    assert first == recommend(request_for())
    assert item_ids(first) != item_ids(recommend(request_for("bob")))
    elsewhere = request_for()
    elsewhere.context.placement = "basket"
    assert item_ids(first) != item_ids(recommend(elsewhere))


def test_the_decision_is_named_by_the_request_id(tandem_ranking_stub: Served) -> None:
    requests = [request_for(), request_for(), request_for()]
    for request, request_id in zip(requests, ["r-1", "r-1", "r-2"], strict=True):
        request.context.request_id = request_id
    one, same, other = (client(tandem_ranking_stub).Recommend(request) for request in requests)
    assert one.request_id == "r-1"
    assert one.decision_id == same.decision_id != other.decision_id
    assert item_ids(one) == item_ids(other)


def test_everything_asked_for_is_in_the_slate(tandem_ranking_stub: Served) -> None:
    request = request_for(return_attributes=["price", "title", "item_id"])
    first, second = item_ids(client(tandem_ranking_stub).Recommend(request))[:2]
    request.exclude_item_ids.append(first)
    request.context.recent_events.add(item_id=second)
    request.seen_policy.interacted = filter_pb2.SEEN_MODE_EXCLUDE
    request.context.experiments.add(experiment="colour", variant="blue")
    response = client(tandem_ranking_stub).Recommend(request)
    assert_valid_slate(response, request)
    assert {first, second}.isdisjoint(item_ids(response))
    top = response.items[0]
    assert [attribute.name for attribute in top.attributes] == ["title", "item_id"]
    assert top.attributes[1].string_value == top.item_id
    assert response.experiments[0].variant == "blue"
    because = [reason.item_id for item in response.items for reason in item.reasons if reason.kind == 1]
    assert set(because) == {second}


def test_a_batch_answers_as_single_calls_do(tandem_ranking_stub: Served) -> None:
    requests = [request_for("ann"), request_for("bob", max_results=501)]
    results = client(tandem_ranking_stub).BatchRecommend(ranking_pb2.BatchRecommendRequest(requests=requests)).results
    assert results[0].response == client(tandem_ranking_stub).Recommend(requests[0])
    assert results[1].error.field_violations[0].field == "max_results"
    assert list(tandem_ranking_stub.stub.requests) == [*requests, requests[0]]


def test_the_order_of_candidates_does_not_matter_to_rank(tandem_ranking_stub: Served) -> None:
    catalogue = tandem_ranking_stub.stub.catalogue
    given = ["martian", *catalogue[10:20]]
    forward, backward = (
        ranking_pb2.RankRequest(candidates=candidates_pb2.CandidateList(item_ids=ids), max_results=5)
        for ids in (given, given[::-1])
    )
    by_row = ranking_pb2.RankRequest(
        candidates=candidates_pb2.CandidateList(bundle_id="stub-bundle", rows=range(10, 20)), max_results=5
    )
    answer = client(tandem_ranking_stub).Rank(forward)
    assert [item.position for item in answer.items] == [1, 2, 3, 4, 5]
    assert set(item_ids(answer)) < set(given)
    assert list(answer.unknown_item_ids) == ["martian"]
    assert item_ids(answer) == item_ids(client(tandem_ranking_stub).Rank(backward))
    assert item_ids(answer) == item_ids(client(tandem_ranking_stub).Rank(by_row))


def test_what_the_sources_said_goes_on_into_the_ranking(tandem_ranking_stub: Served) -> None:
    given = candidates_pb2.CandidateList(item_ids=tandem_ranking_stub.stub.catalogue[:2])
    given.source_columns.add(source="als", ranks=[0, 3], scores=[0, 0.5])
    answer = client(tandem_ranking_stub).Rank(ranking_pb2.RankRequest(candidates=given))
    said = {item.item_id: [(s.source, s.rank, s.score) for s in item.sources] for item in answer.items}
    assert said == {given.item_ids[0]: [], given.item_ids[1]: [("als", 3, 0.5)]}


@pytest.mark.parametrize(
    ("candidates", "field"),
    [
        ({}, "candidates"),
        ({"item_ids": ["a"], "rows": [1], "bundle_id": "stub-bundle"}, "candidates"),
        ({"rows": [1]}, "candidates.bundle_id"),
        ({"rows": [1000], "bundle_id": "stub-bundle"}, "candidates.rows"),
        ({"item_ids": ["a", "a"]}, "candidates"),
        ({"item_ids": ["a"], "scores": [1, 2]}, "candidates.scores"),
        ({"item_ids": [str(i) for i in range(1001)]}, "candidates"),
    ],
)
def test_bad_candidates_are_refused(tandem_ranking_stub: Served, candidates: dict[str, object], field: str) -> None:
    request = ranking_pb2.RankRequest(candidates=candidates_pb2.CandidateList(**candidates))  # type: ignore[arg-type]
    error = refused(client(tandem_ranking_stub).Rank, request)
    bad = error_details_pb2.BadRequest()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert rpc_status.from_call(error).details[0].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == [field]


def test_rows_of_another_bundle_are_a_mismatch(tandem_ranking_stub: Served) -> None:
    request = ranking_pb2.RankRequest(candidates=candidates_pb2.CandidateList(bundle_id="b-9", rows=[1]))
    error = refused(client(tandem_ranking_stub).Rank, request)
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert info.reason == "BUNDLE_MISMATCH"


def test_faults_hold_for_both_calls(tandem_ranking_stub: Served) -> None:
    rank = ranking_pb2.RankRequest(candidates=candidates_pb2.CandidateList(item_ids=["x"]))
    tandem_ranking_stub.stub.fail(grpc.StatusCode.UNAVAILABLE, times=2)
    calls: list[tuple[Any, Any]] = [
        (client(tandem_ranking_stub).Recommend, request_for()),
        (client(tandem_ranking_stub).Rank, rank),
    ]
    for call, request in calls:
        assert refused(call, request).code() is grpc.StatusCode.UNAVAILABLE

    popular = degradation_pb2.Degradation(kind=degradation_pb2.DEGRADATION_KIND_RETRIEVAL_UNAVAILABLE)
    tandem_ranking_stub.stub.degrade(popular)
    assert list(client(tandem_ranking_stub).Recommend(request_for()).degradations) == [popular]
    assert list(client(tandem_ranking_stub).Rank(rank).degradations) == [popular]

    tandem_ranking_stub.stub.empty()
    answer = client(tandem_ranking_stub).Recommend(request_for())
    assert_valid_slate(answer, request_for())
    assert not answer.items


def test_a_given_answer_is_used_for_the_call_that_returns_its_type(tandem_ranking_stub: Served) -> None:
    tandem_ranking_stub.stub.answer_with(ranking_pb2.RecommendResponse(bundle_id="mine"))
    assert client(tandem_ranking_stub).Recommend(request_for()).bundle_id == "mine"
    rank = ranking_pb2.RankRequest(candidates=candidates_pb2.CandidateList(item_ids=["x"]))
    assert client(tandem_ranking_stub).Rank(rank).bundle_id == "stub-bundle"


def test_the_state_is_told(tandem_ranking_stub: Served) -> None:
    state = client(tandem_ranking_stub).GetServingState(ranking_pb2.GetServingStateRequest())
    assert state.state.bundle_id == "stub-bundle"
