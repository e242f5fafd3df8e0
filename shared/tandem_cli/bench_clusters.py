"""tandem bench clusters."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from typing import Annotated

import typer

from tandem_cli.bench_report import FolderOption, JsonOption, PlotsOption, show
from tandem_cli.bench_unseen import WORK, WorkOption, unseen_bundle
from tandem_cli.console import out, user_errors
from tandem_cli.offline import ConfigOption


def clusters(
    data: FolderOption,
    grid: Annotated[
        str, typer.Option(help="Numbers of clusters to compare, as 10,20,40; default: 8 up to a tenth of the items.")
    ] = "",
    plots: PlotsOption = None,
    json_file: JsonOption = None,
    config: ConfigOption = None,
    registry: WorkOption = WORK,
) -> None:
    """Choose the number of clusters of the item vectors by a stated rule, and draw the criteria."""
    from tandem_trainer.clusters import ClusterSettings, default_grid
    from tandem_trainer.studies.clusters import study_clusters

    with user_errors(ValueError):
        settings, dataset, bundle = unseen_bundle(data, None, config, registry)
        counts = [int(each) for each in grid.split(",")] if grid else default_grid(len(bundle.catalog))
        report = study_clusters(bundle.item_vectors, dataset.name, counts, ClusterSettings(), settings.seed)
    if plots is not None:
        from tandem_trainer.studies.plots import draw_clusters

        for path in draw_clusters(bundle.item_vectors, report, ClusterSettings(), settings.seed, plots):
            out.print(f"drawn: {path}", highlight=False)
    show(report, json_file)
