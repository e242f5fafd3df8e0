"""Logs as JSON lines: constant text with fields beside."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable

from tandem_core import observe

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One line per record: time, level, logger, message, the request it is about, and every field given as `extra`.

    What is logged is chosen where it is logged: ids of requests and bundles, never histories, vectors or secrets.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := observe.current()) is not None:
            line |= {"request_id": request.request_id, "rpc": request.rpc}
            if request.spans is not None:
                line["trace_id"] = request.spans.trace_id
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Repeats(logging.Filter):
    """Lets a warning or error through `most` times in `window_s`: thousands of requests would say the same.

    The first line of the next window says how many were left out, as `left_out`. Messages are constant text, so that
    they are few; errors of an outage then cost a look into a dictionary.
    """

    def __init__(self, most: int = 10, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most = most
        self._window_s = window_s
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # (logger, text) -> (start of its window, lines)
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = record.name, record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        now = self._clock()
        with self._lock:
            begun, lines = self._seen.get(key, (now, 0))
            if now - begun >= self._window_s:
                if lines > self._most:
                    record.left_out = lines - self._most
                begun, lines = now, 0
            self._seen[key] = begun, lines + 1
        return lines < self._most


def log_to_stderr(level: str) -> None:
    """Send all logs of this process to stderr as JSON. level: "debug", "info", "warning" or "error"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(Repeats())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
