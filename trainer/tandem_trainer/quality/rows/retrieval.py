"""Today's retrieval: what the service's own pipeline makes of towers, ALS and popularity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.index.exact import ExactIndex
from tandem_core.manifest import Manifest
from tandem_core.query import Regime, SourcePlan
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.sources.base import Source
from tandem_core.sources.popularity import CategoryPopularity, Popularity, SegmentPopularity
from tandem_core.sources.two_tower import TwoTower
from tandem_trainer.config import TrainConfig
from tandem_trainer.popularity import fit_popularity
from tandem_trainer.prepare import event_weights, item_rows
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import Part
from tandem_trainer.quality.rows.als import as_source
from tandem_trainer.quality.rows.base import Need, Row, Scorer, Scores
from tandem_trainer.quality.rows.features import queries_of
from tandem_trainer.quality.rows.towers import open_tower

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting


class RetrievalRow(Row):
    """Candidates of the service's pipeline: towers, ALS and popularity as the configured plans say, merged by
    reciprocal rank, filled up with popular items.
    """

    single = False
    fits = False

    def __init__(self, name: str, towers: str = "two_tower", als: str = "als") -> None:
        super().__init__(name)
        self._parts = (towers, als)

    def needs(self, part: Part) -> Sequence[Need]:
        return tuple((name, part) for name in self._parts)

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        towers, als = (fitting.fitted(name).fit for name in self._parts)
        pipeline = RetrievalPipeline(_bundle(fitting, towers, als))
        n = len(fitting.catalog)

        def scores(queries: Queries) -> Scores:
            found = np.full((len(queries), n), -np.inf, np.float32)
            for place, query in enumerate(queries_of(fitting, queries)):
                candidates = pipeline.retrieve(query, Budget()).candidates
                found[place, candidates.rows] = candidates.scores
            return found

        return scores


def _bundle(fitting: Fitting, towers: Fit, als: Fit) -> Bundle:
    """Return a bundle in memory for retrieval alone: it is never served, so no manifest vouches for it."""
    catalog, schema, events = fitting.catalog, fitting.schema, fitting.dataset.events
    profiles = events[["user_id"]].merge(fitting.dataset.users, on="user_id", how="left")
    popularity = fit_popularity(item_rows(catalog, events), event_weights(schema, events), profiles, schema, catalog)
    tower = open_tower(fitting, towers)
    vectors = towers.arrays["item_vectors"]
    sources: dict[str, Source] = {
        "popularity": Popularity(popularity),
        "popularity_segment": SegmentPopularity(popularity),
        "two_tower": TwoTower(tower, ExactIndex(vectors)),
        "als": as_source(fitting, als, fitting.config.features.als_half_life),
    }
    if "categories" in catalog.codes:
        sources["popularity_category"] = CategoryPopularity(popularity, catalog.codes["categories"])
    return Bundle(
        id="quality",
        manifest=Manifest.model_construct(),
        schema=schema,
        catalog=catalog,
        popularity_level=np.zeros(len(catalog), np.float32),
        item_vectors=vectors,
        content_vectors=np.zeros((len(catalog), 1), np.float32),
        sources=sources,
        source_names=frozenset(sources),
        plans=_plans(fitting.config, sources),
        blends={},
        scorer=None,
        user_tower=tower,
    )


def _plans(config: TrainConfig, sources: Mapping[str, Source]) -> dict[Regime, tuple[SourcePlan, ...]]:
    plans = config.plans.by_regime()
    return {
        regime: tuple(
            SourcePlan(source, limit, weight, sum(quota))
            for source, (limit, weight, *quota) in plans[regime.name.lower()].items()
            if source in sources
        )
        for regime in Regime
    }
