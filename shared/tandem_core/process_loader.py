"""The loader of a generation: loads a bundle once, forks workers around it, and replaces those that die or hang.

It stays without gRPC objects and models, and between its steps without threads, so that it can be forked at any time:
what it has loaded is shared by all workers, and a replacement starts in milliseconds.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tandem_core.errors import BundleRefused
from tandem_core.process_priority import behind_others
from tandem_core.process_wire import Backoff, Wire, end_with_parent, name_process, wait
from tandem_core.service_arguments import WRONG_CONFIG
from tandem_core.service_settings import ServiceSettings
from tandem_core.serving_bundles import ServingBundles

log = logging.getLogger(__name__)

TICK_S = 0.2
BEAT_S = 1.0
LONGEST_START_S = 120.0  # of a worker, from its fork until it serves

RunWorker = Callable[[int, Wire], None]


@dataclass(slots=True)
class Worker:
    """A forked process that serves one port."""

    pid: int
    port: int
    wire: Wire
    started: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    ready: bool = False
    stopping: bool = False  # it waits for its calls and says nothing meanwhile
    kill_at: float = float("inf")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # it is our child and not waited for: the pid is still its own


class Loader:
    """Runs one generation of workers.

    run_worker: called in each forked child with its port and its wire; does not return before the worker's end.
    warm: called in a child of its own, once per loaded bundle; raises BundleRefused.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        bundles: ServingBundles[Any],
        run_worker: RunWorker,
        warm: Callable[[Any], None],
        upwards: Wire,
        ports: Sequence[int],
    ) -> None:
        self._settings = settings
        self._bundles = bundles
        self._run_worker = run_worker
        self._warm = warm
        self._up = upwards
        self._ports = ports
        self._slots: dict[int, Worker] = {}  # what serves
        self._coming: dict[int, Worker] = {}  # what will, once all of them are ready
        self._leaving: list[Worker] = []
        self._restart_at: dict[int, float] = {}
        self._backoff = {port: Backoff() for port in ports}
        self._changing = False  # workers are coming, and are not all ready yet
        self._stopping = False  # no worker is to be started any more
        self._ending = False  # nor is one to wait for its connections
        self._ticked = time.monotonic()

    def run(self, replaces: str | None) -> None:
        """Load, fork, watch until told to end.

        replaces: the bundle of the generation that serves ("": it has none), which goes on if ours is refused.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor tells us
        name_process("loader")
        loaded = self._load(None) if replaces is None else behind_others(lambda: self._load(replaces))
        if not loaded:
            return
        # Only now: whoever is told to end while it reads has nothing to end in good order, and is to end at once.
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_ending", True))
        self._fork_all()
        while not (self._stopping and not self._all()):
            wait([self._up, *(worker.wire for worker in self._all())], TICK_S)
            self._hear()
            self._switch()
            self._watch()
            if self._ending:
                self._stop()

    def _load(self, replaces: str | None) -> bool:
        self._bundles.refresh()
        loaded = self._bundles.held.loaded
        if loaded and (refusal := self._refusal(loaded[0][1])):
            self._bundles.refuse_current(refusal)
        held = self._bundles.held
        if held.refusal and replaces is not None:
            may_pass = self._bundles.refusal_may_pass
            self._up.send(event="refused", bundle_id=held.refused_id, why=held.refusal, may_pass=may_pass)
            return False
        if replaces and held.loaded:
            self._bundles.keep(replaces)
        gc.collect()
        gc.freeze()  # the collector would write into what all processes share, and so copy it
        return True

    def _refusal(self, loaded: Any) -> str:
        """Warm what was loaded in a child that ends: a model that crashes takes nothing with it."""
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                self._warm(loaded)
                code = 0
            except BundleRefused as error:
                os.write(writing, str(error).encode()[:4096])
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading, "rb") as said:
            why = said.read().decode(errors="replace")
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return why if code == 0 or why else f"its models ended a process with code {code}"

    def _all(self) -> list[Worker]:
        return [*self._slots.values(), *self._coming.values(), *self._leaving]

    def _fork_all(self) -> None:
        self._changing = True
        for port in self._ports:
            self._coming[port] = self._fork(port)

    def _fork(self, port: int) -> Worker:
        ours, theirs = Wire.pair()
        # Held back until the worker listens to it: this loader's own handler would swallow it there.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        if pid := os.fork():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            theirs.close()
            return Worker(pid, port, ours)
        code = 1
        try:
            for wire in (ours, self._up, *(worker.wire for worker in self._all())):
                wire.close()
            end_with_parent()
            name_process("worker")
            self._run_worker(port, theirs)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # the child must never return into the loader's own code
            log.exception("worker failed", extra={"port": port})
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _hear(self) -> None:
        for worker in self._all():
            for message in worker.wire.receive():
                worker.heard = time.monotonic()
                worker.ready = worker.ready or message["event"] == "ready"
                worker.stopping = worker.stopping or message["event"] == "stopping"
        for message in self._up.receive():
            self._obey(message)
        self._up.send(event="beat")
        self._ending = self._ending or self._up.dead
        self._stopping = self._stopping or self._ending

    def _switch(self) -> None:
        """Let the workers before go, once all those that come are ready."""
        if not self._changing or set(self._coming) != set(self._ports):
            return
        if all(worker.ready for worker in self._coming.values()):
            self._changing = False
            self._retire(self._slots.values())
            self._slots, self._coming = self._coming, {}
            held = self._bundles.held
            self._up.send(
                event="serving",
                bundle_id=held.current_id,
                previous_id=held.previous_id,
                refused_id=held.refused_id,
                refusal=held.refusal,
            )

    def _obey(self, message: dict[str, Any]) -> None:
        match message["do"]:
            case "tell":
                self._bundles.note_refusal(message["refused_id"], message["refusal"])
                for worker in (*self._slots.values(), *self._coming.values()):
                    worker.wire.send(**message)
            case "promote":
                if not self._changing and behind_others(self._bundles.refresh):
                    self._fork_all()
            case "retire":
                self._retire([*self._slots.values(), *self._coming.values()])  # a port may have one of each
                self._slots, self._coming, self._stopping = {}, {}, True
                self._restart_at.clear()

    def _retire(self, workers: Iterable[Worker]) -> None:
        """Let workers go once their connections have: no call of theirs fails."""
        for worker in workers:
            worker.wire.send(do="retire")
            limit_s = (
                1.2 * self._settings.max_connection_age_s + self._settings.drain_s + 2 * self._settings.grace_s + 10
            )
            worker.kill_at = time.monotonic() + limit_s
            self._leaving.append(worker)

    def _stop(self) -> None:
        """Tell all workers to end, those too that wait for their connections."""
        for worker in self._all():
            if worker.stopping:
                continue
            worker.signal(signal.SIGTERM)
            worker.stopping = True
            worker.kill_at = time.monotonic() + self._settings.drain_s + self._settings.grace_s + 10
            if worker not in self._leaving:
                self._leaving.append(worker)
        self._slots, self._coming = {}, {}
        self._restart_at.clear()

    def _watch(self) -> None:
        """Bury the dead, kill the hung, start what is due."""
        now, before = time.monotonic(), self._ticked
        self._ticked = now
        for worker in self._all():
            if now - before > 10 * TICK_S:  # we ourselves stood still: silence says nothing
                worker.heard = now
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._buried(worker, os.waitstatus_to_exitcode(status), now)
            elif self._hangs(worker, now):
                log.error("worker hung", extra={"port": worker.port, "pid": worker.pid})
                worker.signal(signal.SIGKILL)  # ends a stopped process too
                worker.heard = now
        for port, due in tuple(self._restart_at.items()):
            if now >= due:
                del self._restart_at[port]
                group = self._coming if self._changing else self._slots
                if port not in group:
                    group[port] = self._fork(port)

    def _hangs(self, worker: Worker, now: float) -> bool:
        if now > worker.kill_at:
            return True
        if not worker.ready:
            return now - worker.started > LONGEST_START_S
        return not worker.stopping and now - worker.heard > self._settings.hung_after_s

    def _buried(self, worker: Worker, code: int, now: float) -> None:
        worker.wire.close()
        if worker in self._leaving:
            self._leaving.remove(worker)
            return
        if code == WRONG_CONFIG:  # it has said why; another would end the same way
            raise SystemExit(WRONG_CONFIG)
        group = self._coming if self._coming.get(worker.port) is worker else self._slots
        wait_s = self._backoff[worker.port].after(now - worker.started)
        log.error(
            "worker ended; starting another",
            extra={"port": worker.port, "pid": worker.pid, "code": code, "wait_s": wait_s},
        )
        del group[worker.port]
        self._restart_at[worker.port] = now + wait_s
