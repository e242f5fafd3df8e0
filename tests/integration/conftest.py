"""Real processes on real sockets: started, waited for, killed, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.common.v1 import degradation_pb2
from tandem.events.v1 import events_pb2_grpc
from tandem.ranking.v1 import ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2_grpc
from tandem_core.bundle import Bundle, load_bundle
from tandem_core.registry import Registry

SERVICES = {"retrieval": "tandem.retrieval.v1.RetrievalService", "ranking": "tandem.ranking.v1.RankingService"}
SERVICES["writer"] = "tandem.events.v1.EventService"
MODULES = {"writer": "tandem_ranking.writer"}  # the others are tandem_<name>
START_S = 180.0  # a start takes about a second; on a machine with much else to do, far longer
# max_queue_ms: a busy machine must not look like too many calls.
FAST = {"bundle_poll_s": 0.1, "drain_s": 0.3, "grace_s": 5.0, "max_connection_age_s": 1.0, "max_queue_ms": 10_000}
LOG_TAIL = 8000


def until(ask: Callable[[], Any], timeout_s: float = 60.0, what: str = "it") -> Any:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{what} was not true within {timeout_s} s"
        time.sleep(0.02)
    return answer


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def channel_to(target: str, service: str = "") -> grpc.Channel:
    """Open a channel; with a service name: round robin over the healthy ones of several addresses."""
    options: list[tuple[str, Any]] = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.use_local_subchannel_pool", 1),  # a backoff learned by another test is none of ours
    ]
    if service:
        config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": service}}
        options.append(("grpc.service_config", json.dumps(config)))
    return grpc.insecure_channel(target, options=options)


@dataclass
class Running:
    """A process of ours. name: "retrieval", "ranking", or anything for other commands."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    arguments: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @cached_property
    def port(self) -> int:
        """Where it listens, by its log; fails when it ends or takes too long."""

        def listening() -> list[int]:
            lines = (line for line in self.text.splitlines() if '"listening"' in line)
            found = [json.loads(line)["port"] for line in lines]
            assert found or self.process.poll() is None, f"{self.name} ended with code {self.process.returncode}"
            return found

        return int(until(listening, START_S, f"{self.name} listening")[0])

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @cached_property
    def channel(self) -> grpc.Channel:
        return channel_to(self.target)

    @property
    def stub(self) -> Any:
        kinds = {
            "retrieval": retrieval_pb2_grpc.RetrievalServiceStub,
            "ranking": ranking_pb2_grpc.RankingServiceStub,
            "writer": events_pb2_grpc.EventServiceStub,
        }
        return kinds[self.name](self.channel)

    def health(self, service: str | None = None) -> str:
        """Return what the health service says of the service, or of `service`; "" when it cannot be reached."""
        request = health_pb2.HealthCheckRequest(service=SERVICES[self.name] if service is None else service)
        try:
            answer = health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=5)
        except grpc.RpcError:
            return ""
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def wait_serving(self, timeout_s: float = START_S) -> Running:
        until(lambda: self.health() == "SERVING", timeout_s, f"{self.name} serving")
        return self

    def tree(self) -> list[int]:
        """Return the ids of the process and all below it."""
        found = [self.process.pid]
        for pid in found:  # grows while it is gone through
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, _read(children).split())
        return found

    def members(self, role: str) -> list[int]:
        """Return the ids of the living processes of a role: "loader", "worker" or "side"."""
        names = {pid: _read(Path(f"/proc/{pid}/comm")).strip() for pid in self.tree()}
        return [pid for pid, name in names.items() if name == f"tandem-{role}"]

    def kill(self) -> None:
        """Kill the process and all below it at once."""
        for pid in self.tree():
            with suppress(ProcessLookupError):  # its parent may have taken it along
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        if "channel" in self.__dict__:
            self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()  # first: a supervisor that is killed cannot end its children
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


