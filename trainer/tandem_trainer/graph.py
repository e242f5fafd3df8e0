"""Item vectors smoothed over the graph of who chose what, as LightGCN propagates them."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class GraphSettings(BaseModel):
    """Propagation of LightGCN (He et al., SIGIR 2020) as the start of the item tower's id embeddings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=0, ge=0, le=10)  # steps from items over their users to items; 0: none


def smooth_over_graph(
    item_vectors: NDArray[np.float32],
    rows_user: NDArray[np.integer],
    rows_item: NDArray[np.integer],
    n_users: int,
    layers: int,
) -> NDArray[np.float32]:
    """Return float32 [N, D], the mean of E, SE, SSE, ... with `layers` steps of S = R'R (He et al., SIGIR 2020).

    item_vectors: E, float32 [N, D]. rows_user, rows_item: [E], the events that count; a pair counts once, rows below 0
    do not. R [U, N] has 1 / sqrt(items of the user * users of the item) where the user chose the item. These are the
    even layers of LightGCN, up to one factor, where users begin at 0: an inductive user has no vector of his own. Items
    that nobody chose keep their direction.
    """
    known = rows_item >= 0
    pairs = (rows_user[known], rows_item[known])
    shape = (n_users, len(item_vectors))
    chosen = scipy.sparse.csr_matrix((np.ones(int(known.sum()), np.float32), pairs), shape=shape)
    chosen.data[:] = 1  # building it has added up repeated pairs
    by_user, by_item = (np.maximum(np.asarray(chosen.sum(axis=axis)).ravel(), 1) ** -0.5 for axis in (1, 0))
    scaled = scipy.sparse.diags(by_user) @ chosen @ scipy.sparse.diags(by_item)
    layer, total = item_vectors, item_vectors.astype(np.float32)
    for _ in range(layers):
        layer = scaled.T @ (scaled @ layer)
        total = total + layer
    return (total / (layers + 1)).astype(np.float32)
