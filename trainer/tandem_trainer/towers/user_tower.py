"""The user tower: what a user did, who the user is and when it is, as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_trainer.towers.encoders import TIME_BUCKETS, new_encoder, time_buckets
from tandem_trainer.towers.settings import TowerSettings

_ENCODER_SHARE = 0.1  # the means lead in the beginning, and the encoder grows beside them
_TO_UNIT_VARIANCE = 0.5  # an entry of a unit vector, times the square root of its length, varies by about 1


class UserTower(nn.Module):
    """The vectors of the user's newest items + attributes + context -> vector.

    Two ways lead from the history to the vector: means that fade with the place, which alone make a sound
    item-to-item model from the first step on, and the encoder, which adds what order and time say.
    """

    def __init__(
        self,
        settings: TowerSettings,
        history_length: int,
        n_types: int,
        attribute_sizes: Sequence[int],
        context_sizes: Sequence[int],
    ) -> None:
        """n_types: event types without 0. attribute_sizes, context_sizes: codes of each column without 0."""
        super().__init__()
        dim = settings.vector_dim
        self.half_lives = settings.half_lives
        self.attribute_dropout = settings.attribute_dropout
        self.scale = _TO_UNIT_VARIANCE * dim**0.5
        self.types = nn.Embedding(n_types + 1, dim)
        self.gaps = nn.Embedding(TIME_BUCKETS, dim)
        self.waits = nn.Embedding(TIME_BUCKETS, dim)
        self.start = nn.Parameter(torch.zeros(dim))  # where there is no event yet
        self.enter = nn.Linear(dim, dim)
        self.encoder = new_encoder(settings, history_length)
        self.dropout = nn.Dropout(settings.dropout)
        self.means = nn.Linear((1 + len(self.half_lives)) * dim, dim, bias=False)
        self.facts = nn.ModuleList(nn.Embedding(size + 1, dim) for size in (*attribute_sizes, *context_sizes))
        for embedding in (self.types, self.gaps, self.waits, *self.facts):
            nn.init.normal_(embedding.weight, std=0.02)
        with torch.no_grad():  # the sum of the newest item and a short mean: a good guess to begin with
            self.means.weight.mul_(0.1)
            self.means.weight[:, :dim] += 0.5 * torch.eye(dim)
            self.means.weight[:, dim * len(self.half_lives) : dim * (len(self.half_lives) + 1)] += 0.5 * torch.eye(dim)

    def forward(
        self,
        history_vectors: Tensor,
        history_mask: Tensor,
        history_types: Tensor,
        history_ages: Tensor,
        user_attributes: Tensor,
        context: Tensor,
    ) -> Tensor:
        """Return float [B, D], unit length; an empty history (mask all 0) gives what attributes and context say.

        Newest first: history_vectors float [B, H, D], history_mask float [B, H], history_types int64 [B, H],
        history_ages int64 [B, H] in milliseconds before now. user_attributes: int64 [B, A].
        context: int64 [B, C].
        """
        history = (history_vectors, history_mask, history_types, history_ages)
        return self._vectors(*history, user_attributes, context[:, None], only_newest=True)[:, 0]

    def at_every_place(
        self,
        history_vectors: Tensor,
        history_mask: Tensor,
        history_types: Tensor,
        history_ages: Tensor,
        user_attributes: Tensor,
        context: Tensor,
    ) -> Tensor:
        """Return float [B, H, D], unit length: at place i what `forward` gives when all events before it are cut off.

        As `forward`, but for context: int64 [B, H, C], of the moment after each event.
        """
        history = (history_vectors, history_mask, history_types, history_ages)
        return self._vectors(*history, user_attributes, context, only_newest=False)

    def _vectors(
        self,
        vectors: Tensor,
        mask: Tensor,
        types: Tensor,
        ages: Tensor,
        attributes: Tensor,
        context: Tensor,
        *,
        only_newest: bool,
    ) -> Tensor:
        vectors, ages = vectors * mask[:, :, None], torch.where(mask > 0, ages, torch.zeros_like(ages))
        out = self.means(self._means(vectors, mask, only_newest=only_newest))
        out = out + self._facts(attributes, context)
        if self.encoder is not None:
            x = self.dropout(self._events(vectors, mask, types, ages))
            out = out + _ENCODER_SHARE * self.encoder(x, vectors, mask, ages, only_newest=only_newest)
        return F.normalize(out, dim=2)

    def _events(self, vectors: Tensor, mask: Tensor, types: Tensor, ages: Tensor) -> Tensor:
        """Return [B, H, D]: what each event was, how long after the one before it, and how long before what is next."""
        gaps = time_buckets(torch.cat([ages[:, 1:], ages[:, -1:]], dim=1) - ages)
        waits = time_buckets(ages - torch.cat([torch.zeros_like(ages[:, :1]), ages[:, :-1]], dim=1))
        events = self.enter(self.scale * vectors) + self.types(types) + self.gaps(gaps) + self.waits(waits)
        return torch.where(mask[:, :, None] > 0, events, self.start)

    def _means(self, vectors: Tensor, mask: Tensor, *, only_newest: bool) -> Tensor:
        """Return [B, Q, (1 + half-lives) * D]: the newest item, and means that halve with the place."""
        place = torch.arange(vectors.shape[1])
        queries = 1 if only_newest else len(place)
        back = (place[None, :] - place[:queries, None]).to(vectors.dtype)  # [Q, H]
        means = [vectors[:, :queries]]
        for half_life in self.half_lives:
            weights = torch.exp2(-back.clamp(min=0) / half_life) * (back >= 0)  # clamped: infinite times 0 is NaN
            total = (mask @ weights.T).clamp(min=1e-6)[:, :, None]  # [B, Q, 1]
            means.append((weights @ vectors) / total)
        return torch.cat(means, dim=2)

    def _facts(self, attributes: Tensor, context: Tensor) -> Tensor:
        """Return [B, Q, D]; attributes: int64 [B, A], context: int64 [B, Q, C]."""
        codes = torch.cat([attributes[:, None].expand(-1, context.shape[1], -1), context], dim=2)
        if self.training:
            codes = codes * (torch.rand(codes.shape) >= self.attribute_dropout)
        return torch.stack([table(codes[:, :, i]) for i, table in enumerate(self.facts)]).sum(0)
