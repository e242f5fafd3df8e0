"""The command line as people use it, in process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.bundle import Bundle
from tandem_core.registry import Registry
from tandem_testing import StubRetrieval, serve
from tandem_trainer.config import TrainConfig, load_config
from tandem_trainer.data import load_dataset
from tandem_trainer.quality.rows.towers import longer
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


@pytest.fixture(scope="module")
def retrieval() -> Iterator[str]:
    """Where a stub listens that knows i001 to i030."""
    with serve(StubRetrieval([f"i{i:03}" for i in range(1, 31)])) as running:
        yield running.address


def test_similar_prints_ids_where_the_bundle_is_not_at_hand(retrieval: str, tmp_path: Path) -> None:
    result = run(app, ["similar", "i001", "i002", "--k", "3", "--target", retrieval, "--registry", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = [line.split("│")[1:4] for line in result.stdout.splitlines() if "│" in line]
    assert [row[0].strip() for row in rows] == ["1", "2", "3"]
    named = [row[1].strip() for row in rows]
    assert set(named) <= {f"i{i:03}" for i in range(3, 31)}
    assert sorted((float(row[2]) for row in rows), reverse=True) == [float(row[2]) for row in rows]


def test_similar_prints_titles_of_the_bundle_that_answered(
    trained: Trained, registry: Registry, bundle: Bundle
) -> None:
    with serve(StubRetrieval(bundle.catalog.item_ids, trained.bundle_id)) as running:
        result = run(
            app, ["similar", "i001", "--k", "5", "--target", running.address, "--registry", str(registry.root)]
        )
    assert result.exit_code == 0, result.output
    titles = trained.dataset.items["title"]
    assert sum(title in result.stdout for title in titles) >= 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["similar", "i001", "--k", "0"], "--k is 0; a list has 1 to 500 items"),
        (["similar", "i001", "--k", "501"], "--k is 501"),
        (["similar", "lost"], "answered NOT_FOUND: no item 'lost' in the catalogue"),
        (["similar", *["i001"] * 51], "item_ids: has 51 entries"),
        (["embeddings", *["--user", "u"] * 65], "users: has 65 entries"),
        (["embeddings", "--item", "i001", "--target", "127.0.0.1:1", "--timeout", "0.3"], "127.0.0.1:1 answered"),
    ],
)
def test_similar_and_embeddings_end_with_one_clear_error(retrieval: str, arguments: list[str], named: str) -> None:
    target = [] if "--target" in arguments else ["--target", retrieval]
    result = run(app, [*arguments, *target])
    assert result.exit_code == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout


def test_embeddings_are_a_json_object_a_line(retrieval: str) -> None:
    asked = ["--item", "i002", "--item", "lost", "--item", "i001", "--user", "ann", "--user", ""]
    result = run(app, ["embeddings", *asked, "--target", retrieval])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["kind"], line["id"]) for line in lines] == [
        ("item", "i002"),
        ("item", "i001"),
        ("user", "ann"),
        ("user", ""),
    ]
    assert {line["bundle_id"] for line in lines} == {"stub-bundle"}
    assert {len(line["values"]) for line in lines} == {16}


def test_bundles_are_listed_and_the_current_one_is_marked(trained: Trained, registry: Registry) -> None:
    result = run(app, ["bundles", "list", "--registry", str(registry.root)])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if trained.bundle_id in line]
    assert "*" in line


@pytest.mark.parametrize("command", [["list"], ["activate", "b1"], ["rollback"]])
def test_a_registry_that_cannot_be_read_is_one_clear_error(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "bundles").write_text("no folder")
    result = run(app, ["bundles", *command, "--registry", str(tmp_path / "bundles")])
    assert result.exit_code == 2
    assert "error:" in result.output


def test_the_example_configuration_is_what_the_defaults_are() -> None:
    assert load_config(CONFIGS / "train.toml") == TrainConfig()


def test_the_configuration_for_long_training_is_what_the_quality_figures_are_of() -> None:
    assert load_config(CONFIGS / "train-long.toml").towers == longer(TrainConfig())


def test_the_configuration_for_the_best_towers_trains_two_pairs_for_as_long_as_the_quality_figures_say() -> None:
    config = load_config(CONFIGS / "train-best.toml")
    assert config.towers == longer(config)
    assert [pair.spare_known for pair in config.towers.pairs] == [True, False]
    assert config.towers.joint_dim == 2 * TrainConfig().towers.joint_dim


def test_an_unknown_key_of_a_training_configuration_is_named(tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    config.write_text("[towers]\nepoch = 3\n")
    result = run(app, ["train", "--config", str(config), "--registry", str(tmp_path / "bundles")])
    assert result.exit_code == 2
    assert not (tmp_path / "bundles").exists()


def test_bench_cold_prints_every_arm_and_writes_its_figures(tmp_path: Path) -> None:
    run(app, ["generate", "--out", str(tmp_path / "data"), "--users", "300", "--items", "120"])
    written = tmp_path / "cold.json"
    result = run(app, ["bench", "cold", "--data", str(tmp_path / "data"), "--json", str(written)])
    assert result.exit_code == 0, result.output
    for text in ("category cosine", "TF-IDF neighbours", "taste and prior", "true popularity (leaked)"):
        assert text in result.output
    assert json.loads(written.read_text())["arms"]["prior"]["ndcg"]["n"] > 0


def test_bench_cold_says_what_is_wrong_with_a_share(tmp_path: Path) -> None:
    run(app, ["generate", "--out", str(tmp_path), "--users", "50", "--items", "40"])
    result = run(app, ["bench", "cold", "--data", str(tmp_path), "--fraction", "1"])
    assert result.exit_code == 2
    assert "some must be cold and some not" in result.output


def test_off_policy_prints_estimates_and_ends_with_one_clear_line_where_the_log_cannot_tell(tmp_path: Path) -> None:
    log, figures = tmp_path / "log.jsonl", tmp_path / "told.json"
    rows = [
        {"decision_id": f"d{i}", "item_id": f"i{i % 2}", "position": 1, "propensity": 0.5, "reward": i % 2}
        | {"target_probability": 0.25 + 0.5 * (i % 2)}
        for i in range(400)
    ]
    log.write_text("\n".join(json.dumps(row) for row in rows))
    result = run(app, ["off-policy", str(log), "--json", str(figures)])
    assert result.exit_code == 0, result.output
    assert "400 decisions, worth 320" in result.stdout  # weights 0.5 and 1.5
    told = json.loads(figures.read_text())
    assert (told["logged"]["mean"], told["ips"]["mean"], told["dr"]) == (0.5, 0.75, None)
    log.write_text("\n".join(json.dumps(row) for row in rows[:50]))
    refused = run(app, ["off-policy", str(log)])
    assert refused.exit_code == 2
    assert "50 decisions are worth 40.0" in refused.stderr.replace("\n", " ")
    assert run(app, ["off-policy", str(tmp_path / "none")]).exit_code == 2
