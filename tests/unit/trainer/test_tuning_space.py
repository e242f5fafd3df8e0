"""What a search tries, and what it refuses before anything is trained."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.settings import ConfigError, parse_settings
from tandem_trainer.config import TrainConfig
from tandem_trainer.tuning_space import Range, Search, checked, read_search, to_toml, trials_of, with_values

CONFIGS = Path(__file__).parents[3] / "deploy" / "config"
SPACE: dict[str, Any] = {
    "towers.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
    "towers.towers.dropout": [0.0, 0.1],
}


def search(space: dict[str, Any] | None = None, **values: Any) -> Search:
    return parse_settings(Search, {"trials": 5, "search": space or SPACE} | values, "file")


def test_a_draw_is_where_the_generator_says_between_the_ends() -> None:
    u = np.random.default_rng(3).random()
    drawn = {
        Range(low=2, high=6): 2 + 4 * u,
        Range(low=0.001, high=0.1, log=True): 10 ** (-3 + 2 * u),
        Range(low=1, high=1000, log=True, whole=True): round(1000**u),
        Range(low=1, high=6, whole=True): int(np.random.default_rng(3).integers(1, 7)),
    }
    for space, expected in drawn.items():
        found = space.draw(np.random.default_rng(3))
        assert found == pytest.approx(expected, rel=1e-5)
        assert isinstance(found, int) == space.whole


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6), st.booleans(), st.integers(0, 2**32))
def test_no_draw_leaves_its_range(low: float, times: float, log: bool, seed: int) -> None:
    space = Range(low=low, high=low * times, log=log)
    assert space.low <= space.draw(np.random.default_rng(seed)) <= space.high


def test_all_of_a_log_range_is_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([Range(low=0.001, high=1, log=True).draw(rng) for _ in range(3000)])
    shares = [np.mean((drawn >= low) & (drawn < 10 * low)) for low in (0.001, 0.01, 0.1)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.04)  # 4.6 standard errors


def test_the_same_seed_gives_the_same_trials_and_more_begin_with_the_first() -> None:
    five = trials_of(search())
    assert trials_of(search()) == five
    assert trials_of(search(trials=9))[:5] == five
    assert trials_of(search(seed=8)) != five
    assert {trial["towers.towers.dropout"] for trial in trials_of(search(trials=30))} == {0.0, 0.1}


def test_a_random_search_over_lists_tries_nothing_twice() -> None:
    space = {"als.factors": [8, 16, 32], "towers.batch_size": [100, 200]}
    drawn = trials_of(search(space, trials=6))
    assert len({tuple(trial.values()) for trial in drawn}) == 6


def test_a_grid_tries_every_combination_in_the_order_of_the_file() -> None:
    space = {"als.factors": [8, 16], "towers.batch_size": [100, 200, 300]}
    drawn = trials_of(search(space, method="grid", trials=None))
    assert [tuple(trial.values()) for trial in drawn] == [(f, b) for f in (8, 16) for b in (100, 200, 300)]


def test_a_key_means_the_same_with_and_without_quotes(tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    for key in ('"towers.learning_rate"', "towers.learning_rate"):
        file.write_text(f"trials = 5\n[search]\n{key} = {{low = 0.001, high = 0.1, log = true}}\n")
        assert trials_of(read_search(file))[0].keys() == {"towers.learning_rate"}


def test_values_of_a_trial_stand_over_the_configuration_and_leave_it_as_it_is() -> None:
    base = {"seed": 3, "towers": {"epochs": 2.0}}
    whole = with_values(base, {"towers.towers.dropout": 0.2, "als.factors": 8})
    assert whole == {"seed": 3, "towers": {"epochs": 2.0, "towers": {"dropout": 0.2}}, "als": {"factors": 8}}
    assert base == {"seed": 3, "towers": {"epochs": 2.0}}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"trials": None}, "trials: a random search needs to know how many"),
        ({"method": "grid", "search": {"als.factors": [8]}}, "trials: a grid tries all combinations"),
        ({"method": "grid", "trials": None}, "towers.learning_rate: a grid needs a list"),
        ({"method": "bayes"}, "method"),
        ({"figur": "x"}, "figur: Extra inputs"),
        ({"search": {}}, "search"),
        ({"search": {"als.factors": []}}, "als.factors: the list is empty"),
        ({"search": {"als.factors": 8}}, "als.factors"),
        ({"search": {"als.factors": [8, 16]}}, "5 are asked for, and the lists have 2 combinations"),
        ({"search": {"als.alpha": {"low": 2, "high": 1}}}, "low is 2, must be below high, 1"),
        ({"search": {"als.alpha": {"low": 0, "high": 1, "log": True}}}, "low is 0, must be above 0"),
        ({"search": {"als.factors": {"low": 1.5, "high": 3, "whole": True}}}, "must be whole"),
        ({"search": {"split.protocol": ["global_time"]}}, "split.protocol: split decides what is measured"),
        ({"search": {"towers.validation_examples": [1]}}, "towers.validation_examples decides what is measured"),
        ({"search": {"towers": [{"epochs": 1}]}}, "search.towers: towers.validation_examples decides"),
        ({"search": {"als.x": [1], "als": [{}]}}, "search.als.x: als is searched too"),
    ],
)
def test_a_search_that_cannot_be_run_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match="file: ") as refused:
        search(**values)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"towers.learnin_rate": [0.1]}, "towers.learnin_rate: Extra inputs are not permitted"),
        ({"towers.learning_rate": [0.1, -1.0]}, "trial 1 (towers.learning_rate -1.0): towers.learning_rate: Input"),
        ({"als.factors": [8.5]}, "als.factors: Input should be a valid integer"),
        ({"seeds.more": [1]}, "seeds: Extra inputs"),
        ({"threads.more": [1]}, "search.threads.more: threads is a value, and no table"),
    ],
)
def test_keys_and_values_that_no_training_takes_are_refused_by_name(space: dict[str, Any], named: str) -> None:
    drawn = trials_of(search(space, method="grid", trials=None))
    with pytest.raises(ConfigError) as refused:
        checked({"threads": 1}, drawn, "file")
    assert named in str(refused.value)


def test_settings_written_as_toml_read_back_as_they_were() -> None:
    values = TrainConfig().model_dump(mode="json", exclude_none=True)
    odd = {"x y": {'quo"te': ["a\nb\\", "é\x7f"], "small": 1e-7, "none": [], "deep": {"": True}}}
    assert tomllib.loads(to_toml(values)) == values
    assert tomllib.loads(to_toml(odd)) == odd


def test_the_example_of_the_repository_can_be_run() -> None:
    example = read_search(CONFIGS / "tune.toml")
    assert len(checked({}, trials_of(example), "example")) == 20
