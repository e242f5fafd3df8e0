"""tandem plot: curves of a training and pictures of a data set."""
# ruff: noqa: PLC0415  (pandas, torch and matplotlib take seconds to import: only the commands that use them pay)

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tandem_cli.console import fail, out, user_errors
from tandem_cli.offline import ConfigOption, DataOption, RegistryOption

app = typer.Typer(no_args_is_help=True)
FolderOption = Annotated[Path, typer.Option("--out", help="Where to write the PNG files.")]


@app.command()
def bundle(
    folder: FolderOption,
    registry: RegistryOption = Path("bundles"),
    bundle_id: Annotated[str | None, typer.Option("--bundle", help="Default: the current one.")] = None,
) -> None:
    """Draw the losses and validation figures of a bundle's towers and ranker, by epoch."""
    from tandem_core.errors import BundleRefused, NotFound
    from tandem_core.registry_s3 import open_registry
    from tandem_core.settings import ConfigError
    from tandem_trainer.ranker_step import HISTORY
    from tandem_trainer.studies.plots_history import draw_history

    with user_errors(BundleRefused, ConfigError, NotFound, OSError):
        found = open_registry(registry)
        if bundle_id is None and (current := found.current()) is not None:
            bundle_id = current.bundle_id
        if bundle_id is None:
            fail(f"{registry} has no current bundle: run tandem train first")
        file = found.fetch(bundle_id) / HISTORY
        if not file.exists():
            fail(f"{registry} has no bundle {bundle_id} with a history")
        name_files(draw_history(json.loads(file.read_text()), folder))


@app.command()
def data(folder: FolderOption, data: DataOption = None, config: ConfigOption = None) -> None:
    """Draw histograms of the values of a data set's events, and the popularity of its items."""
    from tandem_cli.offline import load_config_and_data
    from tandem_trainer.studies.plots_data import draw_data

    _, dataset = load_config_and_data(config, data)
    with user_errors(OSError):
        name_files(draw_data(dataset, folder))


def name_files(paths: Sequence[Path]) -> None:
    for path in paths:
        out.print(f"drawn: {path}", highlight=False)
