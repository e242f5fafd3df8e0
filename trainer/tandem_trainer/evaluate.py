"""Measuring a bundle: several ways of making lists (arms), the same users, full ranking, one run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.metrics import (
    Interval,
    MetricsReport,
    Target,
    evaluate_lists,
    hits,
    paired_difference,
    targets,
)
from tandem_core.metrics.accuracy import hit_rate_at, ndcg_at, recall_at
from tandem_core.policy import load_policies
from tandem_core.query import Query, SourcePlan
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.sources.als import Als
from tandem_trainer.data import Dataset
from tandem_trainer.inputs import fingerprint
from tandem_trainer.offline_queries import OfflineQueries, make_queries
from tandem_trainer.progress import Progress
from tandem_trainer.split import Split

KS = (1, 5, 10, 20, 50, 100, 200, 500)
LONGEST = 500
SHOWN = 20  # length of a ranked list, as the service gives by default
NO_DECAY = 1e9  # half-life in events: every event counts alike

Arm = Callable[[Query], CandidateBatch]


class WrongBundle(ValueError):  # noqa: N818
    """The bundle was trained on other data or another cut: evaluating it so would leak."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Arm `better` minus arm `than`, over the same users: mean difference and its 95 % interval."""

    metric: str
    better: str
    than: str
    difference: Interval


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Reports by arm, and the comparisons that matter. served: the arm that the services answer with by default."""

    protocol: str
    served: str
    users: int
    catalogue_size: int
    reports: Mapping[str, MetricsReport]
    compared: list[Compared]
    targets: list[Target]


def check_fits(bundle: Bundle, dataset: Dataset, protocol: str) -> None:
    """Raise WrongBundle where the bundle was not trained on the training cut of exactly this evaluation."""
    if bundle.manifest.split.refit:
        raise WrongBundle(
            f"bundle {bundle.id} was fitted on all events, the test events too: what was measured before is among the "
            "metrics of its manifest. To measure more, set refit = false and train again"
        )
    trained = bundle.manifest.split.protocol
    if trained != protocol:
        raise WrongBundle(
            f"bundle {bundle.id} was trained on the cut of {trained}, not of {protocol}: its training events may be "
            f'the test events here. Train one for it: set split.protocol = "{protocol}" and run tandem train'
        )
    if bundle.manifest.data.fingerprint != fingerprint(dataset.events):
        raise WrongBundle(
            f"bundle {bundle.id} was trained on {bundle.manifest.data.name} data with other events than those given: "
            "the cut would be another. Give the data it was trained on, or train again"
        )


def evaluate(
    bundle: Bundle,
    dataset: Dataset,
    split: Split,
    *,
    most_users: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Make lists with every arm for the users of the test events, and measure them.

    The history of a query is all that came before the test events, validation events too: they have happened. The
    models have seen the training events alone.
    """
    offline = queries_of_test(bundle, dataset, split, most_users=most_users, seed=seed)
    reports: dict[str, MetricsReport] = {}
    shown: dict[str, NDArray[np.int32]] = {}
    arms = make_arms(bundle)
    for name, (arm, length) in arms.items():
        ranked, scores = _lists(arm, offline, length, name, progress or Progress())
        shown[name] = ranked
        reports[name] = evaluate_lists(
            ranked,
            offline.relevant,
            ks=[k for k in KS if k <= length],
            scores=scores,
            catalogue_size=len(bundle.catalog),
            item_vectors=bundle.item_vectors if length == SHOWN else None,
            item_counts=bundle.catalog.event_counts,
            user_counts=offline.history_sizes,
            history=offline.history if length == SHOWN else None,
            rng=np.random.default_rng(seed),
        )
    return Evaluation(
        protocol=split.protocol,
        served="ranked" if bundle.manifest.ranker_helps else "rules_only",
        users=len(offline),
        catalogue_size=len(bundle.catalog),
        reports=reports,
        compared=_comparisons(shown, offline, seed),
        targets=_targets(bundle, reports["retrieval"]),
    )


def _targets(bundle: Bundle, report: MetricsReport) -> list[Target]:
    """Return the usual targets; the index's recall was measured when it was built."""
    recalls = [info.recall for info in bundle.manifest.indexes.values() if info.recall is not None]
    return targets(replace(report, values=report.values | {"ann_recall@300": min(recalls, default=float("nan"))}))


