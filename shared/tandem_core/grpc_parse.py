"""From requests on the wire to queries: every check of every field is here."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from google.protobuf import timestamp_pb2

from tandem.common.v1 import attribute_pb2, context_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core import observe
from tandem_core.errors import FieldViolation, InvalidRequest
from tandem_core.filters import (
    DEEPEST_FILTER,
    MOST_CONDITIONS,
    AllOf,
    AnyOf,
    Condition,
    Exists,
    InRange,
    InSet,
    NotOf,
)
from tandem_core.query import MOST_EXCLUDED, Fill, Query, Seen, SourcePlan, UserEvents, seed_of
from tandem_core.shown import IMPRESSION, ShownItems

MOST_CANDIDATES = 2000
DEFAULT_CANDIDATES = 500
MOST_RESULTS = 500
DEFAULT_RESULTS = 20
MOST_BATCHED = 64
MOST_RECENT_EVENTS = 200
MOST_ATTRIBUTES = 64
MOST_SEEDS = 50
MOST_SOURCES = 32
MOST_BUNDLES = 8
MOST_EXPERIMENTS = 32
LONGEST_ID = 256
LONGEST_NAME = 128
LONGEST_TEXT = 256
LONGEST_SERVED_WITHIN_S = 365 * 86_400
LARGEST_VALUE = 1e9  # of an event: what is made of it, in float32, must stay finite
MOST_FILTER_VALUES = 1000


AnyRequest = retrieval_pb2.RetrieveRequest | ranking_pb2.RecommendRequest | ranking_pb2.RankRequest


class Checks:
    """Collects what is wrong with a request, so that the caller hears of everything at once."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def that(self, holds: bool, field: str, description: str) -> bool:
        """Note a violation unless it holds; return whether it does."""
        if not holds:
            self.violations.append(FieldViolation(field, description))
        return holds

    def at_most(self, values: Sequence[Any], most: int, field: str) -> bool:
        return self.that(len(values) <= most, field, f"has {len(values)} entries, at most {most} are allowed")

    def text(self, text: str, longest: int, field: str) -> bool:
        return self.that(len(text) <= longest, field, f"has {len(text)} characters, at most {longest} are allowed")

    def value(self, value: float, field: str) -> bool:
        """Check what an event says by a number: finite, and not absurd."""
        return self.that(abs(value) <= LARGEST_VALUE, field, "is not a number from -1e9 to 1e9")

    def ids(self, ids: Sequence[str], most: int, field: str) -> bool:
        """Check a list of ids: not too many, none empty or too long."""
        bad = next((i for i, text in enumerate(ids) if not 0 < len(text) <= LONGEST_ID), None)
        return self.at_most(ids, most, field) and self.that(
            bad is None, f"{field}[{bad}]", f"an id has 1 to {LONGEST_ID} characters"
        )

    def count(self, value: int, default: int, most: int, field: str) -> int:
        """Return how many are wanted: 0 means the default."""
        self.that(0 <= value <= most, field, f"is {value}; 0 means {default}, otherwise 1 to {most}")
        return value or default

    def done(self) -> None:
        """Raise InvalidRequest if anything was wrong."""
        if self.violations:
            raise InvalidRequest(*self.violations)


def parse_context(checks: Checks, context: context_pb2.RequestContext, clock_ms: int) -> dict[str, Any]:
    """Return the fields of a Query that come from the context. clock_ms: the server's time, where none is given."""
    checks.text(context.request_id, LONGEST_NAME, "context.request_id")
    checks.text(context.placement, LONGEST_NAME, "context.placement")
    checks.text(context.user_id, LONGEST_ID, "context.user_id")
    checks.text(context.session_id, LONGEST_ID, "context.session_id")
    checks.text(context.query_text, LONGEST_TEXT, "context.query_text")
    checks.ids(context.seed_item_ids, MOST_SEEDS, "context.seed_item_ids")
    _experiments(checks, context.experiments)
    now_ms = clock_ms
    if context.HasField("event_time"):
        now_ms = _milliseconds(checks, context.event_time, "context.event_time")
        checks.that(now_ms >= 0, "context.event_time", "is before 1970")
    events = _events(checks, context.recent_events, now_ms)
    request_id = context.request_id or uuid.uuid4().hex
    observe.request_is(request_id)
    return {
        "request_id": request_id,
        "now_ms": now_ms,
        "placement": context.placement or "default",
        "user_id": context.user_id,
        "session_id": context.session_id,
        "anonymous": context.anonymous,
        **_apart(events),
        "seed_item_ids": list(context.seed_item_ids),
        "query_text": context.query_text,
        "attributes": parse_attributes(checks, context.user_attributes, "context.user_attributes"),
        "context": parse_attributes(checks, context.context, "context.context"),
        "seed": seed_of(request_id, context.seed),
        "experiments": tuple((each.experiment, each.variant) for each in context.experiments),
    }


