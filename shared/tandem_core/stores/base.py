"""What every user store does."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from tandem_core.query import UserEvents
from tandem_core.shown import ShownItems


class StoreUnavailable(Exception):  # noqa: N818
    """The store did not answer; names it and says why."""


class StoredEvent(NamedTuple):
    """One event to store.

    insert_id: "" for no protection against double writing. timestamp_ms: milliseconds since 1970, None for the time of
    arrival. value: None for none. decision_id, session_id: "" for unknown. position: 1 is the top, 0 unknown. context:
    facts of the request it happened on; kept for training alone.
    """

    insert_id: str
    user_id: str
    item_id: str
    timestamp_ms: int | None
    event_type: str
    value: float | None
    decision_id: str = ""
    position: int = 0
    session_id: str = ""
    context: Mapping[str, str] = MappingProxyType({})


class LoggedEvent(NamedTuple):
    """An event as the store keeps it. sequence: rising in the order of acknowledgement, never used twice."""

    sequence: int
    user_id: str
    item_id: str
    timestamp_ms: int
    event_type: str
    value: float | None
    decision_id: str
    position: int
    session_id: str
    context: Mapping[str, str]


class Outcome(enum.IntEnum):
    """What became of one event; numbers as in `tandem.events.v1.EventOutcome`."""

    STORED = 1
    DUPLICATE = 2  # its insert_id is known
    FORGOTTEN = 3  # from before its user was forgotten: not stored


@dataclass(frozen=True, slots=True)
class StoredUser:
    """What the store knows of a user; all empty for unknown users. events: without impressions, which are `shown`."""

    events: UserEvents = field(default_factory=UserEvents)
    attributes: Mapping[str, str] = field(default_factory=dict)
    shown: ShownItems = field(default_factory=ShownItems)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was deleted of a user, and when (milliseconds since 1970)."""

    events: int
    impressions: int
    attributes: int
    time_ms: int


class UserStore(Protocol):
    """Events and attributes by user. Reads and writes may come from several threads and processes."""

    def read(self, user_id: str) -> StoredUser:
        """Return the user's newest events (oldest first), attributes and impressions; raises StoreUnavailable."""
        ...

    def add_events(self, events: Iterable[StoredEvent]) -> list[Outcome]:
        """Store events durably, skipping known insert_ids; return what became of each, in order.

        Times of arrival never decrease, whatever the clock does. Raises StoreUnavailable: then nothing may be said of
        what was stored, and writing again with the same insert_ids is safe.
        """
        ...

    def put_users(self, users: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        """Store users durably, replacing all their attributes; return how many."""
        ...

    def forget(self, user_id: str) -> Forgotten:
        """Delete all of a user, overwriting it, and put the user on the suppression list; raises StoreUnavailable."""
        ...

    def forgotten_among(self, user_ids: Sequence[str]) -> set[str]:
        """Return which of the users are on the suppression list; raises StoreUnavailable."""
        ...

    def log(self, after: int, most: int) -> Iterator[list[LoggedEvent]]:
        """Yield all events with a sequence above `after`, in its order, in lists of at most `most`.

        Nothing is locked between lists. Raises StoreUnavailable.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
