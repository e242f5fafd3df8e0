"""Malformed, random and hostile messages to every method of every service are refused in plain words."""

from __future__ import annotations

import math
import random
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.admin.v1 import bundle_pb2
from tandem.catalog.v1 import catalog_pb2
from tandem.events.v1 import events_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core import grpc_parse, grpc_parse_catalog, grpc_parse_events, grpc_parse_ranking, grpc_parse_vectors
from tandem_core.bundle import Bundle
from tandem_core.catalog import Catalog
from tandem_core.errors import InvalidRequest
from tandem_core.query import Query
from tandem_core.registry import Registry

Until = Callable[..., Any]
CLOCK_MS = 1_752_000_000_000
PROTOS = Path(__file__).parents[2] / "protos"
FILES = (retrieval_pb2, ranking_pb2, events_pb2, catalog_pb2, bundle_pb2)
SERVED_BY = {"retrieval": "retrieval", "ranking": "ranking", "events": "writer", "catalog": "writer", "admin": "admin"}
FINE = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
LEAKS = re.compile(r"Traceback|File \"|site-packages|numpy|object at 0x|Exception|Error\(|sqlite|\.py\b")
PLACES = re.compile(LEAKS.pattern + "|/root|/tmp|/home")  # operators alone are told where the registry lies


def services() -> dict[str, list[ServiceDescriptor]]:
    """Return our services by the process that has them."""
    found: dict[str, list[ServiceDescriptor]] = {}
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            found.setdefault(SERVED_BY[service.full_name.split(".")[1]], []).append(service)
    return found


# What a message is made of


BROKEN = "~broken~"  # becomes bytes that are no UTF-8
TEXTS = ["", "i001", "i299", "x" * 300, "\x00", "\u00e4\u202e", "two_tower", "default", "b1", "title", "price", BROKEN]
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


def a_message(kind: type[Message], rng: random.Random, depth: int = 0) -> Message:
    """Return a message with random fields, wild values among them."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.5:
            continue
        count = rng.choice([0, 1, 2, 70]) if field.is_repeated else 1
        if field.message_type is not None:
            part = getattr(message, field.name)
            for _ in range(min(count, 3) if depth < 4 else 0):
                inner = part.add() if field.is_repeated else part
                inner.CopyFrom(a_message(type(inner), rng, depth + 1))
            continue
        values = [_a_value(field, rng) for _ in range(count)]
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        elif values:
            setattr(message, field.name, values[0])
    return message


def _a_value(field: Any, rng: random.Random) -> Any:
    return rng.randbytes(9) if field.type == field.TYPE_BYTES else rng.choice(WILD[field.cpp_type])


def a_huge_message(kind: type[Message], rng: random.Random) -> Message:
    """Return a message with one repeated field far beyond any limit."""
    message = a_message(kind, rng)
    repeated = [f for f in message.DESCRIPTOR.fields if f.is_repeated]
    if repeated:
        field = rng.choice(repeated)
        part = getattr(message, field.name)
        if field.message_type is None:
            part.extend([_a_value(field, rng)] * 5000)
        else:
            inner = a_message(message_factory.GetMessageClass(field.message_type), rng, 3)
            part.extend([inner] * 2000)
    return message


def bad_bytes(kind: type[Message], others: list[type[Message]], rng: random.Random) -> bytes:
    """Return random bytes, or a random message: as it is, huge, another method's, damaged, or with broken texts."""
    way = rng.random()
    if way < 0.15:
        return rng.randbytes(rng.choice([0, 1, 10, 1000]))
    if way < 0.2:
        return b"\x0a" + bytes([120]) * 5000  # lengths within lengths
    if way < 0.23:
        return a_huge_message(kind, rng).SerializeToString()
    whole = bytearray(a_message(rng.choice(others) if way < 0.3 else kind, rng).SerializeToString())
    if way < 0.55 and whole:
        for _ in range(rng.choice([1, 3])):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        if rng.random() < 0.3:
            del whole[rng.randrange(len(whole)) :]
    return bytes(whole).replace(BROKEN.encode(), b"\xff\xc0\xaf\xfe\x80bro")


# The parse functions, in process


def _in_turn(*parsers: Callable[[Any, Catalog], Any]) -> Callable[[Any, Catalog], list[Any]]:
    return lambda message, catalog: [parse(message, catalog) for parse in parsers]


