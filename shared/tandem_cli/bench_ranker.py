"""tandem bench ranker."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from tandem_cli.bench_report import FolderOption, JsonOption, PlotsOption, show
from tandem_cli.bench_unseen import WORK, WorkOption
from tandem_cli.console import out, user_errors
from tandem_cli.offline import ConfigOption


class RankerProtocol(StrEnum):
    LOO = "loo"
    TIME = "time"


def ranker(
    data: FolderOption,
    protocol: Annotated[RankerProtocol, typer.Option(help="What is held out, and from whom.")] = RankerProtocol.LOO,
    trees: Annotated[bool, typer.Option("--trees", help="Boosted trees on the same columns, too.")] = False,
    users: Annotated[int | None, typer.Option(min=1, help="Test users; default all.")] = None,
    plots: PlotsOption = None,
    json_file: JsonOption = None,
    config: ConfigOption = None,
    registry: WorkOption = WORK,
) -> None:
    """The ranker against the fused order on test events: gain, calibration, importance of columns."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_core.errors import BundleRefused
    from tandem_core.registry import Registry
    from tandem_trainer.config import load_config
    from tandem_trainer.inputs import load_data, split_data
    from tandem_trainer.studies.ranker import config_for, study_ranker
    from tandem_trainer.studies.unseen_bundle import find_or_train

    with user_errors(ValueError, BundleRefused):
        settings = config_for(load_config(config), protocol.value)
        dataset = load_data(settings, data)
        folder = Registry(registry / f"ranker-{dataset.name}-{protocol.value}")
        with ConsoleProgress() as progress:
            bundle = find_or_train(settings, dataset, folder, progress)
            split = split_data(settings, dataset)
            study = study_ranker(bundle, dataset, split, settings, progress, users, with_trees=trees)
    if plots is not None:
        from tandem_trainer.studies.plots import draw_calibration

        for path in draw_calibration(study.curves, plots):
            out.print(f"drawn: {path}", highlight=False)
    show(study.report, json_file)
