"""Simulated experiments: statistics that hold, arms that are real, nothing held out in what the recommender sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.bundle import Bundle
from tandem_core.experiment_file import make_experiments
from tandem_core.policy import PlacementPolicy
from tandem_core.registry import Registry
from tandem_trainer.ab_statistics import compare, rejections_expected, users_needed
from tandem_trainer.click_model import ClickModel
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.progress import Progress
from tandem_trainer.simulate import SimulatedArm, simulate, simulated_arm, to_json
from tandem_trainer.train import Trained

K = 10
POLICIES = {"default": PlacementPolicy(), "home": PlacementPolicy()}
POPULAR = {"popularity_blend": {"warm": 1.0, "few_events": 1.0, "profile_only": 1.0}, "use_ranker": False}
EXPERIMENTS = make_experiments(
    {"blend": {"placement": "home", "variants": {"control": {}, "popular": {"policy": POPULAR}}}}, POLICIES, "f"
)
MakeArm = Callable[[str], SimulatedArm]


@pytest.fixture(scope="module")
def offline(trained: Trained, bundle: Bundle) -> OfflineQueries:
    return queries_of_test(bundle, trained.dataset, trained.split, most_users=240, seed=0)


@pytest.fixture(scope="module")
def users(offline: OfflineQueries) -> list[str]:
    return [query.user_id for query in offline.queries]


@pytest.fixture(scope="module")
def make_arm(bundle: Bundle, offline: OfflineQueries) -> MakeArm:
    made: dict[str, SimulatedArm] = {}

    def make(name: str) -> SimulatedArm:
        if name not in made:
            made[name] = simulated_arm(name, bundle, EXPERIMENTS, offline, ClickModel(), K, Progress())
        return made[name]

    return make


def test_of_200_experiments_between_equal_arms_about_ten_find_a_difference(make_arm: MakeArm, users: list[str]) -> None:
    arm = make_arm("served")
    told = simulate(arm, arm, users, runs=200, seed=13)
    assert told.same
    assert told.truth.mean == 0
    assert 2 <= told.rejected <= 22
    assert 178 <= told.covered <= 198
    assert rejections_expected(200) == (3, 19)
    # p-values of an A/A test are uniform: a test that is too shy or too bold shows here first.
    assert stats.kstest([run.p_value for run in told.runs], "uniform").pvalue > 0.01


def test_interleaving_equal_arms_finds_a_difference_no_more_often_than_it_should(
    make_arm: MakeArm, users: list[str]
) -> None:
    arm = make_arm("served")
    told = simulate(arm, arm, users, runs=40, seed=13, interleaved=True)
    assert sum(each.p_value < 0.05 for each in told.mixed) <= 7  # 2 expected or fewer
    assert abs(np.mean([each.preference.mean for each in told.mixed])) < 0.02


def arm(name: str, relevant_at: int, n: int = 600) -> SimulatedArm:
    """Lists of five items, for three users of four one that they want, at a place; rows do not matter but differ."""
    found = np.zeros((n, 5), bool)
    found[np.arange(n) % 4 > 0, relevant_at] = True
    model = ClickModel(noise=0.05)
    rows = np.tile(np.arange(5, dtype=np.int32), (n, 1))
    if relevant_at:  # the same five items in another order
        rows[:, [0, relevant_at]] = rows[:, [relevant_at, 0]]
    return SimulatedArm(name, rows, model.attraction(found, found | True), model.examined(5))


def test_the_runs_measure_the_true_difference_and_power_is_as_promised() -> None:
    ids = [f"u{i}" for i in range(600)]
    told = simulate(arm("low", 4), arm("high", 0), ids, runs=100, seed=1)
    by_hand = 0.75 * (0.6 - 0.05) * (1 - 1 / np.log2(6))
    assert told.truth.mean == pytest.approx(by_hand)
    measured = np.array([run.difference for run in told.runs])
    assert abs(measured.mean() - by_hand) < 4 * measured.std() / 10
    assert told.covered >= 88
    # Give it just as many users as it says it needs, and it finds the difference in about 80 % of the runs.
    few = [f"u{i}" for i in range(2 * int(told.needed))]
    a, b = arm("low", 4, len(few)), arm("high", 0, len(few))
    found = simulate(a, b, few, runs=200, seed=2).rejected
    assert 135 <= found <= 182  # 160 expected; small arms, so a wide berth


def test_interleaving_points_to_the_better_arm() -> None:
    ids = [f"u{i}" for i in range(80)]
    told = simulate(arm("low", 4, 80), arm("high", 0, 80), ids, runs=40, seed=1, interleaved=True)
    assert np.mean([each.preference.mean for each in told.mixed]) > 0.05
    backwards = simulate(arm("high", 0, 80), arm("low", 4, 80), ids, runs=40, seed=1, interleaved=True)
    assert np.mean([each.preference.mean for each in backwards.mixed]) < -0.05


def test_more_visits_make_a_sharper_experiment_of_the_same_users() -> None:
    ids = [f"u{i}" for i in range(200)]
    once, often = (simulate(arm("a", 4, 200), arm("b", 0, 200), ids, runs=10, visits=v) for v in (1, 20))
    assert often.runs[0].smallest < once.runs[0].smallest
    assert often.needed < once.needed
    assert often.truth == once.truth


def test_seeds_repeat_and_differ(make_arm: MakeArm, users: list[str]) -> None:
    a, b = make_arm("popularity"), make_arm("served")
    first, again, other = (simulate(a, b, users, runs=3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert {run.difference for run in first.runs}.isdisjoint(run.difference for run in other.runs)
    assert len({run.difference for run in first.runs}) == 3


def test_arms_are_real_lists_and_find_what_was_held_out(make_arm: MakeArm) -> None:
    per_visit = {name: make_arm(name).per_visit.mean() for name in ("served", "popularity", "two_tower")}
    nothing = 0.02 * ClickModel().examined(K).sum()
    assert all(clicks > 1.1 * nothing for clicks in per_visit.values())
    assert (make_arm("placement:home").shown == make_arm("served").shown).all()
    assert (make_arm("variant:blend/control").shown == make_arm("served").shown).all()
    assert (make_arm("variant:blend/popular").shown != make_arm("served").shown).any()


def test_an_arm_that_knows_nothing_of_the_user_finds_less(make_arm: MakeArm, users: list[str]) -> None:
    cold, warm = make_arm("cold:served"), make_arm("served")
    assert len(np.unique(cold.shown, axis=0)) < len(np.unique(warm.shown, axis=0))
    assert simulate(cold, warm, users, runs=1).truth.mean > 0


def test_what_was_held_out_is_in_nothing_that_the_recommender_sees(
    trained: Trained, bundle: Bundle, offline: OfflineQueries
) -> None:
    test: pd.DataFrame = trained.split.test
    held_out = set(zip(test["user_id"], test["item_id"], test["timestamp"], strict=True))
    for query in offline.queries:
        known = zip(query.events.item_ids, query.events.timestamps.tolist(), strict=True)
        assert not held_out & {(query.user_id, item, time) for item, time in known}
    train: pd.DataFrame = trained.split.train
    assert not held_out & set(zip(train["user_id"], train["item_id"], train["timestamp"], strict=True))
    assert int(bundle.catalog.event_counts.sum()) <= len(train)
    for i in range(len(offline)):
        relevant = offline.relevant.rows[offline.relevant.indptr[i] : offline.relevant.indptr[i + 1]]
        history = offline.history.rows[offline.history.indptr[i] : offline.history.indptr[i + 1]]
        assert not set(relevant.tolist()) & set(history.tolist())


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("best", r"no arm 'best'; there are served, .*placement:home, variant:blend/control"),
        ("placement:shop", "no placement 'shop'; there are default, home"),
        ("variant:blend/blue", "no variant 'blend/blue'"),
    ],
)
def test_an_arm_that_is_not_there_is_named(make_arm: MakeArm, name: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_arm(name)


def test_the_t_test_is_welchs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 40), rng.normal(0.5, 3, 25)
    told, theirs = compare(a, b), stats.ttest_ind(b, a, equal_var=False)
    assert told.p_value == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(0.95)
    assert (told.low, told.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert compare(np.zeros(3), np.zeros(3)).p_value == 1
    with pytest.raises(ValueError, match="arms of 1 and 3 users"):
        compare(np.zeros(1), np.zeros(3))


def test_users_needed_are_those_of_the_textbook() -> None:
    # Two proportions of 10 % and 12 %, alpha 0.05, power 0.8: 3,838 in each arm (unpooled normal approximation: 3,839).
    assert users_needed(0.02, 0.1 * 0.9, 0.12 * 0.88) == pytest.approx(3838, abs=3)
    assert users_needed(0, 1, 1) == np.inf


def test_looks_fall_and_clicks_are_looks_times_attraction() -> None:
    assert ClickModel().examined(3).tolist() == pytest.approx([1, 0.6309298, 0.5])
    assert ClickModel("power", eta=2).examined(3).tolist() == pytest.approx([1, 1 / 4, 1 / 9])
    found, filled = np.array([[True, False, False]]), np.array([[True, True, False]])
    assert ClickModel(relevant=0.5, noise=0.1).attraction(found, filled).tolist() == [[0.5, 0.1, 0.0]]
    with pytest.raises(ValueError, match=r"noise 1\.5"):
        ClickModel(noise=1.5)


def test_the_command_prints_what_runs_said_and_writes_all_of_it(
    trained: Trained, registry: Registry, tmp_path: Path
) -> None:
    figures = tmp_path / "told.json"
    arguments = ["simulate", "popularity", "served", "--registry", str(registry.root), "--runs", "4", "--users", "80"]
    result = CliRunner().invoke(app, [*arguments, "--interleave", "--json", str(figures)])
    assert result.exit_code == 0, result.output
    assert "popularity (a) against served (b): 80 users" in result.stdout
    assert "interleaved, runs with p < 0.05" in result.stdout
    told = json.loads(figures.read_text())
    assert (len(told["runs"]), len(told["mixed"]), told["users"]) == (4, 4, 80)
    same = CliRunner().invoke(app, [*arguments[:1], "served", *arguments[2:]])
    assert "an A/A test: 0 to " in same.stdout
    wrong = CliRunner().invoke(app, ["simulate", "best", *arguments[2:]])
    assert wrong.exit_code == 2
    assert "no arm 'best'" in wrong.stderr


def test_json_has_no_infinite_numbers(make_arm: MakeArm, users: list[str], bundle: Bundle) -> None:
    arm = make_arm("popularity")
    told = to_json(simulate(arm, arm, users, runs=2), bundle, ClickModel())
    assert told["needed"] is None
    assert json.loads(json.dumps(told, allow_nan=False))["rejections_expected"] == [0, 1]
