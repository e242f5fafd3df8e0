"""The replicated user store: Redis or Valkey, one primary with replicas.

Durability is the server's: run it with `appendonly yes` and `appendfsync always`, and an acknowledged write is on the
primary's disk. Replication is asynchronous: a failover may lose the last acknowledged writes (`min-replicas-to-write`
bounds that). All reads go to the primary, so that users see their own writes.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tandem_core.query import UserEvents
from tandem_core.settings import ConfigError
from tandem_core.shown import IMPRESSION, ShownItems
from tandem_core.stores.base import Forgotten, LoggedEvent, Outcome, StoredEvent, StoredUser, StoreUnavailable
from tandem_core.stores.redis_scripts import ADD, FORGET
from tandem_core.stores.suppression import SHORTEST_KEY, read_key, user_hash

log = logging.getLogger(__name__)

PREFIX = "tandem:"
_READ_TIMEOUT_S = 0.2  # a request waits for its history no longer; it goes on without
_WRITE_TIMEOUT_S = 2.0  # fsync included
_PAUSE_S = 0.5  # after a read that failed: the requests of that time do not wait again
_INSERT_ID_LIFE_MS = 30 * 86_400_000  # doubles come within minutes; memory is not for ever
_LOG_LENGTH = 5_000_000  # events kept for export; about 250 bytes each
_REWRITE_WAIT_S = 10.0  # for a rewriting of the server's file that is under way
_BATCH = 500  # events in one script: some milliseconds in which the server answers nobody else


class _PasswordFile(redis.CredentialProvider):
    """Reads the password at each connect, so that it can be changed under a running process."""

    def __init__(self, username: str, path: Path) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._path.read_text().strip()
        return (self._username, password) if self._username else (password,)


class RedisStore:
    """A store on a Redis or Valkey server; several writers may share it. Connects by itself, and again.

    newest_events, newest_shown: how many of a user's newest events and impressions are kept for reading; older ones
    stay in the log. key_file: the key of the suppression list; None for one that is made in the store. clock_ms: the
    time, milliseconds since 1970.
    """

    def __init__(
        self,
        host: str,
        port: int,
        database: int,
        *,
        username: str = "",
        password: str = "",
        password_file: Path | None = None,
        tls: bool = False,
        ca_file: Path | None = None,
        newest_events: int = 10_000,
        newest_shown: int = 1_000,
        key_file: Path | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._name = f"{'rediss' if tls else 'redis'}://{host}:{port}/{database}"
        options: dict[str, Any] = {"host": host, "port": port, "db": database, "decode_responses": True}
        # No retries: what timed out may have been done, and an event without an insert_id would be stored twice.
        options |= {"retry": Retry(NoBackoff(), 0), "socket_connect_timeout": _READ_TIMEOUT_S}
        if password_file is not None:
            options["credential_provider"] = _PasswordFile(username, password_file)
        else:
            options |= {"username": username or None, "password": password or None}
        if tls:
            options |= {"ssl": True, "ssl_ca_certs": None if ca_file is None else str(ca_file)}
        self.options = options
        self._reading = redis.Redis(**options, socket_timeout=_READ_TIMEOUT_S)
        self._writing = redis.Redis(**options, socket_timeout=_WRITE_TIMEOUT_S)
        self._add = self._writing.register_script(ADD)
        self._forget = self._writing.register_script(FORGET)
        self._newest_events = newest_events
        self._newest_shown = newest_shown
        self._key_file = key_file
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._key: bytes | None = None
        self._asked_for_durability = False
        self._read_again = 0.0  # monotonic seconds

    @property
    def name(self) -> str:
        """The server's address, without the password."""
        return self._name

    def read(self, user_id: str) -> StoredUser:
        if time.monotonic() < self._read_again:
            raise StoreUnavailable(f"{self._name}: did not answer a moment ago")
        try:
            with self._named(), self._reading.pipeline(transaction=False) as asked:
                asked.zrange(f"{PREFIX}chosen:{user_id}", 0, -1, withscores=True)
                asked.zrange(f"{PREFIX}shown:{user_id}", 0, -1, withscores=True)
                asked.get(f"{PREFIX}attributes:{user_id}")
                chosen, shown, attributes = asked.execute()
        except StoreUnavailable:
            self._read_again = time.monotonic() + _PAUSE_S
            raise
        known = json.loads(attributes) if attributes else {}
        return StoredUser(_chosen(chosen[-self._newest_events :]), known, _shown(shown[-self._newest_shown :]))

    def add_events(self, events: Iterable[StoredEvent]) -> list[Outcome]:
        rows = [_row(event) for event in events]  # all of them before the first is sent
        if not rows:
            return []
        with self._named():
            self._look_at_durability()
            key = self._suppression_key()
            head = (PREFIX, self._clock_ms(), self._newest_events, self._newest_shown, _LOG_LENGTH, _INSERT_ID_LIFE_MS)
            answers = []
            for batch in _batches(rows):
                arguments = [
                    value
                    for insert_id, user_id, *rest in batch
                    for value in (insert_id, user_id, user_hash(key, user_id), *rest)
                ]
                answers += self._add(args=[*head, *arguments])
        return [Outcome(int(answer)) for answer in answers]

    def put_users(self, users: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        rows = [(user_id, json.dumps(dict(attributes))) for user_id, attributes in users]
        with self._named():
            for batch in _batches(rows):
                self._writing.mset({f"{PREFIX}attributes:{user_id}": text for user_id, text in batch})
        return len(rows)

    def forget(self, user_id: str) -> Forgotten:
        with self._named():
            hashed = user_hash(self._suppression_key(), user_id)
            answer = self._forget(args=[PREFIX, user_id, hashed, self._clock_ms()])
            chosen, shown, attributes, time_ms = (int(number) for number in answer)
            self._rewrite_file()
        return Forgotten(chosen, shown, attributes, time_ms)

    def forgotten_among(self, user_ids: Sequence[str]) -> set[str]:
        with self._named():
            if not user_ids or not self._writing.exists(f"{PREFIX}suppressed"):
                return set()
            key = self._suppression_key()
            found: set[str] = set()
            for batch in _batches(list(user_ids)):
                hashes: list[Any] = [user_hash(key, user) for user in batch]
                scores = self._writing.zmscore(f"{PREFIX}suppressed", hashes)
                found |= {user for user, score in zip(batch, scores, strict=True) if score is not None}
            return found

    def log(self, after: int, most: int) -> Iterator[list[LoggedEvent]]:
        while True:
            with self._named():
                entries: Any = self._writing.xrange(f"{PREFIX}events", min=f"({after}-0", count=most)
            if not entries:
                return
            yield [_logged(name, fields) for name, fields in entries]
            after = int(entries[-1][0].partition("-")[0])

    def close(self) -> None:
        self._reading.close()
        self._writing.close()

    def _suppression_key(self) -> bytes:
        if self._key_file is not None:
            return read_key(self._key_file)
        with self._lock:
            if self._key is None:
                self._writing.set(f"{PREFIX}suppression-key", secrets.token_hex(32), nx=True)
                self._key = str(self._writing.get(f"{PREFIX}suppression-key")).encode()
                if len(self._key) < SHORTEST_KEY:
                    raise ConfigError(f"{self._name}: {PREFIX}suppression-key is damaged")
            return self._key

    def _rewrite_file(self) -> None:
        """Have the server write its append-only file anew, in the background: it still holds what was deleted."""
        deadline = time.monotonic() + _REWRITE_WAIT_S
        while True:
            try:
                self._writing.bgrewriteaof()
                return
            except redis.ResponseError as error:
                # One that is under way began before the deletion: it does not count. Managed servers forbid it all.
                if "progress" not in str(error) or time.monotonic() > deadline:
                    log.warning("the append-only file is not rewritten now", extra={"reason": str(error)})
                    return
            time.sleep(0.05)

    def _look_at_durability(self) -> None:
        """Say once where the server acknowledges what is not on its disk."""
        if self._asked_for_durability:
            return
        self._asked_for_durability = True
        try:
            found = self._writing.config_get("append*")
        except redis.ResponseError:
            return  # managed servers do not tell
        if found.get("appendonly") != "yes" or found.get("appendfsync") != "always":
            log.warning(
                "the store acknowledges events before they are on disk: set appendonly yes and appendfsync always",
                extra={"appendonly": found.get("appendonly"), "appendfsync": found.get("appendfsync")},
            )

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what the client raises into StoreUnavailable with the server's address."""
        try:
            yield
        except (redis.RedisError, OSError, ConfigError) as error:
            raise StoreUnavailable(f"{self._name}: {error}") from error


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]


