"""How well items that training never saw are ranked: a share of the items is taken out of all training.

Each user's cold items are ranked among all cold items, by the user's events on the other items alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, History, User
from tandem_core.filters import Eligibility
from tandem_core.metrics import Interval, mean_intervals, paired_difference
from tandem_core.metrics.accuracy import Relevant, hits, ndcg_at, recall_at
from tandem_core.query import Regime
from tandem_core.sources.cold_items import ColdItems
from tandem_trainer.cold_items import (
    Choice,
    ColdItemSettings,
    ColdItemTrainer,
    Events,
    weighted_histories,
)
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.popularity import fit_popularity
from tandem_trainer.prepare import build_catalog, build_schema, event_weights, item_rows
from tandem_trainer.studies.cold_baselines import (
    best,
    category_vectors,
    choose_neighbours,
    neighbour_scores,
    text_vectors,
)
from tandem_trainer.train_cold_items import content_numbers, with_affinity

K = 20
RESAMPLES = 1000
LEAKED = "true popularity (leaked)"
OURS = "taste and prior"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of ranking: mean and interval over users of both metrics."""

    ndcg: Interval
    recall: Interval


@dataclass(frozen=True, slots=True)
class ColdStudy:
    """What was measured. ratio: NDCG@20 of ours over that of the better baseline, paired over users.

    neighbours: of the TF-IDF baseline, chosen on validation as the model's own settings were.
    """

    data: str
    users: int
    cold_items: int
    warm_items: int
    arms: Mapping[str, Arm]
    baseline: str
    ratio: Interval
    difference: Interval
    choice: Choice
    neighbours: int


@dataclass(frozen=True, slots=True, eq=False)
class ColdSplit:
    """train: events of warm items. truth: events of cold items. cold: int [n], rising, rows of the item table."""

    train: pd.DataFrame
    truth: pd.DataFrame
    cold: NDArray[np.int32]


def cold_split(dataset: Dataset, fraction: float, seed: int) -> ColdSplit:
    """Take a seeded share of all items out of the events; raises ValueError where that leaves none on a side."""
    n = len(dataset.items)
    cold = np.sort(np.random.default_rng(seed).permutation(n)[: round(fraction * n)]).astype(np.int32)
    if not 0 < len(cold) < n:
        raise ValueError(f"{fraction} of {n} items are {len(cold)}: some must be cold and some not")
    is_cold = dataset.events["item_id"].isin(dataset.items["item_id"].iloc[cold]).to_numpy(dtype=bool)
    return ColdSplit(dataset.events[~is_cold], dataset.events[is_cold], cold)


def study_cold(
    dataset: Dataset,
    config: TrainConfig,
    settings: ColdItemSettings,
    *,
    fraction: float = 0.1,
    resamples: int = RESAMPLES,
) -> ColdStudy:
    """Fit on the warm items, rank the cold ones in every way, and measure over the same users."""
    seed = config.seed
    split = cold_split(dataset, fraction, seed)
    catalog = build_catalog(dataset, split.train, config.features.most_codes)
    schema = build_schema(dataset, split.train, catalog, config)
    world = _World.of(dataset, split, catalog, schema)
    cold_below = schema.cold_item_events
    numbers = content_numbers(dataset)
    trainer = ColdItemTrainer(dataset.items, numbers, world.events, catalog.event_counts, cold_below, settings, seed)
    choice = trainer.choose()
    profiles = split.train[["user_id"]].merge(dataset.users, on="user_id", how="left")
    rows, weights = item_rows(catalog, split.train), event_weights(schema, split.train)
    popularity = fit_popularity(rows, weights, profiles, schema, catalog)

    def source(power: float) -> ColdItems:
        model = with_affinity(trainer.fit(replace(choice, prior=power)), popularity, catalog)
        return ColdItems(model, catalog, cold_below)

    ours = source(choice.prior)
    warm = np.setdiff1d(np.arange(len(catalog)), split.cold)
    texts = text_vectors(dataset.items, warm)
    neighbours = choose_neighbours(texts, world.histories, warm, seed)
    judged = world.histories[world.judged]
    lists = {"random": best(np.random.default_rng(seed).random((len(world.judged), len(split.cold))))}
    if (categories := category_vectors(dataset.items)) is not None:
        lists["category cosine"] = best(neighbour_scores(categories, judged, split.cold))
    lists["TF-IDF cosine"] = best(neighbour_scores(texts, judged, split.cold))
    lists["TF-IDF neighbours"] = best(neighbour_scores(texts, judged, split.cold, neighbours))
    lists["prior"] = world.found(ours, history=False, profile=False)
    if len(ours.model.segments) and ours.model.affinity.size:
        lists["prior and segment"] = world.found(ours, history=False, profile=True)
    lists["taste"] = world.found(source(0.0), history=True, profile=True)
    lists[OURS] = world.found(ours, history=True, profile=True)
    lists[LEAKED] = best(np.tile(np.bincount(world.truth_places, minlength=len(split.cold)), (len(world.judged), 1)))
    return _measured(dataset.name, lists, world, choice, neighbours, resamples, seed)


