"""The training loop of one pair of towers: batches, gradient steps, validations, and the best state of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tandem_trainer.examples import Examples, Sequences, user_columns
from tandem_trainer.losses import KnownPositives, Loss, LossSettings, make_loss
from tandem_trainer.tower_pair import TowerPair
from tandem_trainer.tower_teacher import Teacher
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.tower_validation import Metrics, found_shares, user_vectors, validation_indices

FULL_SOFTMAX_ITEMS = 20_000  # up to here all items as negatives cost little and teach most


class TowerRun:
    """The state of one training: towers, loss, optimiser, and how far it is."""

    def __init__(
        self,
        towers: TowerPair,
        examples: Examples,
        settings: TowerTrainingSettings,
        rng: np.random.Generator,
        counts: NDArray[np.int64],
        teacher: Teacher | None = None,
    ) -> None:
        self._towers, self._examples, self._settings, self._rng = towers, examples, settings, rng
        self._teacher = teacher
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
        best_score, best, best_weights = -1.0, 0, self._towers.weights()
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
                best_score, best, best_weights = score, part, self._towers.weights()
            elif part - best >= self._settings.patience:
                break
        self._towers.load_weights(best_weights)
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
        """Take one gradient step and return its loss."""
        loss = self._batch_loss(batch)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._towers.parameters(), self._settings.clip_norm)
        self._set_learning_rate()
        self._optimizer.step()
        self._done += int(np.count_nonzero(batch.weights > 0))
        return loss.item()

    def _batch_loss(self, batch: Sequences) -> Tensor:
        """Return the loss that a step goes down, a scalar; each item goes through the item tower at most once."""
        of, place = np.nonzero(batch.weights > 0)
        targets = batch.target_rows[of, place]
        negatives = self._loss.rows(targets, batch.users[of])
        rows = None if negatives is None else np.union1d(negatives, batch.history_rows.ravel())
        vectors = self._towers.item_vectors(None if rows is None else torch.from_numpy(rows))
        # F.embedding and not indexing: its gradient adds up in a fixed order, and faster.
        history = F.embedding(_places(batch.history_rows, rows), vectors)
        states = self._towers.user.at_every_place(history, *map(torch.from_numpy, user_columns(batch)))
        return self._loss.loss(
            states[torch.from_numpy(of), torch.from_numpy(place)],
            vectors if negatives is None else F.embedding(_places(negatives, rows), vectors),
            negatives,
            targets,
            torch.from_numpy(batch.weights[of, place]),
            None if self._teacher is None else self._teacher.says(batch, of, place),
        )

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
    if settings.pairs[0].taught and chosen.name != "full_softmax":
        raise ValueError(
            f"pairs can be taught by the loss full_softmax alone, and for {len(counts):,} items {chosen.name} was "
            'chosen: leave `taught` out, or set loss.name = "full_softmax" under [towers]'
        )
    known = KnownPositives(examples.users, examples.rows, len(counts))
    return make_loss(chosen, counts, rng, known, settings.pairs[0].spare_known)


@torch.no_grad()
def _evaluate(towers: TowerPair, validation: Examples, indices: NDArray[np.int64]) -> Metrics:
    items = towers.all_item_vectors()
    return found_shares(items, validation, indices, lambda batch: user_vectors(towers.user, batch, items))


def _parameter_groups(towers: TowerPair, settings: TowerTrainingSettings) -> list[dict[str, Any]]:
    """Weight decay on matrices that multiply, none on tables: it would erase the rows that a step does not touch."""
    modules = [m for tower in (towers.item, towers.user) for m in tower.modules()]
    decayed = [m.weight for m in modules if isinstance(m, nn.Linear)]
    ids = {id(p) for p in decayed}
    others = [p for p in towers.parameters() if id(p) not in ids]
    return [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
