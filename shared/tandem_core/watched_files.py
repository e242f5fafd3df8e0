"""What was made of files, made again when they change: certificates and tokens are renewed while we serve."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from tandem_core.settings import ConfigError

log = logging.getLogger(__name__)

Made = TypeVar("Made")


class WatchedFiles(Generic[Made]):
    """Holds what `make` returned for the files as they are; of files that are wrong by now, what it returned before.

    every_s: how often the files are looked at, at most. Raises ConfigError where they are wrong from the start.
    """

    def __init__(self, paths: Sequence[Path], make: Callable[[], Made], every_s: float = 1.0) -> None:
        self._paths = tuple(paths)
        self._make = make
        self._every_s = every_s
        self._seen = self._look()
        self._made = make()
        self._look_at = time.monotonic() + every_s
        self._looking = threading.Lock()

    def get(self) -> Made:
        """Return what the files say; never waits for another thread that is looking at them."""
        if time.monotonic() >= self._look_at and self._looking.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._look_at = time.monotonic() + self._every_s
                self._looking.release()
        return self._made

    def _renew(self) -> None:
        if (seen := self._look()) == self._seen:
            return
        try:
            made = self._make()
        except ConfigError as error:  # half of them may be replaced so far: the next look tells
            log.error("changed files are wrong; going on with what they were", extra={"reason": str(error)})
        else:
            if self._look() != seen:
                return  # they changed while they were read: the next look takes them as a whole
            self._made = made
            log.info("files read again", extra={"files": [str(path) for path in self._paths]})
        self._seen = seen

    def _look(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()  # of what a link leads to: mounted secrets are replaced by turning a link
    except OSError as error:
        return error.errno
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
