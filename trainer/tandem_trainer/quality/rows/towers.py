"""The two towers, and today's retrieval: what the service's own pipeline makes of towers, ALS and popularity."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle, golden_user
from tandem_core.features import User, item_tower_inputs, resolve_user, user_tower_inputs
from tandem_core.index.exact import ExactIndex
from tandem_core.manifest import Golden, Manifest
from tandem_core.query import Query, Regime, SourcePlan, UserEvents
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.sources.base import Source
from tandem_core.sources.popularity import CategoryPopularity, Popularity, SegmentPopularity
from tandem_core.sources.two_tower import TwoTower
from tandem_core.user_tower import UserTower
from tandem_trainer.config import Plan, TrainConfig
from tandem_trainer.content import content_vectors
from tandem_trainer.examples import Examples, make_examples
from tandem_trainer.popularity import fit_popularity
from tandem_trainer.prepare import event_weights, item_rows
from tandem_trainer.progress import text
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import Part
from tandem_trainer.quality.rows.als import as_source, item_factors
from tandem_trainer.quality.rows.base import Need, Row, Scorer, Scores
from tandem_trainer.text_encoder import encoder_sha256
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.train_towers import FittedTowers, fit_towers

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

LONGEST = 500  # candidates of today's retrieval

TowerSettingsOf = Callable[[TrainConfig], TowerTrainingSettings]


def longer(config: TrainConfig) -> TowerTrainingSettings:
    """Return the configured towers, trained for six passes over the events, or fewer if so configured.

    What they give is what deploy/config/train-long.toml makes.
    """
    epochs = min(config.towers.epochs, 6.0)
    return config.towers.model_copy(update={"epochs": epochs, "most_examples": 1_000_000_000, "validations": 6})


class TwoTowerRow(Row):
    """The towers: the best state on the validation part, then fitted again on both parts for as long as was best.

    towers: settings of this variant, from the run's configuration.
    """

    code = (
        "tandem_core.features",
        "tandem_core.catalog",
        "tandem_core.user_tower",
        "tandem_trainer.als",
        "tandem_trainer.content",
        "tandem_trainer.examples",
        "tandem_trainer.export",
        "tandem_trainer.losses",
        "tandem_trainer.prepare",
        "tandem_trainer.text_encoder",
        "tandem_trainer.tower_pair",
        "tandem_trainer.tower_run",
        "tandem_trainer.tower_teacher",
        "tandem_trainer.tower_training_settings",
        "tandem_trainer.tower_validation",
        "tandem_trainer.towers",
        "tandem_trainer.train_towers",
    )

    def __init__(self, name: str, towers: TowerSettingsOf = lambda config: config.towers) -> None:
        super().__init__(name)
        self._towers = towers

    def needs(self, part: Part) -> Sequence[Need]:
        return () if part == "train" else ((self.name, "train"),)

    def settings(self, config: TrainConfig) -> Any:
        towers = self._towers(config).model_dump(mode="json")
        return [towers, feature_settings(config), config.als.model_dump(), config.threads]

    def fit(self, fitting: Fitting) -> Fit:
        import torch  # noqa: PLC0415  (takes seconds; a cached fit does not need it)

        torch.set_num_threads(fitting.config.threads)
        settings, validation = self._towers(fitting.config), None
        if fitting.part == "train":
            validation = _validation_examples(fitting)
        else:
            settings = settings.ending_at(fitting.fitted(self.name, "train").fit.notes["best_after"])
        catalog = fitting.catalog
        schema = fitting.schema.model_copy(update={"vector_dim": settings.joint_dim})
        training = fitting.dataset.events
        examples = make_examples(training, catalog, schema, fitting.dataset.users)
        inputs = item_tower_inputs(schema, catalog, content_of(fitting))
        towers = fit_towers(
            examples,
            inputs,
            settings,
            fitting.config.seed,
            validation,
            lambda part, found: fitting.progress.advance(part + 1, settings.most_validations, text(found)),
            item_factors(fitting) if settings.warm_start else None,
        )
        notes = {
            "best_after": towers.best_after,
            "events_per_second": towers.examples_per_second,
            "loading_share": towers.loading_share,
        }
        notes |= {f"validation_{name}": value for name, value in towers.history[towers.best].items()}
        return Fit({"item_vectors": towers.item_vectors, "user_tower": _as_onnx(fitting, towers)}, notes)

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        tower, vectors = _open_tower(fitting, fit), fit.arrays["item_vectors"]

        def scores(queries: Queries) -> Scores:
            found: Scores = tower.encode(users_of(fitting, queries)) @ vectors.T
            return found

        return scores


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


def content_of(fitting: Fitting) -> NDArray[np.float32]:
    """Return content vectors as a training run makes them."""
    features, counts = fitting.config.features, fitting.catalog.event_counts
    return content_vectors(fitting.dataset, counts, features.content_dims, fitting.config.seed, features.text_encoder)


def feature_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of features for a fit's key: of a text encoder what it holds counts, not where it lies."""
    features = config.features
    return {**features.model_dump(mode="json"), "text_encoder": encoder_sha256(features.text_encoder)}


