"""Bundles that come, go, break and differ between the services, while calls go on: none of them fails."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.index.hnsw import HnswIndex
from tandem_core.registry import Registry

LAZY = 3600.0  # seconds between looks at the registry: a service that has not heard of the new bundle yet


@contextmanager
def calls_going_on(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Call again and again meanwhile; yields the answers, and raises what a call raised."""
    over, answers, failures = threading.Event(), [], []

    def run() -> None:
        try:
            while not over.is_set():
                answers.append(call())
        except Exception as error:  # noqa: BLE001  (raised again below)
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


def state_of(running: Any) -> Any:
    module = ranking_pb2 if running.name == "ranking" else retrieval_pb2
    return running.stub.GetServingState(module.GetServingStateRequest(), timeout=5).state


def until(holds: Callable[[], Any], what: str, timeout_s: float = 60.0) -> None:
    """Wait for a service to notice."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(0.02)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped byte": (lambda folder: flip_a_byte(folder / "item_vectors.npy"), "item_vectors.npy"),
    "a file cut in half": (lambda folder: halve(folder / "catalog.npz"), "catalog.npz"),
    "a missing file": (lambda folder: (folder / "ranker.onnx").unlink(), "ranker.onnx"),
    "a manifest cut in half": (lambda folder: halve(folder / "manifest.json"), "manifest.json"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
    "no folder": (shutil.rmtree, "manifest.json"),
}


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    np.save(path, change(np.load(path)))


def with_a_nan(vectors: Any) -> Any:
    vectors[17, 3] = np.nan
    return vectors


def with_a_graph_of_another_bundle(folder: Path) -> None:
    """Search vectors by a graph that was built over others, as a mixed-up copy would."""
    others = np.roll(np.load(folder / "item_vectors.npy"), 1, axis=0)
    HnswIndex.build(others, 8, 100, 10, seed=0).save(folder / "two_tower.hnsw")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["indexes"]["two_tower"] |= {"kind": "hnsw", "ef": 200}
    (folder / "manifest.json").write_text(json.dumps(manifest))


# Bundles whose hashes are right: somebody put the wrong thing in.
WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "a vector that is no number": (lambda folder: rewrite(folder / "item_vectors.npy", with_a_nan), "item_vectors.npy"),
    "vectors of other dimensions": (
        lambda folder: rewrite(folder / "item_vectors.npy", lambda vectors: vectors[:, :-1]),
        "item_vectors.npy",
    ),
    "vectors of fewer items": (
        lambda folder: rewrite(folder / "item_vectors.npy", lambda vectors: vectors[:-1]),
        "item_vectors.npy",
    ),
    "an index of another bundle": (with_a_graph_of_another_bundle, "two_tower.hnsw"),
}


class Published:
    """A registry whose bundle ids count up, with a pointer that can be made to say anything."""

    def __init__(self, registry: Registry, publish_copy: Callable[..., Path]) -> None:
        self.registry = registry
        self._publish_copy = publish_copy
        self._ids = (f"b{i:03}" for i in itertools.count())

    def new(self, change: Callable[[Path], None] | None = None, *, activate: bool = True) -> str:
        """Publish a bundle; change: what is done to it before its hashes are taken."""
        bundle_id = next(self._ids)
        self._publish_copy(self.registry, bundle_id, change, activate=activate)
        return bundle_id

    def point_to(self, bundle_id: str, previous: str = "") -> None:
        """Point to a bundle as it is: `activate` would refuse a damaged one."""
        self.write_pointer(json.dumps({"bundle_id": bundle_id, "previous": previous}).encode())

    def write_pointer(self, text: bytes) -> None:
        beside = self.registry.root / "CURRENT.new"
        beside.write_bytes(text)
        beside.rename(self.registry.root / "CURRENT")


@dataclass(frozen=True, slots=True)
class Serving:
    """A running service, and the registry it looks at."""

    running: Any
    published: Published

    @property
    def state(self) -> Any:
        return state_of(self.running)

    def ask(self) -> Any:
        if self.running.name == "ranking":
            return self.running.stub.Recommend(ranking_pb2.RecommendRequest(max_results=3), timeout=5)
        return self.running.stub.Retrieve(retrieval_pb2.RetrieveRequest(max_candidates=3), timeout=5)

    def until_served(self, bundle_id: str) -> None:
        until(lambda: self.state.bundle_id == bundle_id and not self.state.refusal, f"{bundle_id} served")

    def until_refused(self, bundle_id: str) -> None:
        until(lambda: self.state.refused_bundle_id == bundle_id, f"{bundle_id} refused")


@pytest.fixture(scope="module", params=["retrieval", "ranking"])
def process(request: pytest.FixtureRequest, module_launch: Any, publish_copy: Any) -> Serving:
    """One service with a registry of its own. Ranking's retrieval is away: all it needs here is its bundle."""
    published = Published(Registry(module_launch.folder / f"registry-{request.param}"), publish_copy)
    published.new()
    running = module_launch.service(request.param, registry=published.registry.root, bundle_poll_s=0.05)
    return Serving(running.wait_serving(), published)


