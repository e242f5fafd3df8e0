"""The limits that Tandem holds requests to, so that a caller who oversteps one learns it from the stub."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from google.protobuf import timestamp_pb2

from tandem.common.v1 import attribute_pb2, candidates_pb2, context_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_testing.refusal import Violation, invalid

_Filtered = (
    retrieval_pb2.RetrieveRequest
    | retrieval_pb2.SimilarItemsRequest
    | ranking_pb2.RecommendRequest
    | ranking_pb2.RankRequest
)

DEFAULT_CANDIDATES = 500
MOST_CANDIDATES = 2000
DEFAULT_RESULTS = 20
MOST_RESULTS = 500
MOST_RANKED = 1000
MOST_EXCLUDED = 1000
MOST_BUNDLES = 8
MOST_BATCHED = 64
MOST_SOURCES = 32
MOST_ATTRIBUTES = 16
MOST_CONTEXT_ATTRIBUTES = 64
MOST_RECENT_EVENTS = 200
MOST_EXPERIMENTS = 32
MOST_CONDITIONS = 100
MOST_FILTER_VALUES = 1000
DEEPEST_FILTER = 8
MOST_REASONS = 4
MOST_GIVEN_ITEMS = 50
MOST_EMBEDDED_ITEMS = 500
MOST_EVENTS = 1000
LARGEST_VALUE = 1e9
MOST_WRITTEN = 500
MOST_BUNDLES_LISTED = 200


def refuse_if(*found: Sequence[Violation]) -> None:
    """Raise Refusal with everything that was found wrong, if anything was."""
    if violations := [violation for each in found for violation in each]:
        raise invalid(violations)


def count(field: str, value: int, default: int, most: int) -> list[Violation]:
    """Check how many are wanted; 0 means `default`."""
    if 0 <= value <= most:
        return []
    return [(field, f"is {value}; 0 means {default}, otherwise 1 to {most}")]


def length(field: str, values: Sequence[object], most: int, least: int = 0) -> list[Violation]:
    """Check how many entries a list has."""
    if least <= len(values) <= most:
        return []
    return [(field, f"has {len(values)} entries, {least} to {most} are allowed")]


def text(field: str, value: str, most: int, least: int = 0) -> list[Violation]:
    """Check how many characters a text has."""
    if least <= len(value) <= most:
        return []
    return [(field, f"has {len(value)} characters, {least} to {most} are allowed")]


def ids(field: str, given: Sequence[str]) -> list[Violation]:
    """Check that no id of a list is empty or too long."""
    bad = next((i for i, item_id in enumerate(given) if not 0 < len(item_id) <= 256), None)
    return [] if bad is None else [(f"{field}[{bad}]", "an id has 1 to 256 characters")]


def known(field: str, value: int, values: Iterable[int]) -> list[Violation]:
    """Check that a number is one of an enum's."""
    return [] if value in values else [(field, f"is {value}, an unknown value")]


def context(message: context_pb2.RequestContext, field: str = "context") -> list[Violation]:
    """Check all that the context promises to refuse, but for the placement, which only a policy knows."""
    longest = {"request_id": 128, "placement": 128, "user_id": 256, "session_id": 256, "query_text": 256}
    wrong = [found for name, most in longest.items() for found in text(f"{field}.{name}", getattr(message, name), most)]
    wrong += length(f"{field}.seed_item_ids", message.seed_item_ids, MOST_GIVEN_ITEMS)
    wrong += ids(f"{field}.seed_item_ids", message.seed_item_ids)
    wrong += length(f"{field}.experiments", message.experiments, MOST_EXPERIMENTS)
    for i, each in enumerate(message.experiments):
        wrong += text(f"{field}.experiments[{i}].experiment", each.experiment, 128, least=1)
        wrong += text(f"{field}.experiments[{i}].variant", each.variant, 128, least=1)
    wrong += attributes(f"{field}.user_attributes", message.user_attributes)
    wrong += attributes(f"{field}.context", message.context)
    wrong += length(f"{field}.recent_events", message.recent_events, MOST_RECENT_EVENTS)
    for i, event in enumerate(message.recent_events[:MOST_RECENT_EVENTS]):
        wrong += _event(f"{field}.recent_events[{i}]", event)
    if message.HasField("event_time"):
        wrong += time(f"{field}.event_time", message.event_time)
        if message.event_time.seconds < 0:
            wrong.append((f"{field}.event_time", "is before 1970"))
    return wrong


def event_value(field: str, value: float) -> list[Violation]:
    return [] if abs(value) <= LARGEST_VALUE else [(field, "is not a number from -1e9 to 1e9")]


def _event(field: str, event: context_pb2.UserEvent) -> list[Violation]:
    wrong = text(f"{field}.item_id", event.item_id, 256, least=1)
    wrong += text(f"{field}.event_type", event.event_type, 64)
    wrong += event_value(f"{field}.value", event.value)
    return wrong + (time(f"{field}.timestamp", event.timestamp) if event.HasField("timestamp") else [])


def time(field: str, message: timestamp_pb2.Timestamp) -> list[Violation]:
    """Check that a message is a time at all."""
    try:
        message.ToMilliseconds()
    except ValueError:
        return [(field, "is no time between the years 1 and 9999")]
    return []


