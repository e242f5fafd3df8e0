"""The ranker's model: DCN-v2 beside an MLP over one row of features per candidate (Wang et al., WWW 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

_FARTHEST = 8.0  # standard deviations: a value far outside of training must not decide alone


class RankerSettings(BaseModel):
    """The ranker's shape and training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_layers: int = Field(default=2, ge=0)
    cross_rank: int = Field(default=16, ge=1)  # low-rank crosses: as good on these few columns, and faster
    hidden: tuple[int, ...] = (64, 32)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention: int = Field(default=0, ge=0, le=100)  # newest events that each candidate attends to; 0: none
    attention_dim: int = Field(default=8, ge=1)
    loss: Literal["pointwise", "listwise", "both"] = "listwise"
    learning_rate: float = Field(default=3e-4, gt=0)  # with 1e-3 the order gets worse than retrieval's (ml-1m)
    head_learning_rate: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    epochs: int = Field(default=6, ge=1)
    patience: int = Field(default=3, ge=1)  # epochs without a better NDCG@10 before stopping
    groups_per_batch: int = Field(default=64, ge=1)
    folds: int = Field(default=4, ge=2)  # so many models, each without a part of the requests; served is their mean
    calibration: Literal["isotonic", "platt"] = "isotonic"


class EventAttention(nn.Module):
    """Attention of a candidate over the events of a history, from columns about the pair (DIN, Zhou et al., KDD 2018).

    The weight of an event follows from the pair's columns and the event's place; what comes out is the weighted mean
    of what the same columns become. A user without events gets zeros.
    """

    def __init__(self, kinds: int, events: int, dim: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(kinds, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, 1))
        self.value = nn.Sequential(nn.Linear(kinds, dim), nn.ReLU())
        self.place = nn.Parameter(-torch.log1p(torch.arange(events).float()))

    def forward(self, pairs: Tensor, known: Tensor) -> Tensor:
        """Return float [n, dim]; pairs: float [n, events, kinds]. known: float [n, events], 1 where there is one."""
        logits = self.weigh(pairs).squeeze(2) + self.place - 1e4 * (1 - known)
        weights = torch.softmax(logits, dim=1) * known
        mean: Tensor = (weights.unsqueeze(2) * self.value(pairs)).sum(1)
        return mean


class CrossLayer(nn.Module):
    """x0 * (U V x + b) + x: products of all columns with all, one degree more with each layer (DCN-v2, low rank)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        crossed: Tensor = x0 * self.up(self.down(x)) + x
        return crossed


class Ranker(nn.Module):
    """features -> one column for the order, then one per head, before calibration.

    Probability heads give log-odds, value heads the value; the order is log-odds with a pointwise loss, only an order
    with a listwise one.
    """

    mean: Tensor
    std: Tensor
    single: Tensor
    pairs: Tensor

    def __init__(
        self,
        settings: RankerSettings,
        mean: Tensor,
        std: Tensor,
        *,
        heads: int = 1,
        prior: int | None = None,
        events: Sequence[Sequence[int]] = (),
    ) -> None:
        """mean, std: float [f], std above 0. heads: at least 1.

        prior: a column that is a sound score by itself: where order and heads start. events: by kind (the first says
        whether there is such an event) the columns of the newest events.
        """
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        paired = np.array(events, np.int64).reshape(len(events), len(events[0]) if events else 0)
        single = np.setdiff1d(np.arange(len(mean)), paired)
        self.register_buffer("single", torch.from_numpy(single))
        self.register_buffer("pairs", torch.from_numpy(paired))
        width = len(single)
        self.attention: EventAttention | None = None
        if paired.size:
            self.attention = EventAttention(*paired.shape, settings.attention_dim)
            width += settings.attention_dim
        rank = min(settings.cross_rank, width)
        self.crosses = nn.ModuleList(CrossLayer(width, rank) for _ in range(settings.cross_layers))
        layers: list[nn.Module] = []
        for before, after in zip((width, *settings.hidden), settings.hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(settings.dropout)]
        self.deep = nn.Sequential(*layers)
        together = width + (settings.hidden or (width,))[-1]
        self.order, self.heads = nn.Linear(together, 1), nn.Linear(together, heads)
        if prior is not None:
            self._start_from(int(np.flatnonzero(single == prior)[0]), float(std[prior]))

    def _start_from(self, column: int, spread: float) -> None:
        for linear in (self.order, self.heads, *(layer.up for layer in self.crosses if isinstance(layer, CrossLayer))):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.order.weight[:, column] = spread
            self.heads.weight[:, column] = spread

    def forward(self, features: Tensor) -> Tensor:
        """Return float [n, 1 + heads]; features: float [n, f], not standardised."""
        standard = ((features - self.mean) / self.std).clamp(-_FARTHEST, _FARTHEST)
        x0 = standard[:, self.single]
        if self.attention is not None:
            kinds, events = self.pairs.shape
            pairs = standard[:, self.pairs.reshape(-1)].reshape(-1, kinds, events).transpose(1, 2)
            known = (features[:, self.pairs[0]] > 0.5).to(features.dtype)
            x0 = torch.cat([x0, self.attention(pairs, known)], dim=1)
        x = x0
        for cross in self.crosses:
            x = cross(x0, x)
        seen = torch.cat([x, self.deep(x0)], dim=1)
        # The heads read what the order learned and change nothing of it: in one comparison on validation requests of
        # ml-1m the shared one had a lower NDCG@10.
        return torch.cat([self.order(seen), self.heads(seen.detach())], dim=1)


class ServedRanker(nn.Module):
    """The mean of several rankers, its heads calibrated, and how far the rankers lie apart: what is exported."""

    def __init__(self, members: Sequence[Ranker], calibrators: Sequence[nn.Module]) -> None:
        """calibrators: one per head, float [n] -> float [n]."""
        super().__init__()
        self.members, self.calibrators = nn.ModuleList(members), nn.ModuleList(calibrators)

    def forward(self, features: Tensor) -> Tensor:
        """Return float [n, 2 + heads]: the order, probabilities or values, and the deviation of the order (>= 0)."""
        each = torch.stack([member(features) for member in self.members])
        answers = each.mean(0)
        spread = (each[:, :, 0] - answers[:, 0]).square().mean(0).sqrt()
        heads = [calibrate(answers[:, i]) for i, calibrate in enumerate(self.calibrators, start=1)]
        return torch.stack([answers[:, 0], *heads, spread], dim=1)


def standardisation(features: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each column; 1 for a column that is constant, which becomes 0."""
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.where(std > 1e-6, std, 1)).float()
