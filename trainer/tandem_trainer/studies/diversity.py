"""What diversity costs: MMR, DPP and calibration at several strengths, from a hundred ranked items to ten."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.catalog import Catalog
from tandem_core.features import resolve_user
from tandem_core.metrics.accuracy import Relevant, hits, ndcg_at
from tandem_core.metrics.bootstrap import paired_difference
from tandem_core.metrics.lists import catalogue_coverage, exposure, intra_list_diversity
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query
from tandem_core.ranking_pipeline import RankingPipeline, rule_request
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.rules.base import Given, ItemTables, OrderRule
from tandem_core.rules.calibrated import Calibrated
from tandem_core.rules.dpp import Dpp
from tandem_core.rules.mmr import Mmr
from tandem_core.rules.normalise import Normalise
from tandem_core.rules.similarity import Similarity
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.inputs import validation_queries
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.progress import Progress
from tandem_trainer.split import Split
from tandem_trainer.studies.report import Cell, StudyReport, StudyTable

HeldOutPart: TypeAlias = Literal["validation", "test"]
POOL, SHOWN = 100, 10
STRENGTHS = (0.97, 0.95, 0.9, 0.85, 0.8, 0.78, 0.75, 0.7)  # 1 is relevance alone
KEPT = (0, 5)  # slots at the top that go by relevance alone
WANTED_DISTANCE, WANTED_COST = 0.15, 0.01
SWEEP = "Hundred ranked items to ten"
COLUMNS = (
    *("rule", "by", "kept", "strength", "ndcg@10", "cost %", "cost %, low", "cost %, high"),
    *("distance", "gain %", "distance, vectors", "coverage", "us per list"),
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One rule at one strength. kept: slots it leaves as they are. strength: share of relevance, 1 for all."""

    name: str
    by: str
    kept: int
    strength: float
    rule: OrderRule | None


# The best on validation requests of ml-1m that costs at most 1 %: its figures on test requests are nobody's choice.
CHOSEN = Arm("mmr", "categories", 5, 0.78, Mmr(0.78, POOL, "categories", 5))


def arms() -> list[Arm]:
    """Return what is compared: the ranked order itself first."""
    found = [Arm("none", "", 0, 1.0, None)]
    both: tuple[Similarity, ...] = ("categories", "vectors")
    for by, kept in itertools.product(both, KEPT):
        found += [Arm("mmr", by, kept, s, Mmr(s, POOL, by, kept)) for s in STRENGTHS]
        found += [Arm("dpp", by, kept, s, Dpp(s, POOL, by, kept)) for s in STRENGTHS]
    return found + [Arm("calibrated", "history", k, s, Calibrated(1 - s, POOL, k)) for k in KEPT for s in STRENGTHS]


def study_diversity(
    bundle: Bundle,
    dataset: Dataset,
    split: Split,
    config: TrainConfig,
    *,
    part: HeldOutPart = "test",
    most_users: int | None,
    progress: Progress,
) -> StudyReport:
    """Measure every arm on the users of the held-out part; distance is that of categories, as the rules' own is not.

    part: strengths are chosen on validation (whose events the bundle's merge has been weighed on, for all arms alike).
    Raises ValueError for a bundle without categories.
    """
    if "categories" not in bundle.catalog.codes:
        raise ValueError(f"bundle {bundle.id} has no categories: distance within a list is measured by them")
    offline = _queries(bundle, dataset, split, config, part, most_users)
    pools = _pools(bundle, offline.queries, progress)
    lists: dict[Arm, NDArray[np.int32]] = {}
    seconds: dict[Arm, float] = {}
    for arm in arms():
        lists[arm], seconds[arm] = _lists(arm, pools)
    rows = _rows(bundle, lists, seconds, offline.relevant, config.seed)
    facts: dict[str, Cell] = {
        "data": dataset.name,
        "protocol": split.protocol,
        "part": part,
        "bundle": bundle.id,
        "users": len(offline),
        "order": "ranker" if bundle.manifest.ranker_helps else "retrieval",
        "seed": config.seed,
    }
    return StudyReport("diversity", facts, (StudyTable(SWEEP, COLUMNS, tuple(rows)),), _notes(rows, part))


def _queries(
    bundle: Bundle, dataset: Dataset, split: Split, config: TrainConfig, part: HeldOutPart, most_users: int | None
) -> OfflineQueries:
    if part == "test":
        return queries_of_test(bundle, dataset, split, most_users=most_users, seed=config.seed)
    everybody = split.validation["user_id"].nunique()
    return validation_queries(config, dataset, split, bundle.schema, bundle.catalog, most=most_users or everybody)


