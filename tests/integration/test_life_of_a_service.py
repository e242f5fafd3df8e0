"""A serving process from its start to its end: bad settings, no bundle, killed, drained."""

from __future__ import annotations

import ctypes
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_core.registry import Registry
from tandem_testing import StubRetrieval, serve

LOAD_S = 2.0
KINDS = {
    "retrieval": (retrieval_pb2_grpc.RetrievalServiceStub, "Retrieve", retrieval_pb2.RetrieveRequest),
    "ranking": (ranking_pb2_grpc.RankingServiceStub, "Recommend", ranking_pb2.RecommendRequest),
}


class Load:
    """Calls one after another from two threads for the length of a with block; keeps every failure."""

    def __init__(self, name: str, channel: grpc.Channel, **fields: Any) -> None:
        stub, method, request = KINDS[name]
        self._call = getattr(stub(channel), method)
        self._request = request(**fields)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        self.answers: list[Any] = []
        self.failures: list[grpc.RpcError] = []

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(self._call(self._request, timeout=5))
            except grpc.RpcError as error:
                self.failures.append(error)

    def __enter__(self) -> Load:
        self._call(self._request, timeout=10, wait_for_ready=True)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def retrieval(module_launch: Any, registry: Registry, trained: Any) -> Any:
    return module_launch.service("retrieval", registry=registry.root).wait_serving()


@pytest.mark.parametrize("name", ["retrieval", "ranking"])
def test_stopping_one_of_two_loses_no_call(
    module_launch: Any, retrieval: Any, registry: Registry, balanced: Callable[..., grpc.Channel], name: str
) -> None:
    settings = {"retrieval_target": f"ipv4:{retrieval.target}"} if name == "ranking" else {}
    started = [module_launch.service(name, registry=registry.root, **settings) for _ in range(2)]
    leaving, staying = [instance.wait_serving() for instance in started]
    with balanced(name, [leaving, staying]) as channel, Load(name, channel) as load:
        until = time.monotonic() + LOAD_S
        time.sleep(LOAD_S / 4)
        before = len(load.answers)
        assert leaving.terminate() == 0
        gone = len(load.answers)
        time.sleep(max(0.2, until - time.monotonic()))
    assert not load.failures
    assert 0 < before < gone < len(load.answers)
    assert '"draining"' in leaving.text
    assert '"stopped"' in leaving.text
    assert staying.terminate() == 0


def test_a_call_in_flight_is_answered_before_the_end(
    launch: Any, registry: Registry, bundle: Bundle, wait_until: Callable[..., Any]
) -> None:
    slow = StubRetrieval(bundle.catalog.item_ids, bundle.id)
    slow.delay(1.0)
    with serve(slow) as server:
        target = f"ipv4:{server.address}"
        leaving = launch.service("ranking", registry=registry.root, retrieval_target=target, retrieval_timeout_ms=5000)
        leaving.wait_serving()
        call = leaving.stub.Recommend.future(ranking_pb2.RecommendRequest(), timeout=20)
        wait_until(lambda: slow.requests, what="the call under way")
        assert leaving.terminate() == 0
        assert len(call.result().items) == 20
        assert not call.result().degradations


def test_a_signal_that_the_kernel_gives_to_another_thread_ends_a_worker_too(
    launch: Any, registry: Registry, trained: Any, wait_until: Callable[..., Any]
) -> None:
    running = launch.service("retrieval", registry=registry.root, drain_s=0.0).wait_serving()
    (worker,) = running.members("worker")
    others = sorted(int(task.name) for task in Path(f"/proc/{worker}/task").iterdir() if int(task.name) != worker)
    assert ctypes.CDLL(None).tgkill(worker, others[-1], signal.SIGTERM) == 0
    wait_until(lambda: '"stopped"' in running.text, what="the worker's end")
    wait_until(lambda: running.members("worker") not in ([], [worker]), what="another worker")
    running.wait_serving()


def test_watchers_of_health_that_come_and_go_at_the_same_time_stop_nobody(
    launch: Any, watch_health_and_leave: Callable[[str], list[grpc.RpcError]]
) -> None:
    writer = launch.service("writer", max_connection_age_s=600).wait_serving()
    assert watch_health_and_leave(writer.target) == []
    assert writer.health() == "SERVING"


def test_many_signals_are_as_good_as_one(launch: Any, registry: Registry, trained: Any) -> None:
    running = launch.service("retrieval", registry=registry.root).wait_serving()
    while running.process.poll() is None and '"stopped"' not in running.text:
        running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert running.text.count('"draining"') == 1


def test_recommend_answers_while_retrieval_is_dead_and_recovers_when_it_is_back(
    launch: Any,
    registry: Registry,
    trained: Any,
    wait_until: Callable[..., Any],
    kinds_of: Callable[..., set[str]],
) -> None:
    retrieval = launch.service("retrieval", registry=registry.root).wait_serving()
    ranking = launch.service(
        "ranking", registry=registry.root, retrieval_target=f"ipv4:{retrieval.target}"
    ).wait_serving()

    def recommend() -> Any:
        return ranking.stub.Recommend(ranking_pb2.RecommendRequest(), timeout=5)

    def connection() -> str:
        state: str = ranking.stub.GetServingState(ranking_pb2.GetServingStateRequest()).retrieval_connection
        return state

    wait_until(lambda: not recommend().degradations)
    retrieval.kill()
    for _ in range(20):
        response = recommend()
        assert kinds_of(response) == {"RETRIEVAL_UNAVAILABLE"}
        assert len(response.items) == 20
    assert ranking.health() == "SERVING"
    wait_until(lambda: connection() in ("failing", "connecting"))
    launch.service("retrieval", registry=registry.root, port=retrieval.port).wait_serving()
    wait_until(lambda: not recommend().degradations, timeout_s=60, what="retrieval used again")
    wait_until(lambda: connection() == "ready")


