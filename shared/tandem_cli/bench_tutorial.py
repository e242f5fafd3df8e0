"""tandem bench tutorial."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from tandem_cli.bench_report import FolderOption, JsonOption, show
from tandem_cli.console import user_errors
from tandem_cli.offline import ConfigOption


def tutorial(
    data: FolderOption,
    json_file: JsonOption = None,
    config: ConfigOption = None,
) -> None:
    """A tutorial's top-100 accuracy of .4265: its protocol repeated on MovieLens 1M, with bounds."""
    import torch

    from tandem_trainer.config import load_config
    from tandem_trainer.inputs import load_data
    from tandem_trainer.studies.tutorial import study_tutorial

    with user_errors(ValueError):
        settings = load_config(config)
        torch.set_num_threads(settings.threads)
        report = study_tutorial(load_data(settings, data), settings)
    show(report, json_file)
