"""Several pairs of towers side by side: one vector that holds those of all, joined by one dot product.

Each pair's vectors have unit length and stand in the joint vector divided by the square root of the number of pairs: a
dot product of joint vectors is the mean of the pairs' cosines, and the joint vector has unit length again. An ensemble
by mean score (Hansen and Salamon, 1990) that any index of vectors can serve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from tandem_trainer.towers.user_tower import UserTower


class JoinedItemTowers(nn.Module):
    """The item towers of k pairs as one."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, item_index: Tensor, content: Tensor, numbers: Tensor, *codes: Tensor) -> Tensor:
        """Return float [N, k * D], unit length; arguments as of `ItemTower`."""
        vectors = [member(item_index, content, numbers, *codes) for member in self.members]
        return torch.cat(vectors, dim=1) / math.sqrt(len(vectors))


class JoinedUserTowers(nn.Module):
    """The user towers of k pairs as one: each reads its own part of the history's vectors."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, history_vectors: Tensor, *others: Tensor) -> Tensor:
        """Return float [B, k * D], unit length; history_vectors: float [B, H, k * D], others: as of `UserTower`."""
        vectors = [member(part, *others) for member, part in self._parts(history_vectors)]
        return torch.cat(vectors, dim=1) / math.sqrt(len(vectors))

    def at_every_place(self, history_vectors: Tensor, *others: Tensor) -> Tensor:
        """Return float [B, H, k * D], as `UserTower.at_every_place`."""
        vectors = [member.at_every_place(part, *others) for member, part in self._parts(history_vectors)]
        return torch.cat(vectors, dim=2) / math.sqrt(len(vectors))

    def _parts(self, history_vectors: Tensor) -> list[tuple[UserTower, Tensor]]:
        """Return each member and the vectors that it knows, of unit length."""
        members = cast(list[UserTower], list(self.members))
        parts = (history_vectors * math.sqrt(len(members))).chunk(len(members), dim=2)
        return list(zip(members, parts, strict=True))