@pytest.fixture
def both(launch: Any, own_registry: Registry) -> dict[str, Any]:
    """Both services on an empty registry, listening."""
    retrieval = launch.service("retrieval", registry=own_registry.root)
    ranking = launch.service("ranking", registry=own_registry.root, retrieval_target=f"ipv4:127.0.0.1:{retrieval.port}")
    ranking.port  # noqa: B018  (waits until it listens)
    return {"retrieval": retrieval, "ranking": ranking}


def test_without_a_bundle_a_service_is_up_says_why_and_serves_as_soon_as_there_is_one(
    both: dict[str, Any], own_registry: Registry, publish_copy: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    calls = {
        "retrieval": lambda: both["retrieval"].stub.Retrieve(retrieval_pb2.RetrieveRequest(), timeout=5),
        "ranking": lambda: both["ranking"].stub.Recommend(ranking_pb2.RecommendRequest(), timeout=5),
    }
    states = {
        "retrieval": lambda: both["retrieval"].stub.GetServingState(retrieval_pb2.GetServingStateRequest()).state,
        "ranking": lambda: both["ranking"].stub.GetServingState(ranking_pb2.GetServingStateRequest()).state,
    }
    for name, running in both.items():
        assert running.health() == "NOT_SERVING"
        assert running.health("") == "NOT_SERVING"
        assert running.health("liveness") == "SERVING"
        with pytest.raises(grpc.RpcError, match="has no current bundle: train one") as caught:
            calls[name]()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        state = states[name]()
        assert not state.serving
        assert (state.bundle_id, state.catalogue_size) == ("", 0)
        assert "has no current bundle" in state.refusal
    publish_copy(own_registry, "first")
    for name, running in both.items():
        running.wait_serving(10)
        assert calls[name]().bundle_id == "first"
        state = states[name]()
        assert (state.serving, state.bundle_id, state.refusal) == (True, "first", "")
    wait_until(lambda: not calls["ranking"]().degradations)


@pytest.mark.parametrize("name", ["retrieval", "ranking"])
def test_a_port_that_is_taken_ends_the_process_with_one_clear_line(
    launch: Any, registry: Registry, trained: Any, name: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = launch.service(name, registry=registry.root, port=port, log_level="warning")
        assert running.process.wait(30) == 2
    said = [line for line in running.text.splitlines() if f"127.0.0.1:{port}" in line]
    assert said[-1] == f"cannot listen on 127.0.0.1:{port}: the port is taken, or the host is not ours"
    assert "Traceback" not in running.text


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown key": ("retrieval", {"treads": 4}, "treads"),
    "unknown key of ranking": ("ranking", {"retrieval_tagret": "x"}, "retrieval_tagret"),
    "a port out of range": ("ranking", {"port": 70_000}, "port"),
    "unknown store": ("retrieval", {"store": "oracle://db"}, "oracle://db"),
    "unknown store of ranking": ("ranking", {"store": "oracle://db"}, "oracle://db"),
    "missing policy": ("ranking", {"policy_file": "nowhere.toml"}, "nowhere.toml does not exist"),
    "policy that is a folder": ("ranking", {"policy_file": "."}, "cannot be read"),
}
WRONG_POLICIES = {
    "no TOML": ("port = ", "is not TOML"),
    "unknown rule": ("[placements.home.recensy]", "placements.home: recensy"),
}


@pytest.fixture(scope="module")
def ended(module_launch: Any) -> dict[str, Any]:
    """Processes started with something wrong, all at once: they share the cores and the wait."""
    started = {case: module_launch.service(name, **settings) for case, (name, settings, _) in WRONG.items()}
    for case, (text, _) in WRONG_POLICIES.items():
        policy = module_launch.folder / f"{case}.toml"
        policy.write_text(text)
        started[f"policy: {case}"] = module_launch.service("ranking", policy_file=policy)
    return started


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_ends_the_process_and_is_named(ended: dict[str, Any], case: str) -> None:
    running = ended[case]
    assert running.process.wait(60) == 2
    assert WRONG[case][2] in running.text
    assert len(running.text.splitlines()) == 1, "one clear line"


@pytest.mark.parametrize("case", WRONG_POLICIES)
def test_a_wrong_policy_ends_the_process_and_is_named(ended: dict[str, Any], case: str) -> None:
    running = ended[f"policy: {case}"]
    assert running.process.wait(60) == 2
    assert f"{case}.toml" in running.text
    assert WRONG_POLICIES[case][1] in running.text
    assert len(running.text.splitlines()) == 1, "one clear line"


def test_a_config_file_that_does_not_exist_is_named(launch: Any) -> None:
    running = launch.command("retrieval", "-m", "tandem_retrieval", "--config", "nowhere.toml")
    assert running.process.wait(30) == 2
    assert running.text.strip() == "nowhere.toml does not exist"


def test_the_environment_goes_before_the_file(launch: Any, registry: Registry, trained: Any) -> None:
    config = launch.folder / "retrieval.toml"
    config.write_text('port = 0\nregistry = "nowhere"\nreflection = false\n')
    environment = {
        "TANDEM_RETRIEVAL_REGISTRY": str(registry.root),
        "TANDEM_RETRIEVAL_STORE": f"sqlite:///{launch.folder / 'store.db'}",
    }
    arguments = ("-m", "tandem_retrieval", "--config", str(config))
    assert launch.command("retrieval", *arguments, environment=environment).wait_serving().terminate() == 0
