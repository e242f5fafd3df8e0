"""An EventService that keeps events in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import grpc
from google.protobuf import timestamp_pb2

from tandem.common.v1 import degradation_pb2
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem_testing import limits
from tandem_testing.refusal import Violation
from tandem_testing.script import Script, ScriptedStub
from tandem_testing.seeded import seed_of

_DAY_S = 86_400
_IMPRESSION = "impression"


class StubEvents(
    ScriptedStub[
        events_pb2.WriteEventsRequest | events_pb2.ForgetUserRequest,
        events_pb2.WriteEventsResponse | events_pb2.ForgetUserResponse,
    ],
    events_pb2_grpc.EventServiceServicer,
):
    """Plays every call of EventService: stores in memory, knows an insert_id it has seen, forgets users.

    It keeps no decisions and no attributes of users, so that a receipt never counts any.

    A call that the script fails stores nothing. `reset` forgets the events too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events: list[events_pb2.Event] = []
        self._inserted: set[str] = set()
        self._forgotten: dict[str, float] = {}  # user -> when, seconds since 1970
        self._receipts = 0

    @property
    def events(self) -> Sequence[events_pb2.Event]:
        """The stored events, in order of arrival; an event without a timestamp has the time of arrival."""
        with self._lock:
            return tuple(self._events)

    def reset(self) -> None:
        super().reset()
        with self._lock:
            self._events = []
            self._inserted = set()
            self._forgotten = {}

    def WriteEvents(
        self, request: events_pb2.WriteEventsRequest, context: grpc.ServicerContext
    ) -> events_pb2.WriteEventsResponse:
        return self._reply(
            context, [request], partial(self._follow, request, events_pb2.WriteEventsResponse, self._write)
        )

    def ForgetUser(
        self, request: events_pb2.ForgetUserRequest, context: grpc.ServicerContext
    ) -> events_pb2.ForgetUserResponse:
        return self._reply(
            context, [request], partial(self._follow, request, events_pb2.ForgetUserResponse, self._forget)
        )

    def _write(self, request: events_pb2.WriteEventsRequest, script: Script) -> events_pb2.WriteEventsResponse:
        limits.refuse_if(limits.length("events", request.events, limits.MOST_EVENTS, least=1))
        with self._lock:
            results = [self._stored(event, i) for i, event in enumerate(request.events)]
        return events_pb2.WriteEventsResponse(results=results)

    def _stored(self, event: events_pb2.Event, place: int) -> events_pb2.EventResult:
        if wrong := _wrong(event, f"events[{place}]"):
            return _refused(*wrong[0])
        if event.insert_id and event.insert_id in self._inserted:
            return events_pb2.EventResult(outcome=events_pb2.EVENT_OUTCOME_DUPLICATE)
        if event.HasField("timestamp") and event.timestamp.ToSeconds() < self._forgotten.get(event.user_id, 0):
            return _refused(f"events[{place}].timestamp", "is from before the user was forgotten")
        self._inserted.add(event.insert_id)
        kept = events_pb2.Event()
        kept.CopyFrom(event)
        if not kept.HasField("timestamp"):
            kept.timestamp.GetCurrentTime()
        self._events.append(kept)
        return events_pb2.EventResult(outcome=events_pb2.EVENT_OUTCOME_STORED)

    def _forget(self, request: events_pb2.ForgetUserRequest, script: Script) -> events_pb2.ForgetUserResponse:
        limits.refuse_if(limits.text("user_id", request.user_id, 256, least=1))
        now = timestamp_pb2.Timestamp()
        now.GetCurrentTime()
        with self._lock:
            gone = [event for event in self._events if event.user_id == request.user_id]
            self._events = [event for event in self._events if event.user_id != request.user_id]
            self._inserted -= {event.insert_id for event in gone}
            self._forgotten[request.user_id] = now.ToSeconds()
            self._receipts += 1
            receipt_id = f"stub-{seed_of(request.user_id, str(self._receipts)):016x}"
        shown = sum(event.event_type == _IMPRESSION for event in gone)
        return events_pb2.ForgetUserResponse(
            receipt_id=receipt_id, deleted_events=len(gone) - shown, deleted_impressions=shown, forgotten=now
        )


def _refused(field: str, description: str) -> events_pb2.EventResult:
    violation = degradation_pb2.FieldViolation(field=field, description=description)
    return events_pb2.EventResult(outcome=events_pb2.EVENT_OUTCOME_REFUSED, violation=violation)


def _wrong(event: events_pb2.Event, field: str) -> list[Violation]:
    wrong = [
        *limits.text(f"{field}.insert_id", event.insert_id, 128),
        *limits.text(f"{field}.user_id", event.user_id, 256, least=1),
        *limits.text(f"{field}.item_id", event.item_id, 256, least=1),
        *limits.text(f"{field}.event_type", event.event_type, 64, least=1),
        *limits.text(f"{field}.decision_id", event.decision_id, 128),
        *limits.text(f"{field}.session_id", event.session_id, 256),
        *limits.event_value(f"{field}.value", event.value),
        *limits.attributes(f"{field}.context", event.context),
    ]
    if event.HasField("timestamp"):
        wrong += limits.time(f"{field}.timestamp", event.timestamp)
        if not 0 <= event.timestamp.seconds <= time.time() + _DAY_S:
            wrong.append((f"{field}.timestamp", "is before 1970, or more than a day in the future"))
    if event.position < 0:
        wrong.append((f"{field}.position", f"is {event.position}; 1 is the top, 0 means unknown"))
    return wrong
