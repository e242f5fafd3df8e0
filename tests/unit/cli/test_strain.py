"""The client side of `tandem bench overload`, against a real server that answers as it is told."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from tandem_cli.serving_bench.strain import RECOMMEND, _closed_loop, _open_loop

Serve = Callable[[Callable[[int], grpc.StatusCode]], grpc.Channel]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(code_of) returns a channel; code_of: call number -> how it ends."""
    open_: list[Any] = []

    def start(code_of: Callable[[int], grpc.StatusCode]) -> grpc.Channel:
        numbers, lock = itertools.count(), threading.Lock()

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            with lock:
                code = code_of(next(numbers))
            if code is not grpc.StatusCode.OK:
                context.abort(code, "told so")
            return request

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(answer)

        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Handler()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)])
        open_.append((server, channel))
        return channel

    yield start
    for server, channel in open_:
        channel.close()
        server.stop(None).wait()


def test_refused_and_other_calls_are_told_apart_from_answers(serve: Serve) -> None:
    codes = [grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE]
    found = _open_loop([serve(lambda n: codes[n % 4])], [b"x"], rate=200, seconds=0.5)
    assert found["calls"] == 100
    assert found["refused"] == 0.25
    assert found["late"] == 0
    assert found["other"] == {"UNAVAILABLE": 25}
    assert 0 < found["p50"] <= found["p99"]
    assert 0 < found["per second"] <= 100


def test_a_closed_loop_makes_the_calls_it_was_given_in_turns(serve: Serve) -> None:
    call = serve(lambda _: grpc.StatusCode.OK).unary_unary(RECOMMEND)
    found = _closed_loop([(call, b"a"), (call, b"b")], 3, lambda number: number < 50)
    assert found["calls"] == 50
    assert found["other"] == {}
