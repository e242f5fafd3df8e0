"""One training run, from tables to an active bundle; read top to bottom."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

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

    With `refit` the bundle is fitted once more on all events before; merge, ranker and figures stay those of the cut.
    One that is far worse than the current bundle is published, but not activated: see `quality_gate`.
    A run that dies leaves staging folders behind, which the next run removes; no half bundle is ever visible.
    """
    torch.set_num_threads(config.threads)
    with progress.step("split"):
        split = split_data(config, dataset)
    with ExitStack() as made:  # whatever happens, Ctrl-C too: nothing half-written stays behind
        staging = _staging(registry, "train", made)
        run = TrainingRun(config, dataset, split, staging, progress)
        _fit_models(run, progress)
        _learn_from_unseen(run, progress)
        last = run
        if config.refit:
            staging = _staging(registry, "refit", made)
            last = TrainingRun(config, dataset, split, staging, progress, learned=run)
            _fit_models(last, progress, "again on all events: ")
            last.take_over()
        with progress.step("manifest"):
            manifest = last.finish()
        with progress.step("publish"):
            registry.publish(staging, manifest.bundle_id)
            if not (why := held_back(manifest, registry, config.largest_drop)):
                registry.activate(manifest.bundle_id)
            registry.retain(config.keep_bundles)
    return Trained(manifest.bundle_id, manifest, dataset, split, progress.seconds, _costs(run), why)


def _staging(registry: Registry, purpose: str, made: ExitStack) -> Path:
    """Return a folder that is gone at the end, unless it was published."""
    staging = registry.new_staging(purpose)
    made.callback(shutil.rmtree, staging, ignore_errors=True)
    return staging


def _fit_models(run: TrainingRun, progress: Progress, again: str = "") -> None:
    """Run the steps in order; each builds on the files of those before."""
    with progress.step(f"{again}popularity and content"):
        run.fit_tables()
    with progress.step(f"{again}ALS"):
        run.fit_als()
    with progress.step(f"{again}item to item"):
        run.fit_item_to_item()
    with progress.step(f"{again}cold items"):
        run.fit_cold_items()
    with progress.step(f"{again}two towers"):
        run.fit_towers()
    with progress.step(f"{again}clusters"):
        run.fit_clusters()
    with progress.step(f"{again}export"):
        run.export_towers()
    with progress.step(f"{again}index"):
        run.build_indexes()


def _learn_from_unseen(run: TrainingRun, progress: Progress) -> None:
    """What is learned from how the models do on events that they have not seen."""
    with progress.step("merge"):
        run.fit_blend()
    with progress.step("ranker"):
        run.fit_ranker()


def _costs(run: TrainingRun) -> dict[str, float]:
    return {
        "events_per_second": run.towers.examples_per_second,
        "loading_share": run.towers.loading_share,
        "memory_peak_mb": memory_peak_mb(),
        "ranker_fit_core_s": run.ranker_fit_core_s,
    }