def attributes(field: str, given: Sequence[attribute_pb2.Attribute]) -> list[Violation]:
    """Check attributes of a user or a request."""
    wrong = length(field, given, MOST_CONTEXT_ATTRIBUTES)
    for i, attribute in enumerate(given):
        at = f"{field}[{i}]"
        wrong += text(f"{at}.name", attribute.name, 64, least=1)
        kind = attribute.WhichOneof("value")
        if kind is None:
            wrong.append((f"{at}.value", "is required"))
        elif kind == "string_value":
            wrong += text(f"{at}.string_value", attribute.string_value, 256)
        elif kind == "number_value" and not math.isfinite(attribute.number_value):
            wrong.append((f"{at}.number_value", "is not a finite number"))
        elif kind == "strings_value":
            values = attribute.strings_value.values
            wrong += length(f"{at}.strings_value", values, MOST_CONTEXT_ATTRIBUTES)
            wrong += text(f"{at}.strings_value", max(values, key=len, default=""), 256)
    return wrong


def filter_of(message: _Filtered) -> list[Violation]:
    """Check the form of a request's filter; whether its columns exist, only a catalogue knows."""
    if not message.HasField("filter"):
        return []
    wrong: list[Violation] = []
    _filter(message.filter, "filter", 1, wrong, [0])
    return wrong


def _filter(message: filter_pb2.Filter, field: str, depth: int, wrong: list[Violation], seen: list[int]) -> None:
    """Note what is wrong with one level of a filter and those below. seen: how many conditions there were so far."""
    seen[0] += 1
    if depth > DEEPEST_FILTER or seen[0] > MOST_CONDITIONS:
        too = f"nested deeper than {DEEPEST_FILTER}" if depth > DEEPEST_FILTER else f"one of over {MOST_CONDITIONS}"
        wrong.append((field, f"is {too} conditions"))
        return
    kind = message.WhichOneof("condition")
    if kind is None:
        wrong.append((f"{field}.condition", "is required"))
    elif kind == "not_of":
        _filter(message.not_of, f"{field}.not_of", depth + 1, wrong, seen)
    elif kind in ("all_of", "any_of"):
        parts = getattr(message, kind).filters
        if not parts:
            wrong.append((f"{field}.{kind}.filters", "needs at least one"))
        for i, part in enumerate(parts):
            _filter(part, f"{field}.{kind}[{i}]", depth + 1, wrong, seen)
    elif kind == "in_set":
        wrong += length(f"{field}.in_set.values", message.in_set.values.values, MOST_FILTER_VALUES, least=1)
    elif kind == "in_range":
        wrong += _range(message.in_range, f"{field}.in_range")


def _range(message: filter_pb2.InRange, field: str) -> list[Violation]:
    given = [name for name in ("min", "max") if message.HasField(name)]
    if not given:
        return [(field, "needs min or max")]
    return [(f"{field}.{name}", "is not a number") for name in given if math.isnan(getattr(message, name))]


def seen_policy(message: filter_pb2.SeenPolicy) -> list[Violation]:
    """Check a seen policy."""
    wrong = known("seen_policy.interacted", message.interacted, filter_pb2.SeenMode.values())
    wrong += known("seen_policy.served_mode", message.served_mode, filter_pb2.SeenMode.values())
    seconds = message.served_within.seconds + message.served_within.nanos / 1e9
    if not 0 <= seconds <= 365 * 86_400:
        wrong.append(("seen_policy.served_within", f"is {seconds:g} s; 0 to {365 * 86_400} s are allowed"))
    return wrong


def candidates(message: candidates_pb2.CandidateList, size: int) -> list[Violation]:
    """Check candidates that a caller brings, for a catalogue of `size` items."""
    items: Sequence[object] = message.item_ids or message.rows
    wrong = length("candidates", items, MOST_RANKED, least=1)
    if message.rows and message.item_ids:
        wrong.append(("candidates", "has rows and item_ids; give one of them"))
    if message.rows and not message.bundle_id:
        wrong.append(("candidates.bundle_id", "is required with rows"))
    if any(row >= size for row in message.rows):
        wrong.append(("candidates.rows", f"has rows outside the catalogue of {size} items"))
    if len(set(items)) < len(items):
        wrong.append(("candidates", "names an item twice"))
    wrong += length("candidates.source_columns", message.source_columns, MOST_SOURCES)
    if not all(math.isfinite(score) for score in message.scores):
        wrong.append(("candidates.scores", "has a value that is not finite"))
    before: set[str] = set()
    for i, column in enumerate(message.source_columns):
        at = f"candidates.source_columns[{i}]"
        if not column.source or column.source in before:
            wrong.append((f"{at}.source", "names a source twice" if column.source else "is required"))
        before.add(column.source)
        if not all(math.isfinite(score) for score in column.scores):
            wrong.append((f"{at}.scores", "has a value that is not finite"))
    uneven = [(name, n) for name, n in column_lengths(message) if n not in (0, len(items))]
    wrong += [(f"candidates.{name}", f"has {n} entries, the list has {len(items)}") for name, n in uneven]
    return wrong


def column_lengths(message: candidates_pb2.CandidateList) -> list[tuple[str, int]]:
    """Return name and number of entries of each column beside the items."""
    lengths = [("scores", len(message.scores)), ("source_masks", len(message.source_masks))]
    for i, column in enumerate(message.source_columns):
        lengths.append((f"source_columns[{i}].ranks", len(column.ranks)))
        lengths.append((f"source_columns[{i}].scores", len(column.scores)))
    return lengths
