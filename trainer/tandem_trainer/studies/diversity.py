"""What diversity costs: MMR, DPP and calibration at several strengths, from a hundred ranked items to ten."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import order
from tandem_core.catalog import Catalog
from tandem_core.metrics.accuracy import Relevant, hits, ndcg_at
from tandem_core.metrics.bootstrap import paired_difference
from tandem_core.metrics.lists import catalogue_coverage, exposure, intra_list_diversity
from tandem_core.policy import PlacementPolicy
from tandem_core.ranking_pipeline import RankingPipeline, rule_request
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.features import resolve_user
from tandem_core.rules.base import Given, ItemTables, OrderRule
from tandem_core.rules.calibrated import Calibrated
from tandem_core.rules.dpp import Dpp
from tandem_core.rules.mmr import Mmr
from tandem_core.rules.normalise import Normalise
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.progress import Progress
from tandem_trainer.split import Split
from tandem_trainer.studies.report import Cell, StudyReport, StudyTable

POOL, SHOWN = 100, 10
STRENGTHS = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.5)  # 1 is relevance alone
WANTED_DISTANCE, WANTED_COST = 0.15, 0.01
SWEEP = "Hundred ranked items to ten"
COLUMNS = (
    *("rule", "by", "strength", "ndcg@10", "cost %", "cost %, low", "cost %, high"),
    *("distance", "gain %", "distance, vectors", "coverage", "us per list"),
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One rule at one strength. strength: share of relevance, 1 for all."""

    name: str
    by: str
    strength: float
    rule: OrderRule | None


def arms() -> list[Arm]:
    """Return what is compared: the ranked order itself first."""
    found = [Arm("none", "", 1.0, None)]
    for by in ("categories", "vectors"):
        found += [Arm("mmr", by, s, Mmr(s, POOL, by)) for s in STRENGTHS]  # type: ignore[arg-type]
        found += [Arm("dpp", by, s, Dpp(s, POOL, by)) for s in STRENGTHS]  # type: ignore[arg-type]
    return found + [Arm("calibrated", "history", s, Calibrated(1 - s, POOL)) for s in STRENGTHS]


def study_diversity(
    bundle: Bundle, dataset: Dataset, split: Split, *, most_users: int | None, seed: int, progress: Progress
) -> StudyReport:
    """Measure every arm on the users of the test events; distance is that of categories, as the rules' own is not.

    Raises ValueError for a bundle without categories.
    """
    if "categories" not in bundle.catalog.codes:
        raise ValueError(f"bundle {bundle.id} has no categories: distance within a list is measured by them")
    offline = queries_of_test(bundle, dataset, split, most_users=most_users, seed=seed)
    pools = _pools(bundle, offline.queries, progress)
    lists: dict[Arm, NDArray[np.int32]] = {}
    seconds: dict[Arm, float] = {}
    for arm in arms():
        lists[arm], seconds[arm] = _lists(arm, pools)
    rows = _rows(bundle, lists, seconds, offline.relevant, seed)
    facts: dict[str, Cell] = {
        "data": dataset.name,
        "protocol": split.protocol,
        "bundle": bundle.id,
        "users": len(offline),
        "order": "ranker" if bundle.manifest.ranker_helps else "retrieval",
        "seed": seed,
    }
    return StudyReport("diversity", facts, (StudyTable(SWEEP, COLUMNS, tuple(rows)),), _notes(rows))


def _pools(bundle: Bundle, queries: object, progress: Progress) -> list[Given]:
    """Return each user's hundred best candidates as they come to the diversity rules: scores from 0 to 1."""
    bare = PlacementPolicy(mmr=None, recency=None, candidates=500)
    ranking, retrieval = RankingPipeline(bundle, {"default": bare}), RetrievalPipeline(bundle)
    items = ItemTables.of(bundle)
    pools = []
    for i, query in enumerate(queries):  # type: ignore[arg-type, var-annotated]
        user = resolve_user(bundle.schema, bundle.catalog, query)
        slate = ranking.recommend(_of_length(query, POOL), Budget(), retrieval.retrieve)
        batch = slate.items
        scores = Normalise()(batch.scores, Given(batch, rule_request(query, user), items))
        pools.append(Given(batch.with_scores(scores), rule_request(_of_length(query, SHOWN), user), items))
        if i % 100 == 0:
            progress.advance(i, len(queries), "candidates")  # type: ignore[arg-type]
    return pools
