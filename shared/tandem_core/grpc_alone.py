"""A service in one process, without supervisor or workers: for what is not served from a bundle."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tandem_core.grpc_process import Service
from tandem_core.process_wire import signals_as_wire, wait
from tandem_core.service_settings import ServiceSettings
from tandem_core.serving_bundles import ServingBundles

log = logging.getLogger(__name__)


def serve_alone(
    settings: ServiceSettings, register: Callable[[grpc.Server], Sequence[str]], bundles: ServingBundles[Any]
) -> None:
    """Serve until SIGTERM or SIGINT, then drain, whether or not there is a bundle.

    bundles: what is made of the registry's bundles, looked at again every few seconds. Raises ConfigError where the
    port is not to be had.
    """
    signals = signals_as_wire(signal.SIGTERM, signal.SIGINT)
    bundles.refresh()
    service = Service(settings, register, settings.wanted_ports()[0])
    service.start(serving=True)
    log.info("listening", extra={"port": service.port, "bundle_id": bundles.held.current_id})
    while not signals.has_more():
        wait([signals], settings.bundle_poll_s)
        try:
            bundles.refresh()
        except Exception:  # it must outlive whatever it meets: the old bundle goes on
            log.exception("looking for a new bundle failed")
    service.stop()
