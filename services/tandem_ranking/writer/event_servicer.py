"""EventService on the wire."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc

from tandem.common.v1 import degradation_pb2
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem_core.budget import Budget
from tandem_core.errors import FieldViolation
from tandem_core.forgetting import Forget, forget_user
from tandem_core.grpc_parse_events import parse_forget_user, parse_write_events
from tandem_core.stores.base import Outcome, StoredEvent, UserStore
from tandem_ranking.writer.group_commit import GroupCommit
from tandem_ranking.writer.store_refusal import store_named

_FORGOTTEN = "is from before the user was forgotten"


class EventServicer(events_pb2_grpc.EventServiceServicer):
    """Writes what users do; raises `tandem_core.errors`, which the interceptor translates.

    holders: what else keeps things of users, asked when one is to be forgotten.
    """

    def __init__(self, store: UserStore, holders: Sequence[Forget] = ()) -> None:
        self._store = store
        self._holders = holders
        self._write: GroupCommit[StoredEvent, Outcome] = GroupCommit(store.add_events)

    def WriteEvents(
        self, request: events_pb2.WriteEventsRequest, context: grpc.ServicerContext
    ) -> events_pb2.WriteEventsResponse:
        Budget.of(context.time_remaining()).check()
        parsed = parse_write_events(request, time.time_ns() // 1_000_000)
        with store_named():
            outcomes = iter(self._write([each for each in parsed if isinstance(each, StoredEvent)]))
        return events_pb2.WriteEventsResponse(
            results=[
                _refused(each) if isinstance(each, FieldViolation) else _result(next(outcomes), i)
                for i, each in enumerate(parsed)
            ]
        )

    def ForgetUser(
        self, request: events_pb2.ForgetUserRequest, context: grpc.ServicerContext
    ) -> events_pb2.ForgetUserResponse:
        user_id = parse_forget_user(request)
        with store_named():
            receipt = forget_user(user_id, self._store, self._holders)
        response = events_pb2.ForgetUserResponse(
            receipt_id=receipt.receipt_id,
            deleted_events=receipt.stored.events,
            deleted_decisions=receipt.decisions,
            deleted_impressions=receipt.stored.impressions,
            deleted_attributes=receipt.stored.attributes > 0,
        )
        response.forgotten.FromMilliseconds(receipt.stored.time_ms)
        return response


def _result(outcome: Outcome, i: int) -> events_pb2.EventResult:
    if outcome is Outcome.FORGOTTEN:
        return _refused(FieldViolation(f"events[{i}].timestamp", _FORGOTTEN))
    return events_pb2.EventResult(outcome=outcome.value)  # type: ignore[arg-type]  # the numbers are the contract's


def _refused(violation: FieldViolation) -> events_pb2.EventResult:
    return events_pb2.EventResult(
        outcome=events_pb2.EVENT_OUTCOME_REFUSED,
        violation=degradation_pb2.FieldViolation(field=violation.field, description=violation.description),
    )
