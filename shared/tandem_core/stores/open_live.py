"""From a URL to a store of live items."""

from __future__ import annotations

from pathlib import Path

from tandem_core.settings import ConfigError
from tandem_core.stores.live import LiveStore
from tandem_core.stores.live_sqlite import SqliteLiveStore


def open_live_store(url: str) -> LiveStore:
    """Return the store of live items beside the users of the same URL; see `stores.open`. Raises ConfigError."""
    scheme, separator, path = url.partition("?")[0].partition(":///")
    if scheme == "sqlite" and separator and path:
        return SqliteLiveStore(Path(path))
    raise ConfigError(f"store {scheme!r} has no live items: use sqlite:///PATH")
