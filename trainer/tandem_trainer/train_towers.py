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
from tandem_trainer.losses import LossSettings
from tandem_trainer.tower_pair import new_tower_pair
from tandem_trainer.tower_run import TowerRun
from tandem_trainer.tower_teacher import Teacher
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
    fits: list[FittedTowers] = []
    for i, pair in enumerate(settings.pairs):
        told = None if progress is None else partial(_told_after, progress, i * settings.validations)
        own = settings.of_pair(i)
        teacher = _teacher(fits, own) if pair.taught else None
        fits.append(_fit_pair(examples, item_inputs, own, seed + i, validation, told, factors, teacher))
    return fits[0] if len(fits) == 1 else _served(fits, settings, validation, seed)


def _teacher(fits: Sequence[FittedTowers], settings: TowerTrainingSettings) -> Teacher:
    """Return what all pairs so far say together."""
    temperature = (settings.loss or LossSettings()).temperature
    return Teacher(_joined_users(fits), torch.from_numpy(_side_by_side(fits)), temperature, settings.pairs[0].taught)


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
    teacher: Teacher | None,
) -> FittedTowers:
    rng = np.random.default_rng(seed)
    counts = examples.target_counts()
    item_index = np.where(counts > 0, np.arange(1, len(counts) + 1), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = new_tower_pair(settings.towers, examples.schema, item_index, item_inputs)
        if settings.warm_start and factors is not None:
            towers.begin_as(factors)
        run = TowerRun(towers, examples, settings, rng, counts, teacher)
        history, best = run.train(validation, progress)
    towers.train(False)
    vectors = towers.all_item_vectors().numpy()
    after = (best + 1) / settings.validations
    speed = (run.examples_per_second, run.loading_share)
    return FittedTowers(towers.item, towers.user, vectors, item_index, history, best, after, *speed)


def _served(
    fits: Sequence[FittedTowers], settings: TowerTrainingSettings, validation: Examples | None, seed: int
) -> FittedTowers:
    """Return the pairs that serve as one, with the history of all and, of several, what they find together."""
    serving = [fit for fit, pair in zip(fits, settings.pairs, strict=True) if pair.serves]
    history = [metrics for fit in fits for metrics in fit.history]
    mean = partial(_mean_of, fits)
    best = len(history) - len(fits[-1].history) + fits[-1].best
    if len(serving) > 1:
        history.append(_found_together(serving, settings, validation, seed))
        best = len(history) - 1
    one, alone = serving[0], len(serving) == 1
    return FittedTowers(
        item_tower=one.item_tower if alone else JoinedItemTowers([fit.item_tower for fit in serving]).eval(),
        user_tower=one.user_tower if alone else _joined_users(serving),
        item_vectors=_side_by_side(serving),
        item_index=one.item_index,
        history=history,
        best=best,
        best_after=mean("best_after"),
        examples_per_second=mean("examples_per_second"),
        loading_share=mean("loading_share"),
    )


def _found_together(
    fits: Sequence[FittedTowers], settings: TowerTrainingSettings, validation: Examples | None, seed: int
) -> Metrics:
    together = {"loss": float(np.mean([fit.history[fit.best]["loss"] for fit in fits]))}
    held_out = validation_indices(validation, settings.validation_examples, np.random.default_rng(seed))
    if validation is not None and len(held_out):
        user, items = _joined_users(fits), torch.from_numpy(_side_by_side(fits))
        together |= found_shares(items, validation, held_out, lambda batch: user_vectors(user, batch, items))
    return together


def _joined_users(fits: Sequence[FittedTowers]) -> JoinedUserTowers:
    return JoinedUserTowers([fit.user_tower for fit in fits]).eval()


def _side_by_side(fits: Sequence[FittedTowers]) -> NDArray[np.float32]:
    """Return the item vectors of pairs as one, float32 [N, k * D], unit length."""
    joint = np.concatenate([fit.item_vectors for fit in fits], axis=1) / len(fits) ** 0.5
    return np.asarray(joint, np.float32)


def _mean_of(fits: Sequence[FittedTowers], name: str) -> float:
    return float(np.mean([getattr(fit, name) for fit in fits]))
