"""A search for settings: real trainings of tiny towers, its journal, and going on after a kill."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.settings import ConfigError, parse_settings
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.inputs import load_data
from tandem_trainer.progress import Progress
from tandem_trainer.tuning import BEST, JOURNAL, Trial, ranked, tune
from tandem_trainer.tuning_space import Search

BASE: dict[str, Any] = {
    "data": {"adapter": "synthetic", "synthetic_users": 60, "synthetic_items": 40},
    "towers": {"epochs": 1.0, "validations": 1, "towers": {"vector_dim": 16, "heads": 2}},
    "als": {"factors": 4},
    "features": {"content_dims": 8},
}
SPACE = {"towers.learning_rate": {"low": 0.001, "high": 0.05, "log": True}}
TOML = """\
trials = {trials}
figure = "towers_hr@10"
[search]
"towers.learning_rate" = {{low = 0.001, high = 0.05, log = true}}
"""
CONFIG = """\
als.factors = 4
features.content_dims = 8
[data]
adapter = "synthetic"
synthetic_users = 60
synthetic_items = 40
[towers]
epochs = 1.0
validations = 1
towers = {vector_dim = 16, heads = 2}
"""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_data(parse_settings(TrainConfig, BASE, "here"), None)


def run(folder: Path, dataset: Dataset, base: dict[str, Any] = BASE, **values: Any) -> list[Trial]:
    search = Search.model_validate({"trials": 3, "figure": "towers_hr@10", "search": SPACE} | values)
    return tune(search, base, dataset, folder, Progress(), "file")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]


@pytest.fixture(scope="module")
def done(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trial]]:
    """A search of three trials that nobody disturbed, and its folder; not to be changed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(folder, dataset)


def test_every_trial_is_a_line_of_the_journal_with_its_figures(done: tuple[Path, list[Trial]]) -> None:
    folder, trials = done
    assert [line["number"] for line in lines(folder)[1:]] == [0, 1, 2] == [trial.number for trial in trials]
    assert len({trial.settings["towers.learning_rate"] for trial in trials}) == 3
    for trial, line in zip(trials, lines(folder)[1:], strict=True):
        assert line["metrics"] == trial.metrics
        assert trial.metrics.keys() == {"towers_loss", "towers_recall@100", "towers_hr@10"}
    assert {path.name for path in folder.iterdir()} == {JOURNAL, BEST}


def test_the_best_settings_can_be_trained_with(done: tuple[Path, list[Trial]]) -> None:
    folder, trials = done
    best = max(trials, key=lambda trial: trial.metrics["towers_hr@10"])
    written = tomllib.loads((folder / BEST).read_text())
    assert written["data"] == BASE["data"]
    config = parse_settings(TrainConfig, written, "best")
    assert config.towers.learning_rate == best.settings["towers.learning_rate"]


