"""The study that compares encoders of the user tower, on small data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_trainer.config import FeatureSettings, TrainConfig
from tandem_trainer.data import Dataset, SyntheticConfig, write_tables
from tandem_trainer.data.synthetic import generate
from tandem_trainer.examples import Batch, user_columns
from tandem_trainer.progress import Progress
from tandem_trainer.studies import encoders
from tandem_trainer.studies.encoders import (
    AVERAGE,
    BUDGET_MS,
    LENGTHS,
    Material,
    average_vectors,
    fit,
    prepare,
    same_budget,
    tower_calls,
    variants,
)
from tandem_trainer.studies.timing import WARM_UP, interleaved_ms
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.tower_validation import found_shares
from tandem_trainer.towers import TowerSettings

TINY = TowerTrainingSettings(
    towers=TowerSettings(vector_dim=16, id_dim=16, hidden=16, heads=2), most_examples=1500, validations=2
)
CONFIG = TrainConfig(features=FeatureSettings(history_length=30), towers=TINY)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return generate(SyntheticConfig(n_users=150, n_items=150, seed=2))


@pytest.fixture(scope="module")
def material(dataset: Dataset) -> Material:
    return prepare(dataset, CONFIG)


def test_every_encoder_is_there_once_with_and_without_time_bias_and_the_configured_one_among_them() -> None:
    for configured in (TowerSettings(), TowerSettings(encoder="mean_pool", time_bias=False)):
        found = variants(configured)
        assert [(each.encoder, each.time_bias) for each in found] == [
            ("mean_pool", configured.time_bias),
            *((name, bias) for name in ("attention_pool", "sasrec", "ligr") for bias in (True, False)),
        ]
        assert found.count(configured) == 1


def test_no_encoder_stops_before_the_budget_is_spent(material: Material) -> None:
    settings = same_budget(TINY.model_copy(update={"validations": 4, "patience": 1, "learning_rate": 1e-9}), 400)
    assert settings.most_examples == 400
    assert len(fit(material, settings, 0, Progress()).history) == 4  # though nothing gets better


def test_a_longer_history_than_the_towers_were_trained_on_is_read_to_its_end(material: Material) -> None:
    calls = tower_calls(material, fit(material, TINY, 0, Progress()), (30, 60))
    (short,), (long,) = (np.asarray(calls[n]()) for n in (30, 60))
    np.testing.assert_allclose(np.linalg.norm([short, long], axis=2), 1, atol=1e-5)
    assert np.abs(short - long).max() > 1e-4


def test_the_towers_figures_are_of_the_very_examples_that_the_average_is_measured_on(material: Material) -> None:
    fitted = fit(material, TINY, 0, Progress())
    items = torch.from_numpy(fitted.item_vectors)

    def user_vectors(batch: Batch) -> torch.Tensor:
        history = items[torch.from_numpy(batch.history_rows)]
        vectors: torch.Tensor = fitted.user_tower(history, *map(torch.from_numpy, user_columns(batch)))
        return vectors

    again = found_shares(items, material.held_out, np.arange(len(material.held_out)), user_vectors)
    reported = fitted.history[fitted.best]
    assert again == {name: reported[name] for name in ("hr@10", "recall@100")}


def test_no_held_out_event_is_one_that_its_user_had_chosen_before(material: Material) -> None:
    held_out = material.held_out
    of, rows = held_out.seen_pairs(np.arange(len(held_out)))
    assert len(of)
    assert not (rows == held_out.rows[held_out.targets][of]).any()


def test_the_average_is_weighted_by_event_type_and_zero_without_a_history(material: Material) -> None:
    batch = material.held_out.batch(np.arange(2))
    vectors = np.eye(len(material.catalog), dtype=np.float32)
    like, view = (material.schema.type_code[name] for name in ("like", "view"))
    history = replace(
        batch,
        history_rows=np.array([[3, 7, 9], [1, 1, 1]]),
        history_mask=np.array([[1, 1, 0], [0, 0, 0]], np.float32),
        history_types=np.array([[like, view, like], [like, like, like]]),
    )
    expected = np.zeros_like(vectors[:2])
    expected[0, [3, 7]] = np.array([2.0, 0.2]) / np.hypot(2.0, 0.2)
    np.testing.assert_allclose(average_vectors(history, material.schema, vectors), expected, atol=1e-6)


def test_calls_are_timed_in_turn_after_a_warm_up_and_not_always_in_one_order() -> None:
    made: list[int] = []
    taken = interleaved_ms([lambda i=i: made.append(i) for i in range(3)], 40, seed=0)  # type: ignore[misc]
    assert taken.shape == (3, 40)
    assert (taken > 0).all()
    timed = np.array(made[3 * WARM_UP :]).reshape(40, 3)
    np.testing.assert_array_equal(np.sort(timed, axis=1), np.tile(np.arange(3), (40, 1)))
    assert len(np.unique(timed, axis=0)) > 1


@pytest.mark.long  # seven encoders trained and exported
def test_the_command_prints_every_encoder_and_the_verdict_and_writes_json(dataset: Dataset, tmp_path: Path) -> None:
    write_tables(dataset, tmp_path / "data")
    config, written = tmp_path / "train.toml", tmp_path / "new" / "encoders.json"
    config.write_text(
        "[towers]\nvalidations = 1\n[towers.towers]\nvector_dim = 16\nid_dim = 16\nhidden = 16\nheads = 2\nblocks = 1\n"
    )
    arguments = ["bench", "encoders", "--data", str(tmp_path / "data"), "--config", str(config)]
    arguments += ["--examples", "500", "--history", "30", "--json", str(written)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(written.read_text())
    facts = report["facts"]
    assert (facts["history length"], facts["events trained on"], facts["calls"]) == (30, 500, encoders.CALLS)
    assert facts["calls"] >= 200
    rows = report["tables"]["Encoders"]
    assert [(row["encoder"], row["time bias"]) for row in rows] == [
        ("mean_pool", None),
        *((name, bias) for name in ("attention_pool", "sasrec", "ligr") for bias in ("yes", "no")),
        (AVERAGE, None),
    ]
    for row in rows:
        assert 0 <= row["hr@10"] <= row["recall@100"] <= 1
        assert row["events/s"] is None if row["encoder"] == AVERAGE else row["events/s"] > 0
        for n in (*LENGTHS, 30):
            assert 0 < row[f"p50 {n}"] <= row[f"p95 {n}"]
    assert facts["default p50 ms"] == rows[1]["p50 30"]
    assert facts["default against budget"] == ("within" if rows[1]["p50 30"] <= BUDGET_MS else "above")
    *_, last, _ = result.stdout.splitlines()
    assert last.startswith("- Default encoder attention_pool: p50 ")
    assert f"at 30 events, {facts['default against budget']} the budget of 0.5 ms" in last


def test_data_without_a_validation_event_is_refused(dataset: Dataset) -> None:
    short = dataset.events.groupby("user_id").head(1)
    with pytest.raises(ValueError, match="no validation event"):
        prepare(replace(dataset, events=short.reset_index(drop=True)), CONFIG)
