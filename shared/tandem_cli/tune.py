"""tandem tune: a search for settings."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tandem_cli.console import fail, out, user_errors

if TYPE_CHECKING:
    from tandem_trainer.tuning import Trial
    from tandem_trainer.tuning_space import Search


def tune(
    search: Annotated[Path, typer.Argument(help="TOML file of the search; see deploy/config/tune.toml.")],
    folder: Annotated[Path, typer.Option("--out", help="Its journal and best settings; given again, it goes on.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of training that the trials differ from.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of the data. None: synthetic.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Trials shown.")] = 10,
) -> None:
    """Train with many settings and find the best by a figure on validation events; a stopped search can go on."""
    from tandem_cli.offline import load_config_and_data
    from tandem_cli.progress import ConsoleProgress
    from tandem_core.settings import read_toml
    from tandem_trainer.tuning import BEST, JOURNAL, ranked
    from tandem_trainer.tuning import tune as run
    from tandem_trainer.tuning_space import read_search

    with user_errors(ValueError, OSError):
        asked = read_search(search)
        base = {} if config is None else read_toml(config)
        _, dataset = load_config_and_data(config, data)
        with ConsoleProgress() as progress:
            trials = run(asked, base, dataset, folder, progress, str(search))
    best = ranked(asked, trials)
    out.print(_table(asked, best[:top], len(trials)))
    for trial in trials:
        if trial.error:
            out.print(f"trial {trial.number + 1} failed: {escape(trial.error)}", highlight=False)
    if not best:
        fail(f"no trial has the figure {asked.figure}; {folder / JOURNAL} says why")
    out.print(f"best settings: {folder / BEST} (tandem train --config {folder / BEST})", highlight=False)
    out.print("The best of many is lucky too: what it is worth say test events (tandem evaluate), looked at once.")


def _table(search: Search, best: list[Trial], count: int) -> Table:
    table = Table(title=f"Best of {count} trials, on validation events", title_justify="left")
    for name in ("trial", search.figure, *search.search, "seconds"):
        table.add_column(escape(name), justify="right")
    for trial in best:
        values = [escape(str(trial.settings[key])) for key in search.search]
        table.add_row(str(trial.number + 1), f"{trial.metrics[search.figure]:.4f}", *values, f"{trial.seconds:.1f}")
    return table
