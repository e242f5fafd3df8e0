"""The item tower: what an item is and who chose it, as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem_trainer.towers.settings import TowerSettings

ID_SPREAD = 0.1  # standard deviation that embeddings begin with


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
            nn.init.normal_(embedding.weight, std=ID_SPREAD)

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


def _masked_mean(table: nn.Module, codes: Tensor) -> Tensor:
    """Return the mean embedding [N, E] of codes [N, C]; 0 pads and counts for nothing."""
    weight = table.get_parameter("weight")
    # A text that came after training has no embedding: it counts as none.
    codes = torch.where(codes < len(weight), codes, torch.zeros_like(codes))
    present = (codes > 0).to(weight.dtype).unsqueeze(2)
    return (F.embedding(codes, weight) * present).sum(1) / present.sum(1).clamp(min=1)


def _mlp(width: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, out))
