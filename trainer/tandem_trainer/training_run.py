"""The steps of a training run: each fits one thing, writes its files and adds its entries to the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.bundle import COLD_ITEMS, golden_user, open_parts
from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, item_tower_inputs, resolve_user
from tandem_core.index.exact import ExactIndex
from tandem_core.live.encoder import CONTENT_MODEL, TEXT_ENCODER
from tandem_core.manifest import MANIFEST_NAME, BlendInfo, FileEntry, Manifest, SplitInfo
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.sources.als import Als
from tandem_trainer.als import AlsModel, fit_als
from tandem_trainer.bundle_manifest import file_entries, new_bundle_id, new_manifest
from tandem_trainer.clusters import fit_gmm, fit_kmeans
from tandem_trainer.config import TrainConfig
from tandem_trainer.content import content_vectors_and_model
from tandem_trainer.count_popularity import count_popularity
from tandem_trainer.data import Dataset
from tandem_trainer.data.review_texts import with_review_texts
from tandem_trainer.examples import Examples, make_examples
from tandem_trainer.export_towers import encode_users, export_item_tower, export_user_tower, golden_questions
from tandem_trainer.fit_blend import learn_blends
from tandem_trainer.freshness import born_ms
from tandem_trainer.graph import smooth_over_graph
from tandem_trainer.index_queries import index_queries
from tandem_trainer.indexes import RECALL_AT, build_index
from tandem_trainer.inputs import check_size, data_info, validation_examples, validation_queries
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.prepare import build_catalog, build_schema, event_weights, item_rows
from tandem_trainer.progress import Progress, text
from tandem_trainer.ranker_step import HISTORY, RANKER, make_ranker
from tandem_trainer.search_index import fit_search
from tandem_trainer.slist import fit_slist
from tandem_trainer.split import Split
from tandem_trainer.text_encoder import encoder_sha256
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.train_cold_items import fit_cold_items
from tandem_trainer.train_towers import FittedTowers, fit_towers

INDEX_QUERIES = 500  # users whose vectors measure an index's recall


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
        check_size(self._dataset, train)
        self.catalog = build_catalog(self._dataset, train, self._config.features.most_codes)
        validated = None if self._learned is None else self._learned.schema
        self.schema = build_schema(self._dataset, train, self.catalog, self._config, validated)
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
        self._popularity = count_popularity(
            train, self._dataset.users, self.schema, self.catalog, self._config.popularity
        )
        self._popularity.save(self._staging / "popularity.npz")
        times = train["timestamp"].to_numpy(dtype=np.int64)
        np.save(self._staging / "born_ms.npy", born_ms(self.catalog, item_rows(self.catalog, train), times))
        title, body, categories = (self._dataset.items[name].tolist() for name in ("title", "text", "categories"))
        fit_search(title, body, categories, self._config.search).save(self._staging / "search.npz")

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
        if not len(self._split.validation):
            return settings, None
        return settings, validation_examples(self._dataset, self._split, self.schema, self.catalog)

    def fit_clusters(self) -> None:
        """Groups of items that lie near each other, hard and soft."""
        settings, seed = self._config.clusters, self._config.seed
        fit_kmeans(self.towers.item_vectors, settings, seed).save(self._staging / "kmeans.npz")
        fit_gmm(self.towers.item_vectors, settings, seed).save(self._staging / "mixture.npz")

    def export_towers(self) -> None:
        """Both towers to ONNX, compared with torch on several shapes before anything goes on."""
        towers, folder = self.towers, self._staging
        items = item_tower_inputs(self.schema, self.catalog, self.content) | {"item_index": towers.item_index}
        questions = golden_questions(self.schema, self.catalog, int(self._events["timestamp"].max()))
        users = [golden_user(question, self.schema) for question in questions]
        self._metrics["onnx_parity"] = max(
            export_item_tower(towers.item_tower, items, folder / "item_tower.onnx"),
            export_user_tower(towers.user_tower, users, self.schema, towers.item_vectors, folder / "user_tower.onnx"),
        )
        answers = encode_users(towers.user_tower, users, self.schema, towers.item_vectors).tolist()
        self._entries["goldens"] = [
            question.model_copy(update={"expected": answer})
            for question, answer in zip(questions, answers, strict=True)
        ]

    def build_indexes(self) -> None:
        """Indexes over all kinds of vectors, their recall measured with vectors of validation users."""
        config, schema, als = self._config, self.schema, self.als
        vectors = {"two_tower": self.towers.item_vectors, "als": als.item_factors, "content": self.content}
        known = self._validation_queries(INDEX_QUERIES)
        users = [resolve_user(schema, self.catalog, query) for query in known.queries]
        queries = index_queries(
            users,
            encode_users(self.towers.user_tower, users, schema, self.towers.item_vectors),
            Als(ExactIndex(als.item_factors), als.alpha, als.regularization, config.features.als_half_life),
            self.content,
            config.features.content_half_life,
        )
        self._entries["indexes"] = infos = {
            name: build_index(vectors[name], queries[name], config.index, self._staging / name, config.seed)
            for name in vectors
        }
        self._metrics |= {f"ann_recall@{RECALL_AT}_{name}": info.recall or 0.0 for name, info in infos.items()}

    def fit_blend(self) -> None:
        """Learn to merge what this very bundle's sources find for validation users."""
        config = self._config
        bundle = open_parts(self._staging, self._manifest("unfinished", {}), retrieval=True, ranking=False)
        queries = self._validation_queries(config.blend.most_requests)
        blends, metrics = learn_blends(
            RetrievalPipeline(bundle), queries, config.plans.merged_sources(), config.blend, config.seed
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
        files = file_entries(self._staging)
        manifest = self._manifest(new_bundle_id(files), files)
        (self._staging / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1))
        return manifest

    def _write_history(self) -> None:
        """Losses and validation figures by epoch, for curves; nothing reads them to serve."""
        told = self._learned or self
        history = {"towers": told.towers.history, "ranker": told._ranker_history}
        (self._staging / HISTORY).write_text(json.dumps(history, indent=1))

    def _validation_queries(self, most: int, moments: int = 1) -> OfflineQueries:
        return validation_queries(
            self._config, self._dataset, self._split, self.schema, self.catalog, most=most, moments=moments
        )

    def _manifest(self, bundle_id: str, files: dict[str, FileEntry]) -> Manifest:
        split = SplitInfo(
            protocol=self._config.split.protocol,
            seed=self._config.seed,
            detail=self._split.detail,
            refit=self._learned is not None,
        )
        data = data_info(self._dataset, self._events)
        return new_manifest(bundle_id, files, self._config, data, split, self.schema, self._entries, self._metrics)
