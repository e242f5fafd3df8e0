"""Fetching an archive, against a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import io
import socket
import stat
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tandem_trainer.data import DataError, LoadOptions, load_dataset
from tandem_trainer.data.download import fetch_archive

ITEM = "5|Café (1939)|01-Jan-1939|||" + "|".join(["0"] * 19) + "\n"
FILES = {
    "ml-100k/u.data": b"1\t5\t3\t881250949\n",
    "ml-100k/u.item": ITEM.encode("latin-1"),
    "ml-100k/u.user": b"1|24|M|technician|85711\n",
}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep the test output clean."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a local server and the folder it serves."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def publish(folder: Path, files: dict[str, bytes]) -> str:
    """Write ml-100k.zip into `folder`; its md5."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    (folder / "ml-100k.zip").write_bytes(body.getvalue())
    return hashlib.md5(body.getvalue(), usedforsecurity=False).hexdigest()


def test_ml_100k_without_a_path_is_downloaded_once_and_then_read_from_the_cache(
    site: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = site
    md5 = publish(folder, FILES)
    options = LoadOptions(cache_dir=tmp_path / "cache", download_url=f"{url}/ml-100k.zip", download_md5=md5)
    assert load_dataset("ml-100k", options=options).report.events == 1
    (folder / "ml-100k.zip").unlink()
    assert load_dataset("ml-100k", options=options).report.events == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ml-100k"]


def test_a_wrong_checksum_is_refused_and_leaves_nothing_behind(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    publish(folder, FILES)
    with pytest.raises(DataError, match=r"could not be downloaded intact: md5 .*DATA_DIR"):
        fetch_archive(f"{url}/ml-100k.zip", "0" * 32, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_file_on_the_server_says_so_and_how_to_go_on(site: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"could not be downloaded .*404.*pass its folder \(DATA_DIR\)"):
        fetch_archive(f"{site[0]}/ml-100k.zip", "0" * 32, tmp_path / "cache")


def test_a_refused_connection_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: connecting to it is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/ml-100k.zip"
        with pytest.raises(DataError, match=r"could not be downloaded .*refused.*DATA_DIR"):
            fetch_archive(url, "0" * 32, tmp_path / "cache")


def test_a_silent_server_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/ml-100k.zip"
        with pytest.raises(DataError, match=r"could not be downloaded .*timed out"):
            fetch_archive(url, "0" * 32, tmp_path / "cache", timeout_s=0.2)


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt"])  # noqa: S108
def test_an_archive_that_reaches_outside_itself_is_refused(site: tuple[str, Path], tmp_path: Path, name: str) -> None:
    url, folder = site
    md5 = publish(folder, {name: b"x"})
    with pytest.raises(DataError, match="outside the archive"):
        fetch_archive(f"{url}/ml-100k.zip", md5, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_with_a_symbolic_link_is_refused(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    with zipfile.ZipFile(folder / "ml-100k.zip", "w") as archive:
        link = zipfile.ZipInfo("ml-100k/u.data")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
    md5 = hashlib.md5((folder / "ml-100k.zip").read_bytes(), usedforsecurity=False).hexdigest()
    with pytest.raises(DataError, match="outside the archive"):
        fetch_archive(f"{url}/ml-100k.zip", md5, tmp_path / "cache")


def test_something_that_is_no_archive_is_refused(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "ml-100k.zip").write_bytes(b"<html>please log in</html>")
    md5 = hashlib.md5(b"<html>please log in</html>", usedforsecurity=False).hexdigest()
    with pytest.raises(DataError, match="not a zip archive"):
        fetch_archive(f"{url}/ml-100k.zip", md5, tmp_path / "cache")


def test_only_web_addresses_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only http"):
        fetch_archive("file:///etc/hostname", "0" * 32, tmp_path / "cache")


def test_without_a_cache_folder_nothing_is_downloaded() -> None:
    with pytest.raises(DataError, match="needs a path"):
        load_dataset("ml-100k")
