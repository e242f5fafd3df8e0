"""What a service tells of itself while it runs: metrics of all its workers, over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tandem.common.v1 import context_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.grpc_observe import SAMPLE_EVERY
from tandem_core.registry import Registry
from tandem_core.signals import exported_names
from tandem_trainer.config import IndexSettings
from tandem_trainer.studies.grown_bundle import grow
from tandem_trainer.train import Trained

Until = Callable[..., Any]
Series = dict[str, float]
ITEMS = 600


def get(port: int, path: str) -> tuple[int, str]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is not behind a proxy
    try:
        with direct.open(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(port: int) -> Series:
    """Return the series as Prometheus sees them: name with labels -> value."""
    status, text = get(port, "/metrics")
    assert status == 200
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def port_in_log(running: Any, wait_until: Until, name: str) -> int:
    wait_until(lambda: f'"{name}"' in running.text, 60, name)
    return int(re.findall(rf'"{name}": (\d+)', running.text)[0])


def ports_of(running: Any) -> list[int]:
    line = next(line for line in running.text.splitlines() if '"listening"' in line)
    ports: list[int] = json.loads(line)["ports"]
    return ports


@pytest.fixture(scope="module")
def searched(registry: Registry, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, str]:
    """A registry with a bundle of ITEMS items that are searched approximately, and the bundle's id."""
    grown = Registry(tmp_path_factory.mktemp("grown"))
    settings = IndexSettings(kinds=("hnsw",), exact_below=0)
    return grown, grow(registry.path_of(trained.bundle_id), grown, ITEMS, 7, settings)


@pytest.fixture(scope="module")
def tree(
    module_launch: Any, searched: tuple[Registry, str], wait_until: Until, a_free_port: Callable[[], int]
) -> tuple[Any, int, Any, int]:
    """Ranking with two workers and its metrics port; retrieval and its own."""
    settings = {"registry": searched[0].root, "metrics_port": 0, "audit_s": 0.05}
    port = a_free_port()
    retrieval = module_launch.service("retrieval", port=port, **settings)
    ranking = module_launch.service("ranking", workers=2, retrieval_target=f"ipv4:127.0.0.1:{port}", **settings)
    for each in (retrieval, ranking):
        each.wait_serving()
    return (
        ranking,
        port_in_log(ranking, wait_until, "metrics_port"),
        retrieval,
        port_in_log(retrieval, wait_until, "metrics_port"),
    )


def recommend(port: int, n: int, wait_until: Until, user_id: str = "u1") -> None:
    """Ask one worker n times, after it is seen to answer with what retrieval found."""
    request = ranking_pb2.RecommendRequest(context=context_pb2.RequestContext(user_id=user_id), max_results=5)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = ranking_pb2_grpc.RankingServiceStub(channel)
        state = ranking_pb2.GetServingStateRequest()
        wait_until(lambda: stub.GetServingState(state, timeout=60).retrieval_connection == "ready", 60)
        for _ in range(n):
            assert len(stub.Recommend(request, timeout=60).items) == 5