def _row(event: StoredEvent) -> tuple[str, str, str | int, str, str, str]:
    """Return insert_id, user, time, whether it is an impression, the rest and its context as JSON: for the script."""
    value = event.value if event.value is None or math.isfinite(event.value) else None
    rest = (event.item_id, event.event_type, value, event.decision_id, event.position, event.session_id)
    when = "" if event.timestamp_ms is None else event.timestamp_ms
    context = json.dumps(dict(event.context)) if event.context else ""
    is_shown = "1" if event.event_type == IMPRESSION else "0"
    return event.insert_id, event.user_id, when, is_shown, json.dumps(rest), context


def _chosen(members: Sequence[tuple[str, float]]) -> UserEvents:
    if not members:
        return UserEvents()
    rows = [json.loads(member[16:]) for member, _ in members]
    item_ids, event_types, values, *_ = zip(*rows, strict=True)
    times = np.array([score for _, score in members], np.float64).astype(np.int64)
    return UserEvents(item_ids, times, event_types, np.array(values, np.float32))


def _shown(members: Sequence[tuple[str, float]]) -> ShownItems:
    item_ids = [json.loads(member[16:])[0] for member, _ in members]
    return ShownItems.of(item_ids, [1] * len(members), [int(score) for _, score in members])


def _logged(name: str, fields: Mapping[str, str]) -> LoggedEvent:
    item_id, event_type, value, decision_id, position, session_id = json.loads(fields["payload"])
    return LoggedEvent(
        int(name.partition("-")[0]),
        fields["user"],
        item_id,
        int(fields["time"]),
        event_type,
        value,
        decision_id,
        position,
        session_id,
        json.loads(fields.get("context", "{}")),
    )
