"""tandem bench unseen, and the bundle that it shares with other studies."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tandem_cli.bench_report import FolderOption, JsonOption, show
from tandem_cli.console import user_errors
from tandem_cli.offline import ConfigOption

if TYPE_CHECKING:
    from tandem_core.bundle import Bundle
    from tandem_trainer.config import TrainConfig
    from tandem_trainer.data import Dataset

WorkOption = Annotated[
    Path, typer.Option("--registry", help="Where the bundle of this study is kept, to be used again.")
]
WORK = Path(".cache/bench")


def unseen(
    data: FolderOption,
    users: Annotated[
        int | None, typer.Option(min=1, help="Unseen users; default 500, or 15 % of all where fewer.")
    ] = None,
    json_file: JsonOption = None,
    config: ConfigOption = None,
    registry: WorkOption = WORK,
) -> None:
    """Users that no model was trained on: weighted average, clusters, tower, ALS and merged pool in one table."""
    from tandem_trainer.clusters import ClusterSettings
    from tandem_trainer.inputs import split_data
    from tandem_trainer.studies.unseen import study_unseen

    with user_errors(ValueError):
        settings, dataset, bundle = unseen_bundle(data, users, config, registry)
        in_time = settings.model_copy(update={"split": settings.split.model_copy(update={"shuffle_history": False})})
        random, earlier = (split_data(each, dataset) for each in (settings, in_time))
        report = study_unseen(bundle, dataset, random, ClusterSettings(), settings.seed, earlier)
    show(report, json_file)


def unseen_bundle(
    data: Path, users: int | None, config: Path | None, registry: Path
) -> tuple[TrainConfig, Dataset, Bundle]:
    """Return settings, data and the bundle that has never seen the test users; trains it the first time."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_core.errors import BundleRefused
    from tandem_core.registry import Registry
    from tandem_trainer.config import load_config
    from tandem_trainer.inputs import load_data
    from tandem_trainer.studies.unseen_bundle import config_for, find_or_train

    with user_errors(ValueError, BundleRefused):
        settings = load_config(config)
        dataset = load_data(settings, data)
        settings = config_for(settings, dataset, users)
        with ConsoleProgress() as progress:
            return settings, dataset, find_or_train(settings, dataset, Registry(registry / dataset.name), progress)
