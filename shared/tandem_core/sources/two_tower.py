"""Candidates near the user's vector: the user tower, then nearest neighbours among item vectors."""

from __future__ import annotations

from dataclasses import dataclass

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import VectorIndex
from tandem_core.query import Regime
from tandem_core.sources.base import Found, nearest
from tandem_core.user_tower import UserTower


@dataclass(frozen=True, slots=True)
class TwoTower:
    """Score: cosine of user and item vector, in [-1, 1]. Knows every user with a history or a profile."""

    tower: UserTower
    index: VectorIndex

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        if user.regime == Regime.UNKNOWN:
            return Found()
        return nearest(self.index, self.tower.encode([user])[0], eligible, limit)
