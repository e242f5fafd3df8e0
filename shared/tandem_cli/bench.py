"""tandem bench: comparisons that fit what they compare, each a table with its protocol beside it."""

from __future__ import annotations

import typer

from tandem_cli import bench_cold, bench_quality, bench_ratings

app = typer.Typer(no_args_is_help=True)
app.command("quality")(bench_quality.quality)
app.command("cold")(bench_cold.cold)
app.command("ratings")(bench_ratings.ratings)
