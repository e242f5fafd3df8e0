"""What a request asks for, free of wire types: the pipelines' input."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.filters import Condition
from tandem_core.shown import ShownItems

MOST_EXCLUDED = 1000  # item ids that a request may name


class Regime(enum.IntEnum):
    """What is known of the user; numbers as in `tandem.common.v1.UserRegime`."""

    WARM = 1
    FEW_EVENTS = 2
    PROFILE_ONLY = 3
    UNKNOWN = 4


class Fill(enum.IntEnum):
    """What to do when the sources find too little; numbers as in `tandem.common.v1.FillPolicy`."""

    STRICT = 1
    BACKFILL = 2


class Seen(enum.IntEnum):
    """Treatment of seen items; numbers as in `tandem.common.v1.SeenMode`."""

    EXCLUDE = 1
    DISCOUNT = 2
    ALLOW = 3


@dataclass(frozen=True, slots=True)
class UserEvents:
    """Events of one user as columns, oldest first.

    item_ids: list of n strings. timestamps: int64 [n], milliseconds since 1970. event_types: list of n strings.
    values: float32 [n], NaN where there is none.
    """

    item_ids: Sequence[str] = ()
    timestamps: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    event_types: Sequence[str] = ()
    values: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, places: NDArray[np.intp]) -> UserEvents:
        """Return the events at `places`, in that order."""
        return UserEvents(
            [self.item_ids[i] for i in places.tolist()],
            self.timestamps[places],
            [self.event_types[i] for i in places.tolist()],
            self.values[places],
        )

    def merged_with(self, other: UserEvents) -> UserEvents:
        """Return both as one, oldest first; at equal times the other's come later."""
        if not len(other):
            return self
        if not len(self):
            return other
        timestamps = np.concatenate([self.timestamps, other.timestamps])
        by_time = np.argsort(timestamps, kind="stable")
        item_ids = [*self.item_ids, *other.item_ids]
        event_types = [*self.event_types, *other.event_types]
        return UserEvents(
            [item_ids[i] for i in by_time],
            timestamps[by_time],
            [event_types[i] for i in by_time],
            np.concatenate([self.values, other.values])[by_time],
        )


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """How many items to ask a source for, and what its word weighs in the merge (above 0).

    quota: so many of its best stay among the candidates however low the merge puts them: for items that the other
    sources can not know yet. All quotas together take at most a third of the candidates.
    """

    source: str
    limit: int
    weight: float = 1.0
    quota: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One request, checked.

    now_ms: milliseconds since 1970, what ages count from. anonymous: the user store is not read. attributes: of the
    user, request over store.
    query_text: what the user typed, "" where nothing; the search source alone reads it.
    context: facts of the request. plans: empty means the bundle's own. condition: None means all items.
    interacted: None means what the stage does by itself (retrieval: exclude; ranking: the placement's policy).
    shown: what the user was shown, stored and sent along. served_within_s: items shown within this time, in seconds,
    are treated as `served` says; 0: shown items do not matter.
    experiments: (experiment, variant) pairs, those the caller decided first. policy: of a variant, as
    `experiments.policy_key` names it; "" means the placement's own.
    """

    request_id: str
    now_ms: int
    max_results: int
    placement: str = "default"
    user_id: str = ""
    session_id: str = ""
    anonymous: bool = False
    events: UserEvents = field(default_factory=UserEvents)
    seed_item_ids: Sequence[str] = ()
    query_text: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)
    condition: Condition | None = None
    fill: Fill = Fill.BACKFILL
    interacted: Seen | None = None
    shown: ShownItems = field(default_factory=ShownItems)
    served_within_s: float = 0.0
    served: Seen = Seen.DISCOUNT
    exclude_item_ids: Sequence[str] = ()
    plans: Sequence[SourcePlan] = ()
    seed: int = 0
    experiments: Sequence[tuple[str, str]] = ()
    policy: str = ""

    @property
    def policy_name(self) -> str:
        """Name of the policy to use: of the variant, else of the placement."""
        return self.policy or self.placement

    @property
    def facts(self) -> dict[str, str]:
        """What is known of the user and of the request, the request's own facts over the user's."""
        return {**self.attributes, **self.context}


def seed_of(request_id: str, seed: int) -> int:
    """Return the seed of a request: the given one, or one derived from its id (uint64)."""
    return seed or int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big")


def decision_id_of(request_id: str) -> str:
    """Return the name of a decision: retries and hedged calls share the request's id, and so count once."""
    return hashlib.blake2b(request_id.encode(), digest_size=12, person=b"decision").hexdigest()
