"""Experiments on held-out events: real lists of a real bundle, users who are a click model.

The recommender sees what it would have seen just before the held-out events; the bundle is trained on the events before
them. A simulated user clicks what the real one turned to afterwards, where the list shows it and the user looks there.
So a simulated experiment ranks arms as held-out accuracy does, with the noise of a real experiment: it tells how long
one must run and whether its statistics hold, not whether people will like a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.experiment_hash import bucket
from tandem_core.experiments import Experiments, policy_key
from tandem_core.interleaving import team_draft
from tandem_core.metrics import Interval, hits, paired_difference
from tandem_core.metrics.interleaving import Credit, credit
from tandem_core.query import UserEvents, seed_of
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer.ab_statistics import ALPHA, Comparison, compare, rejections_expected, users_needed
from tandem_trainer.click_model import ClickModel
from tandem_trainer.evaluate import Arm, make_arms
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.progress import Progress

COLD = "cold:"


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedArm:
    """What an arm shows to U users, and what they think of it.

    shown: int32 [U, k], catalogue rows, -1 after the end. attraction: float64 [U, k], probability of a click on each
    place once it is looked at. looks: float64 [k], probability of a look at each position.
    """

    name: str
    shown: NDArray[np.int32]
    attraction: NDArray[np.float64]
    looks: NDArray[np.float64]

    @property
    def clicks(self) -> NDArray[np.float64]:
        """Probability of a click on each place, float64 [U, k]."""
        return self.attraction * self.looks

    @property
    def per_visit(self) -> NDArray[np.float64]:
        """Expected clicks of a visit by user, float64 [U]."""
        expected: NDArray[np.float64] = self.clicks.sum(axis=1)
        return expected


def arm_of(name: str, bundle: Bundle, experiments: Experiments) -> Arm:
    """Return the way to a list that a name means; raises ValueError naming those there are.

    "placement:NAME" and "variant:EXPERIMENT/VARIANT" are lists as the ranking service gives them under that policy;
    "served" is the default placement; other names are those of `tandem evaluate`, and the bundle's sources.
    """
    kind, _, rest = name.partition(":")
    if name == "served" or kind in ("placement", "variant"):
        placement, policy = _policy(kind, rest, experiments)
        ranking, retrieval = RankingPipeline(bundle, experiments.policies), RetrievalPipeline(bundle)
        return lambda query: (
            ranking.recommend(replace(query, placement=placement, policy=policy), Budget(), retrieval.retrieve).items
        )
    arms = make_arms(bundle)
    if name not in arms:
        each = [experiment for running in experiments.running.values() for experiment in running]
        variants = [f"variant:{e.name}/{variant}" for e in each for variant in e.settings.variants]
        placements = [f"placement:{placement}" for placement in experiments.placements]
        raise ValueError(f"no arm {name!r}; there are {', '.join(['served', *arms, *placements, *variants])}")
    return arms[name][0]


def _policy(kind: str, rest: str, experiments: Experiments) -> tuple[str, str]:
    """Return placement and policy of an arm's name; raises ValueError."""
    if kind == "variant":
        experiment, _, variant = rest.partition("/")
        for placement, running in experiments.running.items():
            for each in running:
                if each.name == experiment and variant in each.settings.variants:
                    changed = each.changes(variant)
                    return placement, policy_key(placement, [(experiment, variant)]) if changed else ""
        raise ValueError(f"no variant {rest!r} of an experiment that is running; write variant:EXPERIMENT/VARIANT")
    placement = rest or "default"
    if placement not in experiments.placements:
        raise ValueError(f"no placement {placement!r}; there are {', '.join(experiments.placements)}")
    return placement, ""


def simulated_arm(
    name: str,
    bundle: Bundle,
    experiments: Experiments,
    offline: OfflineQueries,
    model: ClickModel,
    k: int,
    progress: Progress,
) -> SimulatedArm:
    """Return the arm's lists for all users, made once. A name after "cold:" gets users it knows nothing of."""
    arm = arm_of(name.removeprefix(COLD), bundle, experiments)
    shown = np.full((len(offline), k), -1, np.int32)
    for i, query in enumerate(offline.queries):
        asked = replace(query, max_results=k)
        if name.startswith(COLD):
            asked = replace(asked, user_id="", events=UserEvents(), attributes={})
        rows = arm(asked).rows[:k]
        shown[i, : len(rows)] = rows
        if i % 100 == 0:
            progress.advance(i, len(offline), name)
    return SimulatedArm(name, shown, model.attraction(hits(shown, offline.relevant), shown >= 0), model.examined(k))


