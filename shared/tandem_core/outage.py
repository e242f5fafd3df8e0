"""A part that is not there: said when it goes and when it is back, counted in between."""

from __future__ import annotations

import logging
import threading
from collections import Counter

log = logging.getLogger(__name__)


class Outage:
    """Whether a part is out, and for how many requests it was. Not a line per request: thousands would say the same."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._kind = ""
        self._since_change = 0
        self._lock = threading.Lock()
        self.missed: Counter[str] = Counter()  # requests without the part, by kind of reason

    def note(self, kind: str, reason: str) -> None:
        """Count a request that went without the part, and say so if the kind of reason is a new one."""
        with self._lock:
            self.missed[kind] += 1
            self._since_change += 1
            changed, self._kind = kind != self._kind, kind
        if changed:
            log.warning(f"{self._part} not used", extra={"kind": kind, "reason": reason})

    def over(self) -> None:
        """Say that the part is back, if it was out."""
        if not self._kind:  # the usual case takes no lock
            return
        with self._lock:
            was, self._kind = self._kind, ""
            requests, self._since_change = self._since_change, 0
        if was:
            log.info(f"{self._part} used again", extra={"kind": was, "requests_without": requests})
