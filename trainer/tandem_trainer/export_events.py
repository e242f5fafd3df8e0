"""From the store to a table that the trainer reads."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tandem_core.shown import IMPRESSION
from tandem_core.stores.base import LoggedEvent, UserStore

CHUNK = 20_000  # events in memory at a time

_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),
        ("event_type", pa.string()),
        ("value", pa.float32()),
        ("decision_id", pa.string()),
        ("position", pa.int32()),
        ("session_id", pa.string()),
    ]
)


class Kind(enum.StrEnum):
    """Which events: what users chose, what they were shown, or both."""

    CHOSEN = "chosen"
    IMPRESSIONS = "impressions"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Exported:
    """events: rows written. left_out: events of forgotten users. last_sequence: export what comes `after` it next."""

    events: int
    left_out: int
    last_sequence: int


def export_events(
    store: UserStore, file: Path, *, after: int = 0, kind: Kind = Kind.CHOSEN, context: Sequence[str] = ()
) -> Exported:
    """Write all events with a sequence above `after` as Parquet, in their order; forgotten users are left out.

    The file is complete or not there; without any event it is not written. timestamp: milliseconds since 1970. value:
    null for none. context: facts that get a column each, for `[events] context` in columns.toml; null where not
    known. Raises StoreUnavailable, OSError, and ValueError for a column that there is already.
    """
    schema = _schema(context)
    written = left_out = 0
    last = after
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(beside, schema) as writer:
            for chunk in store.log(after, CHUNK):
                wanted = [event for event in chunk if _is_of(event, kind)]
                forgotten = store.forgotten_among([*{event.user_id for event in wanted}])
                kept = [event for event in wanted if event.user_id not in forgotten]
                if kept:
                    writer.write_batch(_batch(kept, schema))
                written += len(kept)
                left_out += len(wanted) - len(kept)
                last = chunk[-1].sequence
        if written:
            with beside.open("rb") as complete:
                os.fsync(complete.fileno())
            beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    return Exported(written, left_out, last)


def _is_of(event: LoggedEvent, kind: Kind) -> bool:
    return kind is Kind.ALL or (event.event_type == IMPRESSION) == (kind is Kind.IMPRESSIONS)


def _schema(context: Sequence[str]) -> pa.Schema:
    names = [*_SCHEMA.names, *context]
    if twice := [name for name in context if names.count(name) > 1]:
        raise ValueError(f"context {twice[0]!r} is named twice, or is a column of every event: {_SCHEMA.names}")
    return pa.schema([*_SCHEMA, *((name, pa.string()) for name in context)])


def _batch(events: Sequence[LoggedEvent], schema: pa.Schema) -> pa.RecordBatch:
    _, *columns, contexts = zip(*events, strict=True)
    columns += [tuple(context.get(name) for context in contexts) for name in schema.names[len(columns) :]]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)
