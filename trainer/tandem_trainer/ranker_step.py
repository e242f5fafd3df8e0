"""The ranker of a bundle, trained on what that bundle's retrieval returns; also anew, all other files kept."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tandem_core.bundle import open_parts
from tandem_core.catalog import Catalog
from tandem_core.manifest import (
    MANIFEST_NAME,
    UNCERTAINTY,
    Manifest,
    RankerHead,
    read_manifest,
)
from tandem_core.ranker_features import feature_names
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer.bundle_manifest import file_entries, new_bundle_id
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.export import check_parity, to_onnx
from tandem_trainer.inputs import validation_queries
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.progress import Progress
from tandem_trainer.ranker_examples import as_entries, find_heads, ranker_examples
from tandem_trainer.split import Split
from tandem_trainer.train_ranker import train_ranker

RANKER, HISTORY = "ranker.onnx", "history.json"
BASE_RATE = "ranker_base_rate:"  # of a head, in a bundle's metrics
RANKER_SETTINGS = ("ranker", "ranker_data")  # of the configuration: all that a new ranker may differ in


@dataclass(frozen=True, slots=True)
class MadeRanker:
    """entries: of the manifest. history: metrics by epoch. core_s: of the fit alone. parity: largest difference between
    torch and ONNX.
    """

    entries: dict[str, Any]
    metrics: dict[str, float]
    history: list[dict[str, float]]
    core_s: float
    parity: float


def make_ranker(
    folder: Path, manifest: Manifest, offline: OfflineQueries, config: TrainConfig, progress: Progress
) -> MadeRanker:
    """Train on candidates of the bundle in `folder`, and write ranker.onnx there. manifest: need not be complete."""
    bundle = open_parts(folder, manifest, retrieval=True, ranking=False)
    heads = find_heads(config.ranker_data, bundle.schema, offline, config.popularity.rating_event_types)
    sources = [source for source in config.plans.learned_sources() if source in bundle.sources]
    names = feature_names(bundle.schema, sources, bundle.ranker_tables.names, config.ranker.attention)
    examples = ranker_examples(
        RetrievalPipeline(bundle), offline, names, heads, config.ranker_data, config.seed, progress
    )
    started = time.process_time()
    fitted, metrics = train_ranker(
        examples, names, heads, config.ranker, config.ranker_data.source_dropout, config.seed, progress
    )
    core_s = time.process_time() - started
    for k, head in enumerate(heads):
        if not head.value:  # how often it happens among all candidates: what a predictor that knows nothing would say
            metrics[BASE_RATE + head.name] = float(np.average(examples.heads[:, k], weights=examples.weights))
    path = folder / RANKER
    shapes = [{"features": examples.features[:n]} for n in (1, 7, 500)]
    to_onnx(fitted.model, shapes[-1], "answers", path, {"features": {0: "candidates"}})
    entries = {
        "ranker_features": names,
        "ranker_heads": [*as_entries(heads), RankerHead(name=UNCERTAINTY, value=True)],
        "ranker_helps": metrics["ranker_gain_low"] > 0,
    }
    return MadeRanker(entries, metrics, fitted.history, core_s, check_parity(fitted.model, path, shapes))


def differs_in_ranker_alone(manifest: Manifest, config: TrainConfig) -> bool:
    """Tell whether a bundle was made with these settings but for the ranker's."""
    mine, theirs = (dict(each) for each in (config.model_dump(mode="json"), manifest.config))
    for settings in (mine, theirs):
        for name in RANKER_SETTINGS:
            settings.pop(name, None)
    return mine == theirs


def with_ranker_anew(
    bundle_id: str, registry: Registry, config: TrainConfig, dataset: Dataset, split: Split, progress: Progress
) -> str:
    """Publish and activate a copy of a bundle with a ranker trained by `config`; return its id.

    config: differs from the bundle's in the ranker alone. split: the one the bundle was trained on.
    """
    source = registry.path_of(bundle_id)
    manifest = read_manifest(source)
    staging = registry.new_staging("ranker")
    try:
        for name in manifest.files:
            if name != RANKER:
                shutil.copy2(source / name, staging / name)
        catalog = Catalog.load(staging / "catalog.npz")
        data = config.ranker_data
        offline = validation_queries(
            config, dataset, split, manifest.features, catalog, most=data.most_requests, moments=data.moments
        )
        with progress.step("ranker"):
            made = make_ranker(staging, manifest, offline, config, progress)
        history = json.loads((staging / HISTORY).read_text()) | {"ranker": made.history}
        (staging / HISTORY).write_text(json.dumps(history, indent=1))
        files = file_entries(staging)
        new_id = new_bundle_id(files)
        parity = max(manifest.metrics["onnx_parity"], made.parity)
        changes = {
            "bundle_id": new_id,
            "created_ms": time.time_ns() // 1_000_000,
            "config": config.model_dump(mode="json"),
            "metrics": manifest.metrics | made.metrics | {"onnx_parity": parity},
            "files": files,
        }
        written = manifest.model_copy(update=changes | made.entries)
        (staging / MANIFEST_NAME).write_text(written.model_dump_json(indent=1))
        registry.publish(staging, new_id)
    except BaseException:  # whatever it was, Ctrl-C too: nothing half-written stays behind; the error goes on
        shutil.rmtree(staging, ignore_errors=True)
        raise
    registry.activate(new_id)
    return new_id