def _pools(bundle: Bundle, queries: Sequence[Query], progress: Progress) -> list[Given]:
    """Return each user's hundred best candidates as they come to the diversity rules: scores from 0 to 1."""
    ranking = RankingPipeline(bundle, {"default": PlacementPolicy(mmr=None)})
    retrieval, items = RetrievalPipeline(bundle), ItemTables.of(bundle)
    pools = []
    for i, query in enumerate(queries):
        wide, short = (replace(query, max_results=length) for length in (POOL, SHOWN))
        user = resolve_user(bundle.schema, bundle.catalog, query)
        batch = ranking.recommend(wide, Budget(), retrieval.retrieve).items
        request = rule_request(short, user)
        batch = batch.with_scores(Normalise()(batch.scores, Given(batch, request, items)))
        pools.append(Given(batch, request, items))
        if i % 100 == 0:
            progress.advance(i, len(queries), "candidates")
    return pools


def _lists(arm: Arm, pools: Sequence[Given]) -> tuple[NDArray[np.int32], float]:
    """Return rows int32 [U, 10] (-1 after the end), and the median CPU time of the rule, seconds."""
    lists = np.full((len(pools), SHOWN), -1, np.int32)
    seconds = []
    for i, given in enumerate(pools):
        ordered = np.arange(len(given))  # the pool is best first
        begun = time.thread_time()
        if arm.rule is not None:
            ordered, _ = arm.rule(ordered, given.batch.scores, given)
        seconds.append(time.thread_time() - begun)
        shown = given.batch.rows[ordered[:SHOWN]]
        lists[i, : len(shown)] = shown
    return lists, float(np.median(seconds))


def _rows(
    bundle: Bundle,
    lists: Mapping[Arm, NDArray[np.int32]],
    seconds: Mapping[Arm, float],
    relevant: Relevant,
    seed: int,
) -> list[tuple[Cell, ...]]:
    vectors = _category_vectors(bundle.catalog)
    none, *_ = lists
    base = ndcg_at(hits(lists[none], relevant), relevant, SHOWN)
    base_mean, base_distance = float(np.nanmean(base)), 0.0
    rows: list[tuple[Cell, ...]] = []
    for arm, ranked in lists.items():
        ndcg = ndcg_at(hits(ranked, relevant), relevant, SHOWN)
        cost = paired_difference(base, ndcg, rng=np.random.default_rng(seed))
        distance = float(np.nanmean(intra_list_diversity(ranked, vectors)))
        base_distance = base_distance or distance
        rows.append(
            (
                *(arm.name, arm.by, arm.kept, arm.strength, float(np.nanmean(ndcg))),
                *(100 * part / base_mean for part in (cost.mean, cost.low, cost.high)),
                *(distance, 100 * (distance / base_distance - 1)),
                float(np.nanmean(intra_list_diversity(ranked, bundle.item_vectors))),
                catalogue_coverage(exposure(ranked, len(bundle.catalog))),
                1e6 * seconds[arm],
            )
        )
    return rows


def _category_vectors(catalog: Catalog) -> NDArray[np.float32]:
    """Return float32 [N, C], 1 for each category of an item."""
    codes = catalog.codes["categories"]
    vectors = np.zeros((len(catalog), len(codes.vocabulary) + 1), np.float32)
    vectors[np.arange(len(catalog))[:, None], codes.codes] = 1  # code -1 writes into the last column
    return vectors[:, :-1]


def _notes(rows: Sequence[tuple[Cell, ...]], part: HeldOutPart) -> tuple[str, ...]:
    """Return what the sweep says of the goal: of the arm that was chosen, and of the best among those cheap enough."""
    cost, gain = COLUMNS.index("cost %"), COLUMNS.index("gain %")
    chosen = next(row for row in rows if row[:4] == (CHOSEN.name, CHOSEN.by, CHOSEN.kept, CHOSEN.strength))
    cheap = [row for row in rows[1:] if _number(row[cost]) <= 100 * WANTED_COST]
    best = max(cheap, key=lambda row: _number(row[gain]), default=None)
    return (
        f"goal {WANTED_DISTANCE:+.0%} distance for at most {WANTED_COST:.0%} of NDCG@{SHOWN}: "
        f"{_told(chosen)}: chosen on validation requests of ml-1m",
        "no arm is cheap enough" if best is None else f"{_told(best)}: the best of these very {part} users",
        "distance is that of categories; strength 1 is relevance alone; kept: slots at the top that stay as they are",
    )


def _told(row: tuple[Cell, ...]) -> str:
    cost, gain = (_number(row[COLUMNS.index(name)]) for name in ("cost %", "gain %"))
    low, high = (_number(row[COLUMNS.index(f"cost %, {end}")]) for end in ("low", "high"))
    met = "met" if gain >= 100 * WANTED_DISTANCE and cost <= 100 * WANTED_COST else "missed"
    name = f"{row[0]} {row[1]} at {row[3]}, {row[2]} kept"
    return f"{met} by {name}, {gain:+.1f} % for {cost:.1f} % ({low:.1f} to {high:.1f})"


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, int | float) else float("nan")
