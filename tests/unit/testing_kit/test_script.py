"""Scripts of several steps, faults of the connection, and health that flaps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from tandem.common.v1 import degradation_pb2
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_testing import Refusal, Script, Step, StubRanking, assert_valid_slate
from tandem_testing.plugin import StubServer

Served = StubServer[StubRanking]


def client(served: Served) -> ranking_pb2_grpc.RankingServiceStub:
    return ranking_pb2_grpc.RankingServiceStub(served.channel)


def code_of(served: Served) -> grpc.StatusCode:
    try:
        client(served).Recommend(ranking_pb2.RecommendRequest(), timeout=30)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def test_steps_are_played_one_after_another_and_then_the_answers_are_seeded(tandem_ranking_stub: Served) -> None:
    down = Refusal(grpc.StatusCode.UNAVAILABLE, "down")
    busy = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
    tandem_ranking_stub.stub.play(Step(Script(failure=down), 2), Step(Script(failure=busy), 1))
    assert [code_of(tandem_ranking_stub).name for _ in range(5)] == [
        "UNAVAILABLE",
        "UNAVAILABLE",
        "RESOURCE_EXHAUSTED",
        "OK",
        "OK",
    ]


def test_a_step_without_a_number_holds_until_reset(tandem_ranking_stub: Served) -> None:
    tandem_ranking_stub.stub.play(
        Step(Script(empty=True), 1), Step(Script(failure=Refusal(grpc.StatusCode.ABORTED, "")))
    )
    assert [code_of(tandem_ranking_stub).name for _ in range(4)] == ["OK", "ABORTED", "ABORTED", "ABORTED"]
    tandem_ranking_stub.stub.reset()
    assert code_of(tandem_ranking_stub) is grpc.StatusCode.OK


def test_each_request_of_a_batch_counts_as_one_of_a_step(tandem_ranking_stub: Served) -> None:
    tandem_ranking_stub.stub.play(Step(Script(failure=Refusal(grpc.StatusCode.UNAVAILABLE, "down")), 2))
    batch = ranking_pb2.BatchRecommendRequest(requests=[ranking_pb2.RecommendRequest() for _ in range(3)])
    results = client(tandem_ranking_stub).BatchRecommend(batch).results
    assert [result.HasField("error") for result in results] == [True, True, False]


def test_a_step_of_no_requests_is_refused() -> None:
    with pytest.raises(ValueError, match="0 requests"):
        Step(Script(), 0)


def test_a_failure_carries_the_details_it_was_given(tandem_ranking_stub: Served) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=3))
    tandem_ranking_stub.stub.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", details=[retry])
    with pytest.raises(grpc.RpcError) as caught:
        client(tandem_ranking_stub).Recommend(ranking_pb2.RecommendRequest())
    status = rpc_status.from_call(caught.value)
    assert status is not None
    found = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(found)
    assert found == retry


def test_a_bundle_mismatch_has_its_reason(tandem_ranking_stub: Served) -> None:
    tandem_ranking_stub.stub.mismatch(times=1)
    with pytest.raises(grpc.RpcError) as caught:
        client(tandem_ranking_stub).Recommend(ranking_pb2.RecommendRequest())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert b"BUNDLE_MISMATCH" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert code_of(tandem_ranking_stub) is grpc.StatusCode.OK


def test_late_sources_are_declared_and_the_items_stay(tandem_ranking_stub: Served) -> None:
    request = ranking_pb2.RecommendRequest()
    calm = client(tandem_ranking_stub).Recommend(request)
    tandem_ranking_stub.stub.late("als", "search")
    late = client(tandem_ranking_stub).Recommend(request)
    assert [(d.kind, d.component) for d in late.degradations] == [
        (degradation_pb2.DEGRADATION_KIND_SOURCE_LATE, "als"),
        (degradation_pb2.DEGRADATION_KIND_SOURCE_LATE, "search"),
    ]
    assert list(late.items) == list(calm.items)


def test_a_dropped_connection_fails_the_call_in_flight_and_the_server_can_come_back(
    tandem_ranking_stub: Served,
) -> None:
    tandem_ranking_stub.stub.delay(600)
    waiting = client(tandem_ranking_stub).Recommend.future(ranking_pb2.RecommendRequest(), timeout=60)
    deadline = time.monotonic() + 30
    while not tandem_ranking_stub.stub.requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    tandem_ranking_stub.server.drop()
    error = waiting.exception(timeout=30)
    assert isinstance(error, grpc.RpcError)
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # type: ignore[attr-defined]
    tandem_ranking_stub.stub.delay(0)
    tandem_ranking_stub.server.back()
    answer = client(tandem_ranking_stub).Recommend(ranking_pb2.RecommendRequest(), wait_for_ready=True, timeout=60)
    assert len(answer.items) == 20
    assert len(tandem_ranking_stub.stub.requests) == 2


def test_health_flaps_until_it_is_set(tandem_ranking_stub: Served) -> None:
    service = "tandem.ranking.v1.RankingService"
    tandem_ranking_stub.server.flap_health(0.02)
    watched = health_pb2_grpc.HealthStub(tandem_ranking_stub.channel).Watch(
        health_pb2.HealthCheckRequest(service=service), timeout=60
    )
    seen = [next(watched).status for _ in range(4)]
    assert len(set(seen)) == 2
    tandem_ranking_stub.server.set_health(True)
    answer = health_pb2_grpc.HealthStub(tandem_ranking_stub.channel).Check(
        health_pb2.HealthCheckRequest(service=service)
    )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(ValueError, match="period"):
        tandem_ranking_stub.server.flap_health(0)
    watched.cancel()


def test_the_fixtures_serve_asyncio_clients(tandem_aio_channel: Callable[[], grpc.aio.Channel]) -> None:
    async def ask() -> ranking_pb2.RecommendResponse:
        async with tandem_aio_channel() as channel:
            stub = ranking_pb2_grpc.RankingServiceStub(channel)
            answers = await asyncio.gather(*(stub.Recommend(ranking_pb2.RecommendRequest()) for _ in range(3)))
            assert answers[0] == answers[1] == answers[2]
            answer: ranking_pb2.RecommendResponse = answers[0]
            return answer

    assert_valid_slate(asyncio.run(ask()), ranking_pb2.RecommendRequest())


def test_one_channel_reaches_every_service(tandem_channel: grpc.Channel) -> None:
    state = ranking_pb2_grpc.RankingServiceStub(tandem_channel).GetServingState(ranking_pb2.GetServingStateRequest())
    written = events_pb2_grpc.EventServiceStub(tandem_channel).WriteEvents(
        events_pb2.WriteEventsRequest(events=[events_pb2.Event(user_id="u", item_id="i", event_type="click")])
    )
    assert state.state.serving
    assert written.results[0].outcome == events_pb2.EVENT_OUTCOME_STORED
