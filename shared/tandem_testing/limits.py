"""The limits that Tandem holds requests to, so that a caller who oversteps one learns it from the stub."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.common.v1 import candidates_pb2, context_pb2, filter_pb2
from tandem_testing.refusal import Violation, invalid

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
MOST_REASONS = 4
MOST_GIVEN_ITEMS = 50
MOST_EMBEDDED_ITEMS = 500


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


def ids(field: str, given: Sequence[str]) -> list[Violation]:
    """Check that no id of a list is empty or too long."""
    bad = next((i for i, item_id in enumerate(given) if not 0 < len(item_id) <= 256), None)
    return [] if bad is None else [(f"{field}[{bad}]", "an id has 1 to 256 characters")]


def context(message: context_pb2.RequestContext, field: str = "context") -> list[Violation]:
    """Check the ids of a request's context."""
    limits = {"request_id": 128, "placement": 128, "user_id": 256, "session_id": 256}
    return [
        (f"{field}.{name}", f"has {len(text)} characters, at most {most} are allowed")
        for name, most in limits.items()
        if len(text := getattr(message, name)) > most
    ]


def seen_policy(message: filter_pb2.SeenPolicy) -> list[Violation]:
    """Check what of a seen policy is served today."""
    return [("seen_policy.served_within", "is not supported yet")] if message.HasField("served_within") else []


def candidates(message: candidates_pb2.CandidateList, size: int) -> list[Violation]:
    """Check candidates that a caller brings, for a catalogue of `size` items."""
    items: Sequence[object] = message.item_ids or message.rows
    wrong = length("candidates", items, MOST_RANKED, least=1)
    if message.rows and message.item_ids:
        wrong.append(("candidates", "has rows and item_ids; give one of them"))
    if message.rows and not message.bundle_id:
        wrong.append(("candidates.bundle_id", "is required with rows"))
    if any(not 0 <= row < size for row in message.rows):
        wrong.append(("candidates.rows", f"has rows outside the catalogue of {size} items"))
    if len(set(items)) < len(items):
        wrong.append(("candidates", "names an item twice"))
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
