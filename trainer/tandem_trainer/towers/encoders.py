"""Encoders of a history: from the vectors of a user's items to a state after each event.

All read histories newest first; place i sees itself and what came before it, the places i, i + 1 and so on. So one
pass gives the states of a whole training sequence, and serving asks for place 0 alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tandem_trainer.towers.settings import TowerSettings

TIME_BUCKETS = 24  # logarithmic; the last one begins after three years
_UNIT_MS = 10_000.0
_EPSILON = 1e-5  # of the normalisations; named, since ONNX and torch do not mean the same by none


@dataclass(frozen=True, slots=True)
class Past:
    """What an attention may look at. before: bool [B, Q, H], events that place q may see. places_back: int64 [Q, H].
    times_back: int64 [B, Q, H], buckets of the time between two events.
    """

    before: Tensor
    places_back: Tensor
    times_back: Tensor

    @classmethod
    def of(cls, mask: Tensor, ages: Tensor, queries: int) -> Past:
        """mask: float [B, H], 1 for events. ages: int64 [B, H], milliseconds. queries: the first places, that ask."""
        place = torch.arange(mask.shape[1])
        back = place[None, :] - place[:queries, None]
        return cls(
            before=(back >= 0) & (mask > 0)[:, None, :],
            places_back=back.clamp(min=0),
            times_back=time_buckets(ages[:, None, :] - ages[:, :queries, None]),
        )

    def newest(self) -> Past:
        """What place 0 may look at."""
        return Past(self.before[:, :1], self.places_back[:1], self.times_back[:, :1])


def time_buckets(milliseconds: Tensor) -> Tensor:
    """Return int64 buckets 0..23: bucket b > 0 ends at 10 * (2^b - 1) seconds, the last one is open."""
    # A number before it is clipped: onnxruntime clips int64 above 2^31 (25 days) to 0.
    units = (milliseconds.to(torch.float32) / _UNIT_MS).clamp(min=0)
    return torch.ceil(torch.log2(1 + units)).clamp(max=TIME_BUCKETS - 1).to(torch.int64)


class Attention(nn.Module):
    """Multi-head attention over earlier events, biased by how many events and how much time lie between.

    The biases per head are those of HSTU (Zhai et al., ICML 2024).
    """

    def __init__(self, settings: TowerSettings, history_length: int, *, project_values: bool) -> None:
        super().__init__()
        dim = settings.vector_dim
        self.heads = settings.heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False) if project_values else None
        self.place_bias = nn.Parameter(torch.zeros(settings.heads, history_length))
        self.time_bias = nn.Parameter(torch.zeros(settings.heads, TIME_BUCKETS)) if settings.time_bias else None

    def forward(self, asking: Tensor, x: Tensor, values: Tensor, past: Past) -> Tensor:
        """Return float [B, Q, D] from projected values, [B, Q, heads * D] from values as they are.

        asking: float [B, Q, D], the states that look. x: float [B, H, D], what they look at. values: float [B, H, D],
        what they take from there.
        """
        weights = self._weights(asking, x, past)  # [B, heads, Q, H]
        parts = values[:, None] if self.value is None else self._split(self.value(values))
        return (weights @ parts).transpose(1, 2).flatten(2)

    def _weights(self, asking: Tensor, x: Tensor, past: Past) -> Tensor:
        query, key = self._split(self.query(asking)), self._split(self.key(x))
        longest = self.place_bias.shape[1] - 1
        scores = query @ key.transpose(2, 3) / math.sqrt(key.shape[3])
        scores = scores + self.place_bias[:, past.places_back.clamp(max=longest)]
        if self.time_bias is not None:
            scores = scores + self.time_bias[:, past.times_back].transpose(0, 1)
        seen = past.before[:, None]
        # A finite value and a second mask: a place that may look at nothing gets zeros instead of NaN.
        weights: Tensor = torch.softmax(scores.masked_fill(~seen, -1e4), dim=3) * seen
        return weights

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """One transformer block: attention, then a feed-forward layer, each added to what came in.

    gated: as in LiGR (Borisyuk et al., 2025), each addition passes a learned gate; else as in SASRec (Kang and
    McAuley, ICDM 2018), with its normalisation before each layer.
    """

    def __init__(self, settings: TowerSettings, history_length: int, *, gated: bool) -> None:
        super().__init__()
        dim, wide = settings.vector_dim, settings.vector_dim * settings.widening
        self.before_attention, self.before_mixing = nn.RMSNorm(dim, _EPSILON), nn.RMSNorm(dim, _EPSILON)
        self.attention = Attention(settings, history_length, project_values=True)
        self.out = nn.Linear(dim, dim, bias=False)
        self.mixing = nn.Sequential(nn.Linear(dim, wide), nn.GELU(), nn.Linear(wide, dim))
        self.gates = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim)]) if gated else None
        self.dropout = nn.Dropout(settings.dropout)
        for last in (self.out, self.mixing[2]):
            nn.init.normal_(last.get_parameter("weight"), std=0.02)  # each block begins as nearly nothing

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Return float [B, Q, D] for the Q places that ask; x: float [B, H, D]."""
        normed = self.before_attention(x)
        queries = past.before.shape[1]
        x, asking = x[:, :queries], normed[:, :queries]
        x = self._add(0, x, self.out(self.attention(asking, normed, normed, past)))
        return self._add(1, x, self.mixing(self.before_mixing(x)))

    def _add(self, which: int, x: Tensor, change: Tensor) -> Tensor:
        if self.gates is not None:
            change = torch.sigmoid(self.gates[which](x)) * change
        added: Tensor = x + self.dropout(change)
        return added


