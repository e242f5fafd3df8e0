"""Fit both towers on next-event prediction; read top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from tandem_core.features import FeatureSchema
from tandem_trainer.examples import Examples, Sequences
from tandem_trainer.losses import KnownPositives, Loss, LossSettings, make_loss
from tandem_trainer.tower_validation import Metrics, found_shares, user_vectors, validation_indices
from tandem_trainer.towers import ItemTower, JoinedItemTowers, JoinedUserTowers, TowerSettings, UserTower
from tandem_trainer.towers.item_tower import ID_SPREAD
from tandem_trainer.towers.settings import Encoder

FULL_SOFTMAX_ITEMS = 20_000  # up to here all items as negatives cost little and teach most


class PairSettings(BaseModel):
    """What sets one of several pairs of towers apart; None: as for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: Encoder | None = None
    # What the user of an event chose before and after it is no wrong answer to it: taste instead of the next step. Read
    # by the full softmax alone: losses with negatives of each row spare what is known anyway.
    spare_known: bool = False


class TowerTrainingSettings(BaseModel):
    """How the towers are trained; what breaks a rule of two-tower training is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    towers: TowerSettings = TowerSettings()
    loss: LossSettings | None = None  # None: full softmax up to 20,000 items, mixed negatives above
    # Events predicted in one step: on CPUs many small steps learn more per second than few large ones.
    batch_size: int = Field(default=1000, ge=1)
    epochs: float = Field(default=8.0, gt=0)  # passes over the events
    most_examples: int = Field(default=2_000_000, ge=1)  # over all epochs: what bounds the time on large data
    validations: int = Field(default=5, ge=1)  # at equal distances; the best state of them is kept
    patience: int = Field(default=3, ge=1)  # validations without a better one before stopping
    learning_rate: float = Field(default=8e-3, gt=0)  # after a short rise it falls to nearly 0
    weight_decay: float = Field(default=1e-2, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)  # of the gradient
    validation_examples: int = Field(default=3_000, ge=1)  # drawn from those given
    warm_start: bool = True  # id embeddings begin as ALS factors: the towers learn in half the time (measured)
    pairs: tuple[PairSettings, ...] = Field(default=(PairSettings(),), min_length=1, max_length=8)  # joined to one

    @property
    def joint_dim(self) -> int:
        """Size of the vectors that are served: those of all pairs side by side."""
        return self.towers.vector_dim * len(self.pairs)

    @property
    def most_validations(self) -> int:
        """Of all pairs together."""
        return self.validations * len(self.pairs)

    def of_pair(self, i: int) -> TowerTrainingSettings:
        """Return the settings to train pair i by."""
        pair = self.pairs[i]
        towers = self.towers.model_copy(update={"encoder": pair.encoder or self.towers.encoder})
        return self.model_copy(update={"towers": towers, "pairs": (pair,)})

    @model_validator(mode="after")
    def _rules(self) -> TowerTrainingSettings:
        if not self.towers.l2_normalise:
            raise ValueError("l2_normalise must be on: temperature and the index assume unit vectors")
        if self.loss is not None and self.batch_size < self.loss.smallest_batch:
            raise ValueError(
                f"batch_size is {self.batch_size}, must be at least {self.loss.smallest_batch} for the loss "
                f"{self.loss.name}: the batch is the negatives"
            )
        if self.loss is not None and self.loss.name != "full_softmax" and any(pair.spare_known for pair in self.pairs):
            raise ValueError(
                f"spare_known is read by the loss full_softmax alone, not by {self.loss.name}; leave it out"
            )
        return self

    def ending_at(self, share: float) -> TowerTrainingSettings:
        """Return settings of a training that ends after this share of what it would do, 0..1, as if it were all."""
        shorter = {"epochs": self.epochs * share, "most_examples": round(self.most_examples * share)}
        return self.model_copy(update=shorter)


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


@dataclass(frozen=True, slots=True)
class _Towers:
    """Both towers with the items' inputs: content float [N, T], numbers float [N, M], codes int64 [N, C] each."""

    item: ItemTower
    user: UserTower
    item_inputs: tuple[Tensor, ...]

    def item_vectors(self, rows: Tensor | None) -> Tensor:
        """Return float [n, D] for catalogue rows int64 [n]; None: all."""
        inputs = self.item_inputs if rows is None else tuple(column[rows] for column in self.item_inputs)
        vectors: Tensor = self.item(*inputs)
        return vectors

    def train(self, on: bool) -> None:
        self.item.train(on)
        self.user.train(on)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.item.parameters(), *self.user.parameters()]

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
        towers = _new_towers(settings.towers, examples.schema, item_index, item_inputs)
        if settings.warm_start and factors is not None:
            _begin_as(towers.item.id.weight, factors)
        run = _Run(towers, examples, settings, rng, counts)
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


