"""Users that no model was trained on: half of what they rated is known, the other half is to be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.catalog import Catalog
from tandem_core.features import User, resolve_user
from tandem_core.index.exact import ExactIndex
from tandem_core.metrics import MetricsReport, evaluate_lists, hits, paired_difference
from tandem_core.metrics.accuracy import ndcg_at
from tandem_core.query import Query, SourcePlan
from tandem_core.retrieval_pipeline import RetrievalPipeline, eligibility
from tandem_core.sources.base import Source
from tandem_core.sources.clusters import ClusterSource
from tandem_core.sources.interests import Interests
from tandem_core.sources.weighted_average import WeightedAverage
from tandem_trainer.clusters import ClusterSettings, capped, fit_gmm, fit_kmeans
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.split import Split
from tandem_trainer.studies.report import Cell, StudyReport, StudyTable

K = 10
POOL = 400  # items asked of the average beside the bundle's own sources
BASELINE = "weighted average"
METRICS = ("precision", "map", "ndcg", "map_seed2_variant", "ndcg_seed2_variant")
NOTES = (
    "The paper's P@10, MAP and NDCG (K-means .0254/.0560/.0911, weighted average .0148/.0803/.0920) are not "
    "comparable: its code compared ids of the raw table with ids it had numbered anew, so a hit was a chance meeting "
    "of two unlike ids. Its data is the anime ratings (adapter anime), and its unseen users were drawn by rows, which "
    "favours heavy raters: 295.9 ratings each, where users have 93.9 on average.",
    "Its MAP and NDCG divide by what was found instead of what was there to find: the two seed2_variant columns do "
    "the same, and are never below the true ones.",
    "With a random half known, order and times mislead the arms that use them (user tower, ALS as served, merged "
    "pool). Requests come in the order of time: the table with the earlier half known is what serving is like.",
)
TIMELESS = "All events of this data have one time: the earlier half known is another random half."

Rows = NDArray[np.int32]
Arm = Callable[[Query], Rows]


@dataclass(frozen=True, slots=True)
class UnseenLists:
    """The same queries and the same truth for every arm. ranked: arm -> int32 [U, 10], -1 after the end."""

    offline: OfflineQueries
    ranked: dict[str, Rows]


def study_unseen(
    bundle: Bundle,
    dataset: Dataset,
    split: Split,
    settings: ClusterSettings,
    seed: int = 0,
    earlier: Split | None = None,
) -> StudyReport:
    """Measure every way of finding items for users that the bundle has never seen.

    split: a random half of the held-out users' events known. earlier: the same users held out, the earlier half known.
    Raises ValueError where its users are others, for the bundle may have been trained on them.
    """
    if earlier is not None and set(earlier.test["user_id"]) != set(split.test["user_id"]):
        raise ValueError("the two cuts hold out other users: cut both with the same seed and number of users")
    lists = make_lists(bundle, dataset, split, settings, seed)
    offline = lists.offline
    reports = {name: _measured(bundle, offline, ranked, seed) for name, ranked in lists.ranked.items()}
    per_user = {
        name: ndcg_at(hits(ranked, offline.relevant), offline.relevant, K) for name, ranked in lists.ranked.items()
    }
    tables = [_table("Unseen users, a random half of their events known", reports)]
    if earlier is not None:
        in_time = make_lists(bundle, dataset, earlier, settings, seed)
        found = {name: _measured(bundle, in_time.offline, ranked, seed) for name, ranked in in_time.ranked.items()}
        tables.append(_table("The same users, the earlier half of their events known", found))
    beside = StudyTable(
        f"Random half: what the lists are like, and NDCG@{K} against the {BASELINE}, paired over users",
        ("arm", f"coverage@{K}", f"centroid_distance@{K}", f"novelty@{K}", f"ndcg@{K} difference"),
        tuple(
            (
                name,
                *(report.values[f"{metric}@{K}"] for metric in ("coverage", "centroid_distance", "novelty")),
                paired_difference(per_user[name], per_user[BASELINE], rng=np.random.default_rng(seed)),
            )
            for name, report in reports.items()
        ),
    )
    facts: dict[str, Cell] = {
        "data": dataset.name,
        "bundle": bundle.id,
        "unseen users": len(offline),
        "users without anything to find": int((offline.relevant.sizes == 0).sum()),
        "mean known events": float(offline.history_sizes.mean()),
        "mean to find": float(offline.relevant.sizes.mean()),
        "items": len(bundle.catalog),
        "clusters": capped(settings.count, len(bundle.catalog)),
        "k": K,
        "seed": seed,
    }
    return StudyReport("unseen", facts, (*tables, beside), notes_on(dataset))


def notes_on(dataset: Dataset) -> tuple[str, ...]:
    """What the reader of figures on this data must know."""
    return NOTES if dataset.events["timestamp"].nunique() > 1 else (*NOTES, TIMELESS)


def _table(title: str, reports: Mapping[str, MetricsReport]) -> StudyTable:
    columns = tuple(f"{metric}@{K}" for metric in METRICS)
    rows: list[tuple[Cell, ...]] = [
        (name, *(report.intervals[column] for column in columns)) for name, report in reports.items()
    ]
    return StudyTable(title, ("arm", *columns), tuple(rows))


def make_lists(bundle: Bundle, dataset: Dataset, split: Split, settings: ClusterSettings, seed: int) -> UnseenLists:
    """Ask all arms for the test users of a user-disjoint cut; its training users must be the bundle's."""
    offline = queries_of_test(bundle, dataset, split, most_users=None, seed=seed)
    ranked = {}
    for name, arm in make_arms(bundle, settings, seed).items():
        ranked[name] = np.full((len(offline), K), -1, np.int32)
        for i, query in enumerate(offline.queries):
            found = arm(query)[:K]
            ranked[name][i, : len(found)] = found
    return UnseenLists(offline, ranked)


