"""Models of ratings: factorisation, two towers over vectors with a fusion head, two towers over ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tandem_core.settings import Settings
from tandem_trainer.ratings.inputs import RatingFeatures


@dataclass(frozen=True, slots=True)
class RatingBatch:
    """B pairs. users, items: int64 [B], 0 unknown. text: float [B, T], as in `Ratings`."""

    users: Tensor
    items: Tensor
    text: Tensor


class RatingModel(nn.Module):
    """Predicts, float [B, K]: column 0 the rating, further columns log-odds of other answers."""

    def forward(self, batch: RatingBatch) -> Tensor:
        raise NotImplementedError


class DotModel(RatingModel):
    """Matrix factorisation: relu of the inner product."""

    def __init__(self, n_users: int, n_items: int, factors: int, mean: float) -> None:
        """n_users, n_items: without the unknown. mean: of the training ratings, what it begins with."""
        super().__init__()
        self.users, self.items = nn.Embedding(n_users + 1, factors), nn.Embedding(n_items + 1, factors)
        # Around the mean rating: from around 0 the relu would let half of the pairs learn nothing.
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, mean=(max(mean, 0.01) / factors) ** 0.5, std=0.05)

    def forward(self, batch: RatingBatch) -> Tensor:
        return F.relu((self.users(batch.users) * self.items(batch.items)).sum(1, keepdim=True))


class VectorTowerSettings(Settings):
    """The shape of towers over ALS and text vectors, and of the head that joins them."""

    hidden: tuple[int, ...] = (256, 128)
    vector_dim: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    head: tuple[int, int] = (64, 32)
    head_dropout: float = Field(default=0.2, ge=0, lt=1)
    like: bool = False  # a second answer from the same trunk: whether the user likes the item


class VectorTowers(RatingModel):
    """ALS + text (+ anonymous) -> tower per side -> their vectors side by side -> fusion head."""

    user_als: Tensor
    item_als: Tensor
    item_text: Tensor
    anonymous: Tensor

    def __init__(self, features: RatingFeatures, settings: VectorTowerSettings, mean: float) -> None:
        """mean: of the training ratings, what it begins with."""
        super().__init__()
        # Inputs, not weights: they are neither saved nor copied with each best epoch.
        self.register_buffer("user_als", torch.from_numpy(features.user_als), persistent=False)
        self.register_buffer("item_als", torch.from_numpy(features.item_als), persistent=False)
        self.register_buffer("item_text", torch.from_numpy(features.item_text), persistent=False)
        self.register_buffer("anonymous", torch.from_numpy(features.anonymous).float()[:, None], persistent=False)
        text, out = features.item_text.shape[1], settings.vector_dim
        shape = (settings.hidden, out, settings.dropout)
        self.user = _elu_tower(features.user_als.shape[1] + text + 1, *shape)
        self.item = _elu_tower(features.item_als.shape[1] + text, *shape)
        wide, narrow = settings.head
        self.trunk = nn.Sequential(
            nn.Linear(2 * out, wide), nn.ELU(), nn.Dropout(settings.head_dropout), nn.Linear(wide, narrow), nn.ELU()
        )
        self.answers = nn.Linear(narrow, 2 if settings.like else 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.answers.bias[0] = mean

    def forward(self, batch: RatingBatch) -> Tensor:
        return self.of_vectors(
            self.user_als[batch.users],
            batch.text,
            self.anonymous[batch.users],
            self.item_als[batch.items],
            self.item_text[batch.items],
        )

    def of_vectors(
        self, user_als: Tensor, user_text: Tensor, user_anonymous: Tensor, item_als: Tensor, item_text: Tensor
    ) -> Tensor:
        """Return what is predicted of pairs whose vectors are given: float [B, F], [B, T], [B, 1], [B, F], [B, T]."""
        user = self.user(torch.cat([user_als, user_text, user_anonymous], dim=1))
        item = self.item(torch.cat([item_als, item_text], dim=1))
        answers: Tensor = self.answers(self.trunk(torch.cat([user, item], dim=1)))
        return answers


class IdTowerSettings(Settings):
    """The shape of towers over ids and codes."""

    id_dim: int = Field(default=32, ge=1)
    side_dim: int = Field(default=32, ge=1)  # per attribute or column
    hidden: tuple[int, ...] = (128,)
    vector_dim: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class IdTowers(RatingModel):
    """Id and codes -> tower per side -> unit vectors -> dot product, which a line turns into a rating."""

    user_codes: Tensor

    def __init__(self, features: RatingFeatures, settings: IdTowerSettings, mean: float) -> None:
        """mean: of the training ratings, what it begins with."""
        super().__init__()
        self.register_buffer("user_codes", torch.from_numpy(features.user_codes), persistent=False)
        for at, column in enumerate(features.item_codes):
            self.register_buffer(f"item_codes_{at}", torch.from_numpy(column), persistent=False)
        users, items = len(features.user_codes), len(features.item_text)
        # Place 0 stays zero: of an unknown user or item the codes alone speak.
        self.user_id = nn.Embedding(users, settings.id_dim, padding_idx=0)
        self.item_id = nn.Embedding(items, settings.id_dim, padding_idx=0)
        self.user_side = _side_tables(features.user_sizes, settings.side_dim)
        self.item_side = _side_tables(features.item_sizes, settings.side_dim)
        self.user_tower = _relu_tower(settings.id_dim + settings.side_dim * len(features.user_sizes), settings)
        self.item_tower = _relu_tower(settings.id_dim + settings.side_dim * len(features.item_sizes), settings)
        self.scale, self.offset = nn.Parameter(torch.ones(1)), nn.Parameter(torch.full((1,), mean))

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return float [B, D], unit length."""
        codes = self.user_codes[users]
        side = [table(codes[:, at]) for at, table in enumerate(self.user_side)]
        return F.normalize(self.user_tower(torch.cat([self.user_id(users), *side], dim=1)), dim=1)

    def item_vectors(self, items: Tensor) -> Tensor:
        """Return float [B, D], unit length."""
        side = [
            _mean_code(table, self.get_buffer(f"item_codes_{at}")[items]) for at, table in enumerate(self.item_side)
        ]
        return F.normalize(self.item_tower(torch.cat([self.item_id(items), *side], dim=1)), dim=1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the cosine, float [B]."""
        return (self.user_vectors(users) * self.item_vectors(items)).sum(1)

    def forward(self, batch: RatingBatch) -> Tensor:
        return (self.offset + self.scale * self.score(batch.users, batch.items))[:, None]


def _mean_code(table: nn.Module, codes: Tensor) -> Tensor:
    """Return the mean embedding [B, E] of codes [B, C]; 0 pads and has a vector of zeros."""
    total: Tensor = table(codes).sum(1)
    return total / (codes > 0).sum(1, keepdim=True).clamp(min=1)


def _side_tables(sizes: Sequence[int], dim: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Embedding(size + 1, dim, padding_idx=0) for size in sizes)


def _elu_tower(width: int, hidden: Sequence[int], out: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ELU()]
        width = size
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(width, out))


def _relu_tower(width: int, settings: IdTowerSettings) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in settings.hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(settings.dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, settings.vector_dim))
