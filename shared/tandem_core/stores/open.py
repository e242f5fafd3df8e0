"""From a URL to a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tandem_core.settings import ConfigError
from tandem_core.stores.base import UserStore
from tandem_core.stores.sqlite import SqliteStore

_USE = "use sqlite:///PATH, redis://HOST:PORT/DB or rediss://HOST:PORT/DB"


def open_store(url: str) -> UserStore:
    """Return the store of a URL; raises ConfigError for unknown schemes and options, never telling a password.

    "sqlite:///relative/path.db", "sqlite:////absolute/path.db", "redis://[USER:PASSWORD@]HOST:PORT/DB", and "rediss://"
    for TLS. Options after "?": suppression_key_file=PATH, the key of the list of forgotten users; for Redis also
    password_file=PATH and ca_file=PATH. Nothing is opened before the first use.
    """
    address, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    scheme, separator, path = address.partition(":///")
    if scheme == "sqlite" and separator and path:
        files = _files(url, options, {"suppression_key_file": "key_file"})
        return SqliteStore(Path(path), **files)
    if address.startswith(("redis://", "rediss://")):
        return _redis(url, address, options)
    raise ConfigError(f"store {without_password(url)!r} is not supported: {_USE}")


def without_password(url: str) -> str:
    """Return a store's URL as it may be printed and logged."""
    before, separator, after = url.rpartition("@")
    return f"{before.partition('://')[0]}://***@{after}" if separator else url


def _redis(url: str, address: str, options: dict[str, str]) -> UserStore:
    try:
        from tandem_core.stores.redis import RedisStore  # noqa: PLC0415  (its client is an extra)
    except ModuleNotFoundError as error:
        raise ConfigError(f"store {without_password(url)!r} needs pip install 'tandem-recommender[redis]'") from error
    try:
        parts = urlsplit(address)
        database = int(parts.path.strip("/") or 0)
        host, port = parts.hostname, parts.port or 6379
    except ValueError as error:
        raise ConfigError(f"store {without_password(url)!r} is no address: {_USE}") from error
    if not host or parts.query or parts.fragment:
        raise ConfigError(f"store {without_password(url)!r} is no address: {_USE}")
    names = {"suppression_key_file": "key_file", "password_file": "password_file", "ca_file": "ca_file"}
    files = _files(url, options, names)
    return RedisStore(
        host,
        port,
        database,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=parts.scheme == "rediss",
        **files,
    )


def _files(url: str, options: dict[str, str], names: dict[str, str]) -> dict[str, Any]:
    """Return the options, all of them paths, under the names of the store's parameters."""
    if wrong := sorted(name for name, value in options.items() if name not in names or not value):
        known = ", ".join(names)
        raise ConfigError(f"store {without_password(url)!r}: unknown or empty options {wrong}; there are {known}")
    return {names[name]: Path(value) for name, value in options.items()}
