"""An item tower and a user tower over one catalogue: what they begin as, and what training asks of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tandem_core.features import FeatureSchema
from tandem_trainer.towers import ItemTower, TowerSettings, UserTower
from tandem_trainer.towers.item_tower import ID_SPREAD

Weights = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class TowerPair:
    """Both towers with the items' inputs: int64 [N] index of the id embedding, content float [N, T], numbers float
    [N, M], codes int64 [N, C] each.
    """

    item: ItemTower
    user: UserTower
    item_inputs: tuple[Tensor, ...]

    def item_vectors(self, rows: Tensor | None) -> Tensor:
        """Return float [n, D] for catalogue rows int64 [n]; None: all."""
        inputs = self.item_inputs if rows is None else tuple(column[rows] for column in self.item_inputs)
        vectors: Tensor = self.item(*inputs)
        return vectors

    @torch.no_grad()
    def begin_as(self, factors: NDArray[np.float32]) -> None:
        """Put factors [N, F] where random id embeddings [N + 1, D] were, as large; dimensions beyond F stay random."""
        embeddings = self.item.id.weight
        width = min(embeddings.shape[1], factors.shape[1])
        spread = float(factors.std())
        if spread > 0:
            embeddings[1:, :width] = torch.from_numpy(factors[:, :width] * (ID_SPREAD / spread))

    def train(self, on: bool) -> None:
        self.item.train(on)
        self.user.train(on)

    def weights(self) -> Weights:
        """Return copies of the item tower's and the user tower's weights by name."""
        item, user = ({k: v.clone() for k, v in tower.state_dict().items()} for tower in (self.item, self.user))
        return item, user

    def load_weights(self, weights: Weights) -> None:
        self.item.load_state_dict(weights[0])
        self.user.load_state_dict(weights[1])

    def parameters(self) -> list[nn.Parameter]:
        return [*self.item.parameters(), *self.user.parameters()]

    @torch.no_grad()
    def all_item_vectors(self, chunk: int = 16_384) -> Tensor:
        """Return float [N, D]."""
        rows = torch.arange(len(self.item_inputs[0]))
        return torch.cat([self.item_vectors(part) for part in torch.split(rows, chunk)])


def new_tower_pair(
    settings: TowerSettings, schema: FeatureSchema, item_index: NDArray[np.int64], inputs: Mapping[str, NDArray[Any]]
) -> TowerPair:
    """Return towers with random weights, drawn from torch's generator; the numbers' scale is that of trained items.

    item_index: int64 [N], what the id embedding is given, 0 for items without a training event. inputs: as
    `tandem_core.features.item_tower_inputs` gives them.
    """
    columns = [inputs[f"codes_{name}"] for name in schema.item_codes]
    numbers = np.asarray(inputs["numbers"], np.float32)
    mean, std = _standardisation(numbers[item_index > 0])
    content = np.asarray(inputs["content"], np.float32)
    item = ItemTower(settings, len(item_index), content.shape[1], [int(c.max(initial=0)) for c in columns], mean, std)
    sizes = [len(vocabulary) for vocabulary in schema.user_attributes.values()]
    user = UserTower(settings, schema.history_length, len(schema.event_types), sizes)
    return TowerPair(item, user, tuple(torch.from_numpy(c) for c in (item_index, content, numbers, *columns)))


def _standardisation(numbers: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the known numbers, float [M] each; std is 1 where nothing varies."""
    known = np.isfinite(numbers)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, numbers, 0).sum(0, dtype=np.float64) / count
    std = np.sqrt(np.where(known, (numbers - mean) ** 2, 0).sum(0) / count)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(np.where(std > 1e-6, std, 1).astype(np.float32))
