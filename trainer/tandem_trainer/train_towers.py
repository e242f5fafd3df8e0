"""Fit both towers on next-event prediction: each pair by itself, then all joined to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem_trainer.examples import Examples
from tandem_trainer.tower_pair import new_tower_pair
from tandem_trainer.tower_run import TowerRun
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.tower_validation import Metrics, found_shares, user_vectors, validation_indices
from tandem_trainer.towers import ItemTower, JoinedItemTowers, JoinedUserTowers, UserTower


@dataclass(frozen=True, slots=True)
class FittedTowers:
    """Towers of the best validation. item_vectors: float32 [N, D], unit length. item_index: int64 [N], what the id
    embedding was given (0 for items without a training event). history: metrics by validation; of several pairs those
    of each, and in the end of all together. best: from 0. best_after: 0..1, share of the training after which the best
    state was reached, of several pairs the mean. examples_per_second: events predicted per second of processor time,
    validation left out. loading_share: 0..1, of that time, what went into gathering batches.
    """

    item_tower: ItemTower | JoinedItemTowers
    user_tower: UserTower | JoinedUserTowers
    item_vectors: NDArray[np.float32]
    item_index: NDArray[np.int64]
    history: list[Metrics]
    best: int
    best_after: float
    examples_per_second: float
    loading_share: float


def fit_towers(
    examples: Examples,
    item_inputs: Mapping[str, NDArray[Any]],
    settings: TowerTrainingSettings,
    seed: int,
    validation: Examples | None = None,
    progress: Callable[[int, Metrics], None] | None = None,
    factors: NDArray[np.float32] | None = None,
) -> FittedTowers:
    """Train on `examples`, stop when recall@100 on `validation` no longer grows, and return the best state.

    item_inputs: as `tandem_core.features.item_tower_inputs` gives them. validation: examples whose histories may hold
    training events; without them training runs to its end and the last state is kept. progress: called with the number
    of a validation, from 0 and over all pairs, and its metrics. factors: float32 [N, F], of another model of the same
    events, which the id embeddings begin as where `warm_start` is on; None: they begin at random. Pairs are trained one
    after another, each from a seed of its own, and joined. The same seed gives the same bits on the same machine with
    the same number of threads.
    """
    if not len(examples):
        raise ValueError("no positive events to train the towers on")
    if settings.joint_dim != examples.schema.vector_dim:
        raise ValueError(
            f"vector_dim of the towers is {settings.joint_dim} for all pairs together, of the schema "
            f"{examples.schema.vector_dim}"
        )
    fits = []
    for i in range(len(settings.pairs)):
        told = None if progress is None else partial(_told_after, progress, i * settings.validations)
        own = settings.of_pair(i)
        fits.append(_fit_pair(examples, item_inputs, own, seed + i, validation, told, factors))
    return fits[0] if len(fits) == 1 else _joined(fits, settings, validation, seed)


def _told_after(progress: Callable[[int, Metrics], None], before: int, part: int, metrics: Metrics) -> None:
    progress(before + part, metrics)


def _fit_pair(
    examples: Examples,
    item_inputs: Mapping[str, NDArray[Any]],
    settings: TowerTrainingSettings,
    seed: int,
    validation: Examples | None,
    progress: Callable[[int, Metrics], None] | None,
    factors: NDArray[np.float32] | None,
) -> FittedTowers:
    rng = np.random.default_rng(seed)
    counts = examples.target_counts()
    item_index = np.where(counts > 0, np.arange(1, len(counts) + 1), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = new_tower_pair(settings.towers, examples.schema, item_index, item_inputs)
        if settings.warm_start and factors is not None:
            towers.begin_as(factors)
        run = TowerRun(towers, examples, settings, rng, counts)
        history, best = run.train(validation, progress)
    towers.train(False)
    vectors = towers.all_item_vectors().numpy()
    after = (best + 1) / settings.validations
    speed = (run.examples_per_second, run.loading_share)
    return FittedTowers(towers.item, towers.user, vectors, item_index, history, best, after, *speed)


def _joined(
    fits: Sequence[FittedTowers], settings: TowerTrainingSettings, validation: Examples | None, seed: int
) -> FittedTowers:
    """Return pairs as one, and what they find together."""
    item = JoinedItemTowers([fit.item_tower for fit in fits]).eval()
    user = JoinedUserTowers([fit.user_tower for fit in fits]).eval()
    vectors = (np.concatenate([fit.item_vectors for fit in fits], axis=1) / len(fits) ** 0.5).astype(np.float32)
    together = {"loss": float(np.mean([fit.history[fit.best]["loss"] for fit in fits]))}
    held_out = validation_indices(validation, settings.validation_examples, np.random.default_rng(seed))
    if validation is not None and len(held_out):
        items = torch.from_numpy(vectors)
        together |= found_shares(items, validation, held_out, lambda batch: user_vectors(user, batch, items))
    history = [*(metrics for fit in fits for metrics in fit.history), together]
    mean = partial(_mean_of, fits)
    return FittedTowers(
        item_tower=item,
        user_tower=user,
        item_vectors=vectors,
        item_index=fits[0].item_index,
        history=history,
        best=len(history) - 1,
        best_after=mean("best_after"),
        examples_per_second=mean("examples_per_second"),
        loading_share=mean("loading_share"),
    )


def _mean_of(fits: Sequence[FittedTowers], name: str) -> float:
    return float(np.mean([getattr(fit, name) for fit in fits]))
