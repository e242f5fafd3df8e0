"""Live items on the Redis or Valkey server that holds the users, too: what `stores.redis` says of durability holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import redis

from tandem_core.stores.base import StoreUnavailable
from tandem_core.stores.live import Added, Changes, Cursor, Encoding, LiveItem
from tandem_core.stores.redis import PREFIX, RedisStore

_BATCH = 500  # items in one script
_WHOLE = 5000  # items read at a time
_PAUSE_S = 0.5  # after a read that failed: the requests of that time do not wait again

# state: id -> "number milliseconds"; docs, texts: id -> JSON, text, of items that are there; order, deleted: ids by
# number; at:<bundle>: ids by position; vectors:<bundle>: id -> bytes, empty where the bundle holds the item already.
_CHANGE = """
local p, now = ARGV[1], ARGV[2]
local bundles = redis.call('SMEMBERS', p .. 'bundles')
for i = 3, #ARGV, 3 do
  local id, document, text = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local seq = redis.call('INCR', p .. 'seq')
  redis.call('HSET', p .. 'state', id, seq .. ' ' .. now)
  if document == '' then
    redis.call('HDEL', p .. 'docs', id)
    redis.call('HDEL', p .. 'texts', id)
    redis.call('ZREM', p .. 'order', id)
    redis.call('ZADD', p .. 'deleted', seq, id)
  else
    redis.call('HSET', p .. 'docs', id, document)
    redis.call('HSET', p .. 'texts', id, text)
    redis.call('ZREM', p .. 'deleted', id)
    redis.call('ZADD', p .. 'order', seq, id)
  end
  for _, bundle in ipairs(bundles) do
    redis.call('ZREM', p .. 'at:' .. bundle, id)
    redis.call('HDEL', p .. 'vectors:' .. bundle, id)
  end
end
return redis.call('INCR', p .. 'version')
"""
_ENCODE = """
local p, bundle = ARGV[1], ARGV[2]
redis.call('SADD', p .. 'bundles', bundle)
for i = 3, #ARGV, 3 do
  local id, seq, vectors = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local state = redis.call('HGET', p .. 'state', id)
  local there = redis.call('HEXISTS', p .. 'docs', id) == 1
  if there and (seq == '' or seq == string.match(state, '^%d+')) then
    redis.call('HSET', p .. 'vectors:' .. bundle, id, vectors)
    if vectors == '' then
      redis.call('ZREM', p .. 'at:' .. bundle, id)
    else
      redis.call('ZADD', p .. 'at:' .. bundle, redis.call('INCR', p .. 'position'), id)
    end
  end
end
return redis.call('INCR', p .. 'version')
"""
_CHANGES = """
local p, bundle, most = ARGV[1], ARGV[2], tonumber(ARGV[5])
local deleted = redis.call('ZRANGEBYSCORE', p .. 'deleted', '(' .. ARGV[3], '+inf', 'WITHSCORES')
local found = redis.call('ZRANGEBYSCORE', p .. 'at:' .. bundle, '(' .. ARGV[4], '+inf', 'WITHSCORES', 'LIMIT', 0, most)
local added = {}
for i = 1, #found, 2 do
  local id = found[i]
  added[#added + 1] = {found[i + 1], redis.call('HGET', p .. 'state', id), redis.call('HGET', p .. 'docs', id),
    redis.call('HGET', p .. 'vectors:' .. bundle, id)}
end
return {deleted, added}
"""
# Asked over and over while a bundle waits for its last item; nobody else is served meanwhile. So it counts first.
_NOT_ENCODED = """
local p, bundle, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found = {}
if redis.call('HLEN', p .. 'vectors:' .. bundle) == redis.call('ZCARD', p .. 'order') then return found end
for _, id in ipairs(redis.call('ZRANGE', p .. 'order', 0, -1)) do
  if redis.call('HEXISTS', p .. 'vectors:' .. bundle, id) == 0 then
    found[#found + 1] = {redis.call('HGET', p .. 'state', id), redis.call('HGET', p .. 'docs', id),
      redis.call('HGET', p .. 'texts', id)}
    if #found >= most then break end
  end
