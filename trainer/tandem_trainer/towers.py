"""The two towers: an item and a user each become a unit vector, and a dot product joins them.

The user tower reads the vectors of the user's items, not ids, so that an item added a second ago and a user never
trained on both work; the item tower works without the id.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from tandem_core.features import AGE_BUCKETS, CONTEXT_SIZES


class TowerSettings(BaseModel):
    """The shape of both towers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vector_dim: int = Field(default=64, ge=1)
    id_dim: int = Field(default=64, ge=1)
    code_dim: int = Field(default=32, ge=1)  # per embedded catalogue column
    attribute_dim: int = Field(default=8, ge=1)  # per user attribute and context feature
    hidden: int = Field(default=128, ge=1)
    heads: int = Field(default=4, ge=1)  # attention pools of the history
    key_dim: int = Field(default=32, ge=1)  # where the attention compares events
    dropout: float = Field(default=0.1, ge=0, lt=1)
    id_dropout: float = Field(default=0.1, ge=0, lt=1)  # share of items a step sees without id: cold items must work
    attribute_dropout: float = Field(default=0.2, ge=0, lt=1)  # most callers do not know their users' attributes
    l2_normalise: bool = True  # checked by the trainer: served vectors have unit length


class ItemTower(nn.Module):
    """Id + content + codes + numbers -> vector."""

    number_mean: Tensor
    number_std: Tensor

    def __init__(
        self,
        settings: TowerSettings,
        n_items: int,
        content_dim: int,
        code_sizes: Sequence[int],
        number_mean: Tensor,
        number_std: Tensor,
    ) -> None:
        """code_sizes: codes of each embedded column without 0. number_mean, number_std: float [M], std above 0."""
        super().__init__()
        self.id_dropout = settings.id_dropout
        self.id = nn.Embedding(n_items + 1, settings.id_dim)
        self.content = nn.Linear(content_dim, settings.id_dim, bias=False)
        self.codes = nn.ModuleList(nn.Embedding(size + 1, settings.code_dim) for size in code_sizes)
        self.register_buffer("number_mean", number_mean)
        self.register_buffer("number_std", number_std)
        # Id and content share a space: content says where an item lies, the id corrects it.
        width = settings.id_dim + settings.code_dim * len(code_sizes) + 2 * len(number_mean)
        self.mlp = _mlp(width, settings.hidden, settings.vector_dim, settings.dropout)
        self.skip = nn.Linear(width, settings.vector_dim, bias=False)
        for embedding in (self.id, *self.codes):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, item_index: Tensor, content: Tensor, numbers: Tensor, *codes: Tensor) -> Tensor:
        """Return float [N, D], unit length.

        item_index: int64 [N], 0 for an item not trained on. content: float [N, T], zeros where there is none.
        numbers: float [N, M], NaN where unknown. codes: int64 [N, C] per embedded column, 0 pads.
        """
        if self.training:
            item_index = item_index * (torch.rand(item_index.shape) >= self.id_dropout)
        parts = [self.id(item_index) + self.content(content)]
        parts += [_masked_mean(table, column) for table, column in zip(self.codes, codes, strict=True)]
        known = torch.logical_not(torch.isnan(numbers))
        standard = torch.where(known, (numbers - self.number_mean) / self.number_std, torch.zeros_like(numbers))
        x = torch.cat([*parts, standard.clamp(-5, 5), known.to(numbers.dtype)], dim=1)
        return F.normalize(self.mlp(x) + self.skip(x), dim=1)


