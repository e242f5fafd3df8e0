"""`columns.toml`: what the generic adapter must be told about somebody's tables."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem_trainer.data.errors import DataError
from tandem_trainer.data.schema import EVENT_TEXT
from tandem_trainer.data.tables import EVENT_COLUMNS, ITEM_COLUMNS, TableSchema

FILE_NAME = "columns.toml"
TIME_UNITS = ("s", "ms", "iso", "none")
_TABLES: dict[str, dict[str, type]] = {
    "events": {"file": str, "columns": dict, "default_event_type": str, "text": list, "context": list},
    "items": {
        "file": str,
        "columns": dict,
        "numeric": list,
        "categorical": list,
        "vector": list,
        "text": list,
    },
    "users": {"file": str, "columns": dict, "attributes": list, "segments": list},
}
_TOP: dict[str, type] = {
    "name": str,
    "time_unit": str,
    "categories_separator": str,
    "events": dict,
    "items": dict,
    "users": dict,
}
_OURS = {"events": EVENT_COLUMNS, "items": ITEM_COLUMNS, "users": ("user_id",)}


@dataclass(frozen=True, slots=True)
class TableMapping:
    """Where one table is, and what its columns are called there."""

    file: str | None = None  # None: the table's own name with .parquet or .csv
    columns: dict[str, str] = field(default_factory=dict)  # our name -> theirs


@dataclass(frozen=True, slots=True)
class Mapping:
    """A whole columns.toml."""

    name: str = "tables"
    time_unit: str = "ms"  # what numbers mean: "s", "ms"; "iso" for text; "none" = events have no time
    categories_separator: str = "|"  # in CSV, or a Parquet column of plain strings
    events: TableMapping = field(default_factory=TableMapping)
    items: TableMapping = field(default_factory=TableMapping)
    users: TableMapping = field(default_factory=TableMapping)
    default_event_type: str | None = None  # for tables without an event_type column
    text: tuple[str, ...] = ()  # columns of their items that are joined into our `text`
    event_text: tuple[str, ...] = ()  # columns of their events likewise, such as the title and text of a review
    schema: TableSchema = field(default_factory=TableSchema)


# The parquet triple of plain implicit feedback: interactions, users and items, no times.
TRIPLE = Mapping(
    time_unit="none",
    events=TableMapping("interactions.parquet", {"value": "implicit"}),
    items=TableMapping(None, {"categories": "category"}),
    default_event_type="click",
    schema=TableSchema(
        item_categorical=("price_bucket",),
        user_attributes=("age_bucket", "gender"),
        segments=(("age_bucket", "gender"), ("age_bucket",)),
    ),
)


def read_mapping(path: Path) -> Mapping:
    """Parse a columns.toml; DataError naming the key for anything unknown or of another type."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: cannot be parsed: {error}") from error
    _check_keys(document, _TOP, path.name, "")
    tables: dict[str, dict[str, Any]] = {table: document.get(table, {}) for table in _TABLES}
    for table, known in _TABLES.items():
        _check_keys(tables[table], known, path.name, f"{table}.")
        for ours, theirs in tables[table].get("columns", {}).items():
            if ours not in _OURS[table]:
                raise DataError(f"{path.name}: [{table}.columns] {ours!r} is none of {', '.join(_OURS[table])}")
            if not isinstance(theirs, str):
                raise DataError(f"{path.name}: [{table}.columns] {ours} must be the name of a column, a string")
    unit = document.get("time_unit", "ms")
    if unit not in TIME_UNITS:
        raise DataError(f"{path.name}: time_unit {unit!r} is none of {', '.join(TIME_UNITS)}")
    return Mapping(
        name=document.get("name", "tables"),
        time_unit=unit,
        categories_separator=document.get("categories_separator", "|"),
        **{table: TableMapping(part.get("file"), part.get("columns", {})) for table, part in tables.items()},
        default_event_type=tables["events"].get("default_event_type"),
        text=_names(tables["items"], "text", path),
        event_text=_names(tables["events"], "text", path),
        schema=TableSchema(
            item_numeric=_names(tables["items"], "numeric", path),
            item_categorical=_names(tables["items"], "categorical", path),
            item_vector=_names(tables["items"], "vector", path),
            user_attributes=_names(tables["users"], "attributes", path),
            segments=tuple(
                _names({"segments": segment}, "segments", path) for segment in tables["users"].get("segments", [])
            ),
            event_text=bool(tables["events"].get("text")),
            event_context=_names(tables["events"], "context", path),
        ),
    )


def _check_keys(part: dict[str, Any], known: dict[str, type], file: str, prefix: str) -> None:
    for key, value in part.items():
        if key not in known:
            raise DataError(f"{file}: unknown key {prefix + key!r}; known: {', '.join(prefix + k for k in known)}")
        if not isinstance(value, known[key]):
            raise DataError(f"{file}: {prefix}{key} must be of type {known[key].__name__}, is {value!r}")


def _names(part: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    names = part.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path.name}: {key} must be a list of column names, is {names!r}")
    return tuple(names)


def mapping_toml(name: str, schema: TableSchema) -> str:
    """The columns.toml of tables in our own names and units."""

    def text(value: Any) -> str:
        return json.dumps(value)  # JSON strings and lists of strings are TOML too

    return "\n".join(
        [
            f"name = {text(name)}",
            'time_unit = "ms"',
            "",
            "[events]",
            *([f"text = {text([EVENT_TEXT])}"] if schema.event_text else []),
            f"context = {text(list(schema.event_context))}",
            "",
            "[items]",
            f"numeric = {text(list(schema.item_numeric))}",
            f"categorical = {text(list(schema.item_categorical))}",
            f"vector = {text(list(schema.item_vector))}",
            "",
            "[users]",
            f"attributes = {text(list(schema.user_attributes))}",
            f"segments = {text([list(segment) for segment in schema.segments])}",
            "",
        ]
    )
