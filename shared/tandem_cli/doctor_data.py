"""Checks of what the services read: the current bundle and the user store. Changes neither."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tandem_cli.doctor_findings import Finding, bad, doubtful, good
from tandem_core.errors import BundleRefused, NotFound
from tandem_core.registry import Registry
from tandem_core.settings import ConfigError
from tandem_core.stores.base import StoreUnavailable
from tandem_core.stores.open import open_store

_AHEAD_MS = 5 * 60_000  # clocks differ; more than that is none
_LONGEST_LOAD_S = 600
_BUSY_S = 5.0  # a writer that holds the file longer than that is no passing one
# In a process of its own: a damaged model may take down the one that opens it.
_LOAD = """
import sys
from pathlib import Path
from tandem_core.bundle import load_bundle
from tandem_core.errors import BundleRefused
try:
    load_bundle(Path(sys.argv[1]))
except BundleRefused as error:
    print(error)
    raise SystemExit(3)
"""


def bundle(root: Path) -> Iterator[Finding]:
    """Yield whether the current bundle of a registry folder is whole, loads, and answers its golden queries."""
    area, registry = "bundle", Registry(root)
    train = f"train one (tandem train --registry {root}), or name another folder by --registry"
    if not root.is_dir():
        yield bad(area, "registry", f"{root} is no folder", train)
        return
    try:
        current = registry.current()
    except BundleRefused as error:
        yield bad(area, "pointer", str(error), f"tandem bundles activate ID --registry {root}")
        return
    if current is None:
        yield bad(area, "pointer", f"{root} has no current bundle", train)
        return
    yield good(area, "pointer", f"current is {current.bundle_id}, before it {current.previous or 'none'}")
    back = f"go back (tandem bundles rollback --registry {root}) or train again (tandem train)"
    try:
        manifest = registry.manifest(current.bundle_id)
        folder = registry.path_of(current.bundle_id)
    except (BundleRefused, NotFound) as error:
        yield bad(area, "manifest", str(error), back)
        return
    if manifest.created_ms > time.time() * 1000 + _AHEAD_MS:
        yield bad(area, "age", "the bundle was made in the future", "set the clock of this machine or the trainer's")
    else:
        days = (time.time() * 1000 - manifest.created_ms) / 86_400_000
        yield good(area, "age", f"{days:.1f} days; format {manifest.format}, {manifest.data.items} items")
    command = [sys.executable, "-c", _LOAD, str(folder)]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_LOAD_S, check=False)  # noqa: S603
    if loaded.returncode == 0:
        yield good(area, "files", "whole; models load and answer their golden queries as the trainer did")
    else:
        why = loaded.stdout.strip() if loaded.returncode == 3 else f"loading it ended with code {loaded.returncode}"
        yield bad(area, "files", why or "it cannot be loaded", back)


def store(url: str) -> Iterator[Finding]:
    """Yield whether the user store opens, may be written to, and is of our version."""
    area = "store"
    try:
        opened = open_store(url)
    except ConfigError as error:
        yield bad(area, "address", str(error), "correct the setting store, or --store")
        return
    scheme, _, rest = url.partition(":///")
    if scheme == "sqlite":
        yield from _sqlite(Path(rest.partition("?")[0]))
        return
    try:
        opened.read("tandem-doctor")
    except StoreUnavailable as error:
        yield bad(area, "answers", str(error), "start it, or correct its address, password or certificate")
    else:
        yield good(area, "answers", "it is there and can be read")
    finally:
        opened.close()


def _sqlite(path: Path) -> Iterator[Finding]:
    area = "store"
    if not path.exists():
        folder = next(each for each in path.absolute().parents if each.exists())
        if _writable(folder):
            yield good(area, "file", f"{path} is not there yet; the first write makes it")
        else:
            yield bad(area, "file", f"{path} is not there, and {folder} cannot be written to", f"chmod u+w {folder}")
        return
    wrong = f"restore {path} from a backup, or move it away: the services make a new one"
    try:
        found = _layout(path)
        expected = _expected_layout()
    except sqlite3.Error as error:
        yield bad(area, "file", f"{path}: {error}", wrong)
        return
    if found[0] > expected[0]:
        says = f"{path} is of version {found[0]}, this release knows {expected[0]}"
        yield bad(area, "version", says, "run the newer release that wrote it")
    elif found[0] < expected[0]:
        says = f"{path} is of version {found[0]}; the next start brings it up to {expected[0]}"
        yield doubtful(area, "version", says, "back it up first, if an older release should read it again")
    elif missing := sorted(expected[1] - found[1]):
        yield bad(area, "schema", f"{path} lacks {', '.join(missing)}", wrong)
    else:
        yield good(area, "schema", f"{path}, version {found[0]}")
    try:
        _write_nothing(path)
    except sqlite3.Error as error:
        do = "a writer has held it for seconds: try again" if "locked" in str(error) else f"chmod u+w {path}"
        yield bad(area, "writes", f"{path}: {error}", do)
    else:
        yield good(area, "writes", "it can be written to")


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _layout(path: Path) -> tuple[int, set[str]]:
    """Return the version of a file and the names of its columns, as table.column."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        columns = connection.execute(
            "SELECT t.name || '.' || c.name FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table'"
        )
        return version, {name for (name,) in columns}
    finally:
        connection.close()


def _expected_layout() -> tuple[int, set[str]]:
    """Return the layout of a store that we make ourselves."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        fresh = open_store(f"sqlite:///{path}")
        fresh.read("tandem-doctor")
        fresh.close()
        return _layout(path)


def _write_nothing(path: Path) -> None:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE tandem_doctor (probe)")
        connection.execute("ROLLBACK")
    finally:
        connection.close()
