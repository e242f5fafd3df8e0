"""Bearer tokens: who may call, and what for. Of a token only its sha256 is ever kept.

A token has 256 random bits: its plain hash cannot be guessed back, and needs neither salt nor a slow function.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from tandem_core.settings import ConfigError, Settings, parse_settings, read_toml

MOST_TOKENS = 256  # each call is compared with all of them
_PREFIX = "tandem_"  # so that scanners for leaked secrets can know one
_BEARER = "bearer "


class Scope(enum.StrEnum):
    """What a token is for; none includes another."""

    SERVE = "serve"
    WRITE = "write"
    ADMIN = "admin"


class Token(Settings):
    """One [[tokens]] table of a tokens file. name: of the caller, for logs and limits. sha256: of the token, in hex."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    scopes: frozenset[Scope] = Field(min_length=1)


class _File(Settings):
    tokens: tuple[Token, ...] = Field(min_length=1, max_length=MOST_TOKENS)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a file."""

    all: tuple[Token, ...] = field(repr=False)

    def of(self, authorization: str) -> Token | None:
        """Return the token of an "authorization" header ("Bearer TOKEN"), None where it is none of ours.

        Takes the same time whichever token it is, and how much of it is right.
        """
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return None
        given = digest(authorization[len(_BEARER) :])
        found = None
        for token in self.all:
            if hmac.compare_digest(token.sha256, given):
                found = token
        return found


def read_tokens(path: Path) -> Tokens:
    """Return the tokens of a TOML file; raises ConfigError naming what is wrong, and no hash."""
    tokens = parse_settings(_File, read_toml(path), str(path)).tokens
    for what in ("name", "sha256"):
        often = Counter(getattr(token, what) for token in tokens)
        if twice := [token.name for token in tokens if often[getattr(token, what)] > 1]:
            raise ConfigError(f"{path}: tokens {sorted(set(twice))} share a {what}; each needs its own")
    return Tokens(tokens)


def new_token(name: str, scopes: frozenset[Scope]) -> tuple[str, str]:
    """Return a new token and the lines of the tokens file that admit it."""
    token = _PREFIX + secrets.token_urlsafe(32)
    listed = ", ".join(f'"{scope}"' for scope in sorted(scopes))
    entry = Token(name=name, sha256=digest(token), scopes=scopes)
    return token, f'[[tokens]]\nname = "{entry.name}"\nsha256 = "{entry.sha256}"\nscopes = [{listed}]\n'


def digest(token: str) -> str:
    """Return what of a token may be kept: its sha256 in hex."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def read_secret(path: Path) -> str:
    """Return the token that a file holds for a client; raises ConfigError naming the file, never what is in it."""
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path} cannot be read: {getattr(error, 'strerror', 'no text')}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"token file {path} must hold one token and nothing else")
    return token
