"""A server whose event thread stands still is noticed, and one that works or waits is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from tandem_core.grpc_event_reader import EventReader


class Blocks(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Interceptors run in the event thread: this one holds it up until it is let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        if details.method == "/t/block":
            self.go_on.wait(60)
        return continuation(details)


class Echo(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


@pytest.fixture
def server() -> Iterator[tuple[Blocks, grpc.Channel]]:
    blocks = Blocks()
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Echo()], interceptors=[blocks])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        yield blocks, channel
        blocks.go_on.set()
    server.stop(None).wait()


def test_a_held_up_event_thread_is_stuck_until_it_goes_on(server: tuple[Blocks, grpc.Channel]) -> None:
    blocks, channel = server
    now = 0.0
    reader = EventReader(10, lambda: now)
    call = channel.unary_unary("/t/block").future(b"x", timeout=60)
    deadline = time.monotonic() + 60
    while reader._event is None and time.monotonic() < deadline:
        assert not reader.stuck()
        time.sleep(0.01)
    now = 9.0
    assert not reader.stuck()
    now = 11.0
    assert reader.stuck()
    blocks.go_on.set()
    assert call.result() == b"x"
    while reader.stuck() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not reader.stuck()


def test_a_server_that_answers_or_waits_is_never_stuck(server: tuple[Blocks, grpc.Channel]) -> None:
    _, channel = server
    now = 0.0
    reader = EventReader(10, lambda: now)
    call = channel.unary_unary("/t/echo")
    for _ in range(100):
        call(b"x", timeout=60)
        now += 5
        assert not reader.stuck()
