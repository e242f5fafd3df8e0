"""tandem bench ratings: rating models on held-out ratings."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tandem_cli.bench_report import PlotsOption
from tandem_cli.console import out, user_errors
from tandem_cli.plot import name_files

if TYPE_CHECKING:
    from tandem_core.metrics.bootstrap import Interval
    from tandem_trainer.ratings.compare import Comparison


def ratings(
    data: Annotated[Path, typer.Option("--data", help="Folder of data with ratings, such as MovieLens 100K.")],
    config: Annotated[Path | None, typer.Option("--config", help="TOML file over the defaults.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures and loss histories there.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Write the best model's held-out predictions there, as CSV.")
    ] = None,
    negatives: Annotated[
        Path | None,
        typer.Option("--negatives", help="Write the training ratings with sampled negatives: .csv or .parquet."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", help="Write all ratings, what is known of them and, in .parquet, the models' inputs."),
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", help="Write the towers on ALS and text with their fusion head there.")
    ] = None,
    plots: PlotsOption = None,
) -> None:
    """Fit rating models and compare them with simple means: held-out MSE and MAE with 95 % intervals."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_core.settings import parse_settings, read_toml
    from tandem_trainer.data import load_dataset
    from tandem_trainer.ratings.compare import RatingConfig, compare, to_json
    from tandem_trainer.ratings.export import export_fusion
    from tandem_trainer.ratings.tables import check_kind, negatives_table, ratings_table, write_table
    from tandem_trainer.studies.plots_history import draw_rating_losses

    with user_errors(ValueError), ConsoleProgress() as progress:
        settings = parse_settings(RatingConfig, {} if config is None else read_toml(config), str(config or "defaults"))
        for path in (negatives, table):
            check_kind(path)
        dataset = load_dataset("auto", data)
        found = compare(dataset, settings, progress)
    out.print(*_tables(found), sep="\n")
    out.print(f"smallest validation error: {found.best}", highlight=False)
    for path in (json_file, predictions, negatives, table, onnx):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if json_file is not None:
        json_file.write_text(json.dumps(to_json(found, settings), indent=1, allow_nan=False))
        out.print(f"all figures: {json_file}")
    if predictions is not None:
        found.predictions.to_csv(predictions, index=False, float_format="%.4f")
        out.print(f"predictions: {predictions}")
    if negatives is not None:
        rows = write_table(negatives_table(found.data, settings.seed), negatives)
        out.print(f"training ratings with negatives: {rows:,} rows in {negatives}", highlight=False)
    if table is not None:
        rows = write_table(ratings_table(dataset, found.data, settings), table)
        out.print(f"all ratings: {rows:,} rows in {table}", highlight=False)
    if onnx is not None:
        parity = export_fusion(found, onnx)
        out.print(f"fusion head: {onnx}, within {parity:.2g} of torch on the held-out ratings", highlight=False)
    if plots is not None:
        name_files(draw_rating_losses(found.arms, plots))


def _tables(found: Comparison) -> list[Table]:
    counts = ", ".join(f"{count} {part}" for part, count in found.ratings.items())
    main = Table(title=f"Held-out ratings, {found.low:g} to {found.high:g}: {counts}", title_justify="left")
    main.add_column("model", min_width=26, no_wrap=True)
    for name in ("MSE", "95 % interval", "MAE", "better than biases by", "parameters", "epoch", "seconds"):
        main.add_column(name, justify="right")
    for arm in found.arms:
        fitted = (str(arm.parameters), f"{arm.best_epoch + 1} of {len(arm.history)}", f"{arm.seconds:.1f}")
        main.add_row(
            arm.name,
            f"{arm.mse.mean:.4f}",
            _ends(arm.mse),
            f"{arm.mae.mean:.4f}",
            f"{arm.gain.mean:+.4f} ({arm.gain.low:+.4f} .. {arm.gain.high:+.4f})",
            *(fitted if arm.history else ("", "", "")),
        )
    order = Table("what", "score", "share right", "95 % interval", title="Order", title_justify="left")
    for name, auc in found.like_auc.items():
        order.add_row("liked above not liked (AUC)", name, f"{auc:.4f}", "")
    for name, interval in found.pair_accuracy.items():
        order.add_row("liked above never rated", name, f"{interval.mean:.4f}", _ends(interval))
    return [main, order]


def _ends(interval: Interval) -> str:
    return f"{interval.low:.4f} .. {interval.high:.4f}"
