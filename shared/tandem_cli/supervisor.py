"""Runs services as child processes: starts them, restarts those that die, ends them in order. No threads, no gRPC."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from tandem_core.process_wire import end_with_parent
from tandem_core.service_arguments import WRONG_CONFIG

RESTART_AFTER_S = 1.0
LONGEST_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Child:
    """One service: a name for messages, the module to run, its arguments, what its environment has more."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
        """Start the process; its output goes to ours, or to `log`."""
        command = [sys.executable, "-m", self.module, *self.arguments]
        environment = {**os.environ, **self.environment}
        return subprocess.Popen(  # noqa: S603  our own modules
            command,
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,  # noqa: PLW1509  it calls one system call and takes no lock
        )


class Supervisor:
    """Keeps children running until SIGTERM or SIGINT, then stops them in the order given, one drained after another."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._again: set[str] = set()  # those that have been started again
        self._stopping = False

    def run(self) -> None:
        """Start all, watch, and end when told to; with code 2 where a child cannot run as it is configured.

        One that ran, and cannot be started again because its files are wrong by now, takes none of the others with it.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.start()
        while not self._stopping:
            time.sleep(0.2)
            for child in self._children:
                code = self._running[child.name].poll()
                if code == WRONG_CONFIG and child.name not in self._again:  # it has said why
                    self.end()
                    raise SystemExit(WRONG_CONFIG)
                if code is not None and not self._stopping:
                    print(f"{child.name} ended with code {code}; starting it again", file=sys.stderr, flush=True)  # noqa: T201
                    time.sleep(RESTART_AFTER_S)
                    self._again.add(child.name)
                    self._running[child.name] = child.start()
        self.end()

    def start(self, log_to: Path | None = None) -> None:
        """Start all and return; their output goes to ours, or to the file `log_to`."""
        log = None if log_to is None else log_to.open("wb")
        for child in self._children:
            self._running[child.name] = child.start(log)

    def end(self) -> None:
        """Stop all: those that call others first, so that nobody's upstream goes away under it."""
        for child in self._children:
            process = self._running.get(child.name)
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LONGEST_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
