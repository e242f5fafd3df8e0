"""What the side process does for Prometheus: adds up what workers wrote, audits them, and answers over HTTP.

Nothing here is ever run by a worker, and no request waits for it.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from tandem_core.settings import ConfigError
from tandem_core.signals import PREFIX, ROOM, SIDE_GAUGES, reserve

log = logging.getLogger(__name__)

GONE = "gone"  # in place of a process id: what processes counted that have ended


class WorkerFiles:
    """The files that workers write, and what becomes of those of the dead: gauges go, counts stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def alive(self) -> set[int]:
        """Return the ids of the workers that live, of those that wrote anything."""
        return {pid for pid in self._writers() if _lives(pid)}

    def bury(self) -> None:
        """Drop the gauges of dead workers and add their counts to one file, so that restarts leave no files behind."""
        for pid in self._writers() - self.alive():
            mark_process_dead(pid, str(self.folder))
            try:
                for path in self.folder.glob(f"*_{pid}.db"):
                    _add_to(self.folder / f"{path.name.rpartition('_')[0]}_{GONE}.db", path)
                    path.unlink()
            except OSError as error:  # its own file is counted until there is room for a common one
                log.warning("counts of a worker that ended are not moved yet", extra={"reason": str(error)})
            for path in (*self.folder.glob(f"shown/*/{pid}.npy"), *self.folder.glob(f"searches/*/*/{pid}.npy")):
                path.unlink()

    def forget_bundles(self, serving: set[str]) -> None:
        """Remove what was kept of searches and lists of bundles that serve no more."""
        for path in (*self.folder.glob("shown/*"), *self.folder.glob("searches/*")):
            if path.name not in serving:
                shutil.rmtree(path)

    def _writers(self) -> set[int]:
        ends = (path.stem.rpartition("_")[2] for path in self.folder.glob("*.db"))
        return {int(end) for end in ends if end.isdigit()}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process has the number now
        return False
    return True


def _add_to(target: Path, dead: Path) -> None:
    if not target.exists():
        reserve(target, bytes(ROOM))
    total = MmapedDict(str(target))
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(dead)):
            total.write_value(key, total.read_value(key)[0] + value, timestamp)
    finally:
        total.close()


class SideGauges:
    """What the side process itself measures. Values are replaced whole, so that a scrape never waits."""

    def __init__(self, files: WorkerFiles) -> None:
        self._files = files
        self.exposure: tuple[float, float] | None = None  # Gini, share shown
        self.recall: dict[str, tuple[float, int]] = {}  # source -> recall, searches

    def collect(self) -> Iterator[Metric]:
        yield _family("workers", [((), len(self._files.alive()))])
        if self.exposure is not None:
            yield _family("exposure_gini", [((), self.exposure[0])])
            yield _family("exposure_share", [((), self.exposure[1])])
        yield _family("ann_recall", [((name,), value) for name, (value, _) in self.recall.items()])
        yield _family("ann_audited", [((name,), n) for name, (_, n) in self.recall.items()])


def _family(name: str, values: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    metric = SIDE_GAUGES[name]
    family = GaugeMetricFamily(PREFIX + name, metric.help, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


class MetricsServer:
    """GET /metrics: all workers added up. GET /healthz: 200 as long as `healthy` says so, else 503.

    Raises ConfigError where the port is not to be had. port: 0 for any free one.
    """

    def __init__(
        self, host: str, port: int, files: WorkerFiles, gauges: SideGauges, healthy: Callable[[], bool]
    ) -> None:
        registry = CollectorRegistry()
        registry.register(gauges)
        MultiProcessCollector(registry, path=str(files.folder))
        one_at_a_time = threading.Lock()

        def scrape() -> bytes:
            with one_at_a_time:  # a file must not be buried while it is read
                files.bury()
                return generate_latest(registry)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/metrics":
                        self._answer(200, scrape(), CONTENT_TYPE_PLAIN_0_0_4)
                    case "/healthz":
                        good = healthy()
                        self._answer(200 if good else 503, b"alive\n" if good else b"the supervisor is gone\n")
                    case _:
                        self._answer(404, b"there are /metrics and /healthz\n")

            def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A line per scrape says nothing."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            raise ConfigError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        log.info("metrics listening", extra={"metrics_port": self.port})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
