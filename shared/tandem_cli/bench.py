"""tandem bench: comparisons that fit what they compare, each a table with its protocol beside it."""

from __future__ import annotations

import typer

from tandem_cli import (
    bench_clusters,
    bench_cold,
    bench_diversity,
    bench_encoders,
    bench_events,
    bench_live,
    bench_quality,
    bench_ranker,
    bench_ratings,
    bench_rolling,
    bench_serve,
    bench_strain,
    bench_tradeoff,
    bench_tutorial,
    bench_unseen,
)

app = typer.Typer(no_args_is_help=True)
app.command("quality")(bench_quality.quality)
app.command("live")(bench_live.live)
app.command("ranker")(bench_ranker.ranker)
app.command("cold")(bench_cold.cold)
app.command("unseen")(bench_unseen.unseen)
app.command("clusters")(bench_clusters.clusters)
app.command("tradeoff")(bench_tradeoff.tradeoff)
app.command("rolling")(bench_rolling.rolling)
app.command("tutorial")(bench_tutorial.tutorial)
app.command("encoders")(bench_encoders.encoders)
app.command("events")(bench_events.events)
app.command("diversity")(bench_diversity.diversity)
app.command("ratings")(bench_ratings.ratings)
app.command("serve")(bench_serve.serve)
app.command("overload")(bench_strain.overload)
app.command("workers")(bench_strain.workers)
app.command("soak")(bench_strain.soak)