PARSERS: dict[type[Message], Callable[[Any, Catalog], Any]] = {
    retrieval_pb2.RetrieveRequest: lambda m, _: grpc_parse.parse_retrieve(m, CLOCK_MS),
    retrieval_pb2.SimilarItemsRequest: lambda m, _: grpc_parse_vectors.parse_similar_items(m),
    retrieval_pb2.GetEmbeddingsRequest: lambda m, _: grpc_parse_vectors.parse_embeddings(m, CLOCK_MS),
    ranking_pb2.RecommendRequest: lambda m, _: grpc_parse_ranking.parse_recommend(m, CLOCK_MS),
    ranking_pb2.RankRequest: _in_turn(
        lambda m, catalog: grpc_parse_ranking.parse_candidates(m.candidates, catalog),
        lambda m, _: grpc_parse_ranking.parse_rank(m, CLOCK_MS),
    ),
    events_pb2.WriteEventsRequest: lambda m, _: grpc_parse_events.parse_write_events(m, CLOCK_MS),
    events_pb2.ForgetUserRequest: lambda m, _: grpc_parse_events.parse_forget_user(m),
    catalog_pb2.Item: lambda m, catalog: grpc_parse_catalog.parse_item(m, catalog, "items[0]"),
    catalog_pb2.User: lambda m, _: grpc_parse_catalog.parse_user(m, "users[0]"),
}


def read_and_parsed(kind: type[Message], catalog: Catalog, rng: random.Random) -> bool:
    """Return whether a bad message was taken; fails where it is refused in another way than by its violations."""
    try:
        message = kind.FromString(bad_bytes(kind, [kind], rng))
    except DecodeError:
        return False
    try:
        parsed = PARSERS[kind](message, catalog)
    except InvalidRequest as error:
        told = [violation.description for violation in error.violations]
        if not told or any(map(LEAKS.search, told)):
            pytest.fail(f"{kind.__name__} is refused by {told}")
        return False
    for query in parsed if isinstance(parsed, list) else [parsed]:
        if isinstance(query, Query):
            assert query.max_results >= 1
            assert not np.isinf(query.events.values).any()
            assert all(0 < plan.weight < math.inf for plan in query.plans)
    return True


@pytest.mark.parametrize("kind", PARSERS, ids=lambda kind: kind.DESCRIPTOR.name)
@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_read_is_parsed_or_refused_by_its_fields(
    kind: type[Message], bundle: Bundle, rng: random.Random
) -> None:
    read_and_parsed(kind, bundle.catalog, rng)