def queries_of(fitting: Fitting, queries: Queries) -> list[Query]:
    """Return the questions as requests that the service would get."""
    item_ids = np.asarray(fitting.catalog.item_ids, object)
    known = fitting.schema.user_attributes
    table = fitting.dataset.users.set_index("user_id").reindex(queries.user_ids)[list(known)]
    found = []
    for place, profile in enumerate(table.itertuples(index=False)):
        span = slice(queries.indptr[place], queries.indptr[place + 1])
        events = UserEvents(
            item_ids[queries.rows[span]].tolist(),
            queries.times[span],
            queries.types[span].tolist(),
            queries.values[span],
        )
        query = Query(
            request_id=f"quality-{queries.user_ids[place]}",
            user_id=str(queries.user_ids[place]),
            now_ms=int(queries.now_ms[place]),
            max_results=LONGEST,
            events=events,
            attributes={name: v for name, v in zip(known, profile, strict=True) if isinstance(v, str)},
        )
        found.append(query)
    return found


def users_of(fitting: Fitting, queries: Queries) -> list[User]:
    """Return the questions as the models see their users."""
    return [resolve_user(fitting.schema, fitting.catalog, query) for query in queries_of(fitting, queries)]


def _validation_examples(fitting: Fitting) -> Examples | None:
    """Return the validation answers as examples, with all that training knows of their users before them."""
    held_out = fitting.validation
    if not len(held_out):
        return None
    queries, events = held_out.queries, fitting.validation_events()
    before = pd.DataFrame(
        {
            "user_id": queries.user_ids[queries.owners],
            "item_id": np.asarray(fitting.catalog.item_ids, object)[queries.rows],
            "timestamp": queries.times,
            "event_type": queries.types,
        }
    )
    both = pd.concat([before, events], ignore_index=True)
    is_target = np.arange(len(both)) >= len(before)
    order = np.argsort(both["timestamp"].to_numpy(dtype=np.int64), kind="stable")
    return make_examples(both.iloc[order], fitting.catalog, fitting.schema, fitting.dataset.users, is_target[order])


def _as_onnx(fitting: Fitting, towers: FittedTowers) -> NDArray[np.uint8]:
    """Return the user tower as the bytes of an ONNX file, compared with torch."""
    from tandem_trainer.export import check_parity, to_onnx  # noqa: PLC0415  (torch's exporter)

    users = _example_users(fitting)
    inputs = user_tower_inputs(fitting.schema, users, towers.item_vectors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user_tower.onnx"
        dynamic = {name: {0: "users", 1: "history"} if name.startswith("history") else {0: "users"} for name in inputs}
        to_onnx(towers.user_tower, inputs, "user_vectors", path, dynamic)
        check_parity(towers.user_tower, path, [inputs])
        return np.frombuffer(path.read_bytes(), np.uint8)


def _example_users(fitting: Fitting) -> list[User]:
    """Return a user with a long history and one with a short one, to trace the tower with."""
    popular = np.argsort(-fitting.catalog.event_counts, kind="stable")[: fitting.schema.history_length].tolist()
    now = int(fitting.training.times.max())
    questions = [
        Golden(history=history, user_attributes={}, now_ms=now, expected=[]) for history in (popular, popular[:2])
    ]
    return [golden_user(question, fitting.schema) for question in questions]


def _open_tower(fitting: Fitting, fit: Fit) -> UserTower:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user_tower.onnx"
        path.write_bytes(fit.arrays["user_tower"].tobytes())
        return UserTower(path, fitting.schema, fit.arrays["item_vectors"]).opened()


def _bundle(fitting: Fitting, towers: Fit, als: Fit) -> Bundle:
    """Return a bundle in memory for retrieval alone: it is never served, so no manifest vouches for it."""
    catalog, schema, events = fitting.catalog, fitting.schema, fitting.dataset.events
    profiles = events[["user_id"]].merge(fitting.dataset.users, on="user_id", how="left")
    popularity = fit_popularity(item_rows(catalog, events), event_weights(schema, events), profiles, schema, catalog)
    tower = _open_tower(fitting, towers)
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
    plans: dict[str, dict[str, Plan]] = config.plans.model_dump()
    return {
        regime: tuple(
            SourcePlan(source, limit, weight, sum(quota))
            for source, (limit, weight, *quota) in plans[regime.name.lower()].items()
            if source in sources
        )
        for regime in Regime
    }
