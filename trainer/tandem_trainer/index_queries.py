"""What users ask of each index of a bundle: the vectors an index is chosen by and its recall is measured with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.sources.als import Als
from tandem_core.sources.content_neighbours import content_profile

Vectors = NDArray[np.float32]


def index_queries(
    users: Sequence[User], user_vectors: Vectors, als: Als, content: Vectors, content_half_life: float
) -> dict[str, Vectors]:
    """Return float32 [Q, D] by index: tower vectors of all users, factors and content of those with a history.

    user_vectors: float32 [U, D], of the user tower. content: float32 [N, T], of the catalogue.
    """
    histories = [user.history for user in users if len(user.history)]
    folded = [als.fold_in(history.rows, history.decayed(als.half_life)) for history in histories]
    profiles = [content_profile(content, history, content_half_life) for history in histories]
    return {
        "two_tower": user_vectors,
        "als": np.array(folded, np.float32),
        "content": np.array([profile for profile in profiles if profile is not None], np.float32),
    }
