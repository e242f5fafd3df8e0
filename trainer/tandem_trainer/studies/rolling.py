"""Cross-validation over time: how much figures move with the moment at which one cuts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, User, resolve_user
from tandem_core.filters import Eligibility
from tandem_core.index.exact import ExactIndex
from tandem_core.metrics import MetricsReport, evaluate_lists
from tandem_core.sources.als import Als
from tandem_core.sources.base import Found, Source
from tandem_core.sources.popularity import Popularity
from tandem_core.sources.popularity_tables import GLOBAL, PopularityTables, RankedTable
from tandem_core.sources.weighted_average import WeightedAverage
from tandem_trainer.als import fit_als
from tandem_trainer.config import TrainConfig
from tandem_trainer.content import fit_content
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import NO_DECAY
from tandem_trainer.offline_queries import OfflineQueries, make_queries
from tandem_trainer.prepare import build_catalog, build_schema, event_weights, item_rows
from tandem_trainer.split_rolling import Fold, rolling_origin
from tandem_trainer.studies.report import Cell, StudyReport, StudyTable

LENGTH = 100
RECENT = 0.1  # share of the training events, the newest, that recent popularity counts
METRICS = ("ndcg@10", "hit_rate@10", "recall@100", "score_ties@10")
FALLBACK = "popularity"  # what an arm gives users it does not know, as the service does


def study_rolling(dataset: Dataset, config: TrainConfig, folds: int) -> StudyReport:
    """Measure cheap arms on each window; a user's history is what came before the window's cut, and stays that."""
    cuts = rolling_origin(dataset.events, folds)
    everybody: list[dict[str, MetricsReport]] = []
    known: list[dict[str, MetricsReport]] = []
    facts: list[tuple[Cell, ...]] = []
    for fold in cuts:
        catalog = build_catalog(dataset, fold.train, config.features.most_codes)
        schema = build_schema(dataset, fold.train, catalog, config)
        offline = make_queries(fold.train, fold.test, dataset.users, [], catalog, max_results=LENGTH)
        lists = _lists(make_sources(dataset, fold, catalog, schema, config), catalog, schema, offline)
        some = offline.history_sizes > 0
        everybody.append(_measured(lists, offline, catalog, np.ones(len(some), np.bool_)))
        known.append(_measured(lists, offline, catalog, some))
        day = datetime.fromtimestamp(fold.cut_ms / 1000, UTC).date().isoformat()
        facts.append((fold.number, day, len(fold.train), len(fold.test), len(offline), int(some.sum())))
    windows = StudyTable(
        "Folds", ("fold", "cut", "training events", "test events", "users", "of whom known"), tuple(facts)
    )
    return StudyReport(
        "rolling",
        {"data": dataset.name, "items": len(dataset.items), "folds": folds, "seed": config.seed},
        (
            windows,
            _table("Users known before the cut", known),
            _table("All users of the window (an arm that does not know one gives popularity)", everybody),
        ),
        (
            "Histories stop at the cut, so late events of a window are judged with old knowledge, for all arms alike.",
            "score_ties is the share of lists with two equal scores among the first ten: there the order is arbitrary.",
        ),
    )


def make_sources(
    dataset: Dataset, fold: Fold, catalog: Catalog, schema: FeatureSchema, config: TrainConfig
) -> dict[str, Source]:
    """Return what can be fitted on the fold's training events in seconds."""
    weights = event_weights(schema, fold.train)
    rows = item_rows(catalog, fold.train)
    newest = fold.train["timestamp"].rank(method="first", pct=True).to_numpy() > 1 - RECENT
    users, names = pd.factorize(fold.train["user_id"])
    als = fit_als(users, rows, weights, len(names), len(catalog), config.als, config.seed)
    factors = ExactIndex(als.item_factors)
    items = dataset.items
    content = fit_content(
        items["title"].tolist(),
        items["text"].tolist(),
        items["categories"].tolist(),
        items["creator"].tolist(),
        config.features.content_dims,
        catalog.event_counts > 0,
        config.seed,
    )
    return {
        FALLBACK: _popularity(rows, weights, len(catalog)),
        "recent popularity": _popularity(rows[newest], weights[newest], len(catalog)),
        "content average": WeightedAverage(ExactIndex(content)),
        "ALS fold-in, no decay": Als(factors, als.alpha, als.regularization, NO_DECAY),
        "ALS fold-in": Als(factors, als.alpha, als.regularization, config.features.als_half_life),
    }


def _popularity(rows: np.ndarray, weights: np.ndarray, n_items: int) -> Popularity:
    totals = np.bincount(rows, np.maximum(weights, 0), minlength=n_items)
    order = np.lexsort((np.arange(n_items), -totals)).astype(np.int32)
    share = totals[order] / max(totals.sum(), 1e-12)
    return Popularity(PopularityTables({GLOBAL: RankedTable(order, share.astype(np.float32))}))


def _lists(
    sources: Mapping[str, Source], catalog: Catalog, schema: FeatureSchema, offline: OfflineQueries
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return arm -> rows int32 [U, 100] (-1 after the end) and scores float32 [U, 100]."""
    users = [resolve_user(schema, catalog, query) for query in offline.queries]
    shape = (len(users), LENGTH)
    lists = {name: (np.full(shape, -1, np.int32), np.zeros(shape, np.float32)) for name in sources}
    for i, user in enumerate(users):
        eligible = Eligibility(catalog, user.interacted, None)
        for name, (ranked, scores) in lists.items():
            found = _find(sources, name, user, eligible)
            ranked[i, : len(found)], scores[i, : len(found)] = found.rows, found.scores
    return lists


def _find(sources: Mapping[str, Source], name: str, user: User, eligible: Eligibility) -> Found:
    found = sources[name].find(user, eligible, LENGTH)
    return found if len(found) else sources[FALLBACK].find(user, eligible, LENGTH)


def _measured(
    lists: Mapping[str, tuple[np.ndarray, np.ndarray]], offline: OfflineQueries, catalog: Catalog, some: np.ndarray
) -> dict[str, MetricsReport]:
    """Measure the lists of some users, bool [U]."""
    relevant = offline.relevant
    chosen = np.flatnonzero(some)
    kept = some[relevant.users]
    numbers = np.cumsum(some) - 1
    part = type(relevant).from_pairs(numbers[relevant.users[kept]], relevant.rows[kept], len(chosen))
    return {
        name: evaluate_lists(
            ranked[chosen],
            part,
            ks=(10, LENGTH),
            scores=scores[chosen],
            catalogue_size=len(catalog),
            item_counts=catalog.event_counts,
            user_counts=offline.history_sizes[chosen],
            rng=np.random.default_rng(0),
            resamples=1,  # what counts here is how folds differ, not users
        )
        for name, (ranked, scores) in lists.items()
    }


def _table(title: str, folds: list[dict[str, MetricsReport]]) -> StudyTable:
    """Return a row per metric and arm: the folds' values, their mean and their standard deviation (n - 1)."""
    rows: list[tuple[Cell, ...]] = []
    for metric in METRICS:
        for arm in folds[0]:
            values = [fold[arm].values[metric] for fold in folds]
            rows.append((metric, arm, *values, float(np.mean(values)), float(np.std(values, ddof=1))))
    return StudyTable(
        title, ("metric", "arm", *(f"fold {n + 1}" for n in range(len(folds))), "mean", "sd"), tuple(rows)
    )