def _read(path: Path) -> str:
    """Return a file of /proc; "" where its process or thread has ended meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Launcher:
    """Starts processes whose output goes to files in a folder, and ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Running] = []

    def command(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Running:
        """Start `python ARGUMENTS`."""
        log = self.folder / f"{name}-{len(self.started)}.log"
        # Settings that the machine has in its environment are not meant for these tests.
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TANDEM_")}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**clean, **(environment or {})},
                cwd=cwd or self.folder,
            )
        self.started.append(Running(name, process, log, list(arguments)))
        return self.started[-1]

    def service(self, name: str, *, environment: Mapping[str, str] | None = None, **settings: Any) -> Running:
        """Start the process NAME with `--config FILE`; every setting that is not given is the test's own default."""
        defaults = {"port": 0, "store": f"sqlite:///{self.folder / 'store.db'}", **FAST}
        if name == "ranking":  # a busy machine must not look like a late retrieval
            defaults["retrieval_timeout_ms"] = 5000
        config = self.folder / f"{name}-{len(self.started)}.toml"
        config.write_text(toml({**defaults, **settings}))
        module = MODULES.get(name, f"tandem_{name}")
        return self.command(name, "-m", module, "--config", str(config), environment=environment)

    def tandem(self, *arguments: str, name: str = "tandem", **options: Any) -> Running:
        """Start `tandem ARGUMENTS`."""
        return self.command(name, "-c", "from tandem_cli.main import app; app()", *arguments, **options)

    def close(self) -> None:
        for running in self.started:
            if running.process.poll() is None:
                running.process.terminate()  # all at once: each takes its time to drain
        for running in reversed(self.started):
            running.close()


def toml(settings: Mapping[str, Any], table: str = "") -> str:
    """Return settings as TOML; a mapping becomes a table, and comes after what is none."""
    tables = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in settings.items() if key not in tables}
    lines = [f"{key} = {json.dumps(str(v) if isinstance(v, Path) else v)}" for key, v in plain.items()]
    lines += [f"[{table}{key}]\n{toml(values, f'{table}{key}.')}" for key, values in tables.items()]
    return "\n".join(lines) + "\n"


_LAUNCHERS: list[Launcher] = []


def _launcher(folder: Path) -> Iterator[Launcher]:
    launcher = Launcher(folder)
    _LAUNCHERS.append(launcher)
    yield launcher
    launcher.close()
    _LAUNCHERS.remove(launcher)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    """launch.service(name, **settings), launch.tandem(*arguments): for one test."""
    yield from _launcher(tmp_path)


@pytest.fixture(scope="module")
def module_launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """As `launch`, for processes that the tests of a module share."""
    yield from _launcher(tmp_path_factory.mktemp("processes"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the logs of all processes with a failure: they say why."""
    report: Any = yield
    if report.failed:
        for launcher in _LAUNCHERS:
            for running in launcher.started:
                state = running.process.poll()
                title = f"{running.log.name} ({'running' if state is None else f'ended with code {state}'})"
                report.sections.append((title, running.text[-LOG_TAIL:]))
    return report


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """wait_until(ask, timeout_s=60, what="it") polls with a deadline."""
    return until


@pytest.fixture(scope="session")
def a_free_port() -> Callable[[], int]:
    return free_port


@pytest.fixture(scope="session")
def balanced() -> Callable[[str, list[Running]], grpc.Channel]:
    """balanced(name, instances): a channel over several instances that leaves out those not SERVING."""
    return lambda name, instances: channel_to(f"ipv4:{','.join(i.target for i in instances)}", SERVICES[name])


@pytest.fixture(scope="session")
def kinds_of() -> Callable[[Any], set[str]]:
    """kinds_of(response): the kinds of its degradations, such as "RETRIEVAL_UNAVAILABLE"."""
    return lambda response: {
        degradation_pb2.DegradationKind.Name(d.kind).removeprefix("DEGRADATION_KIND_") for d in response.degradations
    }


@pytest.fixture
def own_registry(tmp_path: Path) -> Registry:
    """An empty registry, to be changed by one test."""
    return Registry(tmp_path / "registry")


@pytest.fixture(scope="session")
def whole_bundles() -> Callable[[Registry], list[str]]:
    """whole_bundles(registry): the ids of all its bundles, each of which has been loaded and checked."""

    def load_all(registry: Registry) -> list[str]:
        bundles: list[Bundle] = [load_bundle(registry.path_of(bundle_id)) for bundle_id in registry.bundle_ids()]
        return [bundle.id for bundle in bundles]

    return load_all


@pytest.fixture(scope="session")
def write_toml() -> Callable[[Path, Mapping[str, Any]], Path]:
    """write_toml(path, settings): mappings become tables."""

    def write(path: Path, settings: Mapping[str, Any]) -> Path:
        path.write_text(toml(settings))
        return path

    return write


@pytest.fixture(scope="session")
def listening_ports() -> Callable[[Running], list[int]]:
    """listening_ports(running): the port of each worker, by its log."""

    def ports(running: Running) -> list[int]:
        running.port  # noqa: B018  (waits until it listens)
        line = next(line for line in running.text.splitlines() if '"listening"' in line)
        found: list[int] = json.loads(line)["ports"]
        return found

    return ports
