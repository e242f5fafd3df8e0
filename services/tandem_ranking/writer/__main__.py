"""python -m tandem_ranking.writer --config FILE: run the writer process until SIGTERM."""

from __future__ import annotations

import os

# Before numpy and its libraries are imported: their threads fight over the cores that serve other requests.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import logging
import signal
import socket
import sys
from functools import partial

import grpc

from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem_core.decision_log import forget
from tandem_core.grpc_process import Service
from tandem_core.logs import log_to_stderr
from tandem_core.service_arguments import config_errors_end_it, settings_from_arguments
from tandem_core.stores.open import open_store
from tandem_ranking.writer.config import WriterSettings
from tandem_ranking.writer.event_servicer import EventServicer

log = logging.getLogger(__name__)


def build(settings: WriterSettings) -> Service:
    """Wire the process up; nothing is opened or bound yet. Raises ConfigError for a wrong store."""
    holders = [] if settings.decisions is None else [partial(forget, settings.decisions)]
    events = EventServicer(open_store(settings.store), holders)

    def register(server: grpc.Server) -> list[str]:
        events_pb2_grpc.add_EventServiceServicer_to_server(events, server)
        return [events_pb2.DESCRIPTOR.services_by_name["EventService"].full_name]

    return Service(settings, register, settings.port)


def run(service: Service) -> None:
    """Serve until SIGTERM or SIGINT, then drain; raises ConfigError where the port is not to be had."""
    # A socket and no Event. The kernel may give the signal to a thread of grpc, and Python runs handlers only when
    # this thread wakes, which it then never does.
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    service.start(serving=True)  # events are taken in whether or not there is a bundle
    log.info("listening", extra={"port": service.port})
    told.recv(1)
    service.stop()


def main() -> None:
    settings = settings_from_arguments(WriterSettings, sys.argv[1:])
    log_to_stderr(settings.log_level)
    with config_errors_end_it():
        run(build(settings))


if __name__ == "__main__":
    main()
