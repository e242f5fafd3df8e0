"""From events on the wire to events to store: what is wrong with one event is no fault of the others."""

from __future__ import annotations

from tandem.events.v1 import events_pb2
from tandem_core.errors import FieldViolation, InvalidRequest
from tandem_core.grpc_parse import LONGEST_ID, LONGEST_NAME, Checks, parse_attributes
from tandem_core.stores.base import StoredEvent

MOST_EVENTS = 1000
LONGEST_TYPE = 64
FURTHEST_AHEAD_MS = 86_400_000


def parse_write_events(request: events_pb2.WriteEventsRequest, clock_ms: int) -> list[StoredEvent | FieldViolation]:
    """Return each event, or the first thing that is wrong with it, in order.

    clock_ms: the server's time, which events may be ahead of by a day. Raises InvalidRequest where the batch itself is
    wrong.
    """
    if not 0 < len(request.events) <= MOST_EVENTS:
        raise InvalidRequest(FieldViolation("events", f"has {len(request.events)}, 1 to {MOST_EVENTS} are allowed"))
    return [_event(event, f"events[{i}]", clock_ms) for i, event in enumerate(request.events)]


def parse_forget_user(request: events_pb2.ForgetUserRequest) -> str:
    """Return the user to forget; raises InvalidRequest."""
    checks = Checks()
    _required(checks, request.user_id, LONGEST_ID, "user_id")
    checks.done()
    return request.user_id


def _event(event: events_pb2.Event, field: str, clock_ms: int) -> StoredEvent | FieldViolation:
    checks = Checks()
    checks.text(event.insert_id, LONGEST_NAME, f"{field}.insert_id")
    _required(checks, event.user_id, LONGEST_ID, f"{field}.user_id")
    _required(checks, event.item_id, LONGEST_ID, f"{field}.item_id")
    _required(checks, event.event_type, LONGEST_TYPE, f"{field}.event_type")
    checks.text(event.decision_id, LONGEST_NAME, f"{field}.decision_id")
    checks.text(event.session_id, LONGEST_ID, f"{field}.session_id")
    checks.that(event.position >= 0, f"{field}.position", f"is {event.position}; 1 is the top, 0 means unknown")
    checks.value(event.value, f"{field}.value")
    context = parse_attributes(checks, event.context, f"{field}.context")
    time_ms = _time(checks, event, f"{field}.timestamp", clock_ms)
    if checks.violations:
        return checks.violations[0]
    return StoredEvent(
        event.insert_id,
        event.user_id,
        event.item_id,
        time_ms,
        event.event_type,
        event.value if event.HasField("value") else None,
        event.decision_id,
        event.position,
        event.session_id,
        context,
    )


def _required(checks: Checks, text: str, longest: int, field: str) -> None:
    checks.that(0 < len(text) <= longest, field, f"is required, at most {longest} characters")


def _time(checks: Checks, event: events_pb2.Event, field: str, clock_ms: int) -> int | None:
    if not event.HasField("timestamp"):
        return None
    try:
        time_ms = event.timestamp.ToMilliseconds()
    except ValueError:
        checks.that(False, field, "is no time between the years 1 and 9999")
        return None
    checks.that(time_ms >= 0, field, "is before 1970")
    checks.that(time_ms <= clock_ms + FURTHEST_AHEAD_MS, field, "is more than a day in the future")
    return time_ms