@pytest.fixture
def serving(process: Serving) -> Serving:
    """The process on a good bundle, whatever the test before left behind."""
    process.until_served(process.published.new())
    return process


def test_a_refusal_is_said_once_in_the_log_and_again_when_the_bundle_comes_back(serving: Serving) -> None:
    # First of all, since the log leaves out what it has said often in the last seconds.
    published, good = serving.published, serving.state.bundle_id
    bad = published.new(activate=False)
    flip_a_byte(published.registry.path_of(bad) / "popularity.npz")
    for _ in range(2):
        published.point_to(bad, good)
        serving.until_refused(bad)
        assert "popularity.npz" in serving.state.refusal
        published.point_to(good)
        serving.until_served(good)
    refusals = [line for line in serving.running.text.splitlines() if '"bundle refused"' in line and bad in line]
    assert len(refusals) == 2


def refused(serving: Serving, bad: str, good: str) -> str:
    """Point to a bad bundle and return why it is refused; the good one must go on serving."""
    serving.published.point_to(bad, good)
    serving.until_refused(bad)
    state = serving.state
    assert (state.serving, state.bundle_id) == (True, good)
    assert serving.running.health() == "SERVING"
    return str(state.refusal)


def test_bad_bundles_are_refused_with_their_reasons_and_a_good_one_taken_up_while_calls_go_on(
    serving: Serving,
) -> None:
    published, good = serving.published, serving.state.bundle_id
    with calls_going_on(serving.ask) as answers:
        for what, (damage, named) in DAMAGE.items():
            bad = published.new(activate=False)
            damage(published.registry.path_of(bad))
            assert named in refused(serving, bad, good), what
        for what, (change, named) in WRONG.items():
            if serving.running.name == "ranking" and "index" in what:
                continue  # ranking searches nothing
            assert named in refused(serving, published.new(change, activate=False), good), what
        better = published.new()
        serving.until_served(better)
        assert serving.state.previous_bundle_id == good
        heard = len(answers)
        until(lambda: len(answers) > heard + 1, "another answer")
    served = [answer.bundle_id for answer in answers]
    assert set(served) == {good, better}
    assert served == sorted(served)


@pytest.mark.long
@pytest.mark.parametrize("damage", [flip_a_byte, halve])
def test_whichever_file_of_a_bundle_is_damaged_it_is_refused_and_named_while_calls_go_on(
    serving: Serving, damage: Callable[[Path], None]
) -> None:
    published, good = serving.published, serving.state.bundle_id
    names = sorted(path.name for path in published.registry.path_of(good).iterdir())
    with calls_going_on(serving.ask) as answers:
        for name in names:
            bad = published.new(activate=False)
            damage(published.registry.path_of(bad) / name)
            assert name in refused(serving, bad, good)
    assert len(names) > 10
    assert {answer.bundle_id for answer in answers} == {good}


def test_a_damaged_pointer_changes_nothing_for_those_who_serve(serving: Serving) -> None:
    good = serving.state.bundle_id
    for pointer in (b"", b"{", b"\xff\xfe\x00", b"[]", b'{"bundle_id": "../../etc", "previous": ""}'):
        serving.published.write_pointer(pointer)
        until(lambda: serving.state.refusal, "a refusal")
        assert serving.state.bundle_id == serving.ask().bundle_id == good
        assert serving.running.health() == "SERVING"
        serving.published.point_to(good)
        serving.until_served(good)
    assert '"trace"' not in serving.running.text


def test_the_bundle_before_is_still_in_memory_when_it_is_gone_back_to(serving: Serving) -> None:
    before = serving.state.bundle_id
    serving.until_served(serving.published.new())
    halve(serving.published.registry.path_of(before) / "item_vectors.npy")
    serving.published.point_to(before)
    serving.until_served(before)
    assert serving.ask().bundle_id == before


def test_a_service_that_starts_on_a_damaged_pointer_is_up_and_says_so(launch: Any, publish_copy: Any) -> None:
    published = Published(Registry(launch.folder / "registry"), publish_copy)
    good = published.new()
    published.point_to("../../etc")
    running = launch.service("retrieval", registry=published.registry.root)
    assert running.health() == "NOT_SERVING"
    assert "is no bundle id" in state_of(running).refusal
    published.registry.activate(good)
    running.wait_serving()


