"""tandem bench: comparisons that fit what they compare, each a table with its protocol beside it."""

from __future__ import annotations

import typer

from tandem_cli import bench_quality

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep this a group of commands, however few there are."""


app.command("quality")(bench_quality.quality)
