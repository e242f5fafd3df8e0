"""Who was forgotten, without naming them: a keyed hash of each user id."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from tandem_core.settings import ConfigError

SHORTEST_KEY = 16  # bytes: a shorter one could be guessed, and the list be undone by trying user ids
_NEW_KEY = 32


def user_hash(key: bytes, user_id: str) -> bytes:
    """Return HMAC-SHA256 of a user id, 32 bytes."""
    return hmac.digest(key, user_id.encode(), hashlib.sha256)


def read_key(path: Path) -> bytes:
    """Return the key in a file, white space around it left out; raises ConfigError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"suppression key {path} cannot be read: {error.strerror}") from error
    if len(key) < SHORTEST_KEY:
        raise ConfigError(f"suppression key {path} has {len(key)} bytes; it needs at least {SHORTEST_KEY}")
    return key


def key_beside(path: Path) -> bytes:
    """Return the key in a file, made with mode 0600 where there is none; several processes agree on one."""
    if not path.exists():
        own = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_NEW_KEY) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(own, path)  # unlike a rename, it fails where another process was first
        except FileExistsError:
            pass
        finally:
            own.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return read_key(path)
