"""A full service: who is refused, what it is told, and who is not worked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from tandem_core.grpc_admission import STANDING_S, AdmissionInterceptor, WorkPool

MOST = 3


class Working(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped in the stubs
    """Every call works until it is let go, alone or with all others."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.alone: dict[bytes, threading.Event] = {}
        self.begun: list[bytes] = []

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._work) if details.method == "/t/work" else None

    def _work(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.begun.append(request)
        assert self.alone.get(request, self.let_go).wait(60)
        return request


class Full:
    """One thread, MOST calls at work or waiting."""

    def __init__(self, most: int = MOST, queue_s: float = 60.0) -> None:
        self.pool = WorkPool(1, queue_s)
        self.work = Working()
        self.server = grpc.server(self.pool, interceptors=[AdmissionInterceptor(self.pool, most)], handlers=[self.work])
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.call = self.channel.unary_unary("/t/work")

    def close(self) -> None:
        self.work.let_go.set()
        self.channel.close()
        self.server.stop(0).wait()


@pytest.fixture
def full() -> Iterator[Full]:
    full = Full()
    yield full
    full.close()


def until(holds: Any) -> None:
    waiting = threading.Event()
    for _ in range(3000):
        if holds():
            return
        waiting.wait(0.01)
    raise AssertionError("not true within 30 s")


def fill(full: Full) -> list[Any]:
    """Let one call work and the others wait."""
    calls = []
    for i in range(MOST):
        calls.append(full.call.future(b"%d" % i, timeout=60))
        until(lambda i=i: full.pool.held == i + 1 and full.work.begun)
    return calls


def test_past_the_queue_a_call_is_refused_at_once_and_told_when_to_come_back(full: Full) -> None:
    accepted = fill(full)
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as caught:
            full.call(b"late", timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(caught.value)
        retry = error_details_pb2.RetryInfo()
        assert status is not None
        assert status.details[0].Unpack(retry)
        assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 2
    assert full.pool.refused == 5
    full.work.let_go.set()
    assert [call.result() for call in accepted] == [b"%d" % i for i in range(MOST)]
    assert b"late" not in full.work.begun
    until(lambda: full.pool.held == 0)
    assert full.call(b"after", timeout=60) == b"after"


def test_a_call_whose_deadline_passed_while_it_waited_is_not_worked_on(full: Full) -> None:
    first = full.call.future(b"first", timeout=60)
    until(lambda: full.work.begun)
    with pytest.raises(grpc.RpcError) as caught:
        full.call(b"short", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    full.work.let_go.set()
    first.result()
    assert full.call(b"after", timeout=60) == b"after"
    assert full.work.begun == [b"first", b"after"]


def test_health_answers_while_all_threads_are_at_work(full: Full) -> None:
    fill(full)
    answer = health_pb2_grpc.HealthStub(full.channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def impatient() -> Iterator[Full]:
    """Calls may wait for no time to speak of, but for bursts."""
    full = Full(most=20, queue_s=1e-6)
    yield full
    full.close()


def test_a_burst_that_waits_for_long_is_not_refused(impatient: Full) -> None:
    first = impatient.call.future(b"first", timeout=60)
    until(lambda: impatient.work.begun)
    second = impatient.call.future(b"second", timeout=60)
    time.sleep(2 * STANDING_S)  # it waits, but nobody knows yet that those after it will
    third = impatient.call.future(b"third", timeout=60)
    until(lambda: impatient.pool.held == 3)
    impatient.work.let_go.set()
    assert [call.result() for call in (first, second, third)] == [b"first", b"second", b"third"]
    assert impatient.pool.refused == 0


def test_a_queue_that_stands_takes_nobody_in_until_it_has_moved(impatient: Full) -> None:
    first = impatient.work.alone[b"first"] = threading.Event()
    calls = [impatient.call.future(b"first", timeout=60)]
    until(lambda: impatient.work.begun)
    calls += [impatient.call.future(b"later", timeout=60) for _ in range(4)]
    until(lambda: impatient.pool.held == 5)
    first.set()
    until(lambda: b"later" in impatient.work.begun)  # after too long a wait, as will be that of all who come
    until(impatient.pool.queue_stands)
    with pytest.raises(grpc.RpcError) as caught:
        impatient.call(b"too late", timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    impatient.work.let_go.set()
    assert [call.result() for call in calls] == [b"first", *[b"later"] * 4]
    assert impatient.call(b"after", timeout=60) == b"after"
