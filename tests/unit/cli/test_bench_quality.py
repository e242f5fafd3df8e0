"""tandem bench quality as people use it, in process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem_cli.main import app

run = CliRunner().invoke
SMALL = "[data]\nsynthetic_users = 150\nsynthetic_items = 80\n"
METRICS = {"hr@10", "ndcg@10", "recall@100", "recall@500", "coverage@10"}


def bench(tmp_path: Path, *arguments: str) -> tuple[str, dict]:  # type: ignore[type-arg]
    config, figures = tmp_path / "train.toml", tmp_path / "figures" / "quality.json"
    config.write_text(SMALL)
    given = ["--config", str(config), "--cache", str(tmp_path / "cache"), "--json", str(figures), *arguments]
    result = run(app, ["bench", "quality", *given])
    assert result.exit_code == 0, result.output
    return result.output, json.loads(figures.read_text())


@pytest.mark.parametrize("protocol", ["loo", "time", "warm-time", "cold-item", "strong"])
def test_one_table_and_a_file_with_the_same_figures(protocol: str, tmp_path: Path) -> None:
    text, found = bench(tmp_path, "--protocol", protocol, "--only", "popularity", "als", "popularity_7d")
    assert (found["protocol"], found["dataset"], found["part"]) == (protocol, "synthetic", "test")
    assert [row["name"] for row in found["rows"]] == ["popularity", "als", "popularity_7d"]
    metrics = METRICS | ({"recall@20", "ndcg@20"} if protocol == "cold-item" else set())
    for row in found["rows"]:
        assert set(row["metrics"]) == metrics
        assert set(row["ci95"]) == metrics - {"coverage@10"}
        for name, (low, high) in row["ci95"].items():
            assert low <= row["metrics"][name] <= high
        assert row["fit_core_seconds"] >= 0
        assert f"{row['metrics']['ndcg@10']:.4f}" in text
    assert found["users"] > 0
    assert found["statement"]
    assert found["counts"]["test positives"] > 0
    assert text.count("fit core-s") >= 1
    assert "memory peak" in text


def test_both_versions_are_printed_where_users_come_back_to_items(tmp_path: Path) -> None:
    text, found = bench(tmp_path, "--only", "popularity")
    assert list(found["slices"]) == ["repeats excluded", "repeats allowed"]
    assert found["repeats"] == "repeats excluded"
    assert "repeats allowed, all users" in text
    _, allowed = bench(tmp_path, "--only", "popularity", "--repeats", "allow")
    assert list(allowed["slices"]) == ["repeats allowed"]
    assert allowed["rows"][0]["metrics"] == found["slices"]["repeats allowed"]["all users"]["rows"][0]["metrics"]


def test_a_second_run_fits_nothing_and_gives_the_same_figures(tmp_path: Path) -> None:
    _, first = bench(tmp_path, "--only", "als")
    _, second = bench(tmp_path, "--only", "als")
    assert (first["rows"][0]["cached"], second["rows"][0]["cached"]) == (False, True)
    changing = ("cached",)
    assert [{k: v for k, v in row.items() if k not in changing} for row in first["rows"]] == [
        {k: v for k, v in row.items() if k not in changing} for row in second["rows"]
    ]


def test_figures_to_choose_by_are_of_the_validation_part_and_fits_on_train(tmp_path: Path) -> None:
    text, found = bench(tmp_path, "--only", "popularity", "--part", "validation")
    assert found["part"] == "validation"
    assert not found["rows"][0]["refit"]
    assert "Figures are of validation" in text


def test_an_unknown_row_is_named() -> None:
    result = run(app, ["bench", "quality", "--only", "popularty"])
    assert result.exit_code == 2
