"""The supervisor of a service: executes a loader per generation and a side process, watches them, and no more.

No gRPC, no numpy, no threads: nothing in it can hang or crash with what it watches. It holds the ports for its whole
life by sockets that are bound and never listen; workers of two generations listen on the same port side by side
(SO_REUSEPORT) while the older one lets its connections go. So that no call fails, nobody waits for a free port.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from tandem_core.process_wire import Backoff, Wire, end_with_parent, name_process, wait
from tandem_core.service_arguments import WRONG_CONFIG
from tandem_core.service_settings import ServiceSettings
from tandem_core.settings import ConfigError
from tandem_core.signals import metrics_folder

log = logging.getLogger(__name__)

TICK_S = 0.2
SLOWER = 3  # times as long as a worker may a loader that serves not be heard of: it forks and buries
TRY_AGAIN_S = 30.0  # a bundle that could not be read, which may pass; one that is bad waits until it changes


@dataclass(slots=True)
class Process:
    """An executed process of ours, and the way to it."""

    role: str
    process: subprocess.Popen[bytes]
    wire: Wire
    started: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    serving: dict[str, Any] | None = None  # what a loader said of the bundles it serves
    kill_at: float = float("inf")
    hung: bool = False


def reserve(host: str, ports: Sequence[int]) -> list[socket.socket]:
    """Bind every port, so that it stays ours; 0: any free one. Raises ConfigError where one is taken."""
    held = []
    for port in ports:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:  # without SO_REUSEPORT: it fails where anybody listens
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            held.append(socket.socket(family, kind))
            held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held[-1].bind(address)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: the port is taken, or the host is not ours") from error
    return held


class ServiceSupervisor:
    """Runs a service until SIGTERM or SIGINT. command: what executes this program again, with `--role` added."""

    def __init__(self, settings: ServiceSettings, command: Sequence[str]) -> None:
        self._settings = settings
        self._command = command
        self._held = reserve(settings.host, settings.wanted_ports())
        self.ports = [held.getsockname()[1] for held in self._held]
        self._side: Process | None = None
        self._current: Process | None = None  # the loader whose workers serve
        self._coming: Process | None = None
        self._leaving: list[Process] = []
        self._start_at: dict[str, float] = {}
        self._backoff = {"loader": Backoff(), "side": Backoff()}
        self._proven: set[str] = set()  # roles that have worked once, and so with the configuration of the start
        self._seen: dict[str, Any] = {}  # what the side process saw last of the registry
        self._overtaken: tuple[dict[str, Any], float] = ({}, 0.0)  # what a loader saw something newer than, until when
        self._loading: dict[str, Any] = {}  # what it was when the last loader started
        self._refused: dict[str, Any] = {}  # what it was when it was refused, with the reason
        self._refused_until = 0.0
        self._stopping = False

    def run(self) -> None:
        """Serve until told to stop, then drain; exits with 2 where the configuration cannot be used."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_stopping", True))
        with metrics_folder() if self._settings.metrics_port is not None else nullcontext():
            self._run()

    def _run(self) -> None:
        self._coming = self._start_loader()
        while not self._stopping:
            wait([process.wire for process in self._all()], TICK_S)
            self._hear()
            self._watch()
            self._start_what_is_due()
            if time.monotonic() > self._refused_until:
                self._look()
        self._stop()

    def _all(self) -> list[Process]:
        return [p for p in (self._side, self._current, self._coming, *self._leaving) if p is not None]

    def _start_loader(self) -> Process:
        self._loading = self._seen
        arguments = ["--ports", ",".join(map(str, self.ports))]
        if self._current is not None:
            arguments += ["--replaces", (self._current.serving or {}).get("bundle_id", "")]
        return self._execute("loader", *arguments)

    def _execute(self, role: str, *arguments: str) -> Process:
        ours, theirs = Wire.pair()
        number = str(theirs.fileno())
        process = subprocess.Popen(  # noqa: S603  this very program
            [*self._command, "--role", role, "--wire", number, *arguments],
            pass_fds=[theirs.fileno()],
            preexec_fn=end_with_parent,  # noqa: PLW1509  it calls one system call and takes no lock
        )
        theirs.close()
        return Process(role, process, ours)

    def _hear(self) -> None:
        for process in self._all():
            for message in process.wire.receive():
                process.heard = time.monotonic()
                match message["event"]:
                    case "serving":
                        self._serves(process, message)
                    case "refused":
                        may_pass_s = TRY_AGAIN_S if message["may_pass"] else float("inf")
                        self._refuse(message["bundle_id"], message["why"], self._loading, may_pass_s)
                    case "seen":
                        self._proven.add("side")
                        self._seen = message
                        self._look()

    def _serves(self, process: Process, said: dict[str, Any]) -> None:
        first = "loader" not in self._proven
        self._proven.add("loader")
        process.serving = said
        if process is not self._side and said["bundle_id"] != self._seen.get("bundle_id", said["bundle_id"]):
            # The pointer moved on between the look and the loading: to act on the old look would load this one again.
            self._overtaken = (self._seen, time.monotonic() + 2 * self._settings.bundle_poll_s)
        if process is self._coming:
            if self._current is not None:
                self._retire(self._current)
            self._current, self._coming = process, None
        bundle = {"bundle_id": said["bundle_id"], "previous_id": said["previous_id"]}
        if first:
            name_process("supervisor")
            listening = {"port": self.ports[0], "ports": self.ports, "refusal": said["refusal"]}
            log.info("listening", extra=bundle | listening)
            if said["refused_id"]:
                refused = {"bundle_id": said["refused_id"], "reason": said["refusal"], "serving": said["bundle_id"]}
                log.error("bundle refused", extra=refused)
            self._side = self._execute("side")
        elif process is self._current:
            log.info("bundle serves", extra=bundle)
        self._look()

    def _look(self) -> None:
        """Do what the registry, as it was seen last, asks for."""
        if not self._seen or self._coming is not None or self._current is None:
            return
        if self._seen is self._overtaken[0] and time.monotonic() < self._overtaken[1]:
            return
        serving = self._current.serving or {}
        wanted = self._seen["bundle_id"]
        if self._seen["why"]:
            self._refuse(wanted, self._seen["why"], self._seen)
        elif wanted == serving.get("bundle_id"):
            self._tell("", "")
        elif self._seen == self._refused.get("seen") and time.monotonic() < self._refused_until:
            self._tell(wanted, self._refused["why"])  # nothing has changed: no need to read it all again
        elif wanted == serving.get("previous_id"):
            self._current.wire.send(do="promote")
        else:
            self._coming = self._start_loader()

    def _refuse(self, bundle_id: str, why: str, seen: dict[str, Any], for_s: float = float("inf")) -> None:
        """Keep the reason, and tell it to those who serve."""
        self._refused = {"seen": seen, "why": why}
        self._refused_until = time.monotonic() + for_s
        self._tell(bundle_id, why)

    def _tell(self, bundle_id: str, why: str) -> None:
        serving = (self._current.serving if self._current is not None else None) or {}
        if self._current is None or (serving.get("refused_id"), serving.get("refusal")) == (bundle_id, why):
            return  # said once, not at every look
        if why:
            current = serving.get("bundle_id", "")
            log.error("bundle refused", extra={"bundle_id": bundle_id, "reason": why, "serving": current})
        serving |= {"refused_id": bundle_id, "refusal": why}
        self._current.wire.send(do="tell", refused_id=bundle_id, refusal=why)

    def _retire(self, process: Process) -> None:
        process.wire.send(do="retire")
        settings = self._settings
        limit_s = 1.2 * settings.max_connection_age_s + settings.drain_s + 2 * settings.grace_s + 20
        process.kill_at = time.monotonic() + (0.0 if process.hung else limit_s)
        self._leaving.append(process)

    def _watch(self) -> None:
        now = time.monotonic()
        for process in self._all():
            code = process.process.poll()
            if code is not None:
                self._hear()  # its last words may be why
                self._ended(process, code, now)
            elif now > process.kill_at:
                process.process.kill()
            elif now - process.heard > self._patience_s(process):
                process.hung, process.heard = True, now  # later again, should what comes instead fail
                log.error(f"{process.role} hung; starting another", extra={"pid": process.process.pid})
                if process is not self._current:
                    process.process.kill()
                elif self._coming is None:
                    self._coming = self._start_loader()  # its workers serve meanwhile

    def _patience_s(self, process: Process) -> float:
        """Return how long a process may say nothing: where it reads a bundle, that takes what it takes."""
        settings = self._settings
        if process in self._leaving:
            return float("inf")  # it has a time to end
        if process is self._current:
            return SLOWER * settings.hung_after_s
        return settings.longest_load_s + (2 * settings.bundle_poll_s if process is self._side else 0.0)

    def _ended(self, process: Process, code: int, now: float) -> None:
        process.wire.close()
        if code == WRONG_CONFIG and process.role not in self._proven:
            # It has said why; another would end the same way. Later, files were changed under us, and may be mended.
            self._stop()
            raise SystemExit(WRONG_CONFIG)
        if process in self._leaving:
            self._leaving.remove(process)
            return
        if process is self._coming:
            self._coming = None
            if code != 0 and self._current is not None:
                why = f"loading it ended the loader with code {code}"
                if code == WRONG_CONFIG:
                    why = "the configuration was changed, and is wrong now: the service's log says where"
                self._refuse(self._loading.get("bundle_id", ""), why, self._loading, TRY_AGAIN_S)
        if process is self._current:
            self._current = None
        if process is self._side:
            self._side = None
        if process.role == "side" or self._current is None:
            wait_s = self._backoff[process.role].after(now - process.started)
            log.error(f"{process.role} ended; starting another", extra={"code": code, "wait_s": wait_s})
            self._start_at[process.role] = now + wait_s
        self._look()

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for role, due in tuple(self._start_at.items()):
            if now < due:
                continue
            del self._start_at[role]
            if role == "side":
                self._side = self._execute("side")
            elif self._coming is None and self._current is None:
                self._coming = self._start_loader()

    def _stop(self) -> None:
        """End the loaders first, while the side process still says that we live."""
        loaders = [process for process in (self._current, self._coming, *self._leaving) if process is not None]
        for process in loaders:
            process.process.send_signal(signal.SIGTERM)
        limit = time.monotonic() + self._settings.drain_s + self._settings.grace_s + 20
        for process in [*loaders, *([self._side] if self._side is not None else [])]:
            if process is self._side:
                process.process.send_signal(signal.SIGTERM)
            try:
                process.process.wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.process.wait()
