"""A service in one process, without supervisor or workers: for what is not served from a bundle."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import grpc

from tandem_core.grpc_observe import WorkerSignals, import_signals, serve_metrics
from tandem_core.grpc_process import Service
from tandem_core.process_wire import signals_as_wire, wait
from tandem_core.registry import Registry
from tandem_core.service_settings import ServiceSettings
from tandem_core.serving_bundles import ServingBundles
from tandem_core.signals import metrics_folder

log = logging.getLogger(__name__)


def serve_alone(
    name: str, settings: ServiceSettings, register: Callable[[grpc.Server], Sequence[str]], bundles: ServingBundles[Any]
) -> None:
    """Serve until SIGTERM or SIGINT, then drain, whether or not there is a bundle.

    name: of the service, in traces. bundles: what is made of the registry's bundles, looked at again every few
    seconds. Raises ConfigError where a port is not to be had.
    """
    with metrics_folder() if settings.metrics_port is not None else nullcontext():
        _serve(name, settings, register, bundles)


def _serve(
    name: str,
    settings: ServiceSettings,
    register: Callable[[grpc.Server], Sequence[str]],
    bundles: ServingBundles[Any],
) -> None:
    signals = signals_as_wire(signal.SIGTERM, signal.SIGINT)
    import_signals(settings)
    bundles.refresh()
    told = WorkerSignals(settings, name, bundles)
    metrics = serve_metrics(settings, Registry(settings.local_registry()), lambda: True)
    service = Service(settings, register, settings.wanted_ports()[0], observing=told.interceptor)
    service.start(serving=True)
    log.info("listening", extra={"port": service.port, "bundle_id": bundles.held.current_id})
    while not signals.has_more():
        told.beat(service.pool)
        wait([signals], settings.bundle_poll_s)
        try:
            bundles.refresh()
        except Exception:  # it must outlive whatever it meets: the old bundle goes on
            log.exception("looking for a new bundle failed")
    service.stop()
    told.close()
    if metrics is not None:
        metrics[0].close()