def _experiments(checks: Checks, experiments: Sequence[context_pb2.ExperimentAssignment]) -> None:
    field = "context.experiments"
    checks.at_most(experiments, MOST_EXPERIMENTS, field)
    for i, each in enumerate(experiments):
        for name, text in (("experiment", each.experiment), ("variant", each.variant)):
            fits = 0 < len(text) <= LONGEST_NAME
            checks.that(fits, f"{field}[{i}].{name}", f"is required, at most {LONGEST_NAME} characters")


def _milliseconds(checks: Checks, time: timestamp_pb2.Timestamp, field: str) -> int:
    """Return milliseconds since 1970, or 0 where the message is no time (and a violation was noted)."""
    try:
        return time.ToMilliseconds()
    except ValueError:
        checks.that(False, field, "is no time between the years 1 and 9999")
        return 0


def _events(checks: Checks, events: Sequence[context_pb2.UserEvent], now_ms: int) -> UserEvents:
    field = "context.recent_events"
    if not events or not checks.at_most(events, MOST_RECENT_EVENTS, field):
        return UserEvents()
    for i, event in enumerate(events):
        checks.that(
            0 < len(event.item_id) <= LONGEST_ID, f"{field}[{i}].item_id", "is required, at most 256 characters"
        )
        checks.text(event.event_type, 64, f"{field}[{i}].event_type")
        checks.value(event.value, f"{field}[{i}].value")
    times = [
        _milliseconds(checks, event.timestamp, f"{field}[{i}].timestamp") if event.HasField("timestamp") else now_ms
        for i, event in enumerate(events)
    ]
    if checks.violations:
        return UserEvents()  # nobody will ask, and what is wrong with a value may not fit into the columns
    by_time = sorted(range(len(events)), key=times.__getitem__)
    return UserEvents(
        [events[i].item_id for i in by_time],
        np.array([times[i] for i in by_time], np.int64),
        [events[i].event_type for i in by_time],
        np.array([events[i].value if events[i].HasField("value") else np.nan for i in by_time], np.float32),
    )


def _apart(events: UserEvents) -> dict[str, Any]:
    """Return the fields of a Query for what the user chose and what was shown."""
    if IMPRESSION not in events.event_types:
        return {"events": events}
    was_shown = np.array([kind == IMPRESSION for kind in events.event_types])
    shown = events.take(np.flatnonzero(was_shown))
    return {
        "events": events.take(np.flatnonzero(~was_shown)),
        "shown": ShownItems.of(shown.item_ids, [1] * len(shown), shown.timestamps.tolist()),
    }


def parse_attributes(checks: Checks, attributes: Iterable[attribute_pb2.Attribute], field: str) -> dict[str, str]:
    """Return name -> text: numbers as written without trailing zeros, booleans as true/false, of lists the first."""
    listed = list(attributes)
    checks.at_most(listed, MOST_ATTRIBUTES, field)
    texts: dict[str, str] = {}
    for i, attribute in enumerate(listed):
        at = f"{field}[{i}]"
        checks.that(0 < len(attribute.name) <= 64, f"{at}.name", "is required, at most 64 characters")
        kind = attribute.WhichOneof("value")
        checks.that(kind is not None, f"{at}.value", "is required")
        if kind == "string_value":
            checks.text(attribute.string_value, LONGEST_TEXT, f"{at}.string_value")
            texts[attribute.name] = attribute.string_value
        elif kind == "number_value":
            checks.that(math.isfinite(attribute.number_value), f"{at}.number_value", "is not a finite number")
            texts[attribute.name] = f"{attribute.number_value:.15g}"
        elif kind == "bool_value":
            texts[attribute.name] = "true" if attribute.bool_value else "false"
        elif attribute.strings_value.values:
            values = attribute.strings_value.values
            checks.at_most(values, MOST_ATTRIBUTES, f"{at}.strings_value")
            checks.text(max(values, key=len), LONGEST_TEXT, f"{at}.strings_value")
            texts[attribute.name] = values[0]
    return texts


def parse_common(checks: Checks, request: AnyRequest, clock_ms: int) -> dict[str, Any]:
    """Return the fields of a Query that all requests share: the context, and which items may be returned.

    clock_ms: the server's time, for requests that carry none.
    """
    fields = parse_context(checks, request.context, clock_ms)
    seen_fields: dict[str, Any] = {}
    if request.HasField("seen_policy"):
        seen = request.seen_policy
        checks.that(seen.interacted in filter_pb2.SeenMode.values(), "seen_policy.interacted", "is an unknown value")
        checks.that(seen.served_mode in filter_pb2.SeenMode.values(), "seen_policy.served_mode", "is an unknown value")
        seen_fields = {
            "interacted": Seen(int(seen.interacted)) if int(seen.interacted) in set(Seen) else None,
            "served": Seen(int(seen.served_mode)) if int(seen.served_mode) in set(Seen) else Seen.DISCOUNT,
            "served_within_s": _served_within(checks, seen),
        }
    return fields | seen_fields | {"condition": parse_filter(checks, request)}


def _served_within(checks: Checks, seen: filter_pb2.SeenPolicy) -> float:
    seconds = seen.served_within.seconds + seen.served_within.nanos / 1e9
    fits = 0 <= seconds <= LONGEST_SERVED_WITHIN_S
    checks.that(fits, "seen_policy.served_within", f"is {seconds:g} s; 0 to {LONGEST_SERVED_WITHIN_S} s are allowed")
    return seconds


