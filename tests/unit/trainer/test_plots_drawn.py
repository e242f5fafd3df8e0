"""Curves of trainings, of data and of catalogue sizes: which files there are, and what stands in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.registry import Registry
from tandem_trainer.data.synthetic import SyntheticConfig, generate
from tandem_trainer.studies.plots_data import _popularity, _values, draw_data
from tandem_trainer.studies.plots_history import draw_history
from tandem_trainer.studies.plots_scaling import _latency, draw_scaling, read_figures
from tandem_trainer.train import Trained

PNG = b"\x89PNG"


def figures(*sizes: int) -> list[dict[str, Any]]:
    """Figures as `bench serve --json` writes them; each way takes items / 1000 ms and its number more."""
    ways = ("kernels", "in process", "over gRPC")
    times = {
        size: {way: {"p50": size / 1000 + at, "p95": size / 500 + at, "cpu": 1.0} for at, way in enumerate(ways)}
        for size in sizes
    }
    return [{"items": size, "warm": times[size], "cold": times[size], "load": {}} for size in sizes]


def drawn(paths: list[Path]) -> list[str]:
    assert all(path.read_bytes().startswith(PNG) for path in paths)
    return [path.name for path in paths]


def test_losses_and_figures_of_each_model_have_a_file(tmp_path: Path) -> None:
    history = {"towers": [{"loss": 2.0, "hr@10": 0.1}, {"loss": 1.0}], "ranker": [{"loss": 1.0}], "none": []}
    names = ["towers_losses.png", "towers_figures.png", "ranker_losses.png"]
    assert drawn(draw_history(history, tmp_path / "new")) == names


def test_the_command_draws_what_a_bundle_was_trained_with(trained: Trained, registry: Registry, tmp_path: Path) -> None:
    arguments = ["plot", "bundle", "--registry", str(registry.root), "--out", str(tmp_path / "plots")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    names = {f"{model}_{kind}.png" for model in ("towers", "ranker") for kind in ("losses", "figures")}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == names
    assert all(name in result.output for name in names)
    empty = ["plot", "bundle", "--registry", str(tmp_path), "--out", str(tmp_path)]
    for more, named in (([], "has no current bundle"), (["--bundle", "lost"], "has no bundle lost with a history")):
        result = CliRunner().invoke(app, [*empty, *more])
        assert result.exit_code == 2
        assert named in result.stderr


def test_the_command_draws_what_a_data_set_holds(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["generate", "--out", str(tmp_path / "data"), "--users", "30", "--items", "20"])
    result = CliRunner().invoke(app, ["plot", "data", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "popularity.png" in {path.name for path in (tmp_path / "out").iterdir()}


def test_each_event_type_with_values_has_a_histogram(tmp_path: Path) -> None:
    dataset = generate(SyntheticConfig(n_users=30, n_items=20, seed=1))
    events = dataset.events.copy()
    events["value"] = np.where(events["event_type"] == "purchase", 3.0, np.nan)
    events.loc[events["event_type"] == "click", "value"] = np.arange((events["event_type"] == "click").sum())
    names = drawn(draw_data(replace(dataset, events=events), tmp_path))
    assert names == ["values_click.png", "values_purchase.png", "popularity.png"]


def test_bars_are_as_high_as_ratings_are_many() -> None:
    axes = Figure().add_subplot()
    _values(axes, np.array([1.0, 5.0, 5.0, 4.0, 5.0]), "rating")
    assert [bar.get_height() for bar in axes.patches] == [1, 1, 3]
    assert "mean 4.00" in axes.get_title()


def test_the_popularity_says_on_how_few_items_half_of_the_events_are() -> None:
    axes = Figure().add_subplot()
    _popularity(axes, np.array([5, 3, 1, 1]), items=9)
    assert axes.get_legend().get_texts()[0].get_text() == "half of the events are on 1 items"
    assert axes.get_title() == "10 events on 4 of 9 items"


def test_latencies_are_drawn_by_size_whatever_their_order(tmp_path: Path) -> None:
    assert drawn(draw_scaling(figures(4000, 1000), tmp_path)) == ["latency_warm.png", "latency_cold.png"]
    axes = Figure().add_subplot()
    _latency(axes, figures(1000, 4000), "warm")
    assert [line.get_label() for line in axes.lines][::2] == ["kernels, p50", "in process, p50", "over gRPC, p50"]
    np.testing.assert_array_equal(axes.lines[4].get_xydata(), [[1000, 3.0], [4000, 6.0]])


def test_figures_of_an_earlier_run_are_drawn_without_measuring(tmp_path: Path) -> None:
    file, plots = tmp_path / "figures.json", tmp_path / "plots"
    file.write_text(json.dumps(figures(1000, 10_000)))
    result = CliRunner().invoke(app, ["bench", "serve", "--from", str(file), "--plots", str(plots)])
    assert result.exit_code == 0, result.output
    assert len(list(plots.iterdir())) == 2
    result = CliRunner().invoke(app, ["bench", "serve", "--from", str(file)])
    assert result.exit_code == 2
    assert "give both" in result.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '[{"items": 5}]', '[{"items": "x", "warm": {}, "cold": {}}]'])
def test_a_file_without_such_figures_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"figures\.json (does not hold|holds figures of no size)"):
        read_figures(file)
    with pytest.raises(ValueError, match=r"lost\.json cannot be read"):
        read_figures(tmp_path / "lost.json")
