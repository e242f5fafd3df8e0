"""From a URL to a store."""

from __future__ import annotations

from pathlib import Path

from tandem_core.settings import ConfigError
from tandem_core.stores.base import UserStore
from tandem_core.stores.sqlite import SqliteStore


def open_store(url: str) -> UserStore:
    """Return the store of a URL; raises ConfigError for unknown schemes.

    "sqlite:///relative/path.db" and "sqlite:////absolute/path.db". Nothing is opened before the first use.
    """
    scheme, separator, path = url.partition(":///")
    if scheme == "sqlite" and separator and path:
        return SqliteStore(Path(path))
    raise ConfigError(f"store {url!r} is not supported: use sqlite:///PATH (a Redis store comes with a later version)")
