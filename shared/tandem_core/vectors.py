"""The vectors of items and users, for those who compare them by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import Bundle
from tandem_core.features import resolve_user
from tandem_core.query import Query


def item_vectors(bundle: Bundle, item_ids: Sequence[str]) -> NDArray[np.float32]:
    """Return float32 [n, D], unit length, of n items of the catalogue, in their order; unknown ids are left out."""
    return bundle.item_vectors[bundle.catalog.rows(item_ids)]


def user_vectors(bundle: Bundle, queries: Sequence[Query]) -> NDArray[np.float32]:
    """Return float32 [B, D], unit length, of the users of B queries, as the source two_tower sees them.

    All in one run of the user tower. Raises ValueError where the bundle was loaded without it.
    """
    if bundle.user_tower is None:
        raise ValueError(f"bundle {bundle.id} was loaded without the user tower: load it for retrieval")
    if not queries:
        return np.empty((0, bundle.item_vectors.shape[1]), np.float32)
    return bundle.user_tower.encode([resolve_user(bundle.schema, bundle.catalog, query) for query in queries])