class Transformer(nn.Module):
    """Blocks one after another; the last one is computed only for the places that ask."""

    def __init__(self, settings: TowerSettings, history_length: int) -> None:
        super().__init__()
        gated = settings.encoder == "ligr"
        self.blocks = nn.ModuleList(Block(settings, history_length, gated=gated) for _ in range(settings.blocks))
        self.norm = nn.RMSNorm(settings.vector_dim, _EPSILON)
        self.out = nn.Linear(settings.vector_dim, settings.vector_dim)

    def forward(self, x: Tensor, vectors: Tensor, mask: Tensor, ages: Tensor, *, only_newest: bool) -> Tensor:
        """Return float [B, Q, D]; x: float [B, H, D], events; vectors: float [B, H, D], their items (not used)."""
        past = Past.of(mask, ages, x.shape[1] if len(self.blocks) > 1 or not only_newest else 1)
        for i, block in enumerate(self.blocks):
            x = block(x, past.newest() if only_newest and i == len(self.blocks) - 1 else past)
        out: Tensor = self.out(self.norm(x))
        return out


class AttentionPool(nn.Module):
    """Means of the items' own vectors, weighted by each head of one attention, and what they say together."""

    def __init__(self, settings: TowerSettings, history_length: int) -> None:
        super().__init__()
        dim, wide = settings.vector_dim, settings.vector_dim * settings.widening
        pooled = settings.heads * dim
        self.attention = Attention(settings, history_length, project_values=False)
        self.mixing = nn.Sequential(
            nn.Linear(pooled + dim, wide), nn.GELU(), nn.Dropout(settings.dropout), nn.Linear(wide, dim)
        )
        self.skip = nn.Linear(pooled, dim, bias=False)

    def forward(self, x: Tensor, vectors: Tensor, mask: Tensor, ages: Tensor, *, only_newest: bool) -> Tensor:
        """Return float [B, Q, D]; x: float [B, H, D], events; vectors: float [B, H, D], their items."""
        queries = 1 if only_newest else x.shape[1]
        asking = x[:, :queries]
        pooled = self.attention(asking, x, vectors, Past.of(mask, ages, queries))
        out: Tensor = self.mixing(torch.cat([pooled, asking], dim=2)) + self.skip(pooled)
        return out


def new_encoder(settings: TowerSettings, history_length: int) -> nn.Module | None:
    """Return the encoder that the settings name; None for the one that is nothing but decayed means."""
    if settings.encoder == "mean_pool":
        return None
    if settings.encoder == "attention_pool":
        return AttentionPool(settings, history_length)
    return Transformer(settings, history_length)
