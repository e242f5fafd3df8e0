"""What makes two items alike, for the rules that keep like items apart."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tandem_core.rules.base import Given, Order

# vectors: of the item tower. content: TF-IDF of what is written about the items. categories: the categories in common.
Similarity = Literal["vectors", "content", "categories"]


def unit_rows(given: Given, at: Order, similarity: Similarity) -> NDArray[np.float32]:
    """Return float32 [len(at), D] whose products are cosines; an item without categories is like no other."""
    if similarity != "categories":
        rows: NDArray[np.float32] = given.column(similarity, at)
        return rows
    codes = given.column("codes:categories", at)
    present, dense = np.unique(codes, return_inverse=True)
    hot = np.zeros((len(at), len(present)), np.float32)
    hot[np.arange(len(at))[:, None], dense.reshape(codes.shape)] = 1
    if len(present) and present[0] < 0:
        hot[:, 0] = 0
    hot /= np.maximum(np.sqrt(hot.sum(axis=1, keepdims=True)), 1)
    return hot