def parse_filter(checks: Checks, request: AnyRequest | retrieval_pb2.SimilarItemsRequest) -> Condition | None:
    """Return the condition of a request's filter, None where it has none or a wrong one (and a violation was noted)."""
    return _Filters(checks).parse(request.filter, "filter") if request.HasField("filter") else None


def parse_fill(checks: Checks, fill: int, excluded: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a Query for requests that look for items: how to fill, and what to leave out."""
    checks.ids(excluded, MOST_EXCLUDED, "exclude_item_ids")
    known = fill in filter_pb2.FillPolicy.values()
    checks.that(known, "fill_policy", f"is {fill}, which this version does not know")
    return {"fill": Fill(fill) if fill in set(Fill) else Fill.BACKFILL, "exclude_item_ids": list(excluded)}


class _Filters:
    """Turns filter messages into conditions, counting them and noting what is wrong."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._seen = 0

    def parse(self, message: filter_pb2.Filter, field: str, depth: int = 1) -> Condition | None:
        """Return the condition of a message, or None where it is wrong (and a violation was noted)."""
        self._seen += 1
        fits = self._checks.that(depth <= DEEPEST_FILTER, field, f"is nested deeper than {DEEPEST_FILTER}")
        if not fits or not self._checks.that(
            self._seen <= MOST_CONDITIONS, field, f"has more than {MOST_CONDITIONS} conditions"
        ):
            return None
        kind = message.WhichOneof("condition")
        if not self._checks.that(kind is not None, f"{field}.condition", "is required"):
            return None
        if kind in ("all_of", "any_of", "not_of"):
            return self._combined(message, kind, field, depth)
        return self._single(message, f"{field}.{kind}")

    def _combined(self, message: filter_pb2.Filter, kind: str, field: str, depth: int) -> Condition | None:
        if kind == "not_of":
            part = self.parse(message.not_of, f"{field}.not_of", depth + 1)
            return None if part is None else NotOf(part)
        parts = getattr(message, kind).filters
        self._checks.that(len(parts) > 0, f"{field}.{kind}.filters", "needs at least one")
        found = [self.parse(part, f"{field}.{kind}[{i}]", depth + 1) for i, part in enumerate(parts)]
        known = [part for part in found if part is not None]
        if not known:
            return None
        return AllOf(known) if kind == "all_of" else AnyOf(known)

    def _single(self, message: filter_pb2.Filter, field: str) -> Condition:
        if message.HasField("in_set"):
            values = message.in_set.values.values
            fits = 0 < len(values) <= MOST_FILTER_VALUES
            self._checks.that(fits, f"{field}.values", f"needs 1 to {MOST_FILTER_VALUES} values")
            return InSet(message.in_set.column, frozenset(values))
        if message.HasField("in_range"):
            return _range(self._checks, message.in_range, field)
        return Exists(message.exists.column)


def _range(checks: Checks, message: filter_pb2.InRange, field: str) -> Condition:
    low = message.min if message.HasField("min") else -math.inf
    high = message.max if message.HasField("max") else math.inf
    checks.that(message.HasField("min") or message.HasField("max"), field, "needs min or max")
    checks.that(not math.isnan(low), f"{field}.min", "is not a number")
    checks.that(not math.isnan(high), f"{field}.max", "is not a number")
    return InRange(message.column, low, high)


def parse_retrieve(request: retrieval_pb2.RetrieveRequest, clock_ms: int) -> Query:
    """Return the query of a RetrieveRequest; raises InvalidRequest with every violation."""
    checks = Checks()
    fields = parse_common(checks, request, clock_ms)
    fields |= parse_fill(checks, request.fill_policy, request.exclude_item_ids)
    wanted = checks.count(request.max_candidates, DEFAULT_CANDIDATES, MOST_CANDIDATES, "max_candidates")
    checks.ids(request.acceptable_bundle_ids, MOST_BUNDLES, "acceptable_bundle_ids")
    checks.that(
        request.item_form in retrieval_pb2.ItemForm.values(), "item_form", f"is {request.item_form}, an unknown value"
    )
    plans = _plans(checks, request.sources, wanted)
    checks.done()
    return Query(max_results=wanted, plans=plans, **fields)


def _plans(checks: Checks, sources: Sequence[retrieval_pb2.SourcePlan], wanted: int) -> tuple[SourcePlan, ...]:
    checks.at_most(sources, MOST_SOURCES, "sources")
    names = [plan.source for plan in sources]
    checks.that(len(set(names)) == len(names), "sources", "names a source twice")
    plans = []
    for i, plan in enumerate(sources):
        limit = checks.count(plan.limit, wanted, MOST_CANDIDATES, f"sources[{i}].limit")
        weight = plan.weight if plan.HasField("weight") else 1.0
        checks.that(0 < weight < math.inf, f"sources[{i}].weight", "is not a finite number above 0")
        plans.append(SourcePlan(plan.source, limit, weight))
    return tuple(plans)