def queries_of_test(
    bundle: Bundle, dataset: Dataset, split: Split, *, most_users: int | None, seed: int
) -> OfflineQueries:
    """Return a query per user with test events."""
    parts = [split.train, split.validation] if split.test_history is None else [split.test_history]
    before = pd.concat(parts).sort_index(kind="stable").sort_values("timestamp", kind="stable")
    return make_queries(
        before,
        split.test,
        dataset.users,
        list(bundle.schema.user_attributes),
        bundle.catalog,
        context=list(bundle.schema.request_context),
        max_results=LONGEST,
        most_users=most_users,
        seed=seed,
    )


def make_arms(bundle: Bundle) -> dict[str, tuple[Arm, int]]:
    """Return name -> (arm, length of its lists): single sources, retrieval as a whole, and lists as they are served."""
    als = bundle.sources["als"]
    if not isinstance(als, Als):
        raise TypeError(f"source 'als' of bundle {bundle.id} is a {type(als).__name__}")
    with_plain = replace(bundle, sources={**bundle.sources, "als_plain": replace(als, half_life=NO_DECAY)})
    retrieval = RetrievalPipeline(with_plain)
    with_ranker, without = (
        RankingPipeline(bundle, {"default": load_policies(None)["default"].model_copy(update={"use_ranker": use})})
        for use in (True, False)
    )

    def only(source: str) -> Arm:
        # A bundle without categories has no such source: its lists are popular items then.
        plan = (SourcePlan(source if source in with_plain.sources else "popularity", LONGEST, 1.0),)
        return lambda query: retrieval.retrieve(replace(query, plans=plan), Budget()).candidates

    def ranked(pipeline: RankingPipeline) -> Arm:
        return lambda query: pipeline.recommend(replace(query, max_results=SHOWN), Budget(), retrieval.retrieve).items

    return {
        "popularity": (only("popularity"), LONGEST),
        "category": (only("popularity_category"), LONGEST),
        "als_plain": (only("als_plain"), LONGEST),
        "als": (only("als"), LONGEST),
        "two_tower": (only("two_tower"), LONGEST),
        "retrieval": (lambda query: retrieval.retrieve(query, Budget()).candidates, LONGEST),
        "rules_only": (ranked(without), SHOWN),
        "ranked": (ranked(with_ranker), SHOWN),
    }


def _lists(
    arm: Arm, offline: OfflineQueries, length: int, name: str, progress: Progress
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return rows int32 [U, length] (-1 after the end) and scores float32 [U, length]."""
    ranked = np.full((len(offline), length), -1, np.int32)
    scores = np.zeros((len(offline), length), np.float32)
    for i, query in enumerate(offline.queries):
        found = arm(query)
        n = min(len(found), length)
        ranked[i, :n], scores[i, :n] = found.rows[:n], found.scores[:n]
        if i % 100 == 0:
            progress.advance(i, len(offline), name)
    return ranked, scores


def _comparisons(shown: Mapping[str, NDArray[np.int32]], offline: OfflineQueries, seed: int) -> list[Compared]:
    metrics: dict[str, tuple[Callable[..., NDArray[np.float64]], int]] = {
        "hit_rate@10": (hit_rate_at, 10),
        "ndcg@10": (ndcg_at, 10),
        "recall@100": (recall_at, 100),
    }
    pairs = [
        ("retrieval", "popularity"),
        ("retrieval", "als_plain"),
        ("retrieval", "two_tower"),
        ("ranked", "retrieval"),
        ("ranked", "rules_only"),
    ]
    found: list[Compared] = []
    for better, than in pairs:
        for name, (metric, k) in metrics.items():
            if k <= min(shown[better].shape[1], shown[than].shape[1]):
                ours, theirs = (
                    metric(hits(shown[arm], offline.relevant), offline.relevant, k) for arm in (better, than)
                )
                difference = paired_difference(ours, theirs, rng=np.random.default_rng(seed))
                found.append(Compared(name, better, than, difference))
    return found


def to_json(evaluation: Evaluation, bundle: Bundle) -> dict[str, Any]:
    """Return everything as plain values, NaN as None."""
    return {
        "bundle_id": bundle.id,
        "data": bundle.manifest.data.model_dump(),
        "protocol": evaluation.protocol,
        "served": evaluation.served,
        "users": evaluation.users,
        "catalogue_size": evaluation.catalogue_size,
        "arms": {name: json.loads(report.to_json()) for name, report in evaluation.reports.items()},
        "targets": [target._asdict() for target in evaluation.targets],
        "compared": [
            {
                "metric": c.metric,
                "better": c.better,
                "than": c.than,
                "difference": c.difference.mean,
                "low": c.difference.low,
                "high": c.difference.high,
            }
            for c in evaluation.compared
        ],
    }
