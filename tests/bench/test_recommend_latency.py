"""What one Recommend costs: in one process, and over gRPC through both services as real processes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from tandem_cli.client import Asking, NotAnswered, ask_over
from tandem_cli.serve import children
from tandem_cli.supervisor import Supervisor
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.policy import load_policies
from tandem_core.query import Query
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.stores.open import open_store
from tandem_core.user_state import with_stored
from tandem_trainer.seed_store import store_events
from tandem_trainer.train import Trained

pytestmark = pytest.mark.bench
CALLS = 300


@pytest.fixture
def store_url(trained: Trained, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_store(url)
    store_events(store, trained.split.train)
    store.close()
    return url


@pytest.fixture
def ranking_address(registry: Registry, trained: Trained, store_url: str, tmp_path: Path) -> Iterator[str]:
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    services = Supervisor(children(None, registry.root, store_url, *ports))
    services.start(log_to=tmp_path / "services.log")
    try:
        yield f"127.0.0.1:{ports[1]}"
    finally:
        services.end()


def test_recommend_in_process_and_over_grpc(
    bundle: Bundle, trained: Trained, store_url: str, ranking_address: str
) -> None:
    user = str(trained.split.train["user_id"].mode()[0])
    now_ms = int(trained.split.train["timestamp"].max())
    store = open_store(store_url)
    retrieval, ranking = RetrievalPipeline(bundle), RankingPipeline(bundle, load_policies(None))
    query = Query(request_id="bench", now_ms=now_ms, max_results=20, user_id=user)

    def in_process() -> object:
        known, _ = with_stored(replace(query), store)
        return ranking.recommend(known, Budget(), retrieval.retrieve)

    with grpc.insecure_channel(ranking_address) as channel:

        def over_grpc() -> object:
            return ask_over(channel, ranking_address, Asking(user, 20, now_ms=now_ms), 5.0)

        _wait_for(over_grpc)
        times = _interleaved({"in process": in_process, "over gRPC": over_grpc})
    medians = {name: float(np.median(each)) for name, each in times.items()}
    for name, each in times.items():
        p50, p95, p99 = np.percentile(np.array(each) * 1000, [50, 95, 99])
        print(f"\n{name:12s} p50 {p50:6.2f} ms  p95 {p95:6.2f} ms  p99 {p99:6.2f} ms", end="")
    print(f"\nratio of medians {medians['over gRPC'] / medians['in process']:.2f}, {len(bundle.catalog)} items")


def _interleaved(variants: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return seconds of each call, variants taking turns, so that a busy machine troubles all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(CALLS + 20):
        for name, call in variants.items():
            begun = time.perf_counter()
            call()
            if i >= 20:  # the first ones warm up
                times[name].append(time.perf_counter() - begun)
    return times


def _wait_for(call: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            call()
            return
        except NotAnswered:
            time.sleep(0.1)
    pytest.fail("the services did not start")
