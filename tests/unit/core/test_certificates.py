from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tandem_core.certificates import CertificateFiles, validity
from tandem_core.settings import ConfigError
from tandem_core.watched_files import WatchedFiles

NewAuthority = Callable[[str], Any]


def test_good_files_are_read(new_authority: NewAuthority) -> None:
    ca = new_authority("ca")
    certificate, key = ca.issue("server")
    read = CertificateFiles(certificate, key, ca.path).read()
    assert read == (certificate.read_bytes(), key.read_bytes(), ca.path.read_bytes())
    assert key.read_text() not in repr(CertificateFiles(certificate, key, ca.path))


def test_wrong_files_are_named_with_what_is_wrong(new_authority: NewAuthority, tmp_path: Path) -> None:
    ca = new_authority("ca")
    certificate, key = ca.issue("server")
    _, another = ca.issue("another")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
        )
    )
    for files, said in (
        (CertificateFiles(certificate, another), "another.key is not the key of certificate .*server.pem"),
        (CertificateFiles(tmp_path / "none.pem", key), "none.pem cannot be read: No such file"),
        (CertificateFiles(certificate, tmp_path), "cannot be read: Is a directory"),
        (CertificateFiles(nonsense, key), "nonsense.pem with key .* cannot be used"),
        (CertificateFiles(certificate, locked), "has a password"),
        (CertificateFiles(certificate, key, nonsense), "nonsense.pem holds no certificate of an authority"),
        (CertificateFiles(certificate), "together"),
    ):
        with pytest.raises(ConfigError, match=said):
            files.read()


@pytest.mark.parametrize("days", [30, 400, -3, 365 * 40])
def test_how_long_a_certificate_holds_is_read_from_it(new_authority: NewAuthority, days: int) -> None:
    certificate, key = new_authority("ca").issue("server", days)
    first, last = validity(certificate)
    assert abs(last - (time.time() + days * 86400)) < 60
    assert first < last
    with pytest.raises(ConfigError, match="holds no certificate in PEM"):
        validity(key)


def test_a_damaged_certificate_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pem"
    for body in ("", "MAA=", "AAAA"):
        path.write_text(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        with pytest.raises(ConfigError, match=r"damaged\.pem"):
            validity(path)


def test_changed_files_are_read_again_and_wrong_ones_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    made = []

    def make() -> int:
        made.append(path.read_text() if path.exists() else "gone")
        if not made[-1].isdigit():
            raise ConfigError(f"{path} holds no number")
        return int(made[-1])

    watched = WatchedFiles([path], make, every_s=0.0)
    assert [watched.get(), watched.get()] == [1, 1]
    assert made == ["1"]
    path.write_text("twenty")
    assert [watched.get(), watched.get()] == [1, 1]
    assert made == ["1", "twenty"]  # what is wrong is said once
    path.unlink()
    assert watched.get() == 1
    path.write_text("333")
    assert watched.get() == 333
    path.write_text("no")
    with pytest.raises(ConfigError, match="holds no number"):
        WatchedFiles([path], make)