@pytest.mark.long
@pytest.mark.parametrize("kind", PARSERS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_twenty_thousand_bad_messages_are_parsed_or_refused(kind: type[Message], bundle: Bundle) -> None:
    rng = random.Random(3)
    taken = sum(read_and_parsed(kind, bundle.catalog, rng) for _ in range(20_000))
    assert 0 < taken < 20_000


# Bytes on the wire, to real processes


@pytest.fixture(scope="module")
def running(
    module_launch: Any, registry: Registry, trained: Any, publish_copy: Any, wait_until: Until
) -> dict[str, Any]:
    """Processes by name, and under "admin" the one whose admin port is called."""
    own = Registry(module_launch.folder / "registry")  # one bundle alone: there is nothing to roll back to
    publish_copy(own, "b0")
    # A call of megabytes whose connection ends by its age is lost (UNAVAILABLE); smaller ones are sent again by gRPC.
    of = {"registry": own.root, "max_connection_age_s": 3600.0}
    retrieval = module_launch.service("retrieval", **of, admin_port=0)
    target = f"ipv4:{retrieval.target}"
    found = {
        "retrieval": retrieval,
        "admin": retrieval,
        "ranking": module_launch.service("ranking", **of, retrieval_target=target),
        "writer": module_launch.service("writer", **of),
    }
    for each in found.values():
        each.wait_serving()
    for name in ("retrieval", "ranking"):  # the side process comes last
        wait_until(lambda name=name: found[name].members("side"), 60, "a whole tree")
    wait_until(lambda: not found["ranking"].stub.Recommend(ranking_pb2.RecommendRequest(), timeout=60).degradations, 60)
    return found


def address(running: dict[str, Any], name: str, wait_until: Until) -> str:
    if name != "admin":
        return str(running[name].target)
    (port,) = wait_until(lambda: re.findall(r'"admin_port": (\d+)', running[name].text), 60, "the admin port")
    return f"127.0.0.1:{port}"


def throw(target: str, described: list[ServiceDescriptor], n: int, seed: int) -> Counter[str]:
    """Send n bad requests in turn to every method; return how often each status came."""
    rng = random.Random(seed)
    statuses: Counter[str] = Counter()
    leaks = LEAKS if described[0].name == "BundleService" else PLACES
    methods = [method for service in described for method in service.methods]
    kinds = [message_factory.GetMessageClass(method.input_type) for method in methods]
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        calls = [channel.unary_unary(f"/{m.containing_service.full_name}/{m.name}") for m in methods]
        for i in range(n):
            call, kind = calls[i % len(calls)], kinds[i % len(calls)]
            sent = bad_bytes(kind, kinds, rng)
            try:
                call(sent, timeout=60)
                statuses["OK"] += 1
            except grpc.RpcError as error:
                statuses[error.code().name] += 1
                told = f"{error.details()} {[value for _, value in error.trailing_metadata() or ()]}"
                if error.code().name not in FINE or leaks.search(told):
                    pytest.fail(f"{kind.__name__} {sent[:2000].hex()}: {error.code().name} {told}")
    return statuses


def test_every_method_of_every_contract_is_among_those_tried() -> None:
    declared = {
        line.split()[1].split("(")[0]
        for path in PROTOS.rglob("tandem/*/v1/*.proto")
        for line in path.read_text().splitlines()
        if line.strip().startswith("rpc ")
    }
    tried = {method.name for group in services().values() for service in group for method in service.methods}
    assert tried == declared
    assert {m.input_type.full_name for g in services().values() for s in g for m in s.methods} <= {
        *(kind.DESCRIPTOR.full_name for kind in map(message_factory.GetMessageClass, _all_messages()))
    }


def _all_messages() -> Iterator[Any]:
    pool = descriptor_pool.Default()
    for file in FILES:
        yield from pool.FindFileByName(file.DESCRIPTOR.name).message_types_by_name.values()


@pytest.mark.parametrize("name", services())
def test_no_bad_message_crashes_a_service_or_finds_an_internal_error(
    running: dict[str, Any], wait_until: Until, name: str
) -> None:
    process = running[name]
    before = process.tree()
    statuses = throw(address(running, name, wait_until), services()[name], 300, seed=11)
    assert statuses["OK"] > 0
    assert statuses["INVALID_ARGUMENT"] > 0
    assert process.tree() == before, "no process ended"
    assert '"request failed"' not in process.text
    assert "Traceback" not in process.text


@pytest.mark.long
@pytest.mark.parametrize("name", services())
def test_twenty_thousand_bad_messages_crash_nothing_and_memory_stays(
    running: dict[str, Any], wait_until: Until, name: str
) -> None:
    process, target = running[name], address(running, name, wait_until)
    before = process.tree()
    throw(target, services()[name], 8000, seed=1)  # buffers and caches are filled
    held, began = resident_kb(before), time.monotonic()
    statuses = throw(target, services()[name], 12_000, seed=2)
    took_s, holds = time.monotonic() - began, resident_kb(before)
    sys.stdout.write(f"{name}: {dict(statuses)} in {took_s:.0f} s, {held} -> {holds} kB\n")
    assert process.tree() == before
    assert '"request failed"' not in process.text
    if name != "writer":  # which has stored what was fine in it
        assert holds < 1.05 * held


HELLOS = {
    "random bytes": random.Random(1).randbytes(3000),
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.Random(2).randbytes(500),
    "HTTP/2 with random frames": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(3).randbytes(3000),
    "nothing": b"",
}


@pytest.mark.parametrize("name", ["retrieval", "ranking", "writer"])
def test_bytes_that_are_no_grpc_end_their_own_connection_alone(running: dict[str, Any], name: str) -> None:
    process = running[name]
    before = process.tree()
    for sent in HELLOS.values():
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", process.port), timeout=60) as connection:
                connection.sendall(sent)
    assert process.health() == "SERVING"
    assert process.tree() == before


def resident_kb(pids: list[int]) -> int:
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
