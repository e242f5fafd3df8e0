"""Fitting the ranker: several models, each judged on the requests of the users it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tandem_trainer.ranker import Ranker, RankerSettings, ServedRanker, standardisation
from tandem_trainer.ranker_calibration import fit_calibrator
from tandem_trainer.ranker_loss import head_loss, ndcg_at, ranking_loss

Metrics = dict[str, float]
Answers = NDArray[np.float32]
_AT_ONCE = 1 << 16  # candidates scored in one go


@dataclass(frozen=True, slots=True, eq=False)
class RankingData:
    """n candidates of R requests, request after request.

    features: float32 [n, f]. labels: float32 [n], 0, or above 0 for what the user chose. groups: int64 [n], requests
    from 0 to R - 1. heads: float32 [n, K], what each head is to answer, NaN where that is not known. weights:
    float32 [n], candidates that each stands for. users: int64 [R], whose request it is.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.float32]
    groups: NDArray[np.int64]
    heads: NDArray[np.float32]
    weights: NDArray[np.float32]
    users: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True)
class RankerInputs:
    """What the columns are. prior: one that is a sound order by itself. events: see `Ranker`. of_sources: bool [f],
    those that callers of Rank do not bring. values: of each head, whether it is a value and not a probability.
    """

    prior: int | None = None
    events: Sequence[Sequence[int]] = ()
    of_sources: NDArray[np.bool_] | None = None
    values: Sequence[bool] = ()


@dataclass(frozen=True, slots=True)
class FittedRanker:
    """history: metrics of all epochs. out_of_fold: float32 [n, 1 + K], answers of the model that has not seen the
    request, before calibration.
    """

    model: ServedRanker
    history: list[Metrics]
    best_epoch: int
    out_of_fold: Answers


@dataclass(slots=True)
class _Fold:
    model: Ranker
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    train: NDArray[np.int64]  # requests
    held_out: NDArray[np.int64]
    best: dict[str, Tensor] = field(default_factory=dict)


def fit_ranker(
    data: RankingData,
    settings: RankerSettings,
    seed: int,
    inputs: RankerInputs | None = None,
    *,
    source_dropout: float = 0.0,
    progress: Callable[[int, Metrics], None] = lambda epoch, found: None,
) -> FittedRanker:
    """Train a model per fold of users, keep the epoch of the best mean NDCG@10 on what each has not seen, calibrate.

    source_dropout: share of the requests that hide the columns of sources, drawn again in every epoch. The choice of
    one epoch for all folds is all that the held-out requests are used for, beside the calibration.
    """
    if not len(data.labels) or not data.labels.any():
        raise ValueError("the ranker needs at least one candidate that was chosen")
    inputs = inputs or RankerInputs(values=[False] * data.heads.shape[1])
    rng = np.random.default_rng(seed)
    starts = np.searchsorted(data.groups, np.arange(len(data) + 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        folds = _make_folds(data, settings, inputs, rng)
        history: list[Metrics] = []
        best, best_epoch = -1.0, 0
        answers = np.zeros((len(data.labels), 1 + data.heads.shape[1]), np.float32)
        for epoch in range(settings.epochs):
            losses = [_epoch(fold, data, starts, settings, inputs, source_dropout, rng) for fold in folds]
            found = np.zeros_like(answers)
            for fold in folds:
                members = _members(starts, fold.held_out)
                found[members] = answers_of(fold.model, data.features, members)
            ndcg = ndcg_at(10, found[:, 0], data.labels, data.groups, data.weights)
            history.append({"loss": float(np.mean(losses)), "ndcg@10": ndcg})
            progress(epoch, history[-1])
            if ndcg > best:
                best, best_epoch, answers = ndcg, epoch, found
                for fold in folds:
                    fold.best = {name: value.clone() for name, value in fold.model.state_dict().items()}
            elif epoch - best_epoch >= settings.patience:
                break
    for fold in folds:
        fold.model.load_state_dict(fold.best)
    calibrators = [
        nn.Identity() if is_value else _calibrator(settings, answers[:, i], data.heads[:, i - 1], data.weights)
        for i, is_value in enumerate(inputs.values, start=1)
    ]
    served = ServedRanker([fold.model for fold in folds], calibrators)
    return FittedRanker(served.eval(), history, best_epoch, answers)


@torch.no_grad()
def answers_of(model: nn.Module, features: NDArray[np.float32], members: NDArray[np.int64] | None = None) -> Answers:
    """Return float32 [m, 1 + K] for the candidates `members` (default: all)."""
    model.eval()
    members = np.arange(len(features)) if members is None else members
    parts = [members[at : at + _AT_ONCE] for at in range(0, max(len(members), 1), _AT_ONCE)]
    return np.concatenate([model(torch.from_numpy(features[part])).numpy() for part in parts])


def _calibrator(
    settings: RankerSettings, logits: Answers, truths: NDArray[np.float32], weights: NDArray[np.float32]
) -> nn.Module:
    known = ~np.isnan(truths)
    return fit_calibrator(settings.calibration, logits[known], truths[known], weights[known])


def _make_folds(
    data: RankingData, settings: RankerSettings, inputs: RankerInputs, rng: np.random.Generator
) -> list[_Fold]:
    users = rng.permutation(np.unique(data.users))
    mean, std = standardisation(data.features)
    folds = []
    for part in np.array_split(users, min(settings.folds, len(users))):
        held = np.isin(data.users, part)
        train = ~held if not held.all() else held  # a lone user stands on both sides
        model = Ranker(settings, mean, std, heads=len(inputs.values), prior=inputs.prior, events=inputs.events)
        heads = list(model.heads.parameters())
        others = [each for name, each in model.named_parameters() if not name.startswith("heads.")]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": heads, "lr": settings.head_learning_rate}]
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        steps = settings.epochs * -(-int(train.sum()) // settings.groups_per_batch)
        # Down to 0: the last steps are so small that what one batch says by chance is averaged out.
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(steps, 1))
        folds.append(_Fold(model, optimizer, schedule, np.flatnonzero(train), np.flatnonzero(held)))
    return folds


def _epoch(
    fold: _Fold,
    data: RankingData,
    starts: NDArray[np.int64],
    settings: RankerSettings,
    inputs: RankerInputs,
    source_dropout: float,
    rng: np.random.Generator,
) -> float:
    """Run through the fold's requests once; return the mean loss."""
    fold.model.train()
    shuffled, losses = rng.permutation(fold.train), []
    for part in np.split(shuffled, range(settings.groups_per_batch, len(shuffled), settings.groups_per_batch)):
        members, lengths = _members(starts, part), starts[part + 1] - starts[part]
        features = data.features[members]
        if source_dropout and inputs.of_sources is not None:
            hidden = np.repeat(rng.random(len(part)) < source_dropout, lengths)
            features[np.ix_(hidden, inputs.of_sources)] = 0
        answers = fold.model(torch.from_numpy(features))
        labels, weights = torch.from_numpy(data.labels[members]), torch.from_numpy(data.weights[members])
        loss = ranking_loss(answers[:, 0], labels, lengths.tolist(), settings.loss, weights)
        if inputs.values:
            truths = torch.from_numpy(data.heads[members])
            loss = loss + head_loss(answers[:, 1:], truths, list(inputs.values), weights, len(part))
        fold.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        fold.optimizer.step()
        fold.schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _members(starts: NDArray[np.int64], requests: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of the candidates of some requests, request after request."""
    lengths = starts[requests + 1] - starts[requests]
    ends = np.cumsum(lengths)
    first = np.repeat(starts[requests] - ends + lengths, lengths)
    return np.asarray(first + np.arange(len(first)), np.int64)
