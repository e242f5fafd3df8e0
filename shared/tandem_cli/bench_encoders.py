"""tandem bench encoders."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from typing import Annotated

import typer

from tandem_cli.bench_report import FolderOption, JsonOption, show
from tandem_cli.console import user_errors
from tandem_cli.offline import ConfigOption


def encoders(
    data: FolderOption,
    examples: Annotated[int, typer.Option(min=1, help="Events each encoder is trained on.")] = 400_000,
    history: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Newest events the towers see; else as configured.")
    ] = None,
    json_file: JsonOption = None,
    config: ConfigOption = None,
) -> None:
    """Every encoder of the user tower, trained alike: what it finds, how fast it learns, its latency by length."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_trainer.config import load_config
    from tandem_trainer.inputs import load_data
    from tandem_trainer.studies.encoders import study_encoders

    with user_errors(ValueError), ConsoleProgress() as progress:
        settings = load_config(config)
        if history is not None:
            features = settings.features.model_copy(update={"history_length": history})
            settings = settings.model_copy(update={"features": features})
        report = study_encoders(load_data(settings, data), settings, progress, examples)
    show(report, json_file)