@dataclass(frozen=True, slots=True)
class Simulation:
    """What `runs` experiments between two arms said, and what is true.

    expected: clicks of a visit, arm a and b, by the click model itself. truth: b less a, and its bootstrap interval
    over users: how it would be with other users. runs: one test each, other units and other clicks in each.
    needed: users in each arm to find the true difference; wanted: the same for a difference of `effect` of arm a.
    mixed: what interleaving said in the same runs, with as many users in all.
    """

    arms: tuple[str, str]
    users: int
    visits: int
    expected: tuple[float, float]
    truth: Interval
    runs: Sequence[Comparison]
    needed: float
    effect: float
    wanted: float
    mixed: Sequence[Credit]

    @property
    def same(self) -> bool:
        """Whether this is an A/A simulation."""
        return self.arms[0] == self.arms[1]

    @property
    def rejected(self) -> int:
        return sum(run.p_value < ALPHA for run in self.runs)

    @property
    def covered(self) -> int:
        """Intervals that hold the true difference."""
        return sum(run.low <= self.truth.mean <= run.high for run in self.runs)


def simulate(
    a: SimulatedArm,
    b: SimulatedArm,
    users: Sequence[str],
    *,
    runs: int,
    visits: int = 1,
    effect: float = 0.05,
    seed: int = 0,
    interleaved: bool = False,
) -> Simulation:
    """Run experiments between two arms: every run assigns the users anew, by the hash that serving uses.

    users: ids, a row of the arms each. visits: lists that each user sees; a user's clicks per visit are one outcome,
    so that the test's unit is the unit that was assigned. effect: relative, for `wanted`. Raises ValueError where arms
    and users differ in number, or too few users fall into an arm.
    """
    if not len(users) == len(a.shown) == len(b.shown):
        raise ValueError(f"{len(users)} users for lists of {len(a.shown)} and {len(b.shown)}: a list of each for each")
    compared: list[Comparison] = []
    mixed: list[Credit] = []
    clicks_of_a, clicks_of_b = a.clicks, b.clicks
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        in_b = np.array([bucket(f"simulated-{seed}-{run}", user, 2) >= 0.5 for user in users])
        clicked = rng.binomial(visits, np.where(in_b[:, None], clicks_of_b, clicks_of_a)).sum(axis=1) / visits
        compared.append(compare(clicked[~in_b], clicked[in_b]))
        if interleaved:
            mixed.append(_interleaved(a, b, users, visits, f"{seed}-{run}", rng))
    variance = [_variance(arm, visits) for arm in (a, b)]
    truth = paired_difference(b.per_visit, a.per_visit, rng=np.random.default_rng(seed))
    return Simulation(
        arms=(a.name, b.name),
        users=len(users),
        visits=visits,
        expected=(float(a.per_visit.mean()), float(b.per_visit.mean())),
        truth=truth,
        runs=compared,
        needed=users_needed(truth.mean, *variance),
        effect=effect,
        wanted=users_needed(effect * float(a.per_visit.mean()), *variance),
        mixed=mixed,
    )


def _variance(arm: SimulatedArm, visits: int) -> float:
    """Return the variance of a user's clicks per visit: between users, and of the clicks of one."""
    within = float((arm.clicks * (1 - arm.clicks)).sum(axis=1).mean()) / visits
    return float(arm.per_visit.var(ddof=1)) + within


def _interleaved(
    a: SimulatedArm, b: SimulatedArm, users: Sequence[str], visits: int, run: str, rng: np.random.Generator
) -> Credit:
    """Show every user mixed lists of both arms; returns arm b's credit against arm a's."""
    k = a.shown.shape[1]
    clicks = np.zeros((2, len(users)), np.int64)
    for i, user in enumerate(users):
        ours, theirs = (arm.shown[i][arm.shown[i] >= 0].tolist() for arm in (a, b))
        for visit in range(visits):
            picks = team_draft(ours, theirs, k, seed_of(f"{run}-{visit}-{user}", 0))
            attraction = np.array([(a, b)[pick.team].attraction[i, pick.place] for pick in picks])
            for pick, clicked in zip(picks, rng.random(len(picks)) < attraction * a.looks[: len(picks)], strict=True):
                clicks[pick.team, i] += clicked and pick.credited
    return credit(clicks[1], clicks[0], rng=rng, resamples=200)


def to_json(simulation: Simulation, bundle: Bundle, model: ClickModel) -> dict[str, Any]:
    """Return everything as plain values, what is infinite or no number as None."""
    told = asdict(simulation) | {"rejected": simulation.rejected, "covered": simulation.covered}
    told |= {"bundle_id": bundle.id, "click_model": asdict(model), "alpha": ALPHA}
    if simulation.same:
        told["rejections_expected"] = rejections_expected(len(simulation.runs))
    plain: dict[str, Any] = _plain(told)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
