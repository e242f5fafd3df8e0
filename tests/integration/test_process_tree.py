"""The processes of a service: what dies or hangs is replaced, and new bundles come without a failed call."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem.common.v1 import attribute_pb2, degradation_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.catalog import Catalog
from tandem_core.registry import Registry

Until = Callable[..., Any]
ASKED = {"i003", "i070", "i150"}  # what every request for a list is restricted to, and so must find
ONLY_ASKED = filter_pb2.Filter(
    in_set=filter_pb2.InSet(column="item_id", values=attribute_pb2.StringList(values=sorted(ASKED)))
)


class Callers:
    """Threads that call at a steady rate, each on a plain channel of its own; keeps what came back.

    pause_s: of each thread between its calls. times: when each call began, and the seconds it took. wrong: answers that
    hold other items than those asked for.
    """

    def __init__(self, call_of: Callable[[], Callable[[], Any]], threads: int = 4, pause_s: float = 0.02) -> None:
        self._over = threading.Event()
        self._pause_s = pause_s
        self._threads = [threading.Thread(target=self._run, args=(call_of(),)) for _ in range(threads)]
        self.bundles: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.failures: list[str] = []
        self.times: list[tuple[float, float]] = []
        self.wrong: list[str] = []

    def _run(self, call: Callable[[], Any]) -> None:
        while not self._over.wait(self._pause_s):
            begun = time.monotonic()
            try:
                response = call()
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
                continue
            self.times.append((begun, time.monotonic() - begun))
            self.bundles[response.bundle_id] += 1
            self.kinds.update(degradation_pb2.DegradationKind.Name(d.kind) for d in response.degradations)
            if isinstance(response, ranking_pb2.RecommendResponse) and {i.item_id for i in response.items} != ASKED:
                self.wrong.append(f"{response.bundle_id}: {[item.item_id for item in response.items]}")

    def p99_ms(self, since: float, until: float) -> float:
        return float(np.percentile([took for begun, took in self.times if since <= begun < until], 99)) * 1000

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def plain_calls(port: int, name: str) -> Callable[[], Callable[[], Any]]:
    """Return a maker of calls, each on a connection of its own, without health checks or retries."""

    def make() -> Callable[[], Any]:
        channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        )
        if name == "ranking":
            recommend = ranking_pb2_grpc.RankingServiceStub(channel).Recommend
            return lambda: recommend(ranking_pb2.RecommendRequest(max_results=5, filter=ONLY_ASKED), timeout=20)
        retrieve = retrieval_pb2_grpc.RetrievalServiceStub(channel).Retrieve
        return lambda: retrieve(retrieval_pb2.RetrieveRequest(max_candidates=5), timeout=20)

    return make


def test_the_supervisor_is_one_thread_without_numpy_or_grpc(launch: Any, registry: Registry, trained: Any) -> None:
    running = launch.service("retrieval", registry=registry.root).wait_serving()
    pid = running.process.pid
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "numpy" not in mapped
    assert "cygrpc" not in mapped
    (loader,) = running.members("loader")
    assert len(list(Path(f"/proc/{loader}/task").iterdir())) == 1
    assert "onnxruntime" not in Path(f"/proc/{loader}/maps").read_text()
    assert running.terminate() == 0
    assert not Path(f"/proc/{loader}").exists()


# Every import of a process and its children, with who did it: import machinery has an audit event for it.
NOTES_IMPORTS = """
import os, sys
notes = os.open(os.environ["IMPORTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, arguments):
    if event == "import":
        os.write(notes, f"{os.getpid()} {arguments[0]}\\n".encode())
sys.addaudithook(note)
"""


def test_no_request_imports_anything(launch: Any, registry: Registry, trained: Any, tmp_path: Path) -> None:
    """The first of its kind would wait for it; numpy's own late imports even fail when two requests do them at once."""
    (tmp_path / "sitecustomize.py").write_text(NOTES_IMPORTS)
    notes = tmp_path / "imports.txt"
    environment = {"IMPORTS": str(notes), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    retrieval = launch.service("retrieval", environment=environment, registry=registry.root).wait_serving()
    target = f"ipv4:{retrieval.target}"
    ranking = launch.service("ranking", environment=environment, registry=registry.root, retrieval_target=target)
    ranking.wait_serving()
    workers = {str(pid) for running in (retrieval, ranking) for pid in running.members("worker")}
    started = len(notes.read_text().splitlines())
    assert workers <= {line.split()[0] for line in notes.read_text().splitlines()}

    events = [{"item_id": f"i{row:03}", "timestamp": {"seconds": 1_752_000_000 + row}} for row in range(30)]
    users: list[dict[str, Any]] = [{}, {"user_id": "u001"}, {"user_id": "u002", "recent_events": events}]
    for user in users:
        asked = ranking_pb2.RecommendRequest(context=user, filter=ONLY_ASKED, explain=True)
        ranking.stub.Recommend(ranking_pb2.RecommendRequest(context=user), timeout=60)
        ranking.stub.Recommend(asked, timeout=60)
        ranking.stub.ExplainItem(ranking_pb2.ExplainItemRequest(request=asked, item_id="i003"), timeout=60)
        ranking.stub.Rank(ranking_pb2.RankRequest(context=user, candidates={"item_ids": sorted(ASKED)}), timeout=60)
        retrieval.stub.Retrieve(retrieval_pb2.RetrieveRequest(context=user, max_candidates=50), timeout=60)
    retrieval.stub.SimilarItems(retrieval_pb2.SimilarItemsRequest(item_ids=["i001"]), timeout=60)
    retrieval.stub.GetEmbeddings(retrieval_pb2.GetEmbeddingsRequest(item_ids=["i001"], users=users[1:]), timeout=60)
    late = [line.split() for line in notes.read_text().splitlines()[started:]]
    assert [module for pid, module in late if pid in workers] == []


@pytest.fixture(scope="module")
def two_workers(module_launch: Any, registry: Registry, trained: Any) -> Any:
    return module_launch.service("retrieval", registry=registry.root, workers=2, hung_after_s=3.0).wait_serving()


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_a_dead_or_hung_worker_is_replaced_on_its_port_while_the_other_serves(
    two_workers: Any, listening_ports: Callable[[Any], list[int]], wait_until: Until, how: str
) -> None:
    ports = listening_ports(two_workers)
    assert len(set(ports)) == 2
    wait_until(lambda: len(two_workers.members("worker")) == 2, 60, "two workers")
    before = two_workers.members("worker")
    os.kill(before[1], signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    other = plain_calls(ports[0], "retrieval")()
    assert other().candidates
    wait_until(lambda: len(two_workers.members("worker")) == 2 and before[1] not in two_workers.members("worker"), 60)
    assert before[0] in two_workers.members("worker")
    assert grpc_answers(ports[1], wait_until)


def grpc_answers(port: int, wait_until: Until) -> bool:
    call = plain_calls(port, "retrieval")()

    def answered() -> bool:
        try:
            return bool(call().candidates)
        except grpc.RpcError:
            return False

    return bool(wait_until(answered, 60, "an answer on the port"))


def test_a_dead_loader_and_a_dead_side_process_are_replaced(
    two_workers: Any, listening_ports: Callable[[Any], list[int]], wait_until: Until
) -> None:
    for role in ("loader", "side"):
        (before,) = wait_until(lambda role=role: two_workers.members(role), 60)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda role=role, before=before: two_workers.members(role) not in ([], [before]), 60, f"new {role}")
    wait_until(lambda: len(two_workers.members("worker")) == 2, 60, "two workers")
    for port in listening_ports(two_workers):
        assert grpc_answers(port, wait_until)


def test_a_hung_loader_is_replaced_while_its_workers_serve(
    launch: Any, registry: Registry, trained: Any, wait_until: Until
) -> None:
    running = launch.service("retrieval", registry=registry.root, hung_after_s=1.0).wait_serving()
    (loader,) = running.members("loader")
    with Callers(plain_calls(running.port, "retrieval")) as callers:
        os.kill(loader, signal.SIGSTOP)
        wait_until(lambda: running.members("loader") not in ([], [loader]), 60, "another loader")
        wait_until(lambda: loader not in running.members("loader"), 60, "the end of the hung one")
    assert callers.bundles
    assert not [failure for failure in callers.failures if "UNAVAILABLE" not in failure], "never an internal error"
    assert '"loader hung; starting another"' in running.text
    assert grpc_answers(running.port, wait_until)
    assert running.terminate() == 0


@pytest.mark.long
def test_what_hangs_while_it_reads_is_given_up_and_what_serves_goes_on(
    launch: Any, own_registry: Registry, publish_copy: Callable[..., Any], wait_until: Until
) -> None:
    publish_copy(own_registry, "b1")
    settings = {"registry": own_registry.root, "longest_load_s": 8.0, "bundle_poll_s": 0.05}
    running = launch.service("retrieval", **settings).wait_serving()
    publish_copy(own_registry, "b2")
    wait_until(lambda: '"bundle serves", "bundle_id": "b2"' in running.text, 60)
    with Callers(plain_calls(running.port, "retrieval"), threads=1) as callers:
        manifest = publish_copy(own_registry, "b3", activate=False) / "manifest.json"
        manifest.rename(manifest.with_name("kept"))
        os.mkfifo(manifest)  # who reads it waits: a disk that does not answer
        (own_registry.root / "CURRENT").write_text('{"bundle_id": "b3", "previous": "b2"}')
        wait_until(lambda: "ended the loader with code -9" in running.text, 120, "the loader given up")
        manifest.unlink()
        own_registry.activate("b1")
        wait_until(lambda: '"bundle serves", "bundle_id": "b1"' in running.text, 120)
        (side,) = running.members("side")
        os.kill(side, signal.SIGSTOP)
        wait_until(lambda: running.members("side") not in ([], [side]), 120, "another side process")
    assert callers.failures == []
    assert set(callers.bundles) <= {"b1", "b2"}


def test_a_service_that_is_told_to_stop_does_not_wait_for_a_bundle_that_is_still_read(
    launch: Any, own_registry: Registry, publish_copy: Callable[..., Any], wait_until: Until
) -> None:
    publish_copy(own_registry, "b1")
    running = launch.service("retrieval", registry=own_registry.root, grace_s=100.0).wait_serving()
    manifest = publish_copy(own_registry, "b2", activate=False) / "manifest.json"
    manifest.rename(manifest.with_name("kept"))
    os.mkfifo(manifest)  # who reads it waits: a disk that does not answer
    (own_registry.root / "CURRENT").write_text('{"bundle_id": "b2", "previous": "b1"}')

    def is_read() -> int:
        try:
            return os.open(manifest, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            return 0

    end = wait_until(is_read, 60, "a loader that reads")
    assert running.terminate() == 0, "in less than the time that calls in flight would have"
    os.close(end)


def with_rows_moved(folder: Path) -> None:
    """Give every row of the bundle another item: whoever takes rows of one bundle for another's shows wrong items."""
    catalog = Catalog.load(folder / "catalog.npz")
    replace(catalog, item_ids=[*catalog.item_ids[7:], *catalog.item_ids[:7]]).save(folder / "catalog.npz")


@dataclass
class Swapped:
    """What swaps under load did. pss_kb: of each service after each swap. p99_ms: before the swaps, and during each."""

    callers: Callers
    pss_kb: dict[str, list[float]]
    p99_ms: list[float]

    def no_call_was_lost_or_mixed_versions(self) -> None:
        assert self.callers.failures == []
        assert self.callers.wrong == []
        # Both always had a bundle in common. gRPC itself can lose a call whose connection ends at that moment.
        assert set(self.callers.kinds) <= {"DEGRADATION_KIND_RETRIEVAL_UNAVAILABLE"}
        assert self.callers.kinds.total() <= max(1, len(self.callers.times) // 1000)


def swap_under_load(
    launch: Any,
    registry: Registry,
    publish_copy: Callable[..., Any],
    wait_until: Until,
    orders: Sequence[Sequence[str]],
    calm_s: float = 0.5,
) -> Swapped:
    """Publish a bundle for each order, taken up by its first service before its second, then roll back, under calls.

    calm_s: how long to call before the first swap.
    """
    names = orders[0]
    registries = {name: Registry(registry.root.parent / f"registry-{name}") for name in names}
    for own in registries.values():
        publish_copy(own, "b00")
    retrieval = launch.service("retrieval", registry=registries["retrieval"].root).wait_serving()
    ranking = launch.service(
        "ranking", registry=registries["ranking"].root, retrieval_target=f"ipv4:{retrieval.target}"
    ).wait_serving()
    running = {"retrieval": retrieval, "ranking": ranking}
    served: dict[tuple[str, str], int] = {}

    def serves(name: str, bundle_id: str) -> None:
        said = f'"message": "bundle serves", "bundle_id": "{bundle_id}"'
        count = served.setdefault((name, bundle_id), 0)
        wait_until(lambda: running[name].text.count(said) > count, 60, f"{bundle_id} served by {name}")
        served[name, bundle_id] += 1

    def one_generation() -> None:
        for name in names:
            for role in ("worker", "loader"):
                wait_until(lambda name=name, role=role: len(running[name].members(role)) == 1, 60, "one generation")

    make = plain_calls(ranking.port, "ranking")
    wait_until(lambda: not make()().degradations, 60)
    with Callers(make) as callers:
        done = Swapped(callers, {name: [] for name in names}, [])
        begun = time.monotonic()
        time.sleep(calm_s)
        done.p99_ms.append(callers.p99_ms(begun, time.monotonic()))
        for k, order in enumerate(orders, 1):
            begun = time.monotonic()
            for name in order:
                publish_copy(registries[name], f"b{k:02}", with_rows_moved if k % 2 else None)
                serves(name, f"b{k:02}")
            one_generation()
            done.p99_ms.append(callers.p99_ms(begun, time.monotonic()))
            for name in names:
                done.pss_kb[name].append(proportional_set_kb(running[name].tree()))
        for name in orders[-1]:  # and back
            registries[name].rollback()
            serves(name, f"b{len(orders) - 1:02}")
        one_generation()
    return done


def proportional_set_kb(pids: list[int]) -> float:
    """Return the memory of processes, what they share counted once."""
    total = 0.0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(float(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


RETRIEVAL_FIRST, RANKING_FIRST = ("retrieval", "ranking"), ("ranking", "retrieval")


def test_no_call_fails_while_bundles_come_and_go(
    launch: Any, own_registry: Registry, publish_copy: Callable[..., Any], wait_until: Until
) -> None:
    done = swap_under_load(launch, own_registry, publish_copy, wait_until, [RETRIEVAL_FIRST, RANKING_FIRST])
    done.no_call_was_lost_or_mixed_versions()
    assert set(done.callers.bundles) == {"b00", "b01", "b02"}


@pytest.mark.long
@pytest.mark.parametrize("order", [RETRIEVAL_FIRST, RANKING_FIRST], ids=lambda order: f"{order[0]} first")
def test_no_call_fails_in_sixteen_swaps_and_memory_comes_back(
    launch: Any, own_registry: Registry, publish_copy: Callable[..., Any], wait_until: Until, order: Sequence[str]
) -> None:
    done = swap_under_load(launch, own_registry, publish_copy, wait_until, [order] * 16, calm_s=20)
    before, *during = done.p99_ms
    sys.stdout.write(
        f"{len(done.callers.times)} calls, {len(done.callers.failures)} failed, degraded: {dict(done.callers.kinds)}\n"
        f"p99 {before:.1f} ms before, median of the swaps {np.median(during):.1f} ms"
        f" ({np.median(during) / before:.1f}x), worst {max(during):.1f} ms; kB after swaps: {done.pss_kb}\n"
    )
    done.no_call_was_lost_or_mixed_versions()
    for name, series in done.pss_kb.items():
        assert series[-1] < 1.1 * series[1], f"{name} has grown"


def test_bundles_are_listed_activated_and_rolled_back_over_the_admin_port(
    launch: Any, own_registry: Registry, publish_copy: Callable[..., Any], wait_until: Until
) -> None:
    for bundle_id in ("b1", "b2"):
        publish_copy(own_registry, bundle_id, activate=bundle_id == "b1")
    settings = {"registry": own_registry.root, "admin_port": 0, "bundle_poll_s": 3600}
    running = launch.service("retrieval", **settings).wait_serving()
    wait_until(lambda: '"admin_port"' in running.text, 60)
    (port,) = re.findall(r'"admin_port": (\d+)', running.text)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = bundle_pb2_grpc.BundleServiceStub(channel)
        listed = stub.ListBundles(bundle_pb2.ListBundlesRequest(page_size=1), timeout=60)
        assert [(bundle.bundle_id, bundle.current) for bundle in listed.bundles] == [("b2", False)]
        assert listed.bundles[0].size_bytes > 1000
        rest = stub.ListBundles(bundle_pb2.ListBundlesRequest(page_token=listed.next_page_token), timeout=60)
        assert [(bundle.bundle_id, bundle.current) for bundle in rest.bundles] == [("b1", True)]
        assert rest.next_page_token == ""
        refusals = {
            "INVALID_ARGUMENT": lambda: stub.ListBundles(bundle_pb2.ListBundlesRequest(page_size=201), timeout=60),
            "NOT_FOUND": lambda: stub.ActivateBundle(bundle_pb2.ActivateBundleRequest(bundle_id="b9"), timeout=60),
        }
        for code, call in refusals.items():
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code().name == code
        assert (
            stub.ActivateBundle(bundle_pb2.ActivateBundleRequest(bundle_id="b2"), timeout=60).previous_bundle_id == "b1"
        )
    wait_until(lambda: '"bundle serves", "bundle_id": "b2"' in running.text, 60, "b2 taken up at once, not at the poll")
    done = launch.tandem("bundles", "rollback", "--target", f"127.0.0.1:{port}")
    assert done.process.wait(60) == 0
    assert "current is b1" in done.text
    wait_until(lambda: '"bundle serves", "bundle_id": "b1"' in running.text, 60)
    done = launch.tandem("bundles", "list", "--target", f"127.0.0.1:{port}")
    assert done.process.wait(60) == 0
    assert re.search(r"\*\s.*b1", done.text)
    flip = own_registry.path_of("b2") / "item_vectors.npy"
    flip.write_bytes(flip.read_bytes()[:-1])
    done = launch.tandem("bundles", "activate", "b2", "--target", f"127.0.0.1:{port}")
    assert done.process.wait(60) == 2
    assert "FAILED_PRECONDITION" in done.text
    assert "item_vectors.npy" in done.text
