"""What a study gives back: tables and remarks, ready to be printed or written as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tandem_core.metrics import Interval

Cell = str | int | float | Interval | None


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Raises ValueError where a row is not as long as the columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.title!r} has {len(self.columns)} columns and rows of other lengths")

    def column(self, name: str) -> list[Cell]:
        """Return the cells below one heading."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


@dataclass(frozen=True, slots=True)
class StudyReport:
    """facts: what the figures rest on, such as data set, users and seed. notes: whole sentences."""

    study: str
    facts: Mapping[str, Cell]
    tables: tuple[StudyTable, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values: a table is a list of rows by column name, NaN is None."""
        return {
            "study": self.study,
            "facts": {name: _plain(cell) for name, cell in self.facts.items()},
            "tables": {
                table.title: [
                    {name: _plain(cell) for name, cell in zip(table.columns, row, strict=True)} for row in table.rows
                ]
                for table in self.tables
            },
            "notes": list(self.notes),
        }


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Interval):
        return {name: _plain(value) for name, value in asdict(cell).items()}
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
