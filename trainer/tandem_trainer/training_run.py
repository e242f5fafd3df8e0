"""The steps of a training run: each fits one thing, writes its files and adds its entries to the manifest."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from tandem_core.bundle import COLD_ITEMS, golden_user, open_parts
from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, item_tower_inputs, resolve_user, user_tower_inputs
from tandem_core.index.exact import ExactIndex
from tandem_core.live.encoder import CONTENT_MODEL, TEXT_ENCODER
from tandem_core.manifest import (
    FORMAT,
    MANIFEST_NAME,
    AlsInfo,
    BlendInfo,
    FileEntry,
    FreshInfo,
    Golden,
    HalfLife,
    Manifest,
    PlanEntry,
    SearchInfo,
    SplitInfo,
)
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.sources.als import Als
from tandem_core.sources.content_neighbours import content_profile
from tandem_core.sources.popularity_tables import PopularityTables
from tandem_trainer.als import AlsModel, fit_als
from tandem_trainer.clusters import fit_gmm, fit_kmeans
from tandem_trainer.config import Plan, TrainConfig
from tandem_trainer.content import content_vectors_and_model
from tandem_trainer.data import Dataset
from tandem_trainer.data.review_texts import with_review_texts
from tandem_trainer.examples import Examples, make_examples
from tandem_trainer.export import check_parity, to_onnx
from tandem_trainer.fit_blend import learn_blends
from tandem_trainer.freshness import born_ms
from tandem_trainer.graph import smooth_over_graph
from tandem_trainer.indexes import RECALL_AT, build_index
from tandem_trainer.inputs import data_info, history_of_validation, validation_queries
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.popularity import fit_popularity
from tandem_trainer.popularity_wide import rating_table, type_tables, window_tables
from tandem_trainer.prepare import build_catalog, build_schema, event_weights, item_rows, type_codes
from tandem_trainer.progress import Progress, text
from tandem_trainer.ranker_step import HISTORY, RANKER, asked_sources, make_ranker, written_files
from tandem_trainer.search_index import fit_search
from tandem_trainer.slist import fit_slist
from tandem_trainer.split import Split
from tandem_trainer.text_encoder import encoder_sha256
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.train_cold_items import fit_cold_items
from tandem_trainer.train_towers import FittedTowers, fit_towers

INDEX_QUERIES = 500  # users whose vectors measure an index's recall
GOLDENS = 3
FEWEST_ITEMS = 5
FEWEST_EVENTS = 20


class TrainingRun:
    """The state of one run: each step adds files to the staging folder and entries to the manifest.

    learned: a run over the same split that is done. This one is then fitted on all events, for as long as was best
    there, and takes over what can only be learned from events that the models have not seen: merge, ranker, figures.
    """

    catalog: Catalog
    schema: FeatureSchema
    content: NDArray[np.float32]
    als: AlsModel
    towers: FittedTowers

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        split: Split,
        staging: Path,
        progress: Progress,
        learned: TrainingRun | None = None,
    ) -> None:
        self._config = config
        self._split = split
        self._events = split.train if learned is None else dataset.events  # what is fitted on
        self._dataset = with_review_texts(dataset, self._events, config.features.review_chars)
        self._staging = staging
        self._progress = progress
        self._learned = learned
        self._metrics: dict[str, float] = {} if learned is None else dict(learned._metrics)
        self.ranker_fit_core_s = 0.0
        self._ranker_history: list[dict[str, float]] = []
        self._entries: dict[str, Any] = {
            "blends": {},
            "ranker_features": [],
            "ranker_heads": [],
            "ranker_helps": False,
        }

    def fit_tables(self) -> None:
        """Catalogue, schema, popularity, ages and content vectors, all counted on the training cut alone; search."""
        train = self._events
        _check_size(self._dataset, train)
        self.catalog = build_catalog(self._dataset, train, self._config.features.most_codes)
        self.schema = build_schema(self._dataset, train, self.catalog, self._config)
        features = self._config.features
        self.content, words = content_vectors_and_model(
            self._dataset, self.catalog.event_counts, features.content_dims, self._config.seed, features.text_encoder
        )
        self._entries["text_encoder"] = encoder_sha256(features.text_encoder)
        words.save(self._staging / CONTENT_MODEL)
        if features.text_encoder is not None:  # items that come later are encoded with it
            shutil.copyfile(features.text_encoder, self._staging / TEXT_ENCODER)
        self.catalog.save(self._staging / "catalog.npz")
        np.save(self._staging / "content_vectors.npy", self.content)
        self._popularity = self._count_popularity()
        self._popularity.save(self._staging / "popularity.npz")
        times = train["timestamp"].to_numpy(dtype=np.int64)
        np.save(self._staging / "born_ms.npy", born_ms(self.catalog, item_rows(self.catalog, train), times))
        title, body, categories = (self._dataset.items[name].tolist() for name in ("title", "text", "categories"))
        fit_search(title, body, categories, self._config.search).save(self._staging / "search.npz")

    def _count_popularity(self) -> PopularityTables:
        train, settings = self._events, self._config.popularity
        rows, weights = item_rows(self.catalog, train), event_weights(self.schema, train)
        profiles = train[["user_id"]].merge(self._dataset.users, on="user_id", how="left")
        counted = fit_popularity(rows, weights, profiles, self.schema, self.catalog)
        times = train["timestamp"].to_numpy(dtype=np.int64)
        lately = window_tables(rows, weights, times, len(self.catalog), settings)
        rated = train["event_type"].isin(settings.rating_event_types).to_numpy()
        values = train["value"].to_numpy(dtype=np.float64)
        ratings = rating_table(rows[rated], values[rated], len(self.catalog), settings)
        kinds = type_tables(rows, type_codes(self.schema, train), list(self.schema.type_code), len(self.catalog))
        return PopularityTables({**counted.tables, **lately, **ratings, **kinds})

    def fit_als(self) -> None:
        train = self._events
        users, names = pd.factorize(train["user_id"])
        self.als = fit_als(
            users,
            item_rows(self.catalog, train),
            event_weights(self.schema, train),
            len(names),
            len(self.catalog),
            self._config.als,
            self._config.seed,
        )
        np.save(self._staging / "als_factors.npy", self.als.item_factors)

    def fit_item_to_item(self) -> None:
        train = self._events
        next_items = fit_slist(
            pd.factorize(train["user_id"])[0],
            item_rows(self.catalog, train),
            event_weights(self.schema, train),
            len(self.catalog),
            self._config.item_to_item,
        )
        next_items.save(self._staging / "item_to_item.npz")

    def fit_cold_items(self) -> None:
        """What items without events are worth, from their content; nothing where there is too little to learn from."""
        config, train = self._config, self._events
        found = fit_cold_items(
            self._dataset, train, self.catalog, self.schema, self._popularity, config.cold_items, config.seed
        )
        if found is not None:
            model, choice = found
            model.save(self._staging / COLD_ITEMS)
            self._metrics["cold_items_inner_ndcg@20"] = choice.ndcg

    def fit_towers(self) -> None:
        settings, validation = self._tower_settings()
        self.towers = fit_towers(
            make_examples(self._events, self.catalog, self.schema, self._dataset.users),
            item_tower_inputs(self.schema, self.catalog, self.content),
            settings,
            self._config.seed,
            validation,
            lambda part, found: self._progress.advance(part + 1, settings.most_validations, text(found)),
            self._first_item_vectors(),
        )
        if self._learned is None:
            best = self.towers.history[self.towers.best]
            self._metrics |= {f"towers_{name}": value for name, value in best.items()}
        np.save(self._staging / "item_vectors.npy", self.towers.item_vectors)

    def _first_item_vectors(self) -> NDArray[np.float32]:
        """Return float32 [N, F], what a warm start begins with: ALS factors, smoothed over the graph where wanted."""
        if not self._config.graph.layers:
            return self.als.item_factors
        chosen = self._events[event_weights(self.schema, self._events) > 0]
        users, names = pd.factorize(chosen["user_id"])
        rows = item_rows(self.catalog, chosen)
        return smooth_over_graph(self.als.item_factors, users, rows, len(names), self._config.graph.layers)

    def _tower_settings(self) -> tuple[TowerTrainingSettings, Examples | None]:
        """Return how long to train, and what to stop by: nothing where how long is known."""
        settings = self._config.towers
        if self._learned is not None:
            return settings.ending_at(self._learned.towers.best_after), None
        before, after = history_of_validation(self._split), self._split.validation
        if not len(after):
            return settings, None
        both = pd.concat([before, after]).sort_values("timestamp", kind="stable")
        asked = both.index.isin(after.index)
        return settings, make_examples(both, self.catalog, self.schema, self._dataset.users, asked)

    def fit_clusters(self) -> None:
        """Groups of items that lie near each other, hard and soft."""
        settings, seed = self._config.clusters, self._config.seed
        fit_kmeans(self.towers.item_vectors, settings, seed).save(self._staging / "kmeans.npz")
        fit_gmm(self.towers.item_vectors, settings, seed).save(self._staging / "mixture.npz")

    def export_towers(self) -> None:
        """Both towers to ONNX, compared with torch on several shapes before anything goes on."""
        items = item_tower_inputs(self.schema, self.catalog, self.content) | {"item_index": self.towers.item_index}
        some = {name: column[:64] for name, column in items.items()}
        to_onnx(
            self.towers.item_tower,
            some,
            "item_vectors",
            self._staging / "item_tower.onnx",
            {name: {0: "items"} for name in some},
        )
        cold = some | {"item_index": np.zeros_like(some["item_index"])}
        shapes = [some, cold, {name: column[:1] for name, column in some.items()}]
        off = [check_parity(self.towers.item_tower, self._staging / "item_tower.onnx", shapes)]
        users = [golden_user(golden, self.schema) for golden in self._golden_questions()]
        batches = [
            user_tower_inputs(self.schema, part, self.towers.item_vectors) for part in (users, *[[u] for u in users])
        ]
        to_onnx(
            self.towers.user_tower,
            batches[0],
            "user_vectors",
            self._staging / "user_tower.onnx",
            {name: {0: "users", 1: "history"} if name.startswith("history") else {0: "users"} for name in batches[0]},
        )
        off.append(check_parity(self.towers.user_tower, self._staging / "user_tower.onnx", batches))
        self._metrics["onnx_parity"] = max(off)
        self._entries["goldens"] = self._answered(batches[0])

    def build_indexes(self) -> None:
        """Indexes over all kinds of vectors, their recall measured with vectors of validation users."""
        index, seed = self._config.index, self._config.seed
        known = self._validation_queries(INDEX_QUERIES)
        users = [resolve_user(self.schema, self.catalog, query) for query in known.queries]
        tower = self._run_user_tower(user_tower_inputs(self.schema, users, self.towers.item_vectors))
        als = Als(
            ExactIndex(self.als.item_factors),
            self.als.alpha,
            self.als.regularization,
            self._config.features.als_half_life,
        )
        folded = [
            als.fold_in(user.history.rows, user.history.decayed(als.half_life)) for user in users if len(user.history)
        ]
        half_life = self._config.features.content_half_life
        profiles = [content_profile(self.content, user.history, half_life) for user in users]
        contents = [profile for profile in profiles if profile is not None]
        infos = {
            "two_tower": build_index(self.towers.item_vectors, tower, index, self._staging / "two_tower", seed),
            "als": build_index(self.als.item_factors, np.array(folded, np.float32), index, self._staging / "als", seed),
            "content": build_index(
                self.content, np.array(contents, np.float32), index, self._staging / "content", seed
            ),
        }
        self._entries["indexes"] = infos
        for name, info in infos.items():
            self._metrics[f"ann_recall@{RECALL_AT}_{name}"] = info.recall or 0.0

    def fit_blend(self) -> None:
        """Learn to merge what this very bundle's sources find for validation users."""
        bundle = open_parts(self._staging, self._manifest("unfinished", {}), retrieval=True, ranking=False)
        queries = self._validation_queries(self._config.blend.most_requests)
        blends, metrics = learn_blends(
            RetrievalPipeline(bundle), queries, self._merged_sources(), self._config.blend, self._config.seed
        )
        self._entries["blends"] = {
            regime.name.lower(): BlendInfo(top=dict(found.top), pool=dict(found.pool), head=found.head)
            for regime, found in blends.items()
        }
        self._metrics |= metrics

    def fit_ranker(self) -> None:
        """Train on what this very bundle's retrieval returns for validation users."""
        data = self._config.ranker_data
        offline = self._validation_queries(data.most_requests, data.moments)
        made = make_ranker(self._staging, self._manifest("unfinished", {}), offline, self._config, self._progress)
        self.ranker_fit_core_s = made.core_s
        self._ranker_history = made.history
        self._entries |= made.entries
        self._metrics |= made.metrics
        self._metrics["onnx_parity"] = max(self._metrics["onnx_parity"], made.parity)

    def take_over(self) -> None:
        """Take merge and ranker from the run that learned them: they read ranks, levels and scores, no ids."""
        if self._learned is None:
            raise ValueError("no run was given to take them from")
        shutil.copyfile(self._learned._staging / RANKER, self._staging / RANKER)
        for name in ("blends", "ranker_features", "ranker_heads", "ranker_helps"):
            self._entries[name] = self._learned._entries[name]
        self._metrics["onnx_parity"] = max(self._metrics["onnx_parity"], self._learned._metrics["onnx_parity"])

    def finish(self) -> Manifest:
        """Write the manifest, which makes the folder a bundle."""
        self._write_history()
        bundle_id, files = written_files(self._staging)
        manifest = self._manifest(bundle_id, files)
        (self._staging / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1))
        return manifest

    def _write_history(self) -> None:
        """Losses and validation figures by epoch, for curves; nothing reads them to serve."""
        told = self._learned or self
        history = {"towers": told.towers.history, "ranker": told._ranker_history}
        (self._staging / HISTORY).write_text(json.dumps(history, indent=1))

    def _merged_sources(self) -> list[str]:
        """Those whose weights are learned: a quota is for items that the past can say nothing of."""
        plans = self._config.plans.model_dump().values()
        with_quota = {source for plan in plans for source, entry in plan.items() if len(entry) > 2}
        return [source for source in asked_sources(self._config) if source not in with_quota]

    def _validation_queries(self, most: int, moments: int = 1) -> OfflineQueries:
        return validation_queries(
            self._config, self._dataset, self._split, self.schema, self.catalog, most=most, moments=moments
        )

    def _golden_questions(self) -> list[Golden]:
        """Return a user with a long history, one with a short one, and one with none; expected is still empty."""
        popular = np.argsort(-self.catalog.event_counts, kind="stable")[: self.schema.history_length].tolist()
        profile = {name: vocabulary[0] for name, vocabulary in self.schema.user_attributes.items() if vocabulary}
        context = {name: vocabulary[0] for name, vocabulary in self.schema.request_context.items()}
        last = int(self._events["timestamp"].max())
        histories = [popular, popular[:2], []][:GOLDENS]
        return [
            Golden(history=history, user_attributes=profile, context=context, now_ms=last, expected=[])
            for history in histories
        ]

    def _answered(self, inputs: dict[str, NDArray[Any]]) -> list[Golden]:
        vectors = self._run_user_tower(inputs)
        questions = self._golden_questions()
        return [q.model_copy(update={"expected": v.tolist()}) for q, v in zip(questions, vectors, strict=True)]

    @torch.no_grad()
    def _run_user_tower(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        vectors = self.towers.user_tower(*(torch.from_numpy(column) for column in inputs.values()))
        return np.asarray(vectors.numpy(), np.float32)

    def _manifest(self, bundle_id: str, files: dict[str, FileEntry]) -> Manifest:
        plans: dict[str, dict[str, Plan]] = self._config.plans.model_dump()
        return Manifest(
            format=FORMAT,
            bundle_id=bundle_id,
            created_ms=time.time_ns() // 1_000_000,
            data=data_info(self._dataset, self._events),
            split=SplitInfo(
                protocol=self._config.split.protocol,
                seed=self._config.seed,
                detail=self._split.detail,
                refit=self._learned is not None,
            ),
            config=self._config.model_dump(mode="json"),
            schema_digest=self.schema.digest(),
            features=self.schema,
            ranker_features=self._entries["ranker_features"],
            ranker_heads=self._entries["ranker_heads"],
            ranker_helps=self._entries["ranker_helps"],
            text_encoder=self._entries["text_encoder"],
            indexes=self._entries["indexes"],
            als=AlsInfo(
                alpha=self.als.alpha,
                regularization=self.als.regularization,
                half_life=self._config.features.als_half_life,
            ),
            item_to_item=HalfLife(half_life=self._config.item_to_item.serving_half_life),
            content_neighbours=HalfLife(half_life=self._config.features.content_half_life),
            fresh=FreshInfo(max_age_days=self._config.features.fresh_days),
            search=SearchInfo(**self._config.search.model_dump()),
            plans={
                regime: [
                    PlanEntry(source=source, limit=limit, weight=weight, quota=sum(quota))
                    for source, (limit, weight, *quota) in plan.items()
                ]
                for regime, plan in plans.items()
            },
            blends=self._entries["blends"],
            goldens=self._entries["goldens"],
            metrics=self._metrics,
            files=files,
        )


def _check_size(dataset: Dataset, train: pd.DataFrame) -> None:
    """Raise ValueError where there is so little that nothing can be learned from it."""
    items, events = train["item_id"].nunique(), len(train)
    if items < FEWEST_ITEMS or events < FEWEST_EVENTS:
        raise ValueError(
            f"{dataset.name}: the training part has {events} events on {items} items; at least {FEWEST_EVENTS} events "
            f"on {FEWEST_ITEMS} items are needed. Give more data, or lower data.min_item_events, data.min_user_events"
        )
