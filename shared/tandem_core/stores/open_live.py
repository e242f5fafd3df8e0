"""From a URL to a store of live items."""

from __future__ import annotations

from tandem_core.stores.live import LiveStore
from tandem_core.stores.live_sqlite import SqliteLiveStore
from tandem_core.stores.open import open_store
from tandem_core.stores.sqlite import SqliteStore


def open_live_store(url: str) -> LiveStore:
    """Return the store of live items beside the users of the same URL; see `open_store`. Raises ConfigError."""
    users = open_store(url)
    if isinstance(users, SqliteStore):
        return SqliteLiveStore(users.path)
    from tandem_core.stores.live_redis import RedisLiveStore  # noqa: PLC0415  (its client is an extra)
    from tandem_core.stores.redis import RedisStore  # noqa: PLC0415

    if not isinstance(users, RedisStore):
        raise TypeError(f"no live items beside {type(users).__name__}")
    return RedisLiveStore(users)
