"""What a caller of ranking sees while parts around it fail: a declared list in time, never an internal error."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tandem.common.v1 import degradation_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2
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


METHODS: dict[str, list[tuple[str, type[Message]]]] = {
    "/tandem.retrieval.v1.RetrievalService/": [
        ("Retrieve", retrieval_pb2.RetrieveRequest),
        ("BatchRetrieve", retrieval_pb2.BatchRetrieveRequest),
        ("SimilarItems", retrieval_pb2.SimilarItemsRequest),
        ("GetEmbeddings", retrieval_pb2.GetEmbeddingsRequest),
        ("GetServingState", retrieval_pb2.GetServingStateRequest),
    ],
    "/tandem.ranking.v1.RankingService/": [
        ("Recommend", ranking_pb2.RecommendRequest),
        ("BatchRecommend", ranking_pb2.BatchRecommendRequest),
        ("Rank", ranking_pb2.RankRequest),
        ("ExplainItem", ranking_pb2.ExplainItemRequest),
        ("GetServingState", ranking_pb2.GetServingStateRequest),
    ],
}
FINE = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
LEAKS = ("Traceback", 'File "', "site-packages", "numpy", "object at 0x", "Exception")


def a_message(kind: type[Message], rng: random.Random, depth: int = 0) -> Message:
    """Return a message with random fields, wild values among them."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.5:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        count = rng.choice([0, 1, 2, 70]) if field.is_repeated else 1
        if field.message_type is not None:
            if depth < 4:
                part = getattr(message, field.name)
                for _ in range(min(count, 3)):
                    inner = a_message(type(part.add() if field.is_repeated else part), rng, depth + 1)
                    if field.is_repeated:
                        part[-1].CopyFrom(inner)
                    else:
                        part.CopyFrom(inner)
            continue
        values = [_a_value(field, rng) for _ in range(count)]
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        elif values:
            setattr(message, field.name, values[0])
    return message


TEXTS = ["", "i001", "i299", "x" * 300, "\x00", "\u00e4\u202e", "two_tower", "default", "b1", "title"]
WILD: dict[int, list[Any]] = {
    FieldDescriptor.CPPTYPE_STRING: TEXTS,
    FieldDescriptor.CPPTYPE_BOOL: [False, True],
    FieldDescriptor.CPPTYPE_FLOAT: [0.0, -1.0, 1e30, float("nan"), float("inf"), 0.5],
    FieldDescriptor.CPPTYPE_DOUBLE: [0.0, -1.0, 1e300, float("nan"), float("inf"), 0.5],
    FieldDescriptor.CPPTYPE_ENUM: [0, 1, 2, 3, 99, -1],
    FieldDescriptor.CPPTYPE_UINT32: [0, 1, 7, 2**32 - 1],
    FieldDescriptor.CPPTYPE_UINT64: [0, 1, 2**64 - 1],
    FieldDescriptor.CPPTYPE_INT64: [0, 1, -1, 2**63 - 1, -(2**63), 1_752_000_000],
    FieldDescriptor.CPPTYPE_INT32: [0, 1, -1, 20, 299, 300, 2**31 - 1, -(2**31)],
}


def _a_value(field: Any, rng: random.Random) -> Any:
    return rng.randbytes(9) if field.type == field.TYPE_BYTES else rng.choice(WILD[field.cpp_type])


def bad_bytes(kind: type[Message], rng: random.Random) -> bytes:
    """Return random bytes, a random message, or one that was damaged on its way."""
    way = rng.random()
    if way < 0.2:
        return rng.randbytes(rng.choice([0, 1, 10, 1000]))
    whole = bytearray(a_message(kind, rng).SerializeToString())
    if way < 0.5 and whole:
        for _ in range(rng.choice([1, 3])):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        if rng.random() < 0.3:
            del whole[rng.randrange(len(whole)) :]
    return bytes(whole)


def throw(running: Any, prefix: str, n: int, seed: int) -> Counter[str]:
    """Send n bad requests in turn to every method; return how often each status came."""
    rng = random.Random(seed)
    statuses: Counter[str] = Counter()
    with grpc.insecure_channel(running.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        calls = [(channel.unary_unary(prefix + name), kind) for name, kind in METHODS[prefix]]
        for i in range(n):
            call, kind = calls[i % len(calls)]
            sent = bad_bytes(kind, rng)
            try:
                call(sent, timeout=60)
                statuses["OK"] += 1
            except grpc.RpcError as error:
                code, told = error.code().name, error.details() or ""
                statuses[code] += 1
                if code not in FINE or any(leak in told for leak in LEAKS):
                    pytest.fail(f"{kind.__name__} {sent.hex()}: {code} {told}")
    return statuses


@pytest.mark.parametrize("name", ["retrieval", "ranking"])
def test_no_bad_message_crashes_a_service_or_finds_an_internal_error(
    retrieval: Any, ranking: Any, recommend: Callable[[], Any], name: str
) -> None:
    running = {"retrieval": retrieval, "ranking": ranking}[name]
    workers = running.members("worker")
    prefix = next(prefix for prefix in METHODS if name in prefix)
    statuses = throw(running, prefix, 300, seed=11)
    assert statuses["OK"] > 0
    assert statuses["INVALID_ARGUMENT"] > 0
    assert running.members("worker") == workers
    assert '"request failed"' not in running.text


@pytest.mark.long
def test_twenty_thousand_bad_messages_crash_nothing_and_memory_stays(
    retrieval: Any, ranking: Any, recommend: Callable[[], Any]
) -> None:
    for name, running in (("retrieval", retrieval), ("ranking", ranking)):
        prefix = next(prefix for prefix in METHODS if name in prefix)
        workers = running.members("worker")
        throw(running, prefix, 2000, seed=1)  # buffers and caches are filled
        before = resident_kb(workers)
        began = time.monotonic()
        statuses = throw(running, prefix, 10_000, seed=2)
        after = resident_kb(workers)
        took_s = time.monotonic() - began
        sys.stdout.write(f"{name}: {dict(statuses)} in {took_s:.0f} s, {before} -> {after} kB\n")
        assert running.members("worker") == workers
        assert '"request failed"' not in running.text
        assert after < 1.05 * before


def resident_kb(pids: list[int]) -> int:
    from pathlib import Path

    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
