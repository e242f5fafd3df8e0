"""Candidates near the user's vector: the user tower, then nearest neighbours among item vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import VectorIndex
from tandem_core.query import Regime
from tandem_core.sources.base import Found, nearest
from tandem_core.user_tower import UserTower

_MEMO = "two_tower"


@dataclass(frozen=True, slots=True)
class TwoTower:
    """Score: cosine of user and item vector, in [-1, 1]. Knows every user with a history or a profile."""

    tower: UserTower
    index: VectorIndex

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        vector = self.vector(user)
        return Found() if vector is None else nearest(self.index, vector, eligible, limit)

    def vector(self, user: User) -> NDArray[np.float32] | None:
        """Return the user's vector [D], None for a user of whom nothing is known; computed once per request."""
        if user.regime == Regime.UNKNOWN:
            return None
        if _MEMO not in user.memo:
            user.memo[_MEMO] = self.tower.encode([user])[0]
        return user.memo[_MEMO]
