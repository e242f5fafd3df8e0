"""The three tables every data set becomes, and the one door (`validate`) they come through."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from tandem_trainer.data.cleaning import Rules, clean_events, clean_items, clean_users, with_stubs
from tandem_trainer.data.columns import LAST_POSSIBLE_MS, TimeUnit
from tandem_trainer.data.errors import DataError
from tandem_trainer.data.report import Finding, Ledger, ValidationReport
from tandem_trainer.data.sanity import sanity_checks
from tandem_trainer.data.schema import ANONYMOUS, EVENT_COLUMNS, ITEM_COLUMNS, TableSchema, require_columns

__all__ = [
    "EVENT_COLUMNS",
    "ITEM_COLUMNS",
    "DataError",
    "Dataset",
    "Finding",
    "TableSchema",
    "ValidationReport",
    "filter_min_interactions",
    "require_columns",
    "validate",
]

DAY_MS = 86_400_000


class Tables(NamedTuple):
    """Clean events, items and users, in this order."""

    events: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Three clean tables.

    events: user_id (str), item_id (str), timestamp (int64, UNIX ms), event_type (str), value (float32, NaN =
    none), in a stable sort by timestamp with the order of the file for ties; then, where schema.event_text, text (str,
    "" = none), and the schema's context columns (str or None).
    items: item_id, title (str, "" = none), text (str, "" = none), categories (list[str]), creator (str or
    None), created_at (Int64, UNIX ms, null = unknown), price (float64, NaN = unknown), then the schema's
    numeric (float64), categorical (str or None) and vector (float32 array or None) columns. Each item of the
    events is there, and there may be items without events.
    users: user_id, then the schema's attributes (str or None). Each user of the events is there.
    """

    name: str
    events: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame
    schema: TableSchema
    report: ValidationReport


def validate(
    events: pd.DataFrame,
    items: pd.DataFrame | None,
    users: pd.DataFrame | None,
    schema: TableSchema,
    *,
    name: str,
    time_unit: TimeUnit = "ms",
    now_ms: int | None = None,
    categories_separator: str | None = None,
    ledger: Ledger | None = None,
) -> Dataset:
    """Clean three raw tables; bad rows are dropped and counted, never silently lost.

    The index of a raw table is its row in the source, integers from 0: an adapter may drop rows before.
    time_unit: what numbers in `timestamp` and `created_at` mean. now_ms: the clock; times over a day after it
    are impossible; None checks only that they lie before the year 10000.
    Raises DataError for a missing column, or when no event is left.
    """
    ledger = ledger if ledger is not None else Ledger()
    future_ms = LAST_POSSIBLE_MS if now_ms is None else now_ms + DAY_MS
    for table, frame in (("events", events), ("items", items), ("users", users)):
        if frame is not None:
            ledger.read(table, "memory", len(frame))
    rules = Rules(time_unit, future_ms, categories_separator, ledger)
    event_rows = clean_events(events, schema, rules)
    item_rows = clean_items(items, schema, rules)
    user_rows = clean_users(users, schema, ledger)
    item_rows = with_stubs(item_rows, "item_id", event_rows, None if items is None else ledger)
    user_rows = with_stubs(user_rows, "user_id", event_rows, None if users is None else ledger)
    return _reported(Tables(event_rows, item_rows, user_rows), name, schema, ledger)


def filter_min_interactions(dataset: Dataset, min_item_events: int = 0, min_user_events: int = 0) -> Dataset:
    """Drop items, then users, with fewer events than given: one pass, so items may end below their minimum.

    0 keeps all, also those without any event. The report's examples count rows of the clean tables.
    Raises DataError when no event is left.
    """
    if min_item_events < 0 or min_user_events < 0:
        raise DataError(f"min_item_events {min_item_events}, min_user_events {min_user_events}: must be 0 or more")
    before = dataset.report
    ledger = Ledger(dict(before.sources), dict(before.rows_read), list(before.findings))
    events, tables = dataset.events, {"item_id": dataset.items, "user_id": dataset.users}
    for key, table, least in (("item_id", "items", min_item_events), ("user_id", "users", min_user_events)):
        if least == 0:
            continue
        codes, names = pd.factorize(events[key])
        counts = np.bincount(codes, minlength=len(names))
        events = ledger.drop("events", f"{table} with fewer than {least} events", events, counts[codes] < least, [key])
        kept = tables[key][key].isin(names[counts >= least]).to_numpy(dtype=bool)
        tables[key] = ledger.drop(table, f"fewer than {least} events", tables[key], ~kept, [key])
    if events.empty:
        raise DataError(f"{dataset.name}: no event is left after the minimum-interactions filter; lower it")
    kept_tables = [frame.reset_index(drop=True) for frame in (events, tables["item_id"], tables["user_id"])]
    return _reported(Tables(*kept_tables), dataset.name, dataset.schema, ledger)


def without_users(dataset: Dataset, users: Set[str], reason: str) -> Dataset:
    """Drop users and their events; the report counts them and names none. Raises DataError when no event is left."""
    before = dataset.report
    ledger = Ledger(dict(before.sources), dict(before.rows_read), list(before.findings))
    kept = [
        ledger.drop(name, reason, table, table["user_id"].isin(users).to_numpy(dtype=bool), []).reset_index(drop=True)
        for name, table in (("events", dataset.events), ("users", dataset.users))
    ]
    if kept[0].empty:
        raise DataError(f"{dataset.name}: no event is left without the users of whom it is said: {reason}")
    return _reported(Tables(kept[0], dataset.items, kept[1]), dataset.name, dataset.schema, ledger)


def anonymous_users(dataset: Dataset) -> list[str]:
    """The user ids that stand for one event of nobody known: nothing may be concluded from who they are."""
    if ANONYMOUS not in dataset.schema.user_attributes:
        return []
    return dataset.users.loc[dataset.users[ANONYMOUS] == "1", "user_id"].tolist()


def _reported(tables: Tables, name: str, schema: TableSchema, ledger: Ledger) -> Dataset:
    events, items, users = tables
    report = ValidationReport(
        name=name,
        sources=ledger.sources,
        rows_read=ledger.rows_read,
        users=len(users),
        items=len(items),
        events=len(events),
        findings=tuple(ledger.findings),
        checks=sanity_checks(events, items, users),
    )
    return Dataset(name, events, items, users, schema, report)