end
return found
"""


class RedisLiveStore:
    """Beside a `RedisStore`, with connections of its own. clock_ms: the time that changes are stamped with."""

    def __init__(self, beside: RedisStore, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._name = beside.name
        self._server = redis.Redis(**{**beside.options, "decode_responses": False, "socket_timeout": 2.0})
        self._reading = redis.Redis(**{**beside.options, "decode_responses": False, "socket_timeout": 0.2})
        self._clock_ms = clock_ms
        self._read_again = 0.0  # monotonic seconds
        self._prefix = f"{PREFIX}live:"

    def version(self) -> int:
        if time.monotonic() < self._read_again:
            raise StoreUnavailable(f"{self._name}: did not answer a moment ago")
        try:
            with self._named():
                found: Any = self._reading.get(f"{self._prefix}version")
        except StoreUnavailable:
            self._read_again = time.monotonic() + _PAUSE_S
            raise
        return int(found or 0)

    def changes(self, bundle_id: str, since: Cursor, most: int | None) -> Changes:
        if most is None:
            return self._all_changes(bundle_id, since)
        arguments = [self._prefix, bundle_id, since.deleted, since.added, most + 1]
        with self._named():
            gone, rows = self._run(_CHANGES, arguments)
        more = len(rows) > most
        added = [
            Added(int(state.split()[0]), LiveItem.of_json(document), _encoding(vectors))
            for _, state, document, vectors in rows[:most]
        ]
        cursor = Cursor(
            int(gone[-1]) if gone else since.deleted, int(rows[:most][-1][0]) if rows[:most] else since.added
        )
        return Changes([item_id.decode() for item_id in gone[::2]], added, cursor, more)

    def upsert(self, items: Sequence[LiveItem], encodings: Mapping[str, Sequence[Encoding | None]]) -> None:
        latest = {item.item_id: place for place, item in enumerate(items)}  # of doubles the last one counts
        places = list(latest.values())
        for start in range(0, len(places), _BATCH):
            batch = places[start : start + _BATCH]
            documents = [v for p in batch for v in (items[p].item_id, items[p].to_json(), items[p].text)]
            with self._named(), self._server.pipeline(transaction=True) as together:
                together.eval(_CHANGE, 0, self._prefix, self._clock_ms(), *documents)
                for bundle_id, each in encodings.items():
                    vectors = [v for p in batch for v in (items[p].item_id, "", _bytes(each[p]))]
                    together.eval(_ENCODE, 0, self._prefix, bundle_id, *vectors)
                together.execute()

    def delete(self, item_ids: Sequence[str]) -> None:
        with self._named():
            for batch in _batches(list(dict.fromkeys(item_ids))):
                documents = [value for item_id in batch for value in (item_id, "", "")]
                self._run(_CHANGE, [self._prefix, self._clock_ms(), *documents])

    def get(self, item_id: str) -> LiveItem | None:
        with self._named():
            document: Any = self._server.hget(f"{self._prefix}docs", item_id)
            text: Any = self._server.hget(f"{self._prefix}texts", item_id)
        return None if document is None else LiveItem.of_json(document, (text or b"").decode())

    def is_deleted(self, item_id: str) -> bool:
        with self._named():
            return self._server.zscore(f"{self._prefix}deleted", item_id) is not None

    def items(self) -> Iterator[LiveItem]:
        with self._named():
            ids: Any = self._server.zrange(f"{self._prefix}order", 0, -1)
        for batch in _batches(ids):
            with self._named():
                documents: Any = self._server.hmget(f"{self._prefix}docs", batch)
                texts: Any = self._server.hmget(f"{self._prefix}texts", batch)
            for document, text in zip(documents, texts, strict=True):
                if document is not None:  # deleted meanwhile
                    yield LiveItem.of_json(document, (text or b"").decode())

    def deleted_ids(self) -> list[str]:
        with self._named():
            ids: Any = self._server.zrange(f"{self._prefix}deleted", 0, -1)
        return [item_id.decode() for item_id in ids]

    def not_encoded(self, bundle_id: str, most: int) -> list[tuple[int, LiveItem, int]]:
        with self._named():
            rows = self._run(_NOT_ENCODED, [self._prefix, bundle_id, most])
        return [
            (int(state.split()[0]), LiveItem.of_json(document, text.decode()), int(state.split()[1]))
            for state, document, text in rows
        ]

    def add_encodings(self, bundle_id: str, encodings: Sequence[tuple[int, str, Encoding | None]]) -> None:
        with self._named():
            for batch in _batches(list(encodings)):
                vectors = [value for seq, item_id, e in batch for value in (item_id, seq, _bytes(e))]
                self._run(_ENCODE, [self._prefix, bundle_id, *vectors])

    def keep_encodings(self, bundle_ids: Sequence[str]) -> None:
        with self._named():
            known: Any = self._server.smembers(f"{self._prefix}bundles")
            for bundle_id in {name.decode() for name in known} - set(bundle_ids):
                self._server.srem(f"{self._prefix}bundles", bundle_id)
                self._server.delete(f"{self._prefix}at:{bundle_id}", f"{self._prefix}vectors:{bundle_id}")

    def close(self) -> None:
        self._server.close()
        self._reading.close()

    def _all_changes(self, bundle_id: str, since: Cursor) -> Changes:
        deleted: list[str] = []
        added: list[Added] = []
        while True:
            part = self.changes(bundle_id, since, _WHOLE)
            deleted += part.deleted
            added += part.added
            if not part.more:
                return Changes(deleted, added, part.cursor, more=False)
            since = part.cursor

    def _run(self, script: str, arguments: Iterable[Any]) -> Any:
        return self._server.eval(script, 0, *arguments)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what the client raises into StoreUnavailable with the server's name."""
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable(f"{self._name}: {error}") from error


def _batches(values: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]


def _bytes(encoding: Encoding | None) -> bytes:
    if encoding is None:
        return b""
    item_vector, content_vector = (np.ascontiguousarray(vector, np.float32) for vector in encoding)
    return np.int32(len(item_vector)).tobytes() + item_vector.tobytes() + content_vector.tobytes()


def _encoding(vectors: bytes) -> Encoding:
    dims = int(np.frombuffer(vectors, np.int32, 1)[0])
    both = np.frombuffer(vectors, np.float32, offset=4)
    return Encoding(both[:dims], both[dims:])
