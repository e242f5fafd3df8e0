"""The client side of `tandem bench serve`, against a real server that answers as it is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.common.v1 import degradation_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_cli.serving_bench.load import closed_loop, degraded, open_loop
from tandem_cli.serving_bench.measure import _h2load
from tandem_cli.serving_bench.processes import channel_to, stolen

REQUEST = ranking_pb2.RecommendRequest(max_results=3).SerializeToString()
GOOD = ranking_pb2.RecommendResponse(items=[ranking_pb2.RankedItem(item_id="a" * 100)])
Serve = Callable[[Callable[[int], Any]], str]


class Told(ranking_pb2_grpc.RankingServiceServicer):
    def __init__(self, answer: Callable[[int], Any]) -> None:
        self.answer, self.calls = answer, 0

    def Recommend(self, request: Any, context: Any) -> Any:
        self.calls += 1
        found = self.answer(self.calls)
        if isinstance(found, grpc.StatusCode):
            context.abort(found, "told so")
        return found


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(answer) returns an address; answer: call number -> a response or a status."""
    servers = []

    def start(answer: Callable[[int], Any]) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(Told(answer), server)
        servers.append(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0)


def test_the_open_loop_counts_every_call_and_what_went_wrong(serve: Serve) -> None:
    with channel_to(serve(lambda n: grpc.StatusCode.RESOURCE_EXHAUSTED if n % 4 == 0 else GOOD)) as channel:
        found = open_loop(channel, [REQUEST], rate=400, seconds=0.5, seed=1)
    assert len(found["latencies_ms"]) == 200
    assert found["wrong"] == {"RESOURCE_EXHAUSTED": 50}
    assert min(found["latencies_ms"]) > 0


def test_the_closed_loop_tells_answers_from_errors(serve: Serve) -> None:
    with channel_to(serve(lambda n: GOOD if n % 2 else grpc.StatusCode.UNAVAILABLE)) as channel:
        found = closed_loop(channel, [REQUEST], threads=2, seconds=0.3)
    assert found["calls"] > 0
    assert abs(found["calls"] - found["wrong"]) <= 2


def test_an_answer_that_leaves_something_out_is_not_what_was_to_be_measured() -> None:
    late = ranking_pb2.RecommendResponse(items=GOOD.items, degradations=[degradation_pb2.Degradation(component="als")])
    answers = [GOOD, late, ranking_pb2.RecommendResponse()]
    assert degraded([answer.SerializeToString() for answer in answers]) == 2


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load (nghttp2-client) is not installed")
def test_h2load_does_not_take_errors_for_answers(serve: Serve, tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    good = _h2load(serve(lambda n: GOOD), REQUEST, 0.5, cores, tmp_path)
    assert good["calls"] > 0
    assert good["wrong"] == 0
    # The first call is the one whose answer is weighed; half of the others fail with HTTP 200.
    bad = _h2load(serve(lambda n: grpc.StatusCode.INTERNAL if n % 2 == 0 else GOOD), REQUEST, 0.5, cores, tmp_path)
    assert bad["wrong"] == pytest.approx(bad["calls"] / 2, rel=0.2)


def test_stolen_time_is_part_of_all_time() -> None:
    taken, everything = stolen()
    assert 0 <= taken <= everything
