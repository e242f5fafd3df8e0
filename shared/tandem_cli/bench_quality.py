"""tandem bench quality: every way of recommending, on the same held-out events."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tandem_cli.console import out, user_errors

if TYPE_CHECKING:
    from tandem_trainer.quality.measure import Figures
    from tandem_trainer.quality.report import Difference, Report, RowFigures


class Protocol(StrEnum):
    LOO = "loo"
    TIME = "time"
    WARM_TIME = "warm-time"
    COLD_ITEM = "cold-item"
    STRONG = "strong"


class Part(StrEnum):
    VALIDATION = "validation"
    TEST = "test"


class Repeats(StrEnum):
    EXCLUDE = "exclude"
    ALLOW = "allow"
    BOTH = "both"


def quality(
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the data; its kind is recognised. None: synthetic.")
    ] = None,
    protocol: Annotated[Protocol, typer.Option(help="What is held out, and from whom.")] = Protocol.LOO,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Rows to compare: --only als slist. None: all.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; see deploy/config/train.toml.")] = None,
    cache: Annotated[Path, typer.Option(help="Where fits are kept, so that a run goes on where it stopped.")] = Path(
        ".cache/quality"
    ),
    part: Annotated[Part, typer.Option(help="validation to choose models by, test to report.")] = Part.TEST,
    repeats: Annotated[Repeats | None, typer.Option(help="None: both where users have items more than once.")] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[ROW]...", help="Further rows of --only.")] = None,
) -> None:
    """Fit and compare ways of recommending: full ranking, intervals, one table with its protocol."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_trainer.config import load_config
    from tandem_trainer.inputs import load_data
    from tandem_trainer.quality.cache import FitCache
    from tandem_trainer.quality.context import Context
    from tandem_trainer.quality.protocols import make_cut
    from tandem_trainer.quality.rows import ROWS, default_rows
    from tandem_trainer.quality.run import compare

    names = list(dict.fromkeys([*(only or ()), *(more or ())] or default_rows(protocol)))
    with user_errors(ValueError):
        if unknown := [name for name in names if name not in ROWS]:
            raise ValueError(f"no row {unknown[0]!r}; there are {', '.join(ROWS)}")
        settings = load_config(config)
        if data is None and settings.data.adapter == "auto":
            settings = settings.model_copy(update={"data": settings.data.model_copy(update={"adapter": "synthetic"})})
        cut = make_cut(protocol, load_data(settings, data), settings)
        with ConsoleProgress() as progress:
            context = Context(cut, settings, ROWS, FitCache(cache), progress)
            report = compare(context, names, part=part.value, repeats=repeats.value if repeats else None)
    for line in _statement(report):
        out.print(line, highlight=False)
    out.print(quality_table(report))
    for line in _below(report):
        out.print(line, highlight=False)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False))
        out.print(f"all figures: {json_file}")


def quality_table(report: Report) -> Table:
    """Return all rows, a section for each version and slice; the first is what the comparison is about."""
    table = Table(title=f"{report.dataset}, {report.protocol}, {report.part}", title_justify="left")
    table.add_column("row", no_wrap=True)
    for metric in report.shown:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("fit core-s", justify="right")
    table.add_column("refit")
    for version in report.versions:
        for kind in report.slices:
            users = report.rows[0].figures[version][kind].users if report.rows else 0
            head = [part for part, several in ((version, len(report.versions) > 1), (kind, True)) if several]
            table.add_section()
            table.add_row(f"[bold]{escape(', '.join(head))}: {users:,} users[/]")
            for row in report.rows:
                table.add_row(*_cells(report, row, row.figures[version][kind]))
    return table


def _cells(report: Report, row: RowFigures, found: Figures) -> Iterator[str]:
    yield f"{escape(row.name)} [red](leaked)[/]" if row.leaks else escape(row.name)
    for metric in report.shown:
        value = f"{found.metrics[metric]:.4f}" if found.users else "-"
        if metric in found.ci95 and found.users:
            half = max(abs(end - found.metrics[metric]) for end in found.ci95[metric])
            value += f" [dim]±{half:.3f}[/]"
        yield value
    yield f"{row.fit_core_seconds:.1f}"
    yield "yes" if row.refit else "no"


def _statement(report: Report) -> Iterator[str]:
    yield from (escape(line) for line in report.statement)
    yield escape(", ".join(f"{name} {count:,}" for name, count in report.counts.items()))


def _below(report: Report) -> Iterator[str]:
    """What the table has no column for: paired differences, speed of training, memory."""
    from tandem_trainer.memory import memory_peak_mb

    yield from _differences(report)
    for row in report.rows:
        if "events_per_second" in row.notes:
            yield (
                f"{row.name}: trained on {row.notes['events_per_second']:,.0f} events/s, "
                f"{row.notes['loading_share']:.1%} of the time for gathering batches"
            )
    yield f"memory peak {memory_peak_mb():,.0f} MB"


def _differences(report: Report) -> Iterator[str]:
    """A line per merge and metric: how many single sources it beats beyond chance, and the closest one."""
    groups: dict[tuple[str, str, str], list[Difference]] = {}
    for d in report.differences:
        groups.setdefault((d.version, d.better, d.metric), []).append(d)
    for (version, ours, metric), against in groups.items():
        beaten = sum(d.interval.low > 0 for d in against)
        closest = min(against, key=lambda d: d.interval.mean)
        interval = f"{closest.interval.mean:+.4f} ({closest.interval.low:+.4f} .. {closest.interval.high:+.4f})"
        yield (
            f"{ours}, {metric}, {version}: better beyond chance than {beaten} of {len(against)} single sources; "
            f"paired with the closest, {closest.than}: {interval}"
        )
