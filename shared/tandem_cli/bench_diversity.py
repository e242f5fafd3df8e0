"""tandem bench diversity."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from tandem_cli.bench_report import FolderOption, JsonOption, PlotsOption, show
from tandem_cli.console import out, user_errors
from tandem_cli.offline import ConfigOption, RegistryOption


class HeldOut(StrEnum):
    VALIDATION = "validation"
    TEST = "test"


def diversity(
    registry: RegistryOption,
    data: FolderOption,
    part: Annotated[HeldOut, typer.Option(help="validation to choose strengths by, test to report.")] = HeldOut.TEST,
    users: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the users; default all.")] = None,
    plots: PlotsOption = None,
    json_file: JsonOption = None,
    config: ConfigOption = None,
) -> None:
    """MMR, DPP and calibration at several strengths: NDCG@10 against distance within the list, and coverage."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_core.bundle import load_bundle
    from tandem_core.errors import BundleRefused, NotFound
    from tandem_core.registry import Registry
    from tandem_trainer.config import TrainConfig, load_config
    from tandem_trainer.evaluate import check_fits
    from tandem_trainer.inputs import load_data, split_data
    from tandem_trainer.studies.diversity import study_diversity

    with user_errors(ValueError, BundleRefused, NotFound), ConsoleProgress() as progress:
        found = Registry(registry)
        if (current := found.current()) is None:
            raise NotFound(f"{registry} has no current bundle: run tandem train first")
        bundle = load_bundle(found.path_of(current.bundle_id))
        # The bundle knows how its data was read and cut; a configuration given here overrides that.
        settings = TrainConfig.model_validate(bundle.manifest.config) if config is None else load_config(config)
        dataset = load_data(settings, data)
        check_fits(bundle, dataset, settings.split.protocol)
        split = split_data(settings, dataset)
        report = study_diversity(bundle, dataset, split, settings, part=part.value, most_users=users, progress=progress)
    if plots is not None:
        from tandem_trainer.studies.plots import draw_diversity

        for path in draw_diversity(report, plots):
            out.print(f"drawn: {path}", highlight=False)
    show(report, json_file)
