"""EventService behind a real server, on a real store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem_core.decision_log import forget
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.stores.sqlite import SqliteStore
from tandem_ranking.writer.event_servicer import EventServicer
from tandem_testing import serve

STORED, DUPLICATE, REFUSED = 1, 2, 3
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.db")
    yield store
    store.close()


@pytest.fixture
def kept() -> dict[str, int]:
    """What another holder has of users."""
    return {"ann": 4}


@pytest.fixture
def stub(store: SqliteStore, kept: dict[str, int]) -> Iterator[events_pb2_grpc.EventServiceStub]:
    servicer = EventServicer(store, [lambda user_id: kept.pop(user_id, 0)])
    with serve(servicer, interceptors=[ErrorInterceptor()]) as server:
        yield events_pb2_grpc.EventServiceStub(server.channel)


def event(**fields: Any) -> events_pb2.Event:
    return events_pb2.Event(**{"user_id": "ann", "item_id": "i1", "event_type": "click", **fields})


def write(stub: Any, *events: events_pb2.Event) -> list[int]:
    answer = stub.WriteEvents(events_pb2.WriteEventsRequest(events=events), timeout=20)
    return [result.outcome for result in answer.results]


def test_what_is_acknowledged_is_in_the_store_with_all_its_fields(stub: Any, store: SqliteStore) -> None:
    full = event(insert_id="x", timestamp={"seconds": 1000}, value=2.5, decision_id="d", position=3, session_id="visit")
    before = time.time_ns() // 1_000_000
    assert write(stub, full, event(item_id="i2"), event(item_id="i3", event_type="impression")) == [STORED] * 3
    known = store.read("ann")
    assert list(known.events.item_ids) == ["i1", "i2"]
    assert known.events.timestamps[0] == 1_000_000
    assert known.events.timestamps[1] >= before
    assert list(known.shown.item_ids) == ["i3"]
    ((first, *_),) = store.log(0, 10)
    assert tuple(first)[1:] == ("ann", "i1", 1_000_000, "click", 2.5, "d", 3, "visit")


def test_an_insert_id_is_stored_once_in_a_batch_and_over_batches(stub: Any, store: SqliteStore) -> None:
    assert write(stub, event(insert_id="x"), event(insert_id="x")) == [STORED, DUPLICATE]
    assert write(stub, event(insert_id="x"), event(insert_id="y")) == [DUPLICATE, STORED]
    assert len(store.read("ann").events) == 2


REFUSALS: list[tuple[str, dict[str, Any]]] = [
    ("insert_id", {"insert_id": "x" * 129}),
    ("user_id", {"user_id": ""}),
    ("user_id", {"user_id": "u" * 257}),
    ("item_id", {"item_id": ""}),
    ("item_id", {"item_id": "i" * 257}),
    ("event_type", {"event_type": ""}),
    ("event_type", {"event_type": "t" * 65}),
    ("timestamp", {"timestamp": {"seconds": -1}}),
    ("timestamp", {"timestamp": {"seconds": int(time.time()) + DAY_S + 3600}}),
    ("timestamp", {"timestamp": {"seconds": 2**60}}),
    ("value", {"value": float("nan")}),
    ("value", {"value": float("inf")}),
    ("decision_id", {"decision_id": "d" * 129}),
    ("position", {"position": -1}),
    ("session_id", {"session_id": "s" * 257}),
]


@pytest.mark.parametrize(("field", "wrong"), REFUSALS)
def test_an_event_that_is_wrong_is_refused_alone(
    stub: Any, store: SqliteStore, field: str, wrong: dict[str, Any]
) -> None:
    batch = [event(item_id="good"), event(**wrong), event(item_id="fine", timestamp={"seconds": int(time.time()) + 60})]
    answer = stub.WriteEvents(events_pb2.WriteEventsRequest(events=batch))
    assert [result.outcome for result in answer.results] == [STORED, REFUSED, STORED]
    assert answer.results[1].violation.field == f"events[1].{field}"
    assert answer.results[1].violation.description
    assert list(store.read("ann").events.item_ids) == ["good", "fine"]


def test_the_longest_allowed_are_taken(stub: Any) -> None:
    longest = event(
        insert_id="x" * 128,
        user_id="u" * 256,
        item_id="i" * 256,
        event_type="t" * 64,
        decision_id="d" * 128,
        session_id="s" * 256,
        timestamp={"seconds": int(time.time()) + DAY_S - 3600},
    )
    assert write(stub, longest, event(timestamp={"seconds": 0})) == [STORED, STORED]
    assert write(stub, *[event(insert_id=str(i)) for i in range(1000)]) == [STORED] * 1000


@pytest.mark.parametrize("number", [0, 1001])
def test_a_batch_of_a_wrong_size_is_a_bad_request(stub: Any, refused: Callable[..., Any], number: int) -> None:
    bad = refused(stub.WriteEvents, events_pb2.WriteEventsRequest(events=[event()] * number))
    assert bad.code is grpc.StatusCode.INVALID_ARGUMENT
    assert bad.violations == {"events": f"has {number}, 1 to 1000 are allowed"}


def test_a_store_that_is_down_is_unavailable_and_told_without_its_path(
    tmp_path: Path, refused: Callable[..., Any]
) -> None:
    (tmp_path / "store.db").write_bytes(b"this is no database " * 100)
    with serve(EventServicer(SqliteStore(tmp_path / "store.db")), interceptors=[ErrorInterceptor()]) as server:
        stub = events_pb2_grpc.EventServiceStub(server.channel)
        requests = [
            (stub.WriteEvents, events_pb2.WriteEventsRequest(events=[event()])),
            (stub.ForgetUser, events_pb2.ForgetUserRequest(user_id="ann")),
        ]
        for call, request in requests:
            bad = refused(call, request)
            assert bad.code is grpc.StatusCode.UNAVAILABLE
            assert bad.reason == "UPSTREAM_UNAVAILABLE"
            assert "store.db" not in bad.trailers


def test_forgetting_gives_a_receipt_with_what_was_deleted(stub: Any, store: SqliteStore, kept: dict[str, int]) -> None:
    write(stub, event(), event(), event(event_type="impression"), event(user_id="bob"))
    store.put_users([("ann", {"age": "25"})])
    receipt = stub.ForgetUser(events_pb2.ForgetUserRequest(user_id="ann"))
    assert (receipt.deleted_events, receipt.deleted_impressions, receipt.deleted_decisions) == (2, 1, 4)
    assert receipt.deleted_attributes
    assert len(receipt.receipt_id) == 32
    assert abs(receipt.forgotten.ToSeconds() - time.time()) < 3600
    assert len(store.read("ann").events) == 0
    assert kept == {}
    assert len(store.read("bob").events) == 1
    again = stub.ForgetUser(events_pb2.ForgetUserRequest(user_id="ann"))
    assert (again.deleted_events, again.deleted_decisions, again.deleted_attributes) == (0, 0, False)
    assert again.receipt_id != receipt.receipt_id
    late = stub.WriteEvents(events_pb2.WriteEventsRequest(events=[event(timestamp={"seconds": 5}), event()]))
    assert [result.outcome for result in late.results] == [REFUSED, STORED]
    assert late.results[0].violation.field == "events[0].timestamp"


@pytest.mark.parametrize("user_id", ["", "u" * 257])
def test_nobody_in_particular_cannot_be_forgotten(stub: Any, refused: Callable[..., Any], user_id: str) -> None:
    bad = refused(stub.ForgetUser, events_pb2.ForgetUserRequest(user_id=user_id))
    assert bad.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(bad.violations) == {"user_id"}


def test_a_holder_that_fails_leaves_nothing_said_as_done(
    store: SqliteStore, refused: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "decisions" / ".lock").mkdir(parents=True)  # nobody can write here
    with serve(EventServicer(store, [partial(forget, tmp_path / "decisions")]), interceptors=[ErrorInterceptor()]) as s:
        stub = events_pb2_grpc.EventServiceStub(s.channel)
        bad = refused(stub.ForgetUser, events_pb2.ForgetUserRequest(user_id="ann"))
    assert bad.code is grpc.StatusCode.UNAVAILABLE
    assert bad.reason == "UPSTREAM_UNAVAILABLE"
    assert "decisions" not in bad.trailers
