"""What `python -m tandem_<service>` does: it is the supervisor, or one of the processes that a supervisor executes.

Everything but settings is imported where it is needed: the supervisor must stay without numpy and gRPC.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tandem_core.logs import log_to_stderr
from tandem_core.process_priority import behind_others
from tandem_core.process_supervisor import ServiceSupervisor
from tandem_core.process_wire import Wire
from tandem_core.service_arguments import config_errors_end_it, settings_from_arguments
from tandem_core.service_settings import ServiceSettings

if TYPE_CHECKING:
    import grpc

    from tandem_core.process_loader import Loader
    from tandem_core.serving_bundles import ServingBundles

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """What makes a service the one it is.

    load: bundle id -> what serves it; called before the fork: no threads, connections, models. warm: called after it.
    register: called after the fork; opens stores and clients, adds servicers, returns their full service names.
    """

    load: Callable[[str], Any]
    warm: Callable[[Any], None]
    register: Callable[[ServingBundles[Any], grpc.Server], Sequence[str]]


def run_service(module: str, kind: type[SettingsT], parts: Callable[[SettingsT], ServiceParts]) -> None:
    """Run a service until SIGTERM. parts: called in the loader alone; raises ConfigError."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--role", choices=("loader", "side"), help=argparse.SUPPRESS)  # our supervisor's own words
    parser.add_argument("--wire", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ports", help=argparse.SUPPRESS)
    parser.add_argument("--replaces", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args(sys.argv[1:])
    settings = settings_from_arguments(kind, rest)
    log_to_stderr(settings.log_level)
    with config_errors_end_it():
        if given.role is None:
            settings.check_files()  # later, a process that finds them wrong is started again until they are mended
            ServiceSupervisor(settings, [sys.executable, "-m", module, *rest]).run()
            return
        upwards = Wire(socket.socket(fileno=given.wire))
        if given.role == "side":
            _run_side(settings, upwards)
        else:
            name, ports = module.removeprefix("tandem_"), [int(port) for port in given.ports.split(",")]

            def loader() -> Loader:
                return _loader(name, settings, parts(settings), upwards, ports)

            # What it imports takes as long as what it loads: where others serve, neither is at their cost.
            (loader() if given.replaces is None else behind_others(loader)).run(given.replaces)


def _run_side(settings: ServiceSettings, upwards: Wire) -> None:
    from tandem_core.grpc_side import Side  # noqa: PLC0415
    from tandem_core.registry_s3 import open_registry  # noqa: PLC0415

    Side(settings, open_registry(settings.registry, settings.registry_cache), upwards).run()


def _loader(name: str, settings: ServiceSettings, parts: ServiceParts, upwards: Wire, ports: Sequence[int]) -> Loader:
    from tandem_core.grpc_observe import import_signals  # noqa: PLC0415
    from tandem_core.grpc_worker import Worker  # noqa: PLC0415  (before the fork: its code is shared)
    from tandem_core.process_loader import Loader  # noqa: PLC0415
    from tandem_core.registry import Registry  # noqa: PLC0415
    from tandem_core.serving_bundles import ServingBundles  # noqa: PLC0415

    import_signals(settings)
    bundles: ServingBundles[Any] = ServingBundles(Registry(settings.local_registry()), parts.load)

    def run_worker(port: int, wire: Wire) -> None:
        Worker(settings, bundles, parts.warm, lambda server: parts.register(bundles, server), port, wire, name).run()

    return Loader(settings, bundles, run_worker, parts.warm, upwards, ports)
