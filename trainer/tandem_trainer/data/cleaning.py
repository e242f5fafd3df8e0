"""Clean one raw table: each function drops and counts bad rows, and returns typed columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tandem_trainer.data import columns
from tandem_trainer.data.columns import LAST_POSSIBLE_MS, Column, Mask, TimeUnit
from tandem_trainer.data.errors import DataError
from tandem_trainer.data.report import Ledger
from tandem_trainer.data.schema import EVENT_COLUMNS, EVENT_TEXT, TableSchema, require_columns

_EARLIEST_LIKELY_MS = 10**11  # 1973 in milliseconds; present-day seconds read as milliseconds lie below it


@dataclass(frozen=True, slots=True)
class Rules:
    """How raw values are to be read, and where findings go."""

    time_unit: TimeUnit
    future_ms: int  # later times are impossible
    separator: str | None  # between the categories of a plain string
    ledger: Ledger


def clean_events(events: pd.DataFrame, schema: TableSchema, rules: Rules) -> pd.DataFrame:
    """The events columns, sorted by time; DataError when a column is missing or no event is left."""
    kept = [*EVENT_COLUMNS, *([EVENT_TEXT] if schema.event_text else []), *schema.event_context]
    ledger = rules.ledger
    source = ledger.sources["events"]
    require_columns(events, [*EVENT_COLUMNS[:4], *kept[len(EVENT_COLUMNS) :]], source)
    if events.empty:
        raise DataError(f"{source}: the events table is empty; there is nothing to train on")
    events = _with_ids(events, "events", "user_id", ledger)
    events = _with_ids(events, "events", "item_id", ledger)
    events = _with_times(events, rules)
    kinds = columns.as_text(events["event_type"])
    events = events.assign(event_type=kinds, value=_values(events, ledger))
    if schema.event_text:
        events = events.assign(**{EVENT_TEXT: columns.as_text(events[EVENT_TEXT])})
    events = events.assign(**{name: columns.as_optional(events[name]) for name in schema.event_context})
    unnamed = (kinds == "").to_numpy(dtype=bool)
    events = ledger.drop("events", "missing event type", events, unnamed, ["user_id", "item_id"])
    events = events[kept].sort_values("timestamp", kind="stable")
    events = ledger.drop("events", "exact duplicate", events, _repeated(events, schema.event_context), EVENT_COLUMNS)
    if events.empty:
        reasons = "; ".join(f"{f.count} x {f.reason}, first {f.examples[0]}" for f in ledger.findings if f.examples)
        raise DataError(f"{source}: no usable event is left: {reasons}")
    return events.reset_index(drop=True)


def _with_ids(frame: pd.DataFrame, table: str, column: str, ledger: Ledger) -> pd.DataFrame:
    ids, missing = columns.as_ids(frame[column], where=f"{ledger.sources[table]} column {column!r}")
    frame = frame.assign(**{column: ids})
    return ledger.drop(table, f"missing {column}", frame, missing, list(frame.columns[:4]))


def _with_times(events: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    times, missing, unparsable = columns.as_milliseconds(events["timestamp"], rules.time_unit)
    ledger = rules.ledger
    reasons = {
        "missing timestamp": missing,
        "unparsable timestamp": unparsable,
        "impossible timestamp: before 1970": times < 0,
        "impossible timestamp: in the future": times > rules.future_ms,
    }
    # Of several reasons the first one counts.
    faults = np.select(list(reasons.values()), range(len(reasons)), default=-1)
    for fault, reason in enumerate(reasons):
        bad = faults == fault
        events = ledger.drop("events", reason, events, bad, ["user_id", "item_id", "timestamp"])
        times, faults = times[~bad], faults[~bad]
    if len(times) and times.max() > 0:  # else the events have no time at all, which was said before
        reason = "timestamp before 1973: is the time unit wrong, or the time missing?"
        ledger.warn("events", reason, events, times < _EARLIEST_LIKELY_MS, ["user_id", "item_id", "timestamp"])
    return events.assign(timestamp=times)


def _values(events: pd.DataFrame, ledger: Ledger) -> npt.NDArray[np.float32]:
    if "value" not in events.columns:
        return np.full(len(events), np.nan, dtype=np.float32)
    numbers, _, unparsable = columns.as_numbers(events["value"])
    ledger.warn(
        "events",
        "value is no finite number: read as none",
        events,
        unparsable,
        ["user_id", "item_id", "value"],
    )
    return numbers.astype(np.float32)


def _repeated(events: pd.DataFrame, context: Sequence[str]) -> Mask:
    """Mask of rows equal to an earlier one; on codes, because strings are several times slower."""
    texts = [name for name in ("user_id", "item_id", "event_type", EVENT_TEXT, *context) if name in events.columns]
    keys = {name: pd.factorize(events[name])[0] for name in texts}
    keys |= {"timestamp": events["timestamp"].to_numpy(), "value": events["value"].to_numpy()}
    return pd.DataFrame(keys).duplicated().to_numpy(dtype=bool)


def clean_items(items: pd.DataFrame | None, schema: TableSchema, rules: Rules) -> pd.DataFrame:
    """The items columns, one row per item; DataError when a declared column is missing."""
    if items is None:
        return _typed_items(pd.DataFrame({"item_id": pd.Series(dtype="str")}), schema, None)
    ledger = rules.ledger
    source = ledger.sources["items"]
    declared = [*schema.item_numeric, *schema.item_categorical, *schema.item_vector]
    require_columns(items, ["item_id", *declared], source)
    items = _with_ids(items, "items", "item_id", ledger)
    twice = items["item_id"].duplicated().to_numpy(dtype=bool)
    items = ledger.drop("items", "duplicate item_id: first kept", items, twice, ["item_id", "title"])
    if "created_at" in items.columns:
        items = items.assign(created_at=_created_at(items, rules))
    numeric = [name for name in ("price", *schema.item_numeric) if name in items.columns]
    for name in numeric:
        numbers, missing, unparsable = columns.as_numbers(items[name])
        ledger.warn("items", f"{name} is no finite number: read as missing", items, unparsable, ["item_id", name])
        if name == "price":
            ledger.warn("items", "negative price: read as missing", items, numbers < 0, ["item_id", "price"])
            numbers = np.where(numbers < 0, np.nan, numbers)
        else:
            ledger.warn("items", f"{name} is missing", items, missing, ["item_id", "title"])
        items = items.assign(**{name: numbers})
    return _typed_items(items, schema, rules.separator, source).reset_index(drop=True)


def _created_at(items: pd.DataFrame, rules: Rules) -> Column:
    """Times as Int64, null where unknown or impossible; before 1970 is fine here: films are older."""
    column = items["created_at"]
    times, missing, unparsable = columns.as_milliseconds(column, rules.time_unit)
    ledger = rules.ledger
    impossible = (times > rules.future_ms) | (times < -LAST_POSSIBLE_MS)
    ledger.warn("items", "unparsable created_at: read as unknown", items, unparsable, ["item_id", "created_at"])
    ledger.warn("items", "impossible created_at: read as unknown", items, impossible, ["item_id", "created_at"])
    return pd.Series(times, index=items.index, dtype="Int64").mask(missing | unparsable | impossible)


def _typed_items(
    items: pd.DataFrame, schema: TableSchema, separator: str | None, source: str = "items"
) -> pd.DataFrame:
    """Exactly the declared columns, each of its type, filled where the source has none."""

    def column(name: str) -> Column:
        return items[name] if name in items.columns else pd.Series(None, index=items.index, dtype=object)

    numbers = {name: column(name).astype("float64") for name in ("price", *schema.item_numeric)}
    vectors = {n: columns.as_vectors(column(n), where=f"{source} column {n!r}") for n in schema.item_vector}
    return pd.DataFrame(
        {
            "item_id": items["item_id"],
            "title": columns.as_text(column("title")),
            "text": columns.as_text(column("text")),
            "categories": columns.as_lists(column("categories"), separator),
            "creator": columns.as_optional(column("creator")),
            "created_at": column("created_at").astype("Int64"),
            **numbers,
            **{name: columns.as_optional(column(name)) for name in schema.item_categorical},
            **vectors,
        }
    )


def clean_users(users: pd.DataFrame | None, schema: TableSchema, ledger: Ledger) -> pd.DataFrame:
    """The users columns, one row per user; DataError when a declared attribute is missing."""
    if users is None:
        users = pd.DataFrame({"user_id": pd.Series(dtype="str")})
        return _typed_users(users, schema)
    require_columns(users, ["user_id", *schema.user_attributes], ledger.sources["users"])
    users = _with_ids(users, "users", "user_id", ledger)
    twice = users["user_id"].duplicated().to_numpy(dtype=bool)
    users = ledger.drop("users", "duplicate user_id: first kept", users, twice, ["user_id"])
    return _typed_users(users, schema).reset_index(drop=True)


def _typed_users(users: pd.DataFrame, schema: TableSchema) -> pd.DataFrame:
    nothing = pd.Series(None, index=users.index, dtype=object)
    attributes = {name: columns.as_optional(users.get(name, nothing)) for name in schema.user_attributes}
    return pd.DataFrame({"user_id": users["user_id"], **attributes})


def with_stubs(table: pd.DataFrame, key: str, events: pd.DataFrame, ledger: Ledger | None) -> pd.DataFrame:
    """The table with an empty row for each id that only the events know, in order of first event.

    ledger: where to warn of them; None where no table was given, so that nothing is amiss.
    """
    ids = pd.Series(events[key].unique(), dtype="str")
    unknown = ids[~ids.isin(table[key])]
    if unknown.empty:
        return table
    if ledger is not None:
        odd = events[key].isin(unknown).to_numpy(dtype=bool)
        ledger.warn("events", f"unknown {key}: kept, an empty row added to its table", events, odd, [key])
    stubs = table.iloc[:0].reindex(range(len(unknown))).astype(table.dtypes.to_dict())
    stubs[key] = unknown.to_numpy()
    for column in table.columns.drop(key):
        if column in ("title", "text"):
            stubs[column] = pd.Series("", index=stubs.index, dtype="str")
        elif column == "categories":
            stubs[column] = columns.as_lists(pd.Series(None, index=stubs.index, dtype=object), None)
        elif table[column].dtype == object:
            stubs[column] = pd.Series([None] * len(stubs), index=stubs.index, dtype=object)
    return pd.concat([table, stubs], ignore_index=True) if len(table) else stubs
