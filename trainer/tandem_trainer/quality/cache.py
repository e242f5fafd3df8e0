"""Fits on disk, so that an interrupted run goes on where it stopped. Arrays only; what is torn is fitted again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
_META = "__meta__"
_LEFT_BEHIND_S = 24 * 3600  # a temporary file older than this belongs to a run that was killed


@dataclass(frozen=True, slots=True)
class Fit:
    """What fitting gave. arrays: of any type but object. notes: figures to print. core_seconds: of this fit alone."""

    arrays: Arrays
    notes: Mapping[str, float] = field(default_factory=dict)
    core_seconds: float = 0.0


class FitCache:
    """A folder of fits, an npz file each, named by row and key; safe for several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.tmp"):
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND_S:
                left.unlink(missing_ok=True)

    def path(self, name: str, key: str) -> Path:
        """Return where the fit of a row is or would be; key: hex, of all that decides the fit."""
        return self._folder / f"{name}-{key[:24]}.npz"

    def load(self, name: str, key: str) -> Fit | None:
        """Return the fit, or None where there is none that is whole and carries exactly this key."""
        path = self.path(name, key)
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {entry: stored[entry] for entry in stored.files if entry != _META}
                meta = json.loads(stored[_META].tobytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is not readable (%s): fitted again", path, error)
            return None
        if not isinstance(meta, dict) or meta.get("key") != key or meta.get("sha256") != _digest(arrays):
            log.warning("%s is not what its name says: fitted again", path)
            return None
        return Fit(arrays, meta["notes"], meta["core_seconds"])

    def store(self, name: str, key: str, fit: Fit) -> None:
        """Write the fit beside and rename it: a reader sees all of it or nothing."""
        meta = {
            "key": key,
            "sha256": _digest(fit.arrays),
            "core_seconds": fit.core_seconds,
            "notes": dict(fit.notes),
        }
        entries: dict[str, Any] = {**fit.arrays, _META: np.frombuffer(json.dumps(meta).encode(), np.uint8)}
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=f"{name}-", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            try:
                np.savez(file, allow_pickle=False, **entries)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(self.path(name, key))
            except BaseException:  # Ctrl-C too: no half file stays
                temporary.unlink(missing_ok=True)
                raise


def _digest(arrays: Arrays) -> str:
    """Return sha256 hex over names, types, shapes and contents."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