def test_settings_broken_under_a_running_service_cost_the_new_bundle_and_not_the_service(
    launch: Any, own_registry: Registry, publish_copy: Callable[..., Any]
) -> None:
    """A mounted file changes under what runs; each generation reads it anew."""
    publish_copy(own_registry, "b1")
    policy = launch.folder / "policy.toml"
    policy.write_text("[placements.default]\n")
    running = launch.service("ranking", registry=own_registry.root, policy_file=policy).wait_serving()
    serving = Serving(running, Published(own_registry, publish_copy))
    with calls_going_on(serving.ask) as answers:
        for broken, file in (("[placements", policy), ("no_such_setting = 1", Path(running.arguments[-1]))):
            good, bad = file.read_text(), f"b{len(own_registry.bundle_ids()) + 1}"
            file.write_text(good + broken)
            publish_copy(own_registry, bad)
            serving.until_refused(bad)
            assert "configuration" in serving.state.refusal
            (side,) = running.members("side")
            os.kill(side, signal.SIGKILL)
            file.write_text(good)
            until(lambda side=side: running.members("side") not in ([], [side]), "another side process")
            publish_copy(own_registry, f"{bad}-again")
            serving.until_served(f"{bad}-again")
    assert {answer.bundle_id for answer in answers} <= {"b1", "b2-again", "b4-again"}
    assert running.terminate() == 0


def with_a_new_column(folder: Path) -> None:
    """Give every item a colour, which the bundle before did not have."""
    with np.load(folder / "catalog.npz") as catalog:
        arrays = dict(catalog)
    arrays["number:colour"] = np.arange(len(arrays["event_counts"]), dtype=np.float64)
    np.savez(folder / "catalog.npz", **arrays)


@pytest.mark.parametrize("lazy", ["retrieval", "ranking"])
def test_recommend_never_fails_while_one_service_is_a_bundle_behind(
    launch: Any,
    own_registry: Registry,
    publish_copy: Callable[..., Any],
    kinds_of: Callable[..., set[str]],
    lazy: str,
) -> None:
    publish_copy(own_registry, "b0")
    polls = {name: LAZY if name == lazy else 0.05 for name in ("retrieval", "ranking")}
    retrieval = launch.service("retrieval", registry=own_registry.root, bundle_poll_s=polls["retrieval"])
    ranking = launch.service(
        "ranking",
        registry=own_registry.root,
        bundle_poll_s=polls["ranking"],
        retrieval_target=f"ipv4:{retrieval.target}",
        retrieval_timeout_ms=5000,  # a busy machine must not look like a missing bundle
    ).wait_serving()
    quick = ranking if lazy == "retrieval" else retrieval

    def recommend(**fields: Any) -> Any:
        return ranking.stub.Recommend(ranking_pb2.RecommendRequest(**fields), timeout=10)

    until(lambda: not recommend().degradations, "change")
    # The side process looks once when it starts, and must have done so: after that the lazy one has long to wait.
    until(lambda: all('"role": "side"' in service.text for service in (retrieval, ranking)), "side processes")
    time.sleep(1)
    with calls_going_on(recommend) as answers:
        publish_copy(own_registry, "b1", with_a_new_column)
        until(lambda: state_of(quick).bundle_id == "b1", "change")
        seen = len(answers)
        until(lambda: len(answers) > seen + 5, "change")
    assert {answer.bundle_id for answer in answers} == {"b0"}  # what both have
    assert not any(answer.degradations for answer in answers)
    if lazy == "retrieval":
        # The new bundle's column may be asked for; the older bundle that answers does not have it.
        response = recommend(return_attributes=["title", "colour"])
        assert [a.name for a in response.items[0].attributes] == ["title"]
        # What retrieval cannot filter by yet, popular items of the new bundle can.
        filtered = recommend(filter={"in_range": {"column": "colour", "max": 30}})
        assert kinds_of(filtered) >= {"RETRIEVAL_UNAVAILABLE"}
        assert filtered.bundle_id == "b1"
        assert len(filtered.items) == 20
    # Two bundles behind, nothing is common: that is declared, and still no call fails.
    publish_copy(own_registry, "b2")
    until(lambda: state_of(quick).bundle_id == "b2", "change")
    until(lambda: recommend().degradations, "end of the connection to those who had b0")
    response = recommend()
    assert kinds_of(response) == {"BUNDLE_MISMATCH"}
    assert response.bundle_id == state_of(ranking).bundle_id
    assert len(response.items) == 20
