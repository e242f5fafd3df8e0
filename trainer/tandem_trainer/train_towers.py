"""Fit both towers on next-event prediction; read top to bottom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from tandem_core.features import FeatureSchema
from tandem_trainer.examples import Batch, Examples
from tandem_trainer.losses import SMALLEST_BATCH, MixedNegatives, in_batch_softmax_loss
from tandem_trainer.towers import ItemTower, TowerSettings, UserTower

log = logging.getLogger(__name__)

Metrics = dict[str, float]


class TowerTrainingSettings(BaseModel):
    """How the towers are trained; what breaks a rule of two-tower training is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    towers: TowerSettings = TowerSettings()
    batch_size: int = Field(default=512, ge=1)  # smaller data gets one batch of all of it
    # Per step, of the items seen in training: the tail is hardly ever in a batch.
    uniform_negatives: int = Field(default=512, ge=0)
    epochs: int = Field(default=8, ge=1)
    examples_per_epoch: int = Field(default=200_000, ge=1)  # an epoch ends there, so that validation comes often enough
    patience: int = Field(default=3, ge=1)  # epochs without a better validation before stopping
    learning_rate: float = Field(default=3e-3, gt=0)  # falls to a tenth over the epochs
    weight_decay: float = Field(default=1e-4, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    log_q: bool = True
    validation_examples: int = Field(default=5_000, ge=1)  # drawn from those given

    @model_validator(mode="after")
    def _rules(self) -> TowerTrainingSettings:
        if not self.towers.l2_normalise:
            raise ValueError("l2_normalise must be on: temperature and the index assume unit vectors")
        if not self.log_q:
            raise ValueError("log_q must be on: without it in-batch negatives push popular items down")
        if self.batch_size < SMALLEST_BATCH:
            raise ValueError(
                f"batch_size is {self.batch_size}, must be at least {SMALLEST_BATCH}: the batch is the negatives"
            )
        return self


@dataclass(frozen=True, slots=True)
class FittedTowers:
    """Towers of the best epoch. item_vectors: float32 [N, D], unit length. item_index: int64 [N], what the id
    embedding was given (0 for items without a training event). history: metrics by epoch. best_epoch: from 0.
    """

    item_tower: ItemTower
    user_tower: UserTower
    item_vectors: NDArray[np.float32]
    item_index: NDArray[np.int64]
    history: list[Metrics]
    best_epoch: int


@dataclass(frozen=True, slots=True)
class _Towers:
    """Both towers with the items' inputs: content float [N, T], numbers float [N, M], codes int64 [N, C] each."""

    item: ItemTower
    user: UserTower
    item_inputs: tuple[Tensor, ...]

    def item_vectors(self, rows: Tensor) -> Tensor:
        """Return float [n, D] for catalogue rows int64 [n]."""
        vectors: Tensor = self.item(*(column[rows] for column in self.item_inputs))
        return vectors

    def user_vectors(self, batch: Batch, history_vectors: Tensor) -> Tensor:
        """Return float [B, D]; history_vectors: float [B, H, D]."""
        columns = (batch.history_mask, batch.history_types, batch.history_ages, batch.user_attributes, batch.context)
        vectors: Tensor = self.user(history_vectors, *(torch.from_numpy(column) for column in columns))
        return vectors

    def train(self, on: bool) -> None:
        self.item.train(on)
        self.user.train(on)

    @torch.no_grad()
    def all_item_vectors(self, chunk: int = 16_384) -> Tensor:
        """Return float [N, D]."""
        rows = torch.arange(len(self.item_inputs[0]))
        return torch.cat([self.item_vectors(part) for part in torch.split(rows, chunk)])


def fit_towers(
    examples: Examples,
    item_inputs: Mapping[str, NDArray[Any]],
    settings: TowerTrainingSettings,
    seed: int,
    validation: Examples | None = None,
    progress: Callable[[int, Metrics], None] | None = None,
) -> FittedTowers:
    """Train on `examples`, stop when recall@100 on `validation` no longer grows, and return the best epoch.

    item_inputs: as `tandem_core.features.item_tower_inputs` gives them. validation: examples whose histories may hold
    training events; without them all epochs run and the last is kept. progress: called with epoch and its metrics.
    The same seed gives the same bits on the same machine with the same number of threads.
    """
    if not len(examples):
        raise ValueError("no positive events to train the towers on")
    if settings.towers.vector_dim != examples.schema.vector_dim:
        raise ValueError(
            f"vector_dim of the towers is {settings.towers.vector_dim}, of the schema {examples.schema.vector_dim}"
        )
    rng = np.random.default_rng(seed)
    counts = examples.target_counts()
    item_index = np.where(counts > 0, np.arange(1, len(counts) + 1), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = _new_towers(settings.towers, examples.schema, item_index, item_inputs)
        sampler = MixedNegatives(counts, min(settings.batch_size, len(examples)), settings.uniform_negatives, rng)
        optimizer = torch.optim.AdamW(_parameter_groups(towers, settings), lr=settings.learning_rate)
        history, best_epoch = _run(towers, examples, settings, rng, sampler, optimizer, validation, progress)
    towers.train(False)
    vectors = towers.all_item_vectors().numpy()
    return FittedTowers(towers.item, towers.user, vectors, item_index, history, best_epoch)


def _run(
    towers: _Towers,
    examples: Examples,
    settings: TowerTrainingSettings,
    rng: np.random.Generator,
    sampler: MixedNegatives,
    optimizer: torch.optim.Optimizer,
    validation: Examples | None,
    progress: Callable[[int, Metrics], None] | None,
) -> tuple[list[Metrics], int]:
    """Run the epochs and leave the best one's weights in the towers."""
    held_out = _validation_indices(validation, settings, rng)
    stream = _Shuffled(len(examples), rng)
    steps = max(1, min(settings.examples_per_epoch, len(examples)) // sampler.batch_size)
    history: list[Metrics] = []
    best, best_epoch, best_weights = -1.0, 0, _weights(towers)
    # Falling to a tenth over all epochs: most of what more epochs would bring, sooner.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=settings.epochs * steps)
    for epoch in range(settings.epochs):
        towers.train(True)
        losses = [
            _step(towers, examples.batch(stream.take(sampler.batch_size)), sampler, settings, optimizer, schedule)
            for _ in range(steps)
        ]
        metrics = {"loss": float(np.mean(losses))}
        if validation is not None and len(held_out):
            towers.train(False)
            metrics |= _evaluate(towers, validation, held_out)
        history.append(metrics)
        if progress is not None:
            progress(epoch, metrics)
        # Without validation every epoch counts as better than the one before.
        if (score := metrics.get("recall@100", float(epoch))) > best:
            best, best_epoch, best_weights = score, epoch, _weights(towers)
        elif epoch - best_epoch >= settings.patience:
            break
    towers.item.load_state_dict(best_weights[0])
    towers.user.load_state_dict(best_weights[1])
    return history, best_epoch


def _step(
    towers: _Towers,
    batch: Batch,
    sampler: MixedNegatives,
    settings: TowerTrainingSettings,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Take one gradient step and return its loss; each item of the batch goes through the item tower once."""
    extra = sampler.draw()
    rows = np.concatenate([batch.target_rows, extra, batch.history_rows.ravel()])
    unique, place = torch.unique(torch.from_numpy(rows), return_inverse=True)
    vectors = towers.item_vectors(unique)  # [n, D]
    targets, negatives, history = place.split([len(batch), len(extra), batch.history_rows.size])
    # F.embedding and not indexing: its gradient adds up in a fixed order, and faster.
    history_vectors = F.embedding(history.view(batch.history_rows.shape), vectors)
    log_q = sampler.log_q
    loss = in_batch_softmax_loss(
        query=towers.user_vectors(batch, history_vectors),
        item=F.embedding(targets, vectors),
        log_q=log_q[batch.target_rows],
        item_id=torch.from_numpy(batch.target_rows),
        temperature=settings.temperature,
        weight=torch.from_numpy(batch.weights),
        extra_item=F.embedding(negatives, vectors),
        extra_log_q=log_q[extra],
        extra_item_id=torch.from_numpy(extra),
    )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    schedule.step()
    return loss.item()


class _Shuffled:
    """An endless stream of example numbers: each comes once per pass, in a new order each time."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self._n, self._rng = n, rng
        self._left = np.empty(0, np.int64)

    def take(self, count: int) -> NDArray[np.int64]:
        while len(self._left) < count:
            self._left = np.concatenate([self._left, self._rng.permutation(self._n)])
        taken, self._left = self._left[:count], self._left[count:]
        return taken


@torch.no_grad()
def _evaluate(towers: _Towers, validation: Examples, indices: NDArray[np.int64], chunk: int = 256) -> Metrics:
    """Rank the whole catalogue for each example, chosen items left out; return recall@100 and hr@10."""
    items = towers.all_item_vectors()
    ranks = []
    for part in np.split(indices, range(chunk, len(indices), chunk)):
        batch = validation.batch(part)
        history = F.embedding(torch.from_numpy(batch.history_rows), items)
        scores = towers.user_vectors(batch, history) @ items.T  # [B, N]
        target = scores.gather(1, torch.from_numpy(batch.target_rows)[:, None])
        if not target.isfinite().all():
            raise ValueError("the towers gave vectors that are not finite; lower the learning rate")
        scores[validation.seen_pairs(part)] = -torch.inf  # never the target: see `_validation_indices`
        # Ties count against us: towers that give all items one vector must score nothing.
        ranks.append((scores >= target).sum(1) - 1)
    rank = torch.cat(ranks)
    return {"recall@100": (rank < 100).double().mean().item(), "hr@10": (rank < 10).double().mean().item()}


def _validation_indices(
    validation: Examples | None, settings: TowerTrainingSettings, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the examples to validate on, int64: a sample of those whose target the user had not chosen before."""
    if validation is None:
        return np.empty(0, np.int64)
    everyone = np.arange(len(validation))
    of, rows = validation.seen_pairs(everyone)
    targets = validation.rows[validation.targets]
    repeated = of[rows == targets[of]]
    fresh = np.setdiff1d(everyone, repeated)
    size = min(settings.validation_examples, len(fresh))
    return np.sort(rng.choice(fresh, size, replace=False))


def _new_towers(
    settings: TowerSettings, schema: FeatureSchema, item_index: NDArray[np.int64], inputs: Mapping[str, NDArray[Any]]
) -> _Towers:
    columns = [inputs[f"codes_{name}"] for name in schema.item_codes]
    numbers = np.asarray(inputs["numbers"], np.float32)
    mean, std = _standardisation(numbers[item_index > 0])
    content = np.asarray(inputs["content"], np.float32)
    item = ItemTower(settings, len(item_index), content.shape[1], [int(c.max(initial=0)) for c in columns], mean, std)
    user = UserTower(
        settings,
        schema.history_length,
        schema.history_half_life,
        len(schema.event_types),
        [len(vocabulary) for vocabulary in schema.user_attributes.values()],
    )
    return _Towers(item, user, tuple(torch.from_numpy(c) for c in (item_index, content, numbers, *columns)))


def _standardisation(numbers: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the known numbers, float [M] each; std is 1 where nothing varies."""
    known = np.isfinite(numbers)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, numbers, 0).sum(0, dtype=np.float64) / count
    std = np.sqrt(np.where(known, (numbers - mean) ** 2, 0).sum(0) / count)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(np.where(std > 1e-6, std, 1).astype(np.float32))


def _parameter_groups(towers: _Towers, settings: TowerTrainingSettings) -> list[dict[str, Any]]:
    """Weight decay on matrices that multiply, none on embeddings: it would erase the rows a step does not touch."""
    modules = [m for tower in (towers.item, towers.user) for m in tower.modules()]
    tables = [p for m in modules if isinstance(m, nn.Embedding) for p in m.parameters()]
    others = [p for m in modules if isinstance(m, nn.Linear) for p in m.parameters()]
    return [{"params": others, "weight_decay": settings.weight_decay}, {"params": tables, "weight_decay": 0.0}]


def _weights(towers: _Towers) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    item, user = ({k: v.clone() for k, v in tower.state_dict().items()} for tower in (towers.item, towers.user))
    return item, user
