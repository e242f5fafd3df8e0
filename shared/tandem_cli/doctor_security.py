"""Checks of the files that say who may call whom: certificates and tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tandem_cli.doctor_findings import Finding, bad, doubtful, good
from tandem_core.certificates import CertificateFiles, validity
from tandem_core.security_settings import SecuritySettings
from tandem_core.settings import ConfigError
from tandem_core.tokens import read_secret, read_tokens

AREA = "security"
SOON_S = 14 * 86400
_LOOPBACK = ("127.", "localhost", "::1")


def server(name: str, settings: SecuritySettings, host: str) -> Iterator[Finding]:
    """Yield how the files of a service are, and whether it is open to more than was meant. name: of the service."""
    files = settings.server_certificates()
    yield from certificates(name, files)
    if settings.tokens_file is not None:
        try:
            tokens = read_tokens(settings.tokens_file)
        except ConfigError as error:
            yield bad(AREA, f"{name} tokens", str(error), "correct the file; tandem token new prints such lines")
        else:
            yield good(AREA, f"{name} tokens", f"{len(tokens.all)} callers")
    check = f"{name} callers"
    if host.startswith(_LOOPBACK):
        yield good(AREA, check, "on loopback: this machine alone")
    elif settings.tokens_file is None and settings.tls_client_ca is None:
        says = f"on {host}, whoever reaches the port may call"
        yield doubtful(AREA, check, says, "set tokens_file or tls_client_ca, unless the network keeps others out")
    elif settings.tokens_file is not None and not files.paths:
        says = f"on {host}, tokens travel in plaintext"
        yield doubtful(AREA, check, says, "set tls_cert and tls_key, unless a proxy beside it speaks TLS")
    else:
        yield good(AREA, check, f"on {host}, those with a {'token' if settings.tokens_file else 'certificate'}")


def certificates(name: str, files: CertificateFiles) -> Iterator[Finding]:
    """Yield whether TLS files can be used, and for how long. name: whose they are."""
    check = f"{name} TLS"
    if not files.paths:
        return
    try:
        files.read()
        for path in files.paths:
            if path != files.key:
                yield _expiry(check, path)
    except ConfigError as error:
        yield bad(AREA, check, str(error), "put files there that belong together; they are read again by themselves")


def token(name: str, path: Path | None) -> Iterator[Finding]:
    """Yield whether the file that holds a client's token can be used."""
    if path is None:
        return
    try:
        read_secret(path)
    except ConfigError as error:
        yield bad(AREA, f"{name} token", str(error), "write the token into it that tandem token new printed")
    else:
        yield good(AREA, f"{name} token", f"{path} holds one")


def _expiry(check: str, path: Path) -> Finding:
    first, last = validity(path)
    now_s = time.time()
    told = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(first if now_s < first else last))
    renew = f"renew {path}; it is read again without restart"
    if now_s > last:
        return bad(AREA, check, f"{path} expired at {told}", renew)
    if now_s < first:
        return bad(AREA, check, f"{path} holds only from {told}", "look at the clock, or wait")
    if now_s > last - SOON_S:
        return doubtful(AREA, check, f"{path} expires at {told}", renew)
    return good(AREA, check, f"{path} holds until {told}")