def _measured(
    name: str,
    lists: Mapping[str, NDArray[np.int32]],
    world: _World,
    choice: Choice,
    neighbours: int,
    resamples: int,
    seed: int,
) -> ColdStudy:
    found = {arm: hits(ranked, world.relevant) for arm, ranked in lists.items()}
    ndcg = {arm: ndcg_at(hit, world.relevant, K) for arm, hit in found.items()}
    recall = {arm: recall_at(hit, world.relevant, K) for arm, hit in found.items()}
    rng = np.random.default_rng(seed)
    both = [mean_intervals(values, rng=rng, resamples=resamples) for values in (ndcg, recall)]
    candidates = [arm for arm in ("category cosine", "TF-IDF cosine", "TF-IDF neighbours") if arm in ndcg]
    baseline = max(candidates, key=lambda arm: float(ndcg[arm].mean()))
    return ColdStudy(
        data=name,
        users=len(world.judged),
        cold_items=len(world.cold),
        warm_items=len(world.catalog) - len(world.cold),
        arms={arm: Arm(both[0][arm], both[1][arm]) for arm in lists},
        baseline=baseline,
        ratio=ratio_of_means(ndcg[OURS], ndcg[baseline], rng=rng, resamples=resamples),
        difference=paired_difference(ndcg[OURS], ndcg[baseline], rng=rng, resamples=resamples),
        choice=choice,
        neighbours=neighbours,
    )


def ratio_of_means(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Return mean(ours) / mean(theirs) and its 95 % percentile bootstrap interval; both float [U] > 0 users, paired."""
    n = len(ours)
    drawn = np.empty(resamples)
    for i in range(resamples):
        users = rng.integers(0, n, n)
        drawn[i] = ours[users].sum() / theirs[users].sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(ours.mean() / theirs.mean()), float(low), float(high), n)


@dataclass(frozen=True, slots=True, eq=False)
class _World:
    """The split in numbers. judged: int [V], users with events on both sides; the relevant are places in `cold`."""

    catalog: Catalog
    schema: FeatureSchema
    cold: NDArray[np.int32]
    train: pd.DataFrame
    attributes: pd.DataFrame
    names: NDArray[np.object_]
    events: Events
    histories: scipy.sparse.csr_matrix
    judged: NDArray[np.intp]
    relevant: Relevant
    truth_places: NDArray[np.intp]

    @classmethod
    def of(cls, dataset: Dataset, split: ColdSplit, catalog: Catalog, schema: FeatureSchema) -> _World:
        chosen = split.train[event_weights(schema, split.train) > 0]
        wanted = split.truth[event_weights(schema, split.truth) > 0]
        users, names = pd.factorize(chosen["user_id"])
        events = Events(users, item_rows(catalog, chosen), len(names))
        of_truth = pd.Index(names).get_indexer(pd.Index(wanted["user_id"]))
        judged = np.unique(of_truth[of_truth >= 0])
        number = np.full(len(names), -1)
        number[judged] = np.arange(len(judged))
        places = np.searchsorted(split.cold, item_rows(catalog, wanted))
        kept = of_truth >= 0
        return cls(
            catalog=catalog,
            schema=schema,
            cold=split.cold,
            train=chosen,
            attributes=dataset.users.set_index("user_id"),
            names=np.asarray(names, object),
            events=events,
            histories=weighted_histories(events, len(catalog), np.inf),
            judged=judged,
            relevant=Relevant.from_pairs(number[of_truth[kept]], places[kept], len(judged)),
            truth_places=places,
        )

    def found(self, source: ColdItems, *, history: bool, profile: bool) -> NDArray[np.int32]:
        """Return int32 [V, 20], places in `cold`: what the source finds, asked as the service would ask it."""
        others = np.setdiff1d(self.catalog.all_rows, self.cold).astype(np.int32)
        eligible = Eligibility(self.catalog, others, None)
        order = np.argsort(self.events.users, kind="stable")
        of_user = np.split(order, np.cumsum(np.bincount(self.events.users, minlength=self.events.n_users))[:-1])
        ranked = np.full((len(self.judged), min(K, len(self.cold))), -1, np.int32)
        for at, user in enumerate(self.judged):
            places = of_user[user][::-1] if history else np.empty(0, np.intp)
            rows = source.find(self._user(user, places, profile), eligible, ranked.shape[1]).rows
            ranked[at, : len(rows)] = np.searchsorted(self.cold, rows)
        return ranked

    def _user(self, user: np.integer[Any], places: NDArray[np.intp], profile: bool) -> User:
        n = len(places)
        told = self.attributes.loc[self.names[user], list(self.schema.user_attributes)].dropna() if profile else {}
        known = self.schema.known_attributes(dict(told))
        return User(
            regime=Regime.WARM if n else Regime.PROFILE_ONLY,
            history=History(
                self.events.rows[places].astype(np.int32),
                np.zeros(n, np.int32),
                np.zeros(n, np.int64),
                np.ones(n, np.float32),
            ),
            interacted=np.empty(0, np.int32),
            attributes=known,
            attribute_codes=self.schema.encode_attributes(known),
            context_codes=self.schema.encode_context(0, {}),
            segment_keys=self.schema.segment_keys(known),
            now_ms=0,
        )
