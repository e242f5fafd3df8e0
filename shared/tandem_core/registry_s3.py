"""A registry on S3, behind the same interface as the folder; each node works from a local copy of what it needs.

<prefix>/bundles/<bundle_id>/   files first, manifest.json last: a bundle is there once its manifest is
<prefix>/CURRENT                the pointer, replaced by one PUT

Credentials, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandem_core.errors import BundleRefused, NotFound
from tandem_core.manifest import MANIFEST_NAME, Manifest, read_manifest, verify_files
from tandem_core.registry import Current, Registry
from tandem_core.settings import ConfigError

KEPT_COPIES = 3
_URL = re.compile(r"s3:/+(?P<place>[^/]+(/.*[^/])?)/?")  # a Path has swallowed one slash of what the user wrote


def open_registry(location: Path, cache: Path | None = None) -> Registry:
    """Return the registry of a folder or of s3://bucket/prefix.

    cache: folder of the local copies, by default under ~/.cache/tandem. Raises ConfigError where s3fs is missing.
    """
    if (match := _URL.fullmatch(str(location))) is None:
        return Registry(location)
    place = match["place"]
    return S3Registry(place, cache or Path.home() / ".cache" / "tandem" / place.replace("/", "-"))


class S3Registry(Registry):
    """A registry at bucket/prefix. Its own folder, `root`, is a copy: a registry by itself, which services read.

    Writers of several bundles do not meet: each has its own prefix. Of two who write the same bundle the second fails;
    of two who move the pointer at the same time one is the last, and what it writes is whole.
    """

    def __init__(self, place: str, cache: Path) -> None:
        super().__init__(cache)
        self.place = place
        try:
            import s3fs  # noqa: PLC0415  (an extra; and it starts a thread, which only its users shall have)
        except ImportError as error:
            raise ConfigError(f"s3://{place} needs the extra s3: pip install 'tandem-recommender[s3]'") from error
        self._s3 = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)

    def current(self) -> Current | None:
        try:
            with self._reaching():
                written = self._s3.cat_file(self._at("CURRENT"))
        except FileNotFoundError:
            return None
        try:
            pointer = json.loads(written)
            return Current(str(pointer["bundle_id"]), str(pointer["previous"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BundleRefused(
                f"s3://{self._at('CURRENT')} is damaged: activate a bundle again (tandem bundles activate ID)"
            ) from error

    def bundle_ids(self) -> list[str]:
        with self._reaching():
            found = self._s3.find(self._at("bundles"))
        names = (path.rsplit("/", 2)[1:] for path in found)
        return sorted((bundle_id for bundle_id, name in names if name == MANIFEST_NAME), reverse=True)

    def manifest(self, bundle_id: str) -> Manifest:
        folder = self.new_staging(f"manifest-{bundle_id}")
        try:
            self._download(bundle_id, MANIFEST_NAME, folder)
            return read_manifest(folder)
        finally:
            shutil.rmtree(folder)

    def fetch(self, bundle_id: str) -> Path:
        """Copy a bundle here unless it is, and return its folder; raises NotFound or BundleRefused.

        Every file is compared with its hash before the copy becomes visible; a damaged copy is made again.
        """
        target = self.path_of(bundle_id)
        try:
            verify_files(target, read_manifest(target))
            return target
        except BundleRefused:
            shutil.rmtree(target, ignore_errors=True)
        folder = self.new_staging(bundle_id)
        try:
            self._download(bundle_id, MANIFEST_NAME, folder)
            manifest = read_manifest(folder)
            for name in manifest.files:
                self._download(bundle_id, name, folder)
            verify_files(folder, manifest)
            return super().publish(folder, bundle_id)
        except OSError:
            if not target.is_dir():
                raise
            return target  # another process or thread of this node was faster
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # half a copy; it would stay for the life of this process

    def mirror(self) -> Current | None:
        """Bring the current bundle and the pointer here; raises BundleRefused, NotFound or OSError.

        What serves reads the copy alone: it starts and goes on while S3 is out of reach.
        """
        current = self.current()
        here = Registry(self.root)
        try:
            before = here.current()
        except BundleRefused:
            before = None  # a damaged copy of the pointer is made again
        if current is not None and current != before:
            self.fetch(current.bundle_id)
            here._point(current)
            here.retain(KEPT_COPIES)
        return current

    def publish(self, staging: Path, bundle_id: str) -> Path:
        """Upload a finished bundle, its manifest last; raises FileExistsError where it is there already."""
        prefix = self._at(f"bundles/{self.path_of(bundle_id).name}")
        with self._reaching():
            if self._s3.exists(f"{prefix}/{MANIFEST_NAME}"):
                raise FileExistsError(f"s3://{prefix} is there already: bundles never change")
            for path in sorted(staging.iterdir()):
                if path.name != MANIFEST_NAME:
                    self._s3.put_file(str(path), f"{prefix}/{path.name}")
            written = (staging / MANIFEST_NAME).read_bytes()
            self._s3.pipe_file(f"{prefix}/{MANIFEST_NAME}", written, mode="create")
        return super().publish(staging, bundle_id)

    def activate(self, bundle_id: str) -> Current:
        self.fetch(bundle_id)
        return super().activate(bundle_id)

    def rollback(self) -> Current:
        if (current := self.current()) is not None and current.previous:
            self.fetch(current.previous)
        return super().rollback()

    def retain(self, keep: int) -> list[str]:
        current = self.current()
        protected = {current.bundle_id, current.previous} if current else set()
        gone = [bundle_id for bundle_id in self.bundle_ids()[keep:] if bundle_id not in protected]
        for bundle_id in gone:
            prefix = self._at(f"bundles/{bundle_id}")
            with self._reaching():
                self._s3.rm_file(f"{prefix}/{MANIFEST_NAME}")  # first: then it is out of sight as a whole
                for path in self._s3.find(prefix):
                    self._s3.rm_file(path)
            shutil.rmtree(self.path_of(bundle_id), ignore_errors=True)
        return gone

    def _point(self, current: Current) -> Current:
        written = json.dumps({"bundle_id": current.bundle_id, "previous": current.previous}) + "\n"
        with self._reaching():
            self._s3.pipe_file(self._at("CURRENT"), written.encode())
        return current

    def _at(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _download(self, bundle_id: str, name: str, folder: Path) -> None:
        remote = self._at(f"bundles/{self.path_of(bundle_id).name}/{name}")
        try:
            with self._reaching():
                self._s3.get_file(remote, str(folder / name))
        except FileNotFoundError as error:
            if name == MANIFEST_NAME:
                raise NotFound(
                    f"no bundle {bundle_id!r} at s3://{self.place}; there are {self.bundle_ids()[:5]}"
                ) from error
            raise BundleRefused(f"s3://{remote} is missing") from error

    @contextmanager
    def _reaching(self) -> Iterator[Any]:
        """Turn what the client raises when S3 is out of reach into OSError."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise OSError(f"s3://{self.place} (process {os.getpid()}): {error}") from error
