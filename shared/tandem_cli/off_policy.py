"""tandem off-policy: what another policy would have earned."""
# ruff: noqa: PLC0415  (numpy takes a moment to import: only the command that uses it pays)

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tandem_cli.console import out, user_errors

if TYPE_CHECKING:
    from tandem_core.metrics.off_policy import OffPolicy


def off_policy(
    log: Annotated[Path, typer.Argument(help="JSON lines, an object for each shown item; see the README.")],
    depth: Annotated[int | None, typer.Option(min=1, help="Judge positions 1 to this; default all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
) -> None:
    """Estimate from logged decisions what another policy would have earned; silent where the log cannot tell."""
    import numpy as np

    from tandem_core.logged_decisions import read_logged
    from tandem_core.metrics.off_policy import off_policy as estimate

    with user_errors(ValueError):
        logged = read_logged(log)
        logged = logged if depth is None else logged.down_to(depth)
        told = estimate(logged, rng=np.random.default_rng(seed))
    out.print(_table(told))
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(told), indent=1, allow_nan=False))
        out.print(f"all figures: {json_file}")


def _table(told: OffPolicy) -> Table:
    table = Table(
        "estimate",
        "reward per decision",
        "95 % interval",
        title=f"{told.decisions} decisions, worth {told.effective:.0f} under the target policy; "
        f"largest weight {told.largest_weight:.1f}",
        title_justify="left",
    )
    rows = {"logged policy": told.logged, "target, IPS": told.ips, "target, SNIPS": told.snips, "target, DR": told.dr}
    for name, interval in rows.items():
        if interval is not None:
            table.add_row(name, f"{interval.mean:.4f}", f"{interval.low:.4f} .. {interval.high:.4f}")
    if told.dr is None:
        table.caption = "no doubly robust estimate: the log has no alternatives"
    return table
