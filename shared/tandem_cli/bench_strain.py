"""tandem bench overload, tandem bench workers and tandem bench soak."""
# ruff: noqa: PLC0415  (torch and sklearn take seconds to import: only the commands that use them pay)

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tandem_cli.bench_report import JsonOption, show
from tandem_cli.bench_serve import CACHE
from tandem_cli.console import user_errors

if TYPE_CHECKING:
    from tandem_cli.serving_bench.world import World
    from tandem_trainer.studies.report import StudyReport

ItemsOption = Annotated[int, typer.Option(help="Catalogue size.")]
CacheOption = Annotated[Path, typer.Option(help="Where bundles are kept between runs.")]
RunsOption = Annotated[int, typer.Option(min=1, help="Taking turns; medians are shown.")]
SecondsOption = Annotated[float, typer.Option(min=0.5, help="Of each load.")]


def overload(
    items: ItemsOption = 4000,
    runs: RunsOption = 5,
    seconds: SecondsOption = 4.0,
    json_file: JsonOption = None,
    cache: CacheOption = CACHE,
) -> None:
    """What comes of arrivals at half, once, 1.5 and 3 times what the services can answer."""
    from tandem_cli.serving_bench.strain import overload as measure

    _measured(items, cache, json_file, lambda world, folder: measure(world, runs, seconds, folder))


def workers(
    items: ItemsOption = 4000,
    runs: RunsOption = 5,
    seconds: SecondsOption = 4.0,
    json_file: JsonOption = None,
    cache: CacheOption = CACHE,
) -> None:
    """CPU per request and memory with one worker of each service and with two, and how two share the calls."""
    from tandem_cli.serving_bench.strain import workers as measure

    _measured(items, cache, json_file, lambda world, folder: measure(world, runs, seconds, folder))


def soak(
    items: ItemsOption = 4000,
    calls: Annotated[int, typer.Option(min=1000, help="Mixed ones.")] = 200_000,
    json_file: JsonOption = None,
    cache: CacheOption = CACHE,
) -> None:
    """Memory of the services before, during and after many mixed calls."""
    from tandem_cli.serving_bench.strain import soak as measure

    _measured(items, cache, json_file, lambda world, folder: measure(world, calls, folder))


def _measured(items: int, cache: Path, json_file: Path | None, measure: Callable[[World, Path], StudyReport]) -> None:
    from tandem_cli.progress import ConsoleProgress
    from tandem_cli.serving_bench.processes import NotServing
    from tandem_cli.serving_bench.world import make_world, trained_base
    from tandem_trainer.config import IndexSettings

    with user_errors(ValueError, NotServing), ConsoleProgress() as progress:
        base = trained_base(cache, progress)
        with progress.step(f"bundle of {items:,} items"):
            settings = IndexSettings.model_validate({"kinds": ["exact", "ivf"]})
            world = make_world(base, cache.resolve() / base.name, items, settings)
        with progress.step("measuring"), tempfile.TemporaryDirectory() as folder:
            report = measure(world, Path(folder))
    show(report, json_file)
