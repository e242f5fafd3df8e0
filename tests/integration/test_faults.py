"""What a caller of ranking sees while parts around it fail: a declared list in time, never an internal error."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from tandem.common.v1 import degradation_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_core.registry import Registry

Until = Callable[..., Any]
DEADLINE_S = 20.0  # a busy machine stands still for seconds; what is asserted is that nobody waits for what hangs


class Callers:
    """Calls Recommend from several threads; keeps failures, kinds of degradations and empty lists."""

    def __init__(self, target: str, threads: int = 4) -> None:
        self._channel = grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])
        self._stub = ranking_pb2_grpc.RankingServiceStub(self._channel)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        self.answers = 0
        self.empty = 0
        self.kinds: Counter[str] = Counter()
        self.failures: list[str] = []

    def _run(self) -> None:
        while not self._over.wait(0.02):
            try:
                response = self._stub.Recommend(ranking_pb2.RecommendRequest(max_results=10), timeout=DEADLINE_S)
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
                continue
            self.answers += 1
            self.empty += not response.items
            self.kinds.update(degradation_pb2.DegradationKind.Name(d.kind) for d in response.degradations)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def all_well(self) -> None:
        assert self.failures == []
        assert self.empty == 0
        assert set(self.kinds) <= {"DEGRADATION_KIND_RETRIEVAL_UNAVAILABLE"}


@pytest.fixture(scope="module")
def retrieval(module_launch: Any, registry: Registry, trained: Any) -> Any:
    return module_launch.service("retrieval", registry=registry.root, workers=2, hung_after_s=60).wait_serving()


@pytest.fixture(scope="module")
def ranking(module_launch: Any, registry: Registry, retrieval: Any, listening_ports: Callable[[Any], list[int]]) -> Any:
    addresses = ",".join(f"127.0.0.1:{port}" for port in listening_ports(retrieval))
    settings = {"retrieval_target": f"ipv4:{addresses}", "retrieval_timeout_ms": 400}
    return module_launch.service("ranking", registry=registry.root, **settings).wait_serving()


@pytest.fixture
def recommend(ranking: Any, wait_until: Until) -> Callable[[], Any]:
    """recommend(): a call; the test begins when retrieval is used."""

    def ask() -> Any:
        return ranking.stub.Recommend(ranking_pb2.RecommendRequest(), timeout=DEADLINE_S)

    wait_until(lambda: not ask().degradations, 60, "retrieval used")
    return ask


def test_one_of_two_retrieval_workers_killed_under_load(
    retrieval: Any, ranking: Any, recommend: Callable[[], Any], wait_until: Until
) -> None:
    with Callers(ranking.target) as callers:
        wait_until(lambda: callers.answers > 20, 60)
        victim = retrieval.members("worker")[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(retrieval.members("worker")) == 2 and victim not in retrieval.members("worker"), 60)
        heard = callers.answers
        wait_until(lambda: callers.answers > heard + 20, 60)
    callers.all_well()
    wait_until(lambda: not recommend().degradations, 60, "retrieval used again")


def test_retrieval_hung_under_load_costs_a_declared_fallback_and_heals(
    retrieval: Any, ranking: Any, recommend: Callable[[], Any], wait_until: Until
) -> None:
    workers = retrieval.members("worker")
    with Callers(ranking.target) as callers:
        wait_until(lambda: callers.answers > 20, 60)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: callers.kinds["DEGRADATION_KIND_RETRIEVAL_UNAVAILABLE"] > 20, 120)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
    callers.all_well()
    wait_until(lambda: not recommend().degradations, 60, "retrieval used again")


@contextmanager
def garbage() -> Iterator[int]:
    """A server that answers everything with bytes that are no HTTP/2."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
                connection.sendall(random.Random(1).randbytes(400))
                connection.close()
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_retrieval_that_answers_garbage_costs_a_declared_fallback(
    launch: Any, registry: Registry, trained: Any
) -> None:
    with garbage() as port:
        ranking = launch.service("ranking", registry=registry.root, retrieval_target=f"ipv4:127.0.0.1:{port}")
        ranking.wait_serving()
        for _ in range(10):
            response = ranking.stub.Recommend(ranking_pb2.RecommendRequest(), timeout=DEADLINE_S)
            assert len(response.items) == 20
            assert [d.kind for d in response.degradations] == [
                degradation_pb2.DegradationKind.DEGRADATION_KIND_RETRIEVAL_UNAVAILABLE
            ]
