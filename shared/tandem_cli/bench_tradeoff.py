"""tandem bench tradeoff."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from typing import Annotated

import typer

from tandem_cli.bench_report import FolderOption, JsonOption, PlotsOption, show
from tandem_cli.bench_unseen import WORK, WorkOption, unseen_bundle
from tandem_cli.console import out, user_errors
from tandem_cli.offline import ConfigOption


def tradeoff(
    data: FolderOption,
    scale: Annotated[int, typer.Option(min=0, help="Vectors of a made-up larger catalogue; 0: none.")] = 100_000,
    plots: PlotsOption = None,
    json_file: JsonOption = None,
    config: ConfigOption = None,
    registry: WorkOption = WORK,
) -> None:
    """All items against the nearest cluster: time, distances computed, and the error of ratings on held-out rows."""
    from tandem_trainer.clusters import ClusterSettings
    from tandem_trainer.inputs import split_data
    from tandem_trainer.studies.tradeoff import study_tradeoff

    with user_errors(ValueError):
        settings, dataset, bundle = unseen_bundle(data, None, config, registry)
        split = split_data(settings, dataset)
        report = study_tradeoff(bundle, dataset, split, ClusterSettings(), settings.seed, scale)
    if plots is not None:
        from tandem_trainer.studies.plots import draw_tradeoff

        for path in draw_tradeoff(report, plots):
            out.print(f"drawn: {path}", highlight=False)
    show(report, json_file)