class _Run:
    """The state of one training: towers, loss, optimiser, and how far it is."""

    def __init__(
        self,
        towers: _Towers,
        examples: Examples,
        settings: TowerTrainingSettings,
        rng: np.random.Generator,
        counts: NDArray[np.int64],
    ) -> None:
        self._towers, self._examples, self._settings, self._rng = towers, examples, settings, rng
        self._loss = _loss(settings, examples, counts, rng)
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(towers, settings), lr=settings.learning_rate, betas=(0.9, 0.98)
        )
        self._all = min(round(settings.epochs * len(examples)), settings.most_examples)
        self._done = 0
        self._seconds = self._loading_seconds = 0.0

    @property
    def examples_per_second(self) -> float:
        return self._done / max(self._seconds, 1e-9)

    @property
    def loading_share(self) -> float:
        return self._loading_seconds / max(self._seconds, 1e-9)

    def train(
        self, validation: Examples | None, progress: Callable[[int, Metrics], None] | None
    ) -> tuple[list[Metrics], int]:
        """Run to the end or until nothing gets better, and leave the best state in the towers."""
        held_out = validation_indices(validation, self._settings.validation_examples, self._rng)
        batches = self._batches()
        history: list[Metrics] = []
        best_score, best, best_weights = -1.0, 0, _weights(self._towers)
        for part in range(self._settings.validations):
            metrics = {"loss": self._steps(batches, self._all * (part + 1) / self._settings.validations)}
            if validation is not None and len(held_out):
                self._towers.train(False)
                metrics |= _evaluate(self._towers, validation, held_out)
            history.append(metrics)
            if progress is not None:
                progress(part, metrics)
            # Without validation every state counts as better than the one before.
            if (score := metrics.get("recall@100", float(part))) > best_score:
                best_score, best, best_weights = score, part, _weights(self._towers)
            elif part - best >= self._settings.patience:
                break
        self._towers.item.load_state_dict(best_weights[0])
        self._towers.user.load_state_dict(best_weights[1])
        return history, best

    def _steps(self, batches: Iterator[Sequences], until: float) -> float:
        """Take steps until so many examples are done, at least one; return their mean loss."""
        self._towers.train(True)
        self._loss.refresh(self._towers.all_item_vectors())
        started = time.process_time()
        losses: list[float] = []
        while self._done < until or not losses:
            losses.append(self._step(self._loaded(batches)))
        self._seconds += time.process_time() - started
        return float(np.mean(losses))

    def _loaded(self, batches: Iterator[Sequences]) -> Sequences:
        started = time.process_time()
        batch = next(batches)
        self._loading_seconds += time.process_time() - started
        return batch

    def _step(self, batch: Sequences) -> float:
        """Take one gradient step and return its loss; each item goes through the item tower at most once."""
        of, place = np.nonzero(batch.weights > 0)
        targets = batch.target_rows[of, place]
        negatives = self._loss.rows(targets, batch.users[of])
        rows = None if negatives is None else np.union1d(negatives, batch.history_rows.ravel())
        vectors = self._towers.item_vectors(None if rows is None else torch.from_numpy(rows))
        # F.embedding and not indexing: its gradient adds up in a fixed order, and faster.
        history = F.embedding(_places(batch.history_rows, rows), vectors)
        columns = (batch.history_mask, batch.history_types, batch.history_ages, batch.user_attributes, batch.context)
        states = self._towers.user.at_every_place(history, *map(torch.from_numpy, columns))
        loss = self._loss.loss(
            states[torch.from_numpy(of), torch.from_numpy(place)],
            vectors if negatives is None else F.embedding(_places(negatives, rows), vectors),
            negatives,
            targets,
            torch.from_numpy(batch.weights[of, place]),
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._towers.parameters(), self._settings.clip_norm)
        self._set_learning_rate()
        self._optimizer.step()
        self._done += len(targets)
        return loss.item()

    def _set_learning_rate(self) -> None:
        """Rise over the first twentieth, then fall in a line: most of what longer training would bring, sooner."""
        done = min(1.0, self._done / self._all)
        share = min((done + 1e-3) * 20, 1.0) * (0.02 + 0.98 * (1 - done))
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * share

    def _batches(self) -> Iterator[Sequences]:
        """Give batches of about equal size without end: stretches of like lengths together, to pad little."""
        while True:
            stretches = self._examples.stretches(self._rng)
            lengths = stretches[:, 1] - stretches[:, 0]
            order = np.argsort(lengths + self._rng.random(len(lengths)) * 20, kind="stable")
            batches = _cut(lengths[order], self._settings.batch_size)
            for i in self._rng.permutation(len(batches)):
                yield self._examples.sequences(stretches[order[batches[i]]])


