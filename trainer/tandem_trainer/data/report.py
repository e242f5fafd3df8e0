"""What reading a data set found: rows read, rows dropped and why, warnings and sanity checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

EXAMPLES_PER_FINDING = 3
_LONGEST_EXAMPLE_VALUE = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason in one table: how many rows it concerns, and the first of them."""

    kind: Literal["dropped", "warning"]
    table: str
    reason: str
    count: int
    examples: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """This finding as JSON-ready values."""
        return {
            "table": self.table,
            "reason": self.reason,
            "count": self.count,
            "examples": list(self.examples),
        }


@dataclass(slots=True)
class Ledger:
    """Collects findings while tables are read; adapters write into it before `validate` does.

    The index of every frame handed in is its row in the source, counted from 0; the report counts from 1
    and does not count a header line.
    """

    sources: dict[str, str] = field(default_factory=dict)
    rows_read: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def read(self, table: str, source: str, rows: int) -> None:
        """Note where a table came from and how many rows it had; the first note of a table stays."""
        self.sources.setdefault(table, source)
        self.rows_read.setdefault(table, rows)

    def drop(
        self, table: str, reason: str, frame: pd.DataFrame, bad: npt.NDArray[np.bool_], shown: Sequence[str]
    ) -> pd.DataFrame:
        """Count the rows where `bad` [n] is true, with the columns `shown` of the first ones; return the others."""
        if not bad.any():
            return frame
        self.findings.append(Finding("dropped", table, reason, int(bad.sum()), _examples(table, frame, bad, shown)))
        return frame[~bad]

    def warn(
        self, table: str, reason: str, frame: pd.DataFrame, odd: npt.NDArray[np.bool_], shown: Sequence[str]
    ) -> None:
        """Count the rows where `odd` [n] is true, with the columns `shown` of the first ones; they stay."""
        if odd.any():
            self.findings.append(Finding("warning", table, reason, int(odd.sum()), _examples(table, frame, odd, shown)))


def _examples(table: str, frame: pd.DataFrame, mask: npt.NDArray[np.bool_], shown: Sequence[str]) -> tuple[str, ...]:
    positions = np.flatnonzero(mask)[:EXAMPLES_PER_FINDING]
    return tuple(_example(table, frame, int(at), shown) for at in positions)


def _example(table: str, frame: pd.DataFrame, at: int, columns: Sequence[str]) -> str:
    """One row as text: `events row 17: user_id='4', timestamp='soon'`."""
    shown = [
        f"{column}={str(frame[column].iloc[at])[:_LONGEST_EXAMPLE_VALUE]!r}"
        for column in columns
        if column in frame.columns
    ]
    return f"{table} row {int(frame.index[at]) + 1}: {', '.join(shown)}"


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What was read, dropped and kept; printed by the trainer and stored beside the model."""

    name: str
    sources: dict[str, str]  # table -> file name
    rows_read: dict[str, int]  # table -> rows in that file
    users: int
    items: int
    events: int
    findings: tuple[Finding, ...]
    checks: dict[str, Any]  # sanity checks: nulls, differences of id sets, time range, ...

    @property
    def dropped(self) -> tuple[Finding, ...]:
        """Findings whose rows were dropped."""
        return tuple(finding for finding in self.findings if finding.kind == "dropped")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings whose rows were kept."""
        return tuple(finding for finding in self.findings if finding.kind == "warning")

    def count(self, table: str, reason: str) -> int:
        """Rows of `table` for which `reason` was found; 0 if it never was."""
        return sum(f.count for f in self.findings if f.table == table and f.reason == reason)

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON-ready values."""
        return {
            "name": self.name,
            "sources": dict(self.sources),
            "rows_read": dict(self.rows_read),
            "users": self.users,
            "items": self.items,
            "events": self.events,
            "dropped": [finding.to_json() for finding in self.dropped],
            "warnings": [finding.to_json() for finding in self.warnings],
            "checks": dict(self.checks),
        }

    def lines(self) -> list[str]:
        """The report for a terminal, one line each."""
        lines = [f"{self.name}: {self.users:,} users, {self.items:,} items, {self.events:,} events"]
        for table, rows in self.rows_read.items():
            lines.append(f"  read     {rows:,} rows of {table} from {self.sources[table]}")
        for finding in self.findings:
            lines.append(f"  {finding.kind:<8} {finding.count:,} {finding.table}: {finding.reason}")
            lines += [f"             {example}" for example in finding.examples]
        lines += [f"  check    {name}: {value}" for name, value in self.checks.items()]
        return lines