class UserTower(nn.Module):
    """The vectors of the user's newest items + attributes + context -> vector."""

    def __init__(
        self,
        settings: TowerSettings,
        history_length: int,
        history_half_life: float,
        n_types: int,
        attribute_sizes: Sequence[int],
    ) -> None:
        """n_types: event types without 0. attribute_sizes: vocabulary of each attribute without 0."""
        super().__init__()
        dim, key = settings.vector_dim, settings.key_dim
        self.history_length = history_length
        self.half_life = history_half_life
        self.attribute_dropout = settings.attribute_dropout
        self.types = nn.Embedding(n_types + 1, key)
        self.positions = nn.Embedding(history_length, key)
        self.ages = nn.Embedding(AGE_BUCKETS, key)
        self.key = nn.Linear(dim, key)
        self.query = nn.Linear(dim, key, bias=False)
        self.score = nn.Linear(key, settings.heads, bias=False)
        sizes = (*attribute_sizes, *(size - 1 for size in CONTEXT_SIZES))
        self.facts = nn.ModuleList(nn.Embedding(size + 1, settings.attribute_dim) for size in sizes)
        width = (settings.heads + 2) * dim + key + settings.attribute_dim * len(sizes)
        self.mlp = _mlp(width, settings.hidden, dim, settings.dropout)
        self.skip = nn.Linear((settings.heads + 2) * dim, dim, bias=False)
        for embedding in (self.types, self.positions, self.ages, *self.facts):
            nn.init.normal_(embedding.weight, std=0.1)

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

        Newest first: history_vectors float [B, H, D], history_mask float [B, H], history_types and history_ages
        int64 [B, H]. user_attributes: int64 [B, A]. context: int64 [B, 2].
        """
        weights = torch.cat(
            [
                _newest_and_recent(history_mask, self.half_life),
                self._attention(history_vectors, history_mask, history_types, history_ages),
            ],
            dim=1,
        )  # [B, 2 + heads, H]
        # One product for all means: on long histories memory traffic is what costs.
        means = (weights @ history_vectors).flatten(1)
        newest_type = self.types(history_types[:, 0]) * history_mask[:, :1]
        facts = self._facts(torch.cat([user_attributes, context], dim=1))
        return F.normalize(self.mlp(torch.cat([means, newest_type, *facts], dim=1)) + self.skip(means), dim=1)

    def _attention(self, vectors: Tensor, mask: Tensor, types: Tensor, ages: Tensor) -> Tensor:
        """Return [B, heads, H]: what each event weighs by item, type, age and position, beside the newest item."""
        both = (self.types.weight.unsqueeze(1) + self.ages.weight.unsqueeze(0)).flatten(0, 1)  # one look-up, not two
        places = torch.arange(types.shape[1]).clamp(max=self.history_length - 1)
        marks = F.embedding(types * AGE_BUCKETS + ages, both) + self.positions(places)  # [B, H, key]
        # Items learn through the means alone: what flows through here costs a fifth of a step and adds nothing.
        vectors = vectors.detach()
        query = self.query(vectors[:, 0]).unsqueeze(1)
        scores = self.score(torch.relu(self.key(vectors) + marks + query)).transpose(1, 2)
        mask = mask.unsqueeze(1)
        # A finite mask value and a second mask: an empty history gives zeros instead of NaN.
        return torch.softmax(scores.masked_fill(mask == 0, -1e4), dim=2) * mask

    def _facts(self, codes: Tensor) -> list[Tensor]:
        if self.training:
            codes = codes * (torch.rand(codes.shape) >= self.attribute_dropout)
        return [table(codes[:, i]) for i, table in enumerate(self.facts)]


def _newest_and_recent(mask: Tensor, half_life: float) -> Tensor:
    """Return [B, 2, H]: all weight on the newest event, and weights that fall with an event's place."""
    places = torch.arange(mask.shape[1])
    decay = torch.exp2(-places / half_life) * mask
    decay = decay / decay.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.stack([(places == 0) * mask, decay], dim=1)


def _masked_mean(table: nn.Module, codes: Tensor) -> Tensor:
    """Return the mean embedding [N, E] of codes [N, C]; 0 pads and counts for nothing."""
    weight = table.get_parameter("weight")
    # A text that came after training has no embedding: it counts as none.
    codes = torch.where(codes < len(weight), codes, torch.zeros_like(codes))
    present = (codes > 0).to(weight.dtype).unsqueeze(2)
    return (F.embedding(codes, weight) * present).sum(1) / present.sum(1).clamp(min=1)


def _mlp(width: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, out))
