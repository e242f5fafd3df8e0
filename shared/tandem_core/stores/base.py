"""What every user store does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tandem_core.query import UserEvents


class StoreUnavailable(Exception):  # noqa: N818
    """The store did not answer; names it and says why."""


class StoredEvent(NamedTuple):
    """One event to store. insert_id: "" for no protection against double writing. value: None for none."""

    insert_id: str
    user_id: str
    item_id: str
    timestamp_ms: int
    event_type: str
    value: float | None


@dataclass(frozen=True, slots=True)
class StoredUser:
    """What the store knows of a user; both empty for unknown users."""

    events: UserEvents = field(default_factory=UserEvents)
    attributes: Mapping[str, str] = field(default_factory=dict)


class UserStore(Protocol):
    """Events and attributes by user. Reads may come from several threads; writes from one process."""

    def read(self, user_id: str) -> StoredUser:
        """Return the user's newest events (oldest first) and attributes; raises StoreUnavailable."""
        ...

    def add_events(self, events: Iterable[StoredEvent]) -> int:
        """Store events durably, skipping known insert_ids; return how many were new."""
        ...

    def put_users(self, users: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        """Store users durably, replacing all their attributes; return how many."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
