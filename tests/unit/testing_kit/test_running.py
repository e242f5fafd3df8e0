"""The server around the stubs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_testing import RunningServer, StubRanking, StubRetrieval, serve

NAMES = ("", "tandem.retrieval.v1.RetrievalService", "tandem.ranking.v1.RankingService")


def health_of(running: RunningServer) -> set[int]:
    stub = health_pb2_grpc.HealthStub(running.channel)
    return {stub.Check(health_pb2.HealthCheckRequest(service=name)).status for name in NAMES}


def test_one_server_serves_both_stubs_and_stops_at_exit() -> None:
    with serve(StubRetrieval(), StubRanking()) as running:
        assert running.address.startswith("127.0.0.1:")
        assert retrieval_pb2_grpc.RetrievalServiceStub(running.channel).Retrieve(retrieval_pb2.RetrieveRequest())
        assert ranking_pb2_grpc.RankingServiceStub(running.channel).Recommend(ranking_pb2.RecommendRequest())
        closed = ranking_pb2_grpc.RankingServiceStub(running.channel)
    with pytest.raises(ValueError, match="closed"):
        closed.Recommend(ranking_pb2.RecommendRequest())
    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as caught:
        ranking_pb2_grpc.RankingServiceStub(channel).Recommend(ranking_pb2.RecommendRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_health_follows_what_the_test_says() -> None:
    with serve(StubRetrieval(), StubRanking()) as running:
        assert health_of(running) == {health_pb2.HealthCheckResponse.SERVING}
        running.set_health(False)
        assert health_of(running) == {health_pb2.HealthCheckResponse.NOT_SERVING}
        running.set_health(True)
        assert health_of(running) == {health_pb2.HealthCheckResponse.SERVING}


def test_watchers_of_health_hear_of_changes() -> None:
    with serve(StubRetrieval()) as running:
        request = health_pb2.HealthCheckRequest(service=NAMES[1])
        watched = health_pb2_grpc.HealthStub(running.channel).Watch(request, timeout=10)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        running.set_health(False)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_watchers_of_health_that_come_and_go_at_the_same_time_stop_nobody(
    watch_health_and_leave: Callable[[str], list[grpc.RpcError]],
) -> None:
    with serve(StubRetrieval(), StubRanking()) as running:
        assert watch_health_and_leave(running.address) == []
        assert health_of(running) == {health_pb2.HealthCheckResponse.SERVING}


def test_a_server_with_a_waiting_call_stops_at_once() -> None:
    stub = StubRetrieval()
    stub.delay(600)
    began = time.monotonic()
    with serve(stub) as running:
        waiting = retrieval_pb2_grpc.RetrievalServiceStub(running.channel).Retrieve.future(
            retrieval_pb2.RetrieveRequest()
        )
        while not stub.requests and time.monotonic() - began < 5:
            time.sleep(0.01)
    assert waiting.exception() is not None
    assert time.monotonic() - began < 10


def test_what_is_no_servicer_is_named() -> None:
    with pytest.raises(TypeError, match="str is no servicer"), serve("hello"):
        pass


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_testing_kit_needs_no_model_and_no_numpy() -> None:
    loaded = run_python(
        "import sys, tandem_testing\n"
        "for name in tandem_testing.__all__: getattr(tandem_testing, name)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    assert "'tandem_testing'" in loaded
    for name in ("numpy", "tandem_core", "tandem_retrieval", "onnxruntime", "pydantic", "pytest"):
        assert f"'{name}'" not in loaded


def test_the_plugin_loads_on_the_base_install_and_the_missing_extra_is_named() -> None:
    """pytest loads the plugin of every installed package: it must not fail where nobody uses the stubs."""
    said = run_python(
        "import sys\n"
        "sys.modules['grpc_health'] = None\n"  # as if it were not installed
        "import tandem_testing.plugin, tandem_testing\n"
        "try: tandem_testing.serve\n"
        "except ImportError as error: print(error)"
    )
    assert "tandem-recommender[testing]" in said
