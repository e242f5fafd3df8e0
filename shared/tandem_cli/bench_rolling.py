"""tandem bench rolling."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from typing import Annotated

import typer

from tandem_cli.bench_report import FolderOption, JsonOption, show
from tandem_cli.console import user_errors
from tandem_cli.offline import ConfigOption


def rolling(
    data: FolderOption,
    folds: Annotated[int, typer.Option(min=2, help="Windows to test on, one after another.")] = 4,
    json_file: JsonOption = None,
    config: ConfigOption = None,
) -> None:
    """Cross-validation over time: train on everything before a cut, test on the window after it, move the cut on."""
    from tandem_trainer.config import load_config
    from tandem_trainer.inputs import load_data
    from tandem_trainer.studies.rolling import study_rolling

    with user_errors(ValueError):
        settings = load_config(config)
        report = study_rolling(load_data(settings, data), settings, folds)
    show(report, json_file)
