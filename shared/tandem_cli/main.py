"""tandem: train, evaluate, serve, ask. Every command imports what it needs itself, so that --help is instant."""

from __future__ import annotations

import os

# Before numpy is imported: threads of native libraries fight over the cores. Training sets its own number, and its
# threads must not spin while they wait: with anything else running that costs ten times the time (measured).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from pathlib import Path
from typing import Annotated

import typer

from tandem_cli import (
    bench,
    bundles,
    decisions,
    doctor,
    events,
    judge,
    off_policy,
    offline,
    online,
    plot,
    simulate,
    tokens,
    tune,
)
from tandem_cli.access import with_access

app = typer.Typer(
    help="A recommender that backends call over gRPC.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.command("generate")(offline.generate)
app.command("train")(offline.train)
app.command("tune")(tune.tune)
app.command("evaluate")(offline.evaluate)
app.command("judge")(judge.judge)
app.command("simulate")(simulate.simulate)
app.command("off-policy")(off_policy.off_policy)
app.command("import-events")(offline.import_events)
app.command("import-users")(offline.import_users)
app.command("export-items")(offline.export_items)
app.command("export-events")(events.export_events)
app.command("write-event")(with_access(events.write_event))
app.command("forget-user")(with_access(events.forget_user))
app.command("serve")(online.serve)
app.command("stub")(online.stub)
app.command("doctor")(with_access(doctor.doctor))
app.command("recommend")(with_access(online.recommend))
app.command("explain")(with_access(online.explain))
app.command("similar")(with_access(online.similar))
app.command("embeddings")(with_access(online.embeddings))
app.command("replay")(decisions.replay)
app.command("preview-rules")(decisions.preview_rules)
app.add_typer(bundles.app, name="bundles", help="List the bundles of a registry, activate one, roll back.")
app.add_typer(tokens.app, name="token", help="Make tokens for callers.")
app.add_typer(plot.app, name="plot", help="Draw how a bundle was trained, or what a data set holds.")
app.add_typer(bench.app, name="bench", help="Compare ways of recommending on held-out events.")


@app.command()
def demo(
    dataset: Annotated[
        str, typer.Option(help="synthetic, ml-100k, ml-1m, ml-latest, online-retail, amazon-reviews, anime, tables")
    ] = "synthetic",
    data: Annotated[Path | None, typer.Option(help="Folder of the data set's files.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its bundle and store.")] = Path(".cache/demo"),
) -> None:
    """Train on a data set, start both services, and show what they recommend to four kinds of users."""
    from tandem_cli.demo import run_demo  # noqa: PLC0415  (trainer and client: only this command needs both)

    run_demo(dataset, data, folder)
