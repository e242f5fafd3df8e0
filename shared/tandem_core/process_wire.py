"""Messages between processes of one service, and what such processes have in common. Standard library alone."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import socket
import sys
from typing import Any

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # from linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Wire:
    """One end of a pair of sockets: JSON objects, one a line. Dead once the other end is closed."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._rest = b""
        self.dead = False

    @classmethod
    def pair(cls) -> tuple[Wire, Wire]:
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Send a message; to a dead end nothing."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.dead = True

    def has_more(self) -> bool:
        """Whether there is something to receive, be it the end."""
        return self.dead or bool(select.select([self._socket], [], [], 0)[0])

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that are there, without waiting."""
        while not self.dead and self.has_more():
            try:
                got = self._socket.recv(65536)
            except OSError:
                got = b""
            self.dead = not got
            self._rest += got
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self.dead = True
        self._socket.close()


def signals_as_wire(*numbers: signal.Signals) -> Wire:
    """Return a wire that has more as soon as one of these signals has come; nothing else comes of them.

    No Event and no handler that does the work. The kernel may give the signal to another thread, and Python runs
    handlers only when the main thread wakes, which it then never does. And a handler that takes a lock may have
    interrupted its holder.
    """
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    _KEPT.append(tell)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # one may have been held back for us
    return Wire(told)


_KEPT: list[socket.socket] = []  # the signals' own end must stay open for the life of the process


def wait(wires: list[Wire], timeout_s: float) -> None:
    """Wait until one of the wires has something to say, at most `timeout_s`."""
    select.select([wire for wire in wires if not wire.dead], [], [], timeout_s)


def end_with_parent() -> None:
    """Be told to stop when the parent process dies, however it dies. Linux alone has this."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def name_process(role: str) -> None:
    """Say what this process is: in the log, and (on Linux) in ps and top as "tandem-" and the role's first letters."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_NAME, f"tandem-{role}".encode()[:15])
    log.info("process started", extra={"role": role, "pid": os.getpid()})


class Backoff:
    """How long to wait before starting again what keeps ending: doubled each time, forgotten after a good while."""

    def __init__(self, first_s: float = 0.1, longest_s: float = 10.0, good_s: float = 30.0) -> None:
        self._first_s, self._longest_s, self._good_s = first_s, longest_s, good_s
        self._next_s = first_s

    def after(self, lived_s: float) -> float:
        """Return seconds to wait, given how long the last one lived."""
        if lived_s >= self._good_s:
            self._next_s = self._first_s
        wait_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return wait_s
