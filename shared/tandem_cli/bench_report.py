"""Printing what a study found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tandem_cli.console import out
from tandem_core.metrics import Interval

if TYPE_CHECKING:
    from tandem_trainer.studies.report import Cell, StudyReport, StudyTable

FolderOption = Annotated[Path, typer.Option("--data", help="Folder of the data; its kind is recognised.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all figures there.")]
PlotsOption = Annotated[Path | None, typer.Option("--plots", help="Draw the curves into this folder, as PNG.")]


def show(report: StudyReport, json_file: Path | None) -> None:
    """Print facts, tables and notes; write them as JSON where a file is given."""
    out.print(", ".join(f"{name} {_text(cell)}" for name, cell in report.facts.items()), highlight=False)
    for table in report.tables:
        out.print(drawn(table))
    for note in report.notes:
        out.print(f"- {escape(note)}", highlight=False)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False))
        out.print(f"all figures: {json_file}")


def drawn(table: StudyTable) -> Table:
    drawn_ = Table(title=escape(table.title), title_justify="left")
    for i, name in enumerate(table.columns):
        drawn_.add_column(name, justify="left" if i == 0 else "right")
    for row in table.rows:
        drawn_.add_row(*(escape(_text(cell)) for cell in row))
    return drawn_


def _text(cell: Cell) -> str:
    if isinstance(cell, Interval):
        return f"{cell.mean:.4f} {cell.low:.3f}..{cell.high:.3f}"
    if isinstance(cell, float):
        return f"{cell:.4f}" if abs(cell) < 100 else f"{cell:,.1f}"
    return "" if cell is None else f"{cell:,}" if isinstance(cell, int) else cell