def test_a_search_that_is_done_trains_nothing_again_and_another_figure_needs_no_training(
    done: tuple[Path, list[Trial]], dataset: Dataset, tmp_path: Path
) -> None:
    folder, trials = done
    before = (folder / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(before)
    assert run(tmp_path, dataset) == trials
    assert run(tmp_path, dataset, figure="towers_loss", better="lower") == trials
    assert (tmp_path / JOURNAL).read_bytes() == before
    least = min(trial.metrics["towers_loss"] for trial in trials)
    rate = tomllib.loads((tmp_path / BEST).read_text())["towers"]["learning_rate"]
    assert [t.metrics["towers_loss"] for t in trials if t.settings["towers.learning_rate"] == rate] == [least]


def test_a_killed_search_goes_on_where_it_stopped(done: tuple[Path, list[Trial]], tmp_path: Path) -> None:
    (tmp_path / "search.toml").write_text(TOML.format(trials=1000))
    (tmp_path / "config.toml").write_text(CONFIG)
    folder = tmp_path / "out"
    arguments = ["tune", str(tmp_path / "search.toml"), "--config", str(tmp_path / "config.toml"), "--out", str(folder)]
    code = "from tandem_cli.main import app; app()"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 300
    while not (folder / JOURNAL).exists() or (folder / JOURNAL).read_bytes().count(b"\n") < 2:
        assert process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = (folder / JOURNAL).read_bytes().rpartition(b"\n")[0] + b"\n"
    kept = left.count(b"\n") - 1
    assert 1 <= kept < 1000
    (tmp_path / "search.toml").write_text(TOML.format(trials=kept + 3))
    # As if it had died while it wrote, and while it trained.
    (folder / JOURNAL).write_bytes(left + b'{"number": 9, "sett')
    (folder / "trial").mkdir(exist_ok=True)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (folder / JOURNAL).read_bytes().startswith(left)
    assert [line["number"] for line in lines(folder)[1:]] == list(range(kept + 3))
    undisturbed = [{**line, "seconds": 0} for line in lines(done[0])]
    assert [{**line, "seconds": 0} for line in lines(folder)[:4]] == undisturbed
    assert not (folder / "trial").exists()
    assert f"Best of {kept + 3} trials" in result.output


def test_more_trials_go_on_after_the_first(done: tuple[Path, list[Trial]], dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes((done[0] / JOURNAL).read_bytes())
    trials = run(tmp_path, dataset, trials=4)
    assert trials[:3] == done[1]
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert run(tmp_path, dataset, trials=2) == trials[:2]


def test_a_trial_that_fails_is_written_down_and_the_search_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    # A learning rate so high that the towers' vectors are not finite any more.
    space = {"towers.learning_rate": [1e30, 0.01]}
    trials = run(tmp_path, dataset, method="grid", trials=None, search=space)
    assert trials[0].error.startswith("ValueError: the towers gave vectors that are not finite")
    assert not trials[0].metrics
    assert not trials[1].error
    assert tomllib.loads((tmp_path / BEST).read_text())["towers"]["learning_rate"] == 0.01
    assert run(tmp_path, dataset, method="grid", trials=None, search=space) == trials


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 8}, "search differ"),
        ({"search": {"towers.learning_rate": [0.1, 0.2, 0.3]}}, "search differ"),
        ({"base": {**BASE, "als": {"factors": 5}}}, "config differ"),
        ({"figure": "merge_warm_ndcg@10"}, "towers_alone differ"),
        ({"figure": "towers_mrr"}, "no 'towers_mrr'; trials have towers_hr@10, towers_loss, towers_recall@100"),
    ],
)
def test_a_journal_is_not_continued_by_another_search(
    done: tuple[Path, list[Trial]], dataset: Dataset, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    before = (done[0] / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(before)
    with pytest.raises(ConfigError, match=named):
        run(tmp_path, dataset, **changed)
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_folder_that_another_search_is_at_is_left_alone(
    done: tuple[Path, list[Trial]], dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / JOURNAL).write_bytes((done[0] / JOURNAL).read_bytes())
    with (tmp_path / JOURNAL).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="in use by another search"):
            run(tmp_path, dataset, trials=4)
    assert len(run(tmp_path, dataset, trials=4)) == 4


def test_a_wrong_key_is_refused_before_a_folder_is_made(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"towers\.learnin_rate: Extra inputs"):
        run(tmp_path / "out", dataset, search={"towers.learnin_rate": [0.1, 0.2, 0.3]})
    assert not (tmp_path / "out").exists()


def test_of_equal_trials_the_earlier_is_the_better_and_those_without_the_figure_are_left_out() -> None:
    search = Search.model_validate({"trials": 3, "figure": "f", "search": SPACE})
    trials = [Trial(0, {}, {"g": 9.0}), Trial(1, {}, {"f": 1.0}), Trial(2, {}, {"f": 2.0}), Trial(3, {}, {"f": 2.0})]
    assert [trial.number for trial in ranked(search, trials)] == [2, 3, 1]
    lower = search.model_copy(update={"better": "lower"})
    assert [trial.number for trial in ranked(lower, trials)] == [1, 2, 3]


@pytest.mark.long
def test_a_figure_of_the_whole_bundle_trains_the_whole_bundle(
    done: tuple[Path, list[Trial]], dataset: Dataset, tmp_path: Path
) -> None:
    base = {**BASE, "ranker": {"folds": 2, "epochs": 1}, "ranker_data": {"most_requests": 50}}
    trials = run(tmp_path, dataset, base, trials=1, figure="ranker_heldout_ndcg@10")
    assert not trials[0].error
    assert "ranker_heldout_ndcg@10" in trials[0].metrics
    assert trials[0].metrics.items() >= done[1][0].metrics.items()  # towers alone are trained as with all else
    assert {path.name for path in tmp_path.iterdir()} == {JOURNAL, BEST}
