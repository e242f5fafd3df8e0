"""Fetch a published archive once: checked, unpacked safely, and put in place whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

from tandem_trainer.data.errors import DataError

ML_100K_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
ML_100K_MD5 = "0e33842e24a9c977be4e0107933c0723"  # as its publisher gives it
_LARGEST_ARCHIVE = 64 * 2**20
_LARGEST_UNPACKED = 512 * 2**20
_CHUNK = 2**16


def fetch_archive(url: str, md5: str, cache_dir: Path, *, timeout_s: float = 10.0) -> Path:
    """The folder `cache_dir/<archive name>` with the unpacked archive, downloaded unless it is there already.

    timeout_s: for connecting and for each wait on the network; the whole transfer may take 30 times that.
    Raises DataError when it cannot be downloaded, its checksum differs or it holds unsafe paths; nothing is
    left behind then.
    """
    name = url.rsplit("/", 1)[-1].removesuffix(".zip")
    target = cache_dir / name
    if target.is_dir():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_dir) as beside:
        archive = Path(beside) / "archive.zip"
        digest = _download(url, archive, timeout_s)
        if digest != md5:
            raise DataError(f"{url}: could not be downloaded intact: md5 {digest} instead of {md5}; {_instead(name)}")
        unpacked = Path(beside) / "unpacked"
        _unpack(archive, unpacked)
        _put_in_place(_content(unpacked), target)
    return target


def _instead(name: str) -> str:
    return f"download {name} yourself and pass its folder (DATA_DIR), or use the synthetic data"


def _download(url: str, archive: Path, timeout_s: float) -> str:
    """Write the body of `url` to `archive`; its md5."""
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{url}: only http and https addresses are downloaded")
    digest = hashlib.md5(usedforsecurity=False)
    give_up = time.monotonic() + 30 * timeout_s
    name = url.rsplit("/", 1)[-1].removesuffix(".zip")
    size = 0
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as body, archive.open("wb") as file:  # noqa: S310
            while chunk := body.read(_CHUNK):
                size += len(chunk)
                if size > _LARGEST_ARCHIVE:
                    raise DataError(f"{url}: larger than {_LARGEST_ARCHIVE} bytes; {_instead(name)}")
                if time.monotonic() > give_up:
                    raise TimeoutError(f"still downloading after {30 * timeout_s:g} s")
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:  # URLError, refused connections and timeouts are all OSErrors
        raise DataError(f"{url}: could not be downloaded ({error}); {_instead(name)}") from error
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as content:
            if sum(member.file_size for member in content.infolist()) > _LARGEST_UNPACKED:
                raise DataError(f"{archive.name}: unpacks to more than {_LARGEST_UNPACKED} bytes; refused")
            for member in content.infolist():
                place = (folder / member.filename).resolve()
                is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
                if is_link or not place.is_relative_to(folder.resolve()):
                    raise DataError(f"{archive.name}: member {member.filename!r} lies outside the archive; refused")
            content.extractall(folder)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive.name}: not a zip archive ({error})") from error


def _content(unpacked: Path) -> Path:
    """The folder with the files: archives often hold one folder that holds them all."""
    inside = list(unpacked.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else unpacked


def _put_in_place(folder: Path, target: Path) -> None:
    try:
        folder.replace(target)
    except OSError:
        if not target.is_dir():  # else another process was faster, with the same checked content
            raise
        shutil.rmtree(folder, ignore_errors=True)
