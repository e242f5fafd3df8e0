"""A folder of bundles and a pointer to the one that serves. Only whole bundles are ever visible in it.

<registry>/bundles/<bundle_id>/     immutable once there
<registry>/staging/<name>-<..>-<pid>/    being written; never read by services
<registry>/CURRENT                  JSON: the serving bundle and the one before it
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from tandem_core.errors import BundleRefused, NotFound
from tandem_core.manifest import Manifest, read_manifest, verify_files

_BUNDLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_bundle_id(text: str) -> bool:
    """Return whether a bundle may be called so."""
    return _BUNDLE_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Current:
    """What the pointer says; previous is empty when there is none."""

    bundle_id: str
    previous: str = ""


class Registry:
    """Reads and writes a registry folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, bundle_id: str) -> Path:
        """Return the folder of a bundle; raises NotFound for names that cannot be bundle ids."""
        if not is_bundle_id(bundle_id):
            raise NotFound(f"{bundle_id!r} is no bundle id")
        return self.root / "bundles" / bundle_id

    def current(self) -> Current | None:
        """Return the pointer, or None when no bundle was ever activated; raises BundleRefused when it is damaged."""
        path = self.root / "CURRENT"
        try:
            written = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            pointer = json.loads(written)
            return Current(str(pointer["bundle_id"]), str(pointer["previous"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BundleRefused(f"{path} is damaged: activate a bundle again (tandem bundles activate ID)") from error

    def bundle_ids(self) -> list[str]:
        """Return the ids of all bundles, newest first (ids begin with their time)."""
        folder = self.root / "bundles"
        names = (path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()
        return sorted((name for name in names if is_bundle_id(name)), reverse=True)

    def new_staging(self, name: str) -> Path:
        """Return a fresh folder to write a bundle in, after removing what dead processes left behind."""
        staging = self.root / "staging"
        staging.mkdir(parents=True, exist_ok=True)
        for left in staging.iterdir():
            if not _alive(left.name.rpartition("-")[2]):
                shutil.rmtree(left)
        folder = staging / f"{name}-{_unique()}"
        folder.mkdir()
        return folder

    def publish(self, staging: Path, bundle_id: str) -> Path:
        """Make a finished bundle visible: sync its files to disk, then rename the folder into place."""
        for path in sorted(staging.rglob("*")):
            _sync(path)
        _sync(staging)
        target = self.path_of(bundle_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(target)
        _sync(target.parent)
        return target

    def activate(self, bundle_id: str) -> Current:
        """Point to a bundle after checking that it is whole; raises NotFound or BundleRefused."""
        folder = self.path_of(bundle_id)
        if not folder.is_dir():
            raise NotFound(f"no bundle {bundle_id!r} in {self.root}; there are {self.bundle_ids()[:5]}")
        verify_files(folder, read_manifest(folder))
        try:
            before = self.current()
        except BundleRefused:
            before = None  # a damaged pointer is what activate mends
        if before is not None and before.bundle_id == bundle_id:
            return before
        return self._point(Current(bundle_id, before.bundle_id if before else ""))

    def rollback(self) -> Current:
        """Point to the bundle that was current before; raises NotFound when there is none."""
        current = self.current()
        if current is None or not current.previous:
            raise NotFound(f"{self.root} has no bundle to go back to")
        verify_files(self.path_of(current.previous), read_manifest(self.path_of(current.previous)))
        return self._point(Current(current.previous, current.bundle_id))

    def fetch(self, bundle_id: str) -> Path:
        """Return the folder of a bundle, copied here first where the registry is elsewhere."""
        return self.path_of(bundle_id)

    def mirror(self) -> Current | None:
        """Bring what is current where services read it: in a folder it is there already. Raises as `current` does."""
        return self.current()

    def retain(self, keep: int) -> list[str]:
        """Delete all but the newest `keep` bundles, never the current or the previous one; return what went."""
        current = self.current()
        protected = {current.bundle_id, current.previous} if current else set()
        gone = [bundle_id for bundle_id in self.bundle_ids()[keep:] if bundle_id not in protected]
        for bundle_id in gone:
            doomed = self.new_staging(bundle_id)
            self.path_of(bundle_id).rename(doomed)  # out of sight as a whole: who dies deleting leaves no half bundle
            shutil.rmtree(doomed)
        return gone

    def fingerprint(self, bundle_id: str) -> tuple[object, ...]:
        """Return a value that changes whenever a file of the bundle does."""
        stats = ((path.name, path.stat()) for path in sorted(self.path_of(bundle_id).glob("*")))
        return (bundle_id, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))

    def manifest(self, bundle_id: str) -> Manifest:
        return read_manifest(self.path_of(bundle_id))

    def _point(self, current: Current) -> Current:
        beside = self.root / f".CURRENT-{_unique()}"
        try:
            beside.write_text(json.dumps({"bundle_id": current.bundle_id, "previous": current.previous}) + "\n")
            _sync(beside)
            beside.rename(self.root / "CURRENT")
        finally:
            beside.unlink(missing_ok=True)  # of a full disk, say
        _sync(self.root)
        return current


def _unique() -> str:
    """Return what no other thread gives a file, nor a process of the same number in another container."""
    return f"{secrets.token_hex(4)}-{os.getpid()}"


def _alive(pid: str) -> bool:
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


def _sync(path: Path) -> None:
    """Bring a file's or folder's content to disk, so that a rename after it cannot outlive what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
