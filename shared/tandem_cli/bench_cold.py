"""tandem bench cold: how well items without a single event are ranked."""
# ruff: noqa: PLC0415  (pandas and sklearn take seconds to import: only the commands that use them pay)

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tandem_cli.console import out, user_errors

if TYPE_CHECKING:
    from tandem_core.metrics import Interval
    from tandem_trainer.studies.cold import ColdStudy


def cold(
    data: Annotated[Path, typer.Option("--data", help="Folder of the data; its kind is recognised.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; see deploy/config/train.toml.")] = None,
    fraction: Annotated[float, typer.Option(help="Share of the items that no model sees.")] = 0.1,
    least: Annotated[int, typer.Option("--min-item-events", min=0, help="Items with fewer are left out.")] = 5,
) -> None:
    """Take a share of the items out of all training and rank them for each user by content alone."""
    from tandem_trainer.cold_items import ColdItemSettings
    from tandem_trainer.config import load_config
    from tandem_trainer.inputs import load_data
    from tandem_trainer.studies.cold import study_cold

    with user_errors(ValueError):
        settings = load_config(config)
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"min_item_events": least})})
        study = study_cold(load_data(settings, data), settings, ColdItemSettings(), fraction=fraction)
    out.print(_table(study))
    out.print(
        f"taste and prior against {study.baseline}, NDCG@20: {study.ratio.mean:.3f} times {_ends(study.ratio)}, "
        f"difference {study.difference.mean:+.4f} {_ends(study.difference)}",
        highlight=False,
    )
    chosen = study.choice
    out.print(
        f"chosen on warm items held out: kernel {chosen.mix.name}, noise {chosen.noise:g}, direct {chosen.direct:g}, "
        f"prior {chosen.prior:g}, half-life {chosen.half_life:g} events (NDCG@20 {chosen.ndcg:.4f} there); "
        f"{study.neighbours} TF-IDF neighbours",
        highlight=False,
    )
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(dataclasses.asdict(study), indent=1, allow_nan=False))
        out.print(f"all figures: {json_file}")


def _table(study: ColdStudy) -> Table:
    table = Table(
        title=f"{study.data}: {study.cold_items} cold items ranked for {study.users} users who chose one, "
        f"{study.warm_items} items to learn from; 95 % intervals over users",
        title_justify="left",
    )
    table.add_column("ranked by")
    for name in ("NDCG@20", "", "Recall@20", ""):
        table.add_column(name, justify="right")
    for name, arm in study.arms.items():
        cells = [cell for found in (arm.ndcg, arm.recall) for cell in (f"{found.mean:.4f}", _ends(found))]
        table.add_row(name, *cells)
    return table


def _ends(interval: Interval) -> str:
    return f"{interval.low:.4f} .. {interval.high:.4f}"
