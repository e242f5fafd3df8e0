"""Off-policy estimates against a simulation whose truth is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem_core.logged_decisions import logged_items, read_logged
from tandem_core.metrics.off_policy import LEAST_EFFECTIVE, Alternatives, EvidenceTooThin, LoggedItems, off_policy

CONTEXTS, ITEMS, POSITIONS = 3, 6, 2


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@dataclass(frozen=True)
class World:
    """Policies float [contexts, positions, items]; likes: probability of a click, the same shape."""

    logging: np.ndarray
    target: np.ndarray
    likes: np.ndarray

    @property
    def truth(self) -> float:
        return float((self.target * self.likes).sum(axis=(1, 2)).mean())

    def log(self, n: int, seed: int) -> LoggedItems:
        rng = seeded(seed)
        context = np.repeat(rng.integers(0, CONTEXTS, n), POSITIONS)
        position = np.tile(np.arange(POSITIONS), n)
        cumulative = self.logging.cumsum(axis=2)[context, position]
        item = (rng.random((n * POSITIONS, 1)) > cumulative).sum(axis=1)
        reward = (rng.random(n * POSITIONS) < self.likes[context, position, item]).astype(float)
        rows = np.repeat(np.arange(n * POSITIONS), ITEMS)
        return LoggedItems(
            np.repeat(np.arange(n), POSITIONS),
            item,
            position + 1,
            self.logging[context, position, item],
            self.target[context, position, item],
            reward,
            Alternatives(rows, np.tile(np.arange(ITEMS), n * POSITIONS), self.target[context, position].ravel()),
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits)
    result: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return result


@pytest.fixture(scope="module")
def world() -> World:
    rng = seeded(3)
    attraction = rng.uniform(0.05, 0.9, ITEMS) * rng.uniform(0.7, 1.1, (CONTEXTS, 1, 1))  # items differ, requests less
    likes = np.clip(attraction * np.array([1.0, 0.5])[:, None], 0, 1)
    logging = softmax(rng.normal(0, 0.5, likes.shape))
    target = softmax(np.log(logging) + 2 * likes)
    return World(logging, target, likes)


@pytest.fixture(scope="module")
def repeated(world: World) -> list[Any]:
    """200 logs of 500 decisions, judged."""
    return [off_policy(world.log(500, seed), rng=seeded(seed), resamples=300) for seed in range(200)]


@pytest.mark.parametrize("estimate", ["ips", "dr", "snips"])
def test_the_mean_over_many_logs_is_the_truth(world: World, repeated: list[Any], estimate: str) -> None:
    values = np.array([getattr(told, estimate).mean for told in repeated])
    assert world.truth > 1.1 * np.mean([told.logged.mean for told in repeated])  # there is something to find
    assert abs(values.mean() - world.truth) < 4 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("estimate", ["ips", "dr", "snips"])
def test_intervals_cover_the_truth_about_as_often_as_they_say(world: World, repeated: list[Any], estimate: str) -> None:
    told = [getattr(each, estimate) for each in repeated]
    covered = sum(each.low <= world.truth <= each.high for each in told)
    assert 178 <= covered <= 199  # 190 expected, standard deviation 3


def test_a_model_and_normalising_make_the_estimate_sharper(repeated: list[Any]) -> None:
    spread = {name: np.std([getattr(told, name).mean for told in repeated]) for name in ("ips", "snips", "dr")}
    assert spread["dr"] < spread["ips"]
    assert spread["snips"] < spread["ips"]


def test_more_decisions_come_nearer_to_the_truth(world: World) -> None:
    told = off_policy(world.log(40_000, 1), rng=seeded(), resamples=50)
    assert told.dr is not None
    for each in (told.ips, told.snips, told.dr):
        assert each.mean == pytest.approx(world.truth, rel=0.03)


def test_doubly_robust_stays_right_with_a_model_that_is_wrong(world: World) -> None:
    """A model that takes all items for one knows nothing of what the target policy shows."""
    values = []
    for seed in range(60):
        log = world.log(500, 1000 + seed)
        confused = LoggedItems(
            log.decisions, log.items * 0, log.positions, log.propensities, log.targets, log.rewards,
            Alternatives(log.alternatives.rows, log.alternatives.items * 0, log.alternatives.probabilities),
        )  # fmt: skip
        told = off_policy(confused, rng=seeded(), resamples=2)
        assert told.dr is not None
        values.append(told.dr.mean)
    assert abs(np.mean(values) - world.truth) < 4 * np.std(values) / np.sqrt(len(values))


def test_the_reward_model_never_saw_the_decision_it_is_used_on() -> None:
    """Every decision has two items of its own, a good one and a bad one, shown in turn; the target shows the good one.

    The truth is 1. A model that had seen the rewards it is asked for would know of the good item just where it was
    shown, and the estimate would be 0.988.
    """
    n = 400
    decisions = np.arange(n)
    good = (decisions // 2) % 2 == 0
    alternatives = Alternatives(decisions, 2 * decisions, np.ones(n))
    log = LoggedItems(
        decisions, 2 * decisions + ~good, np.ones(n, np.int64), np.full(n, 0.5), good * 1.0, good * 1.0, alternatives
    )
    told = off_policy(log, rng=seeded())
    assert told.dr is not None
    assert told.dr.mean == pytest.approx(1.0, abs=1e-12)


def test_judging_the_logging_policy_itself_gives_what_was_earned(world: World) -> None:
    same = World(world.logging, world.logging, world.likes)
    told = off_policy(same.log(300, 0), rng=seeded())
    assert told.ips == told.logged or told.ips.mean == pytest.approx(told.logged.mean)
    assert told.snips.mean == pytest.approx(told.logged.mean)
    assert told.effective == pytest.approx(300)


def columns(n: int, propensity: float = 0.5, target: Any = 0.5, reward: Any = 1.0) -> LoggedItems:
    """n decisions of one item each."""
    return LoggedItems(
        np.arange(n), np.zeros(n, np.int64), np.ones(n, np.int64), np.full(n, propensity),
        np.broadcast_to(np.asarray(target, float), n).copy(), np.broadcast_to(np.asarray(reward, float), n).copy(),
    )  # fmt: skip


def test_the_effective_number_is_kishs() -> None:
    half = np.tile([1.0, 0.0], 200)  # weights 2 and 0: half of 400 decisions count
    told = off_policy(columns(400, 0.5, half), rng=seeded())
    assert told.effective == pytest.approx(200)
    assert told.largest_weight == 2
    assert told.dr is None


@pytest.mark.parametrize(
    ("log", "named"),
    [
        (columns(99), rf"position 1: 99 decisions are worth 99\.0 .* at least {LEAST_EFFECTIVE:g}"),
        (columns(1000, 0.1, np.arange(1000) % 20 == 0), r"worth 50\.0"),
        (columns(1000, 0.5, 0.0), r"worth 0\.0"),
        (columns(0), "no decision is logged"),
        (columns(1000, 0.5, 0.25), r"weights average 0\.500 ± 0\.000, where 1 is expected"),
    ],
)
def test_it_refuses_to_speak_where_the_log_cannot_tell(log: LoggedItems, named: str) -> None:
    with pytest.raises(EvidenceTooThin, match=named):
        off_policy(log, rng=seeded())


def test_a_target_outside_of_the_logged_policys_reach_is_noticed(world: World) -> None:
    blind = world.logging.copy()
    blind[:, :, 0] = 0
    blind /= blind.sum(axis=2, keepdims=True)
    with pytest.raises(EvidenceTooThin, match="never could"):
        off_policy(World(blind, world.logging, world.likes).log(3000, 0), rng=seeded())


def test_positions_too_thinly_logged_can_be_left_out(world: World) -> None:
    log = world.log(500, 0)
    kept = (log.positions == 1) | (log.decisions < 20)
    others = log.alternatives
    assert others is not None
    inside = kept[others.rows]
    thin = LoggedItems(
        *(getattr(log, name)[kept] for name in NAMES),
        Alternatives((np.cumsum(kept) - 1)[others.rows[inside]], others.items[inside], others.probabilities[inside]),
    )
    with pytest.raises(EvidenceTooThin, match=r"position 2: 20 decisions .* judge fewer positions"):
        off_policy(thin, rng=seeded())
    told = off_policy(thin.down_to(1), rng=seeded())
    assert told.dr is not None
    assert told.decisions == 500


NAMES = ("decisions", "items", "positions", "propensities", "targets", "rewards")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"propensity": 0}, r"entry 1: the propensity is 0; it is above 0 and at most 1: write 1"),
        ({"propensity": 1.5}, "the propensity is 1.5"),
        ({"target": -0.1}, "target probability is -0.1"),
        ({"reward": np.nan}, "the reward is nan"),
    ],
)
def test_what_cannot_be_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        columns(3, **fields)


LINE = {"decision_id": "d", "item_id": "i", "position": 1, "propensity": 0.5, "reward": 1, "target_probability": 0.5}


def test_lines_become_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    second = LINE | {"item_id": "j", "position": 2, "more": "ignored", "alternatives": {"j": 0.5, "k": 0.5}}
    path.write_text("\n".join(json.dumps(each) for each in (LINE | {"alternatives": {"i": 1}}, second)) + "\n\n")
    log = read_logged(path)
    assert (log.decisions.tolist(), log.positions.tolist(), log.rewards.tolist()) == ([0, 0], [1, 2], [1, 1])
    assert log.alternatives is not None
    assert log.alternatives.rows.tolist() == [0, 1, 1]
    assert log.items.tolist() == [log.alternatives.items[0], log.alternatives.items[1]]
    assert log.alternatives.probabilities.tolist() == [1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["{"], "log, line 1 is not JSON"),
        (["[]"], "line 1 is no object"),
        ([LINE, LINE | {"decision_id": 3}], "line 2: decision_id is required, a text; it is 3"),
        ([LINE | {"position": 1.5}], "position is required, a whole number"),
        ([LINE | {"position": 0}], "log: entry 1: the position is 0; it counts from 1"),
        ([{k: v for k, v in LINE.items() if k != "reward"}], "line 1: reward is required, a number; it is None"),
        ([LINE, LINE], "a decision has two items at one position"),
        ([LINE | {"alternatives": [1]}], "alternatives are item ids with probabilities"),
        ([LINE | {"alternatives": {"i": 0.5}}], r"sum of the alternatives' probabilities is 0\.5; it is 1"),
        ([LINE, LINE | {"position": 2, "alternatives": {"i": 1}}], "line 2: alternatives stand on all lines or none"),
    ],
)
def test_a_wrong_line_is_named(lines: list[Any], named: str) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    with pytest.raises(ValueError, match=named.replace("or none", "or on none")):
        logged_items(texts)