def _cut(lengths: NDArray[np.int64], size: int) -> list[slice]:
    """Return slices of consecutive stretches that have about `size` events together, at least one stretch each."""
    batch_of = (np.cumsum(lengths) - lengths) // size
    starts = np.flatnonzero(np.diff(batch_of, prepend=-1))
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(lengths)], strict=True)]


def _places(wanted: NDArray[np.int64], rows: NDArray[np.int64] | None) -> Tensor:
    """Return where catalogue rows are among the sorted `rows`; None: among all."""
    return torch.from_numpy(wanted if rows is None else np.searchsorted(rows, wanted))


def _loss(
    settings: TowerTrainingSettings, examples: Examples, counts: NDArray[np.int64], rng: np.random.Generator
) -> Loss:
    chosen = settings.loss or LossSettings(name="full_softmax" if len(counts) <= FULL_SOFTMAX_ITEMS else "mixed")
    known = KnownPositives(examples.users, examples.rows, len(counts))
    return make_loss(chosen, counts, rng, known, settings.pairs[0].spare_known)


@torch.no_grad()
def _evaluate(towers: _Towers, validation: Examples, indices: NDArray[np.int64]) -> Metrics:
    items = towers.all_item_vectors()
    return found_shares(items, validation, indices, lambda batch: user_vectors(towers.user, batch, items))


def _new_towers(
    settings: TowerSettings, schema: FeatureSchema, item_index: NDArray[np.int64], inputs: Mapping[str, NDArray[Any]]
) -> _Towers:
    columns = [inputs[f"codes_{name}"] for name in schema.item_codes]
    numbers = np.asarray(inputs["numbers"], np.float32)
    mean, std = _standardisation(numbers[item_index > 0])
    content = np.asarray(inputs["content"], np.float32)
    item = ItemTower(settings, len(item_index), content.shape[1], [int(c.max(initial=0)) for c in columns], mean, std)
    sizes = [len(vocabulary) for vocabulary in schema.user_attributes.values()]
    user = UserTower(settings, schema.history_length, len(schema.event_types), sizes, schema.context_sizes)
    return _Towers(item, user, tuple(torch.from_numpy(c) for c in (item_index, content, numbers, *columns)))


@torch.no_grad()
def _begin_as(embeddings: Tensor, factors: NDArray[np.float32]) -> None:
    """Put factors [N, F] where random ones [N + 1, D] were, as large as those; dimensions beyond F stay random."""
    width = min(embeddings.shape[1], factors.shape[1])
    spread = float(factors.std())
    if spread > 0:
        embeddings[1:, :width] = torch.from_numpy(factors[:, :width] * (ID_SPREAD / spread))


def _standardisation(numbers: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the known numbers, float [M] each; std is 1 where nothing varies."""
    known = np.isfinite(numbers)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, numbers, 0).sum(0, dtype=np.float64) / count
    std = np.sqrt(np.where(known, (numbers - mean) ** 2, 0).sum(0) / count)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(np.where(std > 1e-6, std, 1).astype(np.float32))


def _parameter_groups(towers: _Towers, settings: TowerTrainingSettings) -> list[dict[str, Any]]:
    """Weight decay on matrices that multiply, none on tables: it would erase the rows that a step does not touch."""
    modules = [m for tower in (towers.item, towers.user) for m in tower.modules()]
    decayed = [m.weight for m in modules if isinstance(m, nn.Linear)]
    ids = {id(p) for p in decayed}
    others = [p for p in towers.parameters() if id(p) not in ids]
    return [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]


def _weights(towers: _Towers) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    item, user = ({k: v.clone() for k, v in tower.state_dict().items()} for tower in (towers.item, towers.user))
    return item, user
