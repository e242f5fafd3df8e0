"""The ranker: DCN-v2 beside an MLP over one row of features per candidate (Wang et al., WWW 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

Metrics = dict[str, float]


class RankerSettings(BaseModel):
    """The ranker's shape and training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_layers: int = Field(default=2, ge=0)
    cross_rank: int = Field(default=16, ge=1)  # low-rank crosses: as good on these few columns, and faster
    hidden: tuple[int, ...] = (64, 32)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    loss: Literal["pointwise", "listwise", "both"] = "listwise"
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=4, ge=1)  # epochs without a better NDCG@10 before stopping
    groups_per_batch: int = Field(default=32, ge=1)
    held_out: float = Field(default=0.15, gt=0, lt=1)  # share of requests to validate on, where none are given


@dataclass(frozen=True, slots=True)
class RankingData:
    """n candidates of several requests. features: float32 [n, f]. labels: float32 [n], 0 or 1. groups: int [n]."""

    features: NDArray[np.float32]
    labels: NDArray[np.float32]
    groups: NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class FittedRanker:
    """The model of the best epoch (from 0), metrics of all epochs."""

    model: Ranker
    history: list[Metrics]
    best_epoch: int


class Ranker(nn.Module):
    """features -> scores: log-odds with a pointwise loss, only an order with a listwise one."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: RankerSettings, mean: Tensor, std: Tensor, prior: int | None = None) -> None:
        """mean, std: float [f], std above 0. prior: a column that is a sound score by itself: where it starts."""
        super().__init__()
        width = len(mean)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        rank = min(settings.cross_rank, width)
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(settings.cross_layers))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(settings.cross_layers))
        layers: list[nn.Module] = []
        for before, after in zip((width, *settings.hidden), settings.hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(settings.dropout)]
        self.deep = nn.Sequential(*layers)
        self.out = nn.Linear(width + (settings.hidden or (width,))[-1], 1)
        if prior is not None:
            for linear in (self.out, *(layer for layer in self.up if isinstance(layer, nn.Linear))):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
            with torch.no_grad():
                self.out.weight[0, prior] = std[prior]

    def forward(self, features: Tensor) -> Tensor:
        """Return float [n]; features: float [n, f], not standardised."""
        # Clipped: a value far outside of training must not decide alone.
        x0 = ((features - self.mean) / self.std).clamp(-8, 8)
        x = x0
        for down, up in zip(self.down, self.up, strict=True):
            x = x0 * up(down(x)) + x
        logits: Tensor = self.out(torch.cat([x, self.deep(x0)], dim=1))
        return logits.squeeze(1)


def fit_ranker(
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    groups: NDArray[np.integer],
    settings: RankerSettings,
    seed: int,
    validation: RankingData | None = None,
    progress: Callable[[int, Metrics], None] | None = None,
    prior: int | None = None,
) -> FittedRanker:
    """Train on the candidates of logged or simulated requests and keep the epoch of the best NDCG@10.

    features: float32 [n, f]. labels: float32 [n], 1 for what the user chose. groups: int [n], the request of each
    candidate. validation: other requests; where None, a seeded share of the given requests is held out instead.
    prior: a column that is a sound order by itself; what little data there is then goes into improving on it.
    """
    if not len(labels) or not labels.any():
        raise ValueError("the ranker needs at least one candidate that was chosen")
    rng = np.random.default_rng(seed)
    training = RankingData(features, labels, groups)
    if validation is None:
        training, validation = _hold_out(training, settings.held_out, rng)
    mean, std = training.features.mean(0, dtype=np.float64), training.features.std(0, dtype=np.float64)
    std = np.where(std > 1e-6, std, 1)  # a constant column becomes 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Ranker(settings, torch.from_numpy(mean).float(), torch.from_numpy(std).float(), prior)
        history, best_epoch = _run(model, training, validation, settings, rng, progress)
    return FittedRanker(model.eval(), history, best_epoch)


def _run(
    model: Ranker,
    training: RankingData,
    validation: RankingData,
    settings: RankerSettings,
    rng: np.random.Generator,
    progress: Callable[[int, Metrics], None] | None,
) -> tuple[list[Metrics], int]:
    """Run the epochs and leave the best one's weights in the model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    requests = _requests(training.groups)
    history: list[Metrics] = []
    best, best_epoch, weights = -1.0, 0, model.state_dict()
    for epoch in range(settings.epochs):
        model.train()
        shuffled = rng.permutation(len(requests))
        losses = []
        for part in np.split(shuffled, range(settings.groups_per_batch, len(shuffled), settings.groups_per_batch)):
            members = np.concatenate([requests[i] for i in part])
            lengths = [len(requests[i]) for i in part]
            logits = model(torch.from_numpy(training.features[members]))
            loss = ranking_loss(logits, torch.from_numpy(training.labels[members]), lengths, settings.loss)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        history.append({"loss": float(np.mean(losses)), "ndcg@10": _evaluate(model.eval(), validation)})
        if progress is not None:
            progress(epoch, history[-1])
        if history[-1]["ndcg@10"] > best:
            best, best_epoch = history[-1]["ndcg@10"], epoch
            weights = {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(weights)
    return history, best_epoch


def ranking_loss(logits: Tensor, labels: Tensor, lengths: list[int], kind: str) -> Tensor:
    """Return a scalar (nats per request).

    logits, labels: float [n], requests one after another. lengths: their sizes. pointwise: binary cross-entropy, which
    keeps the scores log-odds. listwise: softmax over each request, which looks at their order alone.
    """
    loss = torch.zeros(())
    if kind in ("pointwise", "both"):
        loss = loss + F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(lengths)
    if kind in ("listwise", "both"):
        request = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        top = torch.full((len(lengths),), -torch.inf).scatter_reduce(0, request, logits.detach(), "amax")
        sums = torch.zeros(len(lengths)).index_add(0, request, (logits - top[request]).exp())
        log_share = logits - top[request] - sums.log()[request]
        loss = loss - (labels * log_share).sum() / len(lengths)
    return loss


@torch.no_grad()
def _evaluate(model: Ranker, data: RankingData) -> float:
    return ndcg_at(10, model(torch.from_numpy(data.features)).numpy(), data.labels, data.groups)


def ndcg_at(k: int, scores: NDArray[np.float32], labels: NDArray[np.float32], groups: NDArray[np.integer]) -> float:
    """Return the mean NDCG@k over requests with a chosen candidate; 0 if there are none. All [n]."""
    found = _dcg(k, scores, labels, groups)
    ideal = _dcg(k, labels, labels, groups)
    counted = ideal > 0
    return float((found[counted] / ideal[counted]).mean()) if counted.any() else 0.0


def _dcg(
    k: int, scores: NDArray[np.float32], labels: NDArray[np.float32], groups: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return float64 [requests]; among equal scores the chosen candidates come last."""
    order = np.lexsort((labels, -scores, groups))
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, counts)
    gains = np.where(place < k, labels[order] / np.log2(place + 2.0), 0)
    return np.add.reduceat(gains, starts)


def _requests(groups: NDArray[np.integer]) -> list[NDArray[np.intp]]:
    """Return the places of each request's candidates."""
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    return np.split(order, starts[1:])


def _hold_out(data: RankingData, share: float, rng: np.random.Generator) -> tuple[RankingData, RankingData]:
    """Return training and validation data with whole requests in one of them (a lone request is in both)."""
    requests = np.unique(data.groups)
    drawn = rng.choice(requests, max(1, round(share * len(requests))), replace=False)
    held = np.isin(data.groups, drawn)
    if held.all():
        return data, data
    parts = [RankingData(data.features[m], data.labels[m], data.groups[m]) for m in (~held, held)]
    return parts[0], parts[1]
