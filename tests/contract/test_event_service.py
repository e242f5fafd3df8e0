"""EventService behind a real server: what is in its store afterwards. `test_stub_and_service.py` has its refusals."""

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
    full = event(insert_id="x", timestamp={"seconds": 1000}, value=2.5, decision_id="d", position=3, session_id="visit",
                 context=[{"name": "device", "string_value": "tv"}, {"name": "big", "bool_value": True}])  # fmt: skip
    before = time.time_ns() // 1_000_000
    assert write(stub, full, event(item_id="i2"), event(item_id="i3", event_type="impression")) == [STORED] * 3
    known = store.read("ann")
    assert list(known.events.item_ids) == ["i1", "i2"]
    assert known.events.timestamps[0] == 1_000_000
    assert known.events.timestamps[1] >= before
    assert list(known.shown.item_ids) == ["i3"]
    ((first, *_),) = store.log(0, 10)
    assert tuple(first)[1:] == ("ann", "i1", 1_000_000, "click", 2.5, "d", 3, "visit", {"device": "tv", "big": "true"})


def test_an_event_that_is_wrong_is_not_stored_and_the_others_are(stub: Any, store: SqliteStore) -> None:
    assert write(stub, event(item_id="good"), event(position=-1), event(item_id="fine")) == [STORED, REFUSED, STORED]
    assert write(stub, event(item_id="once", insert_id="x"), event(item_id="twice", insert_id="x")) == [
        STORED,
        DUPLICATE,
    ]
    assert list(store.read("ann").events.item_ids) == ["good", "fine", "once"]


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
