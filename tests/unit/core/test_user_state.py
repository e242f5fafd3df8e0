from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest

from tandem_core.degradation import DegradationKind
from tandem_core.errors import UpstreamUnavailable
from tandem_core.query import Query, UserEvents
from tandem_core.stores.base import StoredEvent, StoredUser, StoreUnavailable
from tandem_core.stores.sqlite import SqliteStore
from tandem_core.user_state import with_all_stored, with_stored

MakeQuery = Callable[..., Query]


class OneUser:
    """A store that knows ann, or that is out of reach."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.asked: list[str] = []

    def read(self, user_id: str) -> StoredUser:
        self.asked.append(user_id)
        if self.broken:
            raise StoreUnavailable("store.db: disk I/O error")
        stored = UserEvents(["i1", "i2"], np.array([10, 30], np.int64), ["view"] * 2, np.zeros(2, np.float32))
        return StoredUser(stored, {"age": "25", "gender": "F"})

    add_events = put_users = close = SqliteStore.close


def test_stored_events_come_before_and_among_the_requests_own_by_time(make_query: MakeQuery) -> None:
    own = UserEvents(["i3", "i4"], np.array([20, 30], np.int64), ["buy"] * 2, np.ones(2, np.float32))
    query, missing = with_stored(make_query(user_id="ann", events=own), OneUser())  # type: ignore[arg-type]
    assert list(query.events.item_ids) == ["i1", "i3", "i2", "i4"]
    assert missing == ()


def test_attributes_of_the_request_go_over_stored_ones_name_by_name(make_query: MakeQuery) -> None:
    asked = make_query(user_id="ann", attributes={"age": "18", "city": "Rome"})
    query, _ = with_stored(asked, OneUser())  # type: ignore[arg-type]
    assert query.attributes == {"age": "18", "gender": "F", "city": "Rome"}


def test_nothing_is_read_for_anonymous_requests_or_without_a_user(make_query: MakeQuery) -> None:
    store = OneUser()
    for query in (make_query(user_id="ann", anonymous=True), make_query(session_id="s")):
        assert with_stored(query, store) == (query, ())  # type: ignore[arg-type]
    assert store.asked == []


def test_a_store_out_of_reach_costs_the_history_and_is_declared(
    make_query: MakeQuery, caplog: pytest.LogCaptureFixture
) -> None:
    asked = make_query(user_id="ann", attributes={"age": "18"})
    with caplog.at_level(logging.WARNING):
        query, missing = with_stored(asked, OneUser(broken=True))  # type: ignore[arg-type]
    assert query == asked
    assert [(each.kind, each.component) for each in missing] == [(DegradationKind.STORE_UNAVAILABLE, "store")]
    (record,) = caplog.records
    assert record.message == "user store unavailable"
    assert "ann" not in str(vars(record))  # no user ids in logs
    assert "disk" not in missing[0].message  # nor paths in answers


def test_events_reach_the_query_from_a_real_store(make_query: MakeQuery, tmp_path: object) -> None:
    store = SqliteStore(tmp_path / "s.db")  # type: ignore[operator]
    store.add_events([StoredEvent("", "ann", "i7", 5, "buy", None)])
    query, _ = with_stored(make_query(user_id="ann"), store)
    assert list(query.events.item_ids) == ["i7"]
    unknown, missing = with_stored(make_query(user_id="bob"), store)
    assert len(unknown.events) == 0
    assert missing == ()


def test_where_nothing_can_be_declared_a_store_out_of_reach_is_an_error(make_query: MakeQuery) -> None:
    whole = with_all_stored(make_query(user_id="ann"), OneUser())  # type: ignore[arg-type]
    assert list(whole.events.item_ids) == ["i1", "i2"]
    broken = OneUser(broken=True)
    with pytest.raises(UpstreamUnavailable, match="user store did not answer"):
        with_all_stored(make_query(user_id="ann"), broken)  # type: ignore[arg-type]
    for query in (make_query(user_id="ann", anonymous=True), make_query()):
        assert with_all_stored(query, broken) == query  # type: ignore[arg-type]
