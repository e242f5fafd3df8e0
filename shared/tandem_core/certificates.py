"""Certificates as files: read, checked against their keys, and asked how long they hold. Standard library alone."""

from __future__ import annotations

import calendar
import ssl
from dataclasses import dataclass
from pathlib import Path

from tandem_core.settings import ConfigError

_SEQUENCE, _UTC_TIME, _VERSION = 0x30, 0x17, 0xA0  # ASN.1 tags


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files of one side of TLS. authority: who signs the other side's certificates.

    repr shows paths alone: keys are read where they are used and kept nowhere.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.certificate, self.key, self.authority) if path is not None)

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return certificate, key and authority; raises ConfigError naming the file that is missing or wrong."""
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a TLS certificate and its key are given together, or neither")
        certificate, key, authority = (None if path is None else _read(path) for path in self._all())
        if self.certificate is not None and self.key is not None:
            _check_pair(self.certificate, self.key)
        if self.authority is not None:
            _check_authority(self.authority)
        return certificate, key, authority

    def _all(self) -> tuple[Path | None, Path | None, Path | None]:
        return self.certificate, self.key, self.authority


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"TLS file {path} cannot be read: {error.strerror}") from error


def _check_pair(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        why = getattr(error, "reason", "") or error
        if why == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"TLS key {key} is not the key of certificate {certificate}") from error
        raise ConfigError(f"TLS certificate {certificate} with key {key} cannot be used: {why}") from error


def _check_authority(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        why = getattr(error, "reason", "") or error
        raise ConfigError(f"TLS file {path} holds no certificate of an authority: {why}") from error


def _no_password() -> bytes:
    raise ValueError("the key has a password; give one without")  # without this, OpenSSL asks on the terminal


def validity(path: Path) -> tuple[int, int]:
    """Return from when until when the first certificate of a PEM file holds, in seconds since 1970.

    Raises ConfigError. Source: RFC 5280, section 4.1: the standard library reads no certificate but a peer's.
    """
    text = _read(path).decode("ascii", errors="replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text or end not in text:
        raise ConfigError(f"TLS file {path} holds no certificate in PEM")
    pem = text[text.index(begin) : text.index(end) + len(end)]
    try:
        der = ssl.PEM_cert_to_DER_cert(pem)
        at = _inside(der, _inside(der, 0))  # Certificate, then its tbsCertificate
        if der[at] == _VERSION:
            at = _after(der, at)
        for _ in ("serialNumber", "signature", "issuer"):
            at = _after(der, at)
        first = _inside(der, at)
        return _time(der, first), _time(der, _after(der, first))
    except (ValueError, IndexError) as error:
        raise ConfigError(f"TLS file {path} holds a certificate that cannot be read: {error}") from error


def _header(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element begins and ends."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    return start, start + length


def _inside(der: bytes, at: int) -> int:
    if der[at] != _SEQUENCE:
        raise ValueError(f"byte {at} begins no sequence")
    return _header(der, at)[0]


def _after(der: bytes, at: int) -> int:
    return _header(der, at)[1]


def _time(der: bytes, at: int) -> int:
    start, end = _header(der, at)
    text = der[start:end].decode("ascii")
    if der[at] == _UTC_TIME:  # two digits of the year: 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    year, month, day, hour, minute, second = int(text[:4]), *(int(text[k : k + 2]) for k in range(4, 14, 2))
    return calendar.timegm((year, month, day, hour, minute, second))
