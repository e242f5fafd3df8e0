"""The command line as people use it, in process."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.registry import Registry
from tandem_trainer.config import TrainConfig, load_config
from tandem_trainer.data import load_dataset
from tandem_trainer.train import Trained

CONFIGS = Path(__file__).parents[3] / "deploy" / "config"
run = CliRunner().invoke


def test_generate_writes_tables_that_can_be_read_back_and_says_how_much(tmp_path: Path) -> None:
    result = run(app, ["generate", "--out", str(tmp_path), "--users", "50", "--items", "40"])
    assert result.exit_code == 0, result.output
    dataset = load_dataset("auto", tmp_path)
    assert f"50 users, 40 items, {len(dataset.events)} events" in result.output


def test_density_sets_the_number_of_events(tmp_path: Path) -> None:
    run(app, ["generate", "--out", str(tmp_path), "--users", "200", "--items", "100", "--density", "0.1"])
    per_user = len(load_dataset("auto", tmp_path).events) / 200
    assert 6 < per_user < 14


@pytest.mark.parametrize("k", ["0", "-1", "501"])
def test_recommend_refuses_a_length_no_list_has(k: str) -> None:
    result = run(app, ["recommend", "--user", "u", "--k", k])
    assert result.exit_code == 2


def test_recommend_says_where_it_looked_when_nobody_answers() -> None:
    result = run(app, ["recommend", "--user", "u", "--target", "127.0.0.1:1", "--timeout", "0.3"])
    assert result.exit_code == 2


def test_bundles_are_listed_and_the_current_one_is_marked(trained: Trained, registry: Registry) -> None:
    result = run(app, ["bundles", "list", "--registry", str(registry.root)])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if trained.bundle_id in line]
    assert "*" in line


def test_the_example_configuration_is_what_the_defaults_are() -> None:
    assert load_config(CONFIGS / "train.toml") == TrainConfig()


def test_an_unknown_key_of_a_training_configuration_is_named(tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    config.write_text("[towers]\nepoch = 3\n")
    result = run(app, ["train", "--config", str(config), "--registry", str(tmp_path / "bundles")])
    assert result.exit_code == 2
    assert not (tmp_path / "bundles").exists()
