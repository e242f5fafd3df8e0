"""One training run, from tables to an active bundle; read top to bottom."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import torch

from tandem_core.manifest import Manifest
from tandem_core.registry import Registry
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.inputs import split_data
from tandem_trainer.memory import memory_peak_mb
from tandem_trainer.progress import Progress
from tandem_trainer.quality_gate import held_back
from tandem_trainer.split import Split
from tandem_trainer.training_run import TrainingRun


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run made: the published bundle, the data it was cut from, seconds by step.

    costs: events_per_second of the towers, loading_share (0..1) of their time, memory_peak_mb of the process.
    held_back: why the bundle was published and not activated, "" where it is active.
    """

    bundle_id: str
    manifest: Manifest
    dataset: Dataset
    split: Split
    seconds: dict[str, float]
    costs: dict[str, float]
    held_back: str = ""


def train(config: TrainConfig, dataset: Dataset, registry: Registry, progress: Progress) -> Trained:
    """Fit everything on the training cut, write a bundle, check it, publish and activate it.

    One that is far worse than the current bundle is published, but not activated: see `quality_gate`.
    A run that dies leaves a staging folder behind, which the next run removes; no half bundle is ever visible.
    """
    torch.set_num_threads(config.threads)
    with progress.step("split"):
        split = split_data(config, dataset)
    staging = registry.new_staging("train")
    try:
        run = TrainingRun(config, dataset, split, staging, progress)
        manifest = _fit(run, progress)
        with progress.step("publish"):
            registry.publish(staging, manifest.bundle_id)
            if not (why := held_back(manifest, registry, config.largest_drop)):
                registry.activate(manifest.bundle_id)
            registry.retain(config.keep_bundles)
    except BaseException:  # whatever it was, Ctrl-C too: nothing half-written stays behind; the error goes on
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Trained(manifest.bundle_id, manifest, dataset, split, progress.seconds, _costs(run), why)


def _fit(run: TrainingRun, progress: Progress) -> Manifest:
    """Run the steps in order; each builds on the files of those before."""
    with progress.step("popularity and content"):
        run.fit_tables()
    with progress.step("ALS"):
        run.fit_als()
    with progress.step("item to item"):
        run.fit_item_to_item()
    with progress.step("cold items"):
        run.fit_cold_items()
    with progress.step("two towers"):
        run.fit_towers()
    with progress.step("clusters"):
        run.fit_clusters()
    with progress.step("export"):
        run.export_towers()
    with progress.step("index"):
        run.build_indexes()
    with progress.step("merge"):
        run.fit_blend()
    with progress.step("ranker"):
        run.fit_ranker()
    with progress.step("manifest"):
        return run.finish()


def _costs(run: TrainingRun) -> dict[str, float]:
    return {
        "events_per_second": run.towers.examples_per_second,
        "loading_share": run.towers.loading_share,
        "memory_peak_mb": memory_peak_mb(),
        "ranker_fit_core_s": run.ranker_fit_core_s,
    }
