"""tandem bench serve."""
# ruff: noqa: PLC0415  (torch and sklearn take seconds to import: only the commands that use them pay)

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tandem_cli.bench_report import PlotsOption, drawn
from tandem_cli.console import fail, out, user_errors
from tandem_cli.plot import name_files

CACHE = Path(".cache/bench-serve")
PEER = Path("tests/bench/peer/server.py")


def serve(
    items: Annotated[str, typer.Option(help="Catalogue sizes, comma between.")] = "4000",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    registry: Annotated[
        Path | None, typer.Option(help="Grow its current bundle instead of a small synthetic one.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of each load; medians are shown.")] = 1,
    calls: Annotated[int, typer.Option(min=20, help="Of the interleaved comparison.")] = 200,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each load.")] = 3.0,
    kinds: Annotated[str, typer.Option(help="Indexes to choose from: exact, ivf, hnsw (minutes at 1M).")] = "exact,ivf",
    peer: Annotated[Path, typer.Option(help="The plain implementation to compare with; skipped if absent.")] = PEER,
    cache: Annotated[Path, typer.Option(help="Where bundles are kept between runs.")] = CACHE,
    plots: PlotsOption = None,
    drawn_from: Annotated[
        Path | None, typer.Option("--from", help="Draw the figures of an earlier --json, and measure nothing.")
    ] = None,
) -> None:
    """Speed of the real services beside the same request in process, as bare kernels, and done plainly."""
    if drawn_from is not None:
        _draw_again(drawn_from, plots)
        return
    from tandem_cli.progress import ConsoleProgress
    from tandem_cli.serving_bench.measure import Effort, measure
    from tandem_cli.serving_bench.processes import NotServing
    from tandem_cli.serving_bench.report import facts, tables
    from tandem_cli.serving_bench.world import SEED, make_world, trained_base
    from tandem_core.registry import Registry
    from tandem_trainer.config import IndexSettings
    from tandem_trainer.studies.hardness import hardness
    from tandem_trainer.studies.plots_scaling import draw_scaling

    sizes = [int(text) for text in items.split(",")]
    with user_errors(ValueError, NotServing), ConsoleProgress() as progress:
        settings = IndexSettings.model_validate({"kinds": kinds.split(",")})
        if registry is None:
            base = trained_base(cache, progress)
        elif (current := Registry(registry).current()) is None:
            fail(f"{registry} has no current bundle: train one (tandem train)")
        else:
            base = Registry(registry).path_of(current.bundle_id)
        effort = Effort(runs, calls, seconds, (0.25, 0.5))
        found = []
        for size in sizes:
            with progress.step(f"bundle of {size:,} items"):
                world = make_world(base, cache.resolve() / base.name, size, settings)
            with progress.step(f"{size:,} items"), tempfile.TemporaryDirectory() as folder:
                found.append(measure(world, effort, Path(folder), peer.resolve() if peer.exists() else None))
    out.print(facts(base.name, effort), highlight=False)
    for table in [*tables(found), hardness(base, SEED)]:
        out.print(drawn(table))
    for figures in found:
        if profile := figures.values.get("peer profile"):
            out.print(f"the peer, {figures.items:,} items, 200 requests:\n{profile}", highlight=False, markup=False)
    written = [{"items": figures.items, **figures.values} for figures in found]
    if json_file is not None:
        json_file.write_text(json.dumps(written, indent=1))
        out.print(f"all figures: {json_file}")
    if plots is not None:
        name_files(draw_scaling(written, plots))


def _draw_again(figures: Path, plots: Path | None) -> None:
    from tandem_trainer.studies.plots_scaling import draw_scaling, read_figures

    if plots is None:
        fail("--from draws figures into the folder that --plots names: give both")
    with user_errors(ValueError, OSError):
        name_files(draw_scaling(read_figures(figures), plots))
