"""A worker: one forked process that serves one port until its loader lets it go."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tandem_core.grpc_event_reader import EventReader
from tandem_core.grpc_observe import WorkerSignals
from tandem_core.grpc_process import SETTLE_S, Service
from tandem_core.process_loader import BEAT_S
from tandem_core.process_wire import Wire, signals_as_wire, wait
from tandem_core.service_arguments import config_errors_end_it
from tandem_core.service_settings import ServiceSettings
from tandem_core.serving_bundles import ServingBundles

log = logging.getLogger(__name__)


class Worker:
    """Serves until SIGTERM or its loader's end (drains at once) or "retire" (waits for its connections to go first).

    The main thread does nothing but beat and listen to the loader: a process whose interpreter hangs, or whose gRPC
    does, falls silent.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        bundles: ServingBundles[Any],
        warm: Callable[[Any], None],
        register: Callable[[grpc.Server], Sequence[str]],
        port: int,
        wire: Wire,
        name: str,
    ) -> None:
        self._told = signals_as_wire(signal.SIGTERM)  # before all that takes time: the loader may go meanwhile
        self._settings = settings
        self._bundles = bundles
        self._wire = wire
        for _, loaded in bundles.held.loaded:
            warm(loaded)
        self._signals = WorkerSignals(settings, name, bundles)
        self._reader = EventReader(settings.hung_after_s)
        self._service = Service(settings, register, port, share_port=True, observing=self._signals.interceptor)

    def run(self) -> None:
        """Serve; ends the process with code 2 where the port is not to be had."""
        with config_errors_end_it():
            self._service.start(serving=bool(self._bundles.held.loaded))
        self._wire.send(event="ready")
        self._signals.beat(self._service.pool)
        gone_at = float("inf")
        while not (self._told.has_more() or self._wire.dead or time.monotonic() > gone_at):
            wait([self._told, self._wire], BEAT_S if gone_at == float("inf") else SETTLE_S / 2)
            for message in self._wire.receive():
                if message["do"] == "tell":
                    self._bundles.note_refusal(message["refused_id"], message["refusal"])
                elif gone_at == float("inf"):
                    log.info("retiring", extra={"port": self._service.port})
                    self._service.close_to_new_connections()
                    gone_at = time.monotonic() + 1.2 * self._settings.max_connection_age_s + self._settings.grace_s
            if gone_at < float("inf") and not self._service.has_connections():
                gone_at = min(gone_at, time.monotonic() + SETTLE_S)
            if not self._reader.stuck():
                self._wire.send(event="beat")
            self._signals.beat(self._service.pool)
        self._wire.send(event="stopping")
        self._service.stop()
        self._signals.close()