def make_sources(bundle: Bundle, settings: ClusterSettings, seed: int) -> dict[str, Source]:
    """Return the sources that know users by the vectors of their items alone."""
    vectors, level = bundle.item_vectors, bundle.popularity_level
    kmeans, gmm = fit_kmeans(vectors, settings, seed), fit_gmm(vectors, settings, seed)
    return {
        BASELINE: WeightedAverage(ExactIndex(vectors)),
        "interests": Interests(ExactIndex(vectors)),
        "K-means": ClusterSource(kmeans, vectors),
        "K-means, popular": ClusterSource(kmeans, vectors, level),
        "GMM": ClusterSource(gmm, vectors),
        "GMM, popular": ClusterSource(gmm, vectors, level),
        "GMM, posterior blend": ClusterSource(gmm, vectors, blend=True),
    }


def make_arms(bundle: Bundle, settings: ClusterSettings, seed: int) -> dict[str, Arm]:
    """Return name -> arm; the bundle's own sources are as it serves them."""
    averages = make_sources(bundle, settings, seed)
    retrieval = RetrievalPipeline(bundle)
    wider = RetrievalPipeline(replace(bundle, sources={**bundle.sources, BASELINE: averages[BASELINE]}))

    def averaging(source: Source) -> Arm:
        return lambda query: _found(source, bundle, query, rated_user(bundle, query))

    def serving(name: str) -> Arm:
        source = bundle.sources[name]
        return lambda query: _found(source, bundle, query, resolve_user(bundle.schema, bundle.catalog, query))

    return {
        **{name: averaging(source) for name, source in averages.items()},
        "user tower": serving("two_tower"),
        "ALS fold-in": serving("als"),
        "merged pool": lambda query: _merged(retrieval, query, ()),
        "merged pool + average": lambda query: _merged(wider, query, (SourcePlan(BASELINE, POOL, 1.0),)),
        "popularity": serving("popularity"),
    }


def _merged(retrieval: RetrievalPipeline, query: Query, more: tuple[SourcePlan, ...]) -> Rows:
    """Ask the plan that the bundle has for the user, and further sources."""
    user = resolve_user(retrieval.bundle.schema, retrieval.bundle.catalog, query)
    plans = (*retrieval.bundle.plans[user.regime], *more)
    return retrieval.retrieve(replace(query, max_results=K, plans=plans), Budget()).candidates.rows


def _found(source: Source, bundle: Bundle, query: Query, user: User) -> Rows:
    return source.find(user, eligibility(bundle, query, user), K).rows


def rated_user(bundle: Bundle, query: Query) -> User:
    """Return the query's user with ratings as the weights of the history, as in e_u = sum(r e) / sum(r)."""
    user = resolve_user(bundle.schema, bundle.catalog, query)
    ratings = _ratings(bundle.catalog, query)
    weights = np.array([ratings.get(int(row), np.nan) for row in user.history.rows], np.float32)
    # Data without ratings: every event counts by its type.
    weights = np.where(np.isfinite(weights), weights, user.history.weights)
    return replace(user, history=replace(user.history, weights=weights.astype(np.float32)))


def _ratings(catalog: Catalog, query: Query) -> dict[int, float]:
    pairs = zip(query.events.item_ids, query.events.values.tolist(), strict=True)
    return {catalog.row_of[item]: value for item, value in pairs if item in catalog.row_of}


def _measured(bundle: Bundle, offline: OfflineQueries, ranked: Rows, seed: int) -> MetricsReport:
    return evaluate_lists(
        ranked,
        offline.relevant,
        ks=(K,),
        catalogue_size=len(bundle.catalog),
        item_vectors=bundle.item_vectors,
        item_counts=bundle.catalog.event_counts,
        user_counts=offline.history_sizes,
        history=offline.history,
        rng=np.random.default_rng(seed),
    )
