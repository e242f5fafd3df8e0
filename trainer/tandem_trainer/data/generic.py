"""Anybody's Parquet or CSV tables, by their own column names or by a columns.toml beside them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from tandem_trainer.data.columns import TimeUnit, as_text
from tandem_trainer.data.errors import DataError
from tandem_trainer.data.files import read_table
from tandem_trainer.data.mapping import FILE_NAME, TRIPLE, Mapping, TableMapping, mapping_toml, read_mapping
from tandem_trainer.data.report import Ledger
from tandem_trainer.data.tables import Dataset, require_columns, validate


def load(folder: Path, *, now_ms: int | None = None) -> Dataset:
    """Events (required), items and users (optional) from `folder`, each .parquet or .csv.

    With a columns.toml the columns may have other names, and extra ones can be declared; without one, the
    columns carry our names, or the folder is an interactions/users/items triple. Events without a time
    (time_unit = "none") all get time 0, in the order of the file: a split by time refuses them.
    Raises DataError naming the file and the column for what is missing or unreadable.
    """
    mapping = _mapping(folder)
    ledger = Ledger()
    events = _read(folder, "events", mapping.events, ledger)
    items = _read(folder, "items", mapping.items, ledger)
    users = _read(folder, "users", mapping.users, ledger)
    if events is None:
        raise DataError(f"{folder}: no events table; expected events.parquet or events.csv, or a {FILE_NAME}")
    if items is not None and mapping.text:
        require_columns(items, mapping.text, ledger.sources["items"])
        items = items.assign(text=_joined(items, mapping.text))
    if mapping.event_text:
        require_columns(events, mapping.event_text, ledger.sources["events"])
        events = events.assign(text=_joined(events, mapping.event_text))
    return validate(
        _completed(events, mapping, ledger),
        items,
        users,
        mapping.schema,
        name=mapping.name,
        time_unit="ms" if mapping.time_unit == "none" else cast(TimeUnit, mapping.time_unit),
        now_ms=now_ms,
        categories_separator=mapping.categories_separator,
        ledger=ledger,
    )


def write_tables(dataset: Dataset, folder: Path) -> None:
    """Write events, items and users as Parquet, and the columns.toml that reads them back as they are.

    Overwrites the four files in `folder`, which is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for table in ("events", "items", "users"):
        getattr(dataset, table).to_parquet(folder / f"{table}.parquet", index=False)
    (folder / FILE_NAME).write_text(mapping_toml(dataset.name, dataset.schema), encoding="utf-8")


def _mapping(folder: Path) -> Mapping:
    if (folder / FILE_NAME).is_file():
        return read_mapping(folder / FILE_NAME)
    own = any((folder / f"events{ending}").exists() for ending in (".parquet", ".csv"))
    return TRIPLE if not own and (folder / "interactions.parquet").is_file() else Mapping()


def _read(folder: Path, table: str, mapping: TableMapping, ledger: Ledger) -> pd.DataFrame | None:
    """One table under our column names, or None if it is neither there nor named in the mapping."""
    if mapping.file is not None:
        path = folder / mapping.file
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{FILE_NAME}: {table}.file {mapping.file!r} lies outside the folder")
    else:
        found = [path for ending in (".parquet", ".csv") if (path := folder / f"{table}{ending}").exists()]
        if not found:
            return None
        if len(found) > 1:
            raise DataError(
                f"{folder}: both {found[0].name} and {found[1].name} are there; keep one, or name one "
                f"as {table}.file in {FILE_NAME}"
            )
        path = found[0]
    frame = read_table(path)
    ledger.read(table, path.name, len(frame))
    require_columns(frame, list(mapping.columns.values()), path.name)
    return frame.assign(**{name: frame[theirs] for name, theirs in mapping.columns.items()})


def _completed(events: pd.DataFrame, mapping: Mapping, ledger: Ledger) -> pd.DataFrame:
    """Events with the columns that a mapping may declare absent: the event type and the time."""
    if "event_type" not in events.columns and mapping.default_event_type is not None:
        events = events.assign(event_type=mapping.default_event_type)
    if mapping.time_unit == "none":
        every = np.ones(len(events), dtype=bool)
        ledger.warn("events", "no timestamp: all at time 0, order of the file kept", events, every, ["user_id"])
        return events.assign(timestamp=np.zeros(len(events), dtype=np.int64))
    source = ledger.sources["events"]
    if "timestamp" not in events.columns:
        raise DataError(
            f"{source}: column 'timestamp' is missing; it has {list(events.columns)}. Map it in {FILE_NAME}, "
            'or say time_unit = "none" there if the events have no time'
        )
    if "event_type" not in events.columns:
        raise DataError(
            f"{source}: column 'event_type' is missing; it has {list(events.columns)}. Map it in {FILE_NAME}, "
            'or set default_event_type = "view" (or another type) under [events] there'
        )
    return events


def _joined(table: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    parts = [as_text(table[name]).tolist() for name in names]
    return [" ".join(part for part in row if part) for row in zip(*parts, strict=True)]