def test_counts_add_up_over_workers_and_outlive_a_killed_one(
    tree: tuple[Any, int, Any, int], wait_until: Until, searched: tuple[Registry, str]
) -> None:
    ranking, metrics, _, of_retrieval = tree
    first, second = ports_of(ranking)
    recommend(first, 5, wait_until)
    recommend(second, 3, wait_until)
    answered = 'tandem_rpc_seconds_count{code="OK",rpc="Recommend"}'
    wait_until(
        lambda: scrape(metrics).get(answered, 0) >= 8, 60, "the calls are told"
    )  # each worker writes every second
    told = scrape(metrics)
    assert told[answered] == 8
    assert told["tandem_store_lag_seconds"] == 0
    assert told["tandem_items_shown_total"] == 40
    assert told["tandem_workers"] == 2
    for stage in ("queue", "parse", "store", "retrieve", "rules", "render"):
        assert told[f'tandem_stage_seconds_count{{stage="{stage}"}}'] >= 8, stage
    assert told['tandem_retrieval_calls_total{kind="call"}'] == 8
    retrieved = 'tandem_rpc_seconds_count{code="OK",rpc="Retrieve"}'
    wait_until(lambda: scrape(of_retrieval).get(retrieved, 0) >= 8, 60, "the calls are told")
    found = scrape(of_retrieval)
    assert found[retrieved] == 8
    assert any(value >= 8 for name, value in found.items() if name.startswith("tandem_source_seconds_count"))
    given, kept = (
        sum(value for name, value in found.items() if "tandem_source_candidates_total" in name and state in name)
        for state in ('state="found"', 'state="kept"')
    )
    assert given >= kept > 0
    held = {f'tandem_bundle_info{{bundle_id="{searched[1]}"}}': 1.0, "tandem_bundle_refused": 0.0}
    wait_until(lambda: held.items() <= scrape(metrics).items(), 60, "the bundle is told")
    os.kill(ranking.members("worker")[0], signal.SIGKILL)
    wait_until(lambda: '"worker ended; starting another"' in ranking.text, 60)
    wait_until(lambda: scrape(metrics)["tandem_workers"] == 2, 60, "another worker")
    told = scrape(metrics)
    assert told[answered] == 8, "what the dead worker had answered still counts, and only once"
    assert told[answered] == scrape(metrics)[answered]
    wait_until(lambda: "tandem_exposure_gini" in scrape(metrics), 60, "exposure")
    told = scrape(metrics)
    assert 0 < told["tandem_exposure_gini"] < 1
    assert told["tandem_exposure_share"] == pytest.approx(5 / ITEMS)


def test_recall_of_searches_is_audited_while_they_are_made(tree: tuple[Any, int, Any, int], wait_until: Until) -> None:
    _, _, retrieval, metrics = tree
    request = retrieval_pb2.RetrieveRequest(
        context={"recent_events": [{"item_id": "item-0000001", "event_type": "click"}]},  # type: ignore[arg-type]
        sources=[{"source": "two_tower"}],  # type: ignore[list-item]
        max_candidates=100,
    )
    for _ in range(2 * SAMPLE_EVERY):
        retrieval.stub.Retrieve(request, timeout=60)
    audited = 'tandem_ann_audited{source="two_tower"}'
    wait_until(lambda: scrape(metrics).get(audited, 0) >= 2, 60, "an audit")
    assert scrape(metrics)['tandem_ann_recall{source="two_tower"}'] >= 0.9  # the bundle promises 0.98 of its queries


def test_every_series_is_one_that_is_documented(tree: tuple[Any, int, Any, int]) -> None:
    _, metrics, _, of_retrieval = tree
    names = {name.partition("{")[0] for port in (metrics, of_retrieval) for name in scrape(port)}
    assert {name for name in names if not name.endswith("_created")} <= exported_names()
    never_happened = {f"tandem_{name}_total" for name in ("decisions_dropped", "store_errors", "degradations")}
    assert exported_names() - names <= never_happened


def test_a_tree_says_over_http_that_it_lives(tree: tuple[Any, int, Any, int]) -> None:
    assert get(tree[1], "/healthz") == (200, "alive\n")
    assert get(tree[1], "/")[0] == 404


def test_a_refused_call_and_a_wrong_one_are_counted(tree: tuple[Any, int, Any, int], wait_until: Until) -> None:
    ranking, metrics, _, _ = tree
    with pytest.raises(grpc.RpcError):
        ranking.stub.Recommend(ranking_pb2.RecommendRequest(max_results=-1), timeout=60)
    refused = 'tandem_rpc_seconds_count{code="INVALID_ARGUMENT",rpc="Recommend"}'
    wait_until(lambda: scrape(metrics).get(refused) == 1, 60, "the refusal is told")
