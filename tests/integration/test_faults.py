"""What a caller of ranking sees while parts around it fail: a declared list in time, never an internal error."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from tandem.common.v1 import degradation_pb2
from tandem.events.v1 import events_pb2
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


# gRPC's own clock is the system's, in C: its Python part must agree with it.
JUMPING = """
import os, pathlib, sys, time
_offset_s, _time, _time_ns = pathlib.Path(os.environ["CLOCK_OFFSET"]), time.time, time.time_ns
def _offset():
    grpc = sys._getframe(2).f_globals.get("__name__", "").startswith("grpc.")
    return 0 if grpc else int(_offset_s.read_text())
time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 10**9
"""


def test_a_clock_that_jumps_costs_no_answer_and_no_event(
    launch: Any, registry: Registry, trained: Any, wait_until: Until, write_toml: Callable[..., Any]
) -> None:
    (launch.folder / "sitecustomize.py").write_text(JUMPING)  # every process of ours imports it
    offset = launch.folder / "offset"
    offset.write_text("0")
    path = os.pathsep.join([str(launch.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "CLOCK_OFFSET": str(offset)}
    common = {"port": 0, "registry": registry.root, "store": f"sqlite:///{launch.folder}/store.db"}

    def start(name: str, module: str, **settings: Any) -> Any:
        config = write_toml(launch.folder / f"{name}.toml", {**common, **settings})
        return launch.command(name, "-m", module, "--config", str(config), environment=environment)

    writer = start("writer", "tandem_ranking.writer")
    retrieval = start("retrieval", "tandem_retrieval")
    target = {"retrieval_target": f"ipv4:{retrieval.target}", "retrieval_timeout_ms": 5000}
    ranking = start("ranking", "tandem_ranking", **target).wait_serving()

    def ask(user: str) -> Any:
        request = ranking_pb2.RecommendRequest(context={"user_id": user})  # type: ignore[arg-type]
        return ranking.stub.Recommend(request, timeout=DEADLINE_S)

    wait_until(lambda: not ask("nobody").degradations, 60)
    top = ask("nobody").items[0].item_id
    day_s = 86_400
    for number, jump_s in enumerate((400 * day_s, -400 * day_s, -3600, 0)):
        (launch.folder / "next").write_text(str(jump_s))
        (launch.folder / "next").rename(offset)
        user = f"user-{number}"
        event = events_pb2.Event(user_id=user, item_id=top, event_type="click")
        answer = writer.stub.WriteEvents(events_pb2.WriteEventsRequest(events=[event]), timeout=DEADLINE_S)
        assert [result.outcome for result in answer.results] == [events_pb2.EVENT_OUTCOME_STORED]
        response = ask(user)
        assert not response.degradations
        assert len(response.items) == 20
        assert top not in [item.item_id for item in response.items], "what was just written is seen"
    for running in (writer, retrieval, ranking):
        assert "Traceback" not in running.text


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_disk_that_is_full_costs_records_of_decisions_and_no_answer(
    launch: Any, registry: Registry, retrieval: Any, wait_until: Until
) -> None:
    records = launch.folder / "decisions"
    settings = {"retrieval_target": f"ipv4:{retrieval.target}", "decisions": records, "decisions_sample": 1.0}
    ranking = launch.service("ranking", registry=registry.root, **settings).wait_serving()

    def ask() -> Any:
        return ranking.stub.Recommend(ranking_pb2.RecommendRequest(), timeout=DEADLINE_S)

    def written() -> int:
        return sum(path.stat().st_size for path in records.rglob("*") if path.is_file())

    wait_until(lambda: not ask().degradations, 60)
    wait_until(lambda: ask() and written() > 1000, 60, "records of decisions")
    for limit in (0, resource.RLIM_INFINITY):
        for pid in ranking.tree():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        before = written()
        for _ in range(50):
            response = ask()
            assert len(response.items) == 20
            assert not response.degradations
    wait_until(lambda: ask() and written() > before, 60, "records again")
