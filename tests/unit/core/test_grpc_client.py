"""Calls over a real socket: retried, hedged, and within their budgets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from tandem_core.grpc_client import ATTEMPTS, Budget, ReadCaller, open_channel, several_addresses


class Scripted(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped in the stubs
    """Does for its n-th call what the test says: a status, or seconds to wait."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = threading.Event()
        self.script: Callable[[int], grpc.StatusCode | float] = lambda n: 0.0
        self._lock = threading.Lock()

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer) if details.method == "/t/read" else None

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            n, self.calls = self.calls, self.calls + 1
        do = self.script(n)
        if isinstance(do, grpc.StatusCode):
            context.abort(do, "as the test says")
        until = time.monotonic() + do
        while time.monotonic() < until:
            if not context.is_active():
                self.cancelled.set()
                break
            time.sleep(0.005)
        return b"answer %d" % n


@pytest.fixture
def server() -> Iterator[tuple[Scripted, Any]]:
    scripted = Scripted()
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[scripted])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield scripted, channel.unary_unary("/t/read")
    server.stop(0).wait()


def warm(caller: ReadCaller, method: Any) -> None:
    """Make as many calls as the p95 needs."""
    for _ in range(60):
        caller.call(method, b"", 30)


def test_unavailable_is_tried_again_and_nothing_else_is(server: tuple[Scripted, Any]) -> None:
    scripted, method = server
    caller = ReadCaller()
    scripted.script = lambda n: grpc.StatusCode.UNAVAILABLE if n < ATTEMPTS - 1 else 0.0
    assert caller.call(method, b"", 30) == b"answer 2"
    assert (scripted.calls, caller.counters.retries) == (ATTEMPTS, ATTEMPTS - 1)
    for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT):
        scripted.script, before = (lambda n, code=code: code), scripted.calls
        with pytest.raises(grpc.RpcError) as caught:
            caller.call(method, b"", 30)
        assert caught.value.code() is code
        assert scripted.calls == before + 1


def test_retries_end_when_their_budget_is_spent(server: tuple[Scripted, Any]) -> None:
    scripted, method = server
    caller = ReadCaller()
    scripted.script = lambda n: grpc.StatusCode.UNAVAILABLE
    for _ in range(60):
        with pytest.raises(grpc.RpcError):
            caller.call(method, b"", 30)
    assert caller.counters.retries <= 10 + 0.1 * 60
    assert scripted.calls == 60 + caller.counters.retries


def test_no_retry_begins_that_the_deadline_would_cut(server: tuple[Scripted, Any]) -> None:
    scripted, method = server
    scripted.script = lambda n: grpc.StatusCode.UNAVAILABLE
    caller = ReadCaller()
    with pytest.raises(grpc.RpcError):
        caller.call(method, b"", 0.01)
    assert caller.counters.retries == 0


def test_a_late_call_is_hedged_the_first_answer_counts_and_the_loser_is_cancelled(
    server: tuple[Scripted, Any],
) -> None:
    scripted, method = server
    caller = ReadCaller(hedges=True)
    warm(caller, method)
    while caller.counters.hedges > 1 + 0.05 * caller.counters.calls:
        caller.call(method, b"", 30)  # a busy machine may have been late, and used the hedges up
    late = scripted.calls
    scripted.script = lambda n: 60.0 if n == late else 0.0
    assert caller.call(method, b"", 60) == b"answer %d" % (late + 1)
    assert caller.counters.hedges_won >= 1
    assert scripted.cancelled.wait(30)


def test_hedges_are_at_most_a_twentieth_of_the_calls(server: tuple[Scripted, Any]) -> None:
    scripted, method = server
    caller = ReadCaller(hedges=True)
    warm(caller, method)
    scripted.script = lambda n: 0.02  # all are later than the p95 of before
    for _ in range(100):
        caller.call(method, b"", 30)
    assert caller.counters.hedges <= 3 + 0.05 * caller.counters.calls


def test_an_overloaded_service_is_not_hedged(server: tuple[Scripted, Any]) -> None:
    scripted, method = server
    caller = ReadCaller(hedges=True, quiet_s=3600)
    warm(caller, method)
    scripted.script = lambda n: grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError):
        caller.call(method, b"", 30)
    hedged = caller.counters.hedges
    scripted.script = lambda n: 0.2
    for _ in range(3):
        caller.call(method, b"", 30)
    assert caller.counters.hedges == hedged


def test_a_refused_hedge_ends_hedging_too_though_the_call_itself_is_answered(server: tuple[Scripted, Any]) -> None:
    scripted, method = server
    caller = ReadCaller(hedges=True, quiet_s=3600)
    warm(caller, method)
    while caller.counters.hedges > 1 + 0.05 * caller.counters.calls:
        caller.call(method, b"", 30)  # a busy machine may have been late, and used the hedges up
    late = scripted.calls
    scripted.script = lambda n: 0.5 if n == late else grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caller.call(method, b"", 60) == b"answer %d" % late
    hedged = caller.counters.hedges
    scripted.script = lambda n: 0.2
    for _ in range(3):
        caller.call(method, b"", 30)
    assert caller.counters.hedges == hedged


def test_a_budget_holds_so_much_and_no_more() -> None:
    budget = Budget(0.5, 2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()


@pytest.mark.parametrize(
    ("target", "several"),
    [
        ("ipv4:127.0.0.1:1", False),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("dns:///retrieval:50051", True),
        ("127.0.0.1:1", False),
    ],
)
def test_only_targets_with_several_addresses_are_hedged(target: str, several: bool) -> None:
    assert several_addresses(target) is several


def test_of_two_addresses_the_dead_one_costs_no_call() -> None:
    scripted = Scripted()
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[scripted])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with open_channel(f"ipv4:127.0.0.1:{port},127.0.0.1:1", "t") as channel:
        method = channel.unary_unary("/t/read")
        caller = ReadCaller()
        method(b"", timeout=30, wait_for_ready=True)
        for _ in range(20):
            caller.call(method, b"", 30)
    server.stop(0).wait()
