"""One trace over both services: what an operator sees of one Recommend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tandem.common.v1 import context_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_core.experiment_file import make_experiments
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.grpc_observe import ObserveInterceptor
from tandem_core.grpc_retrieval_client import RetrievalClient
from tandem_core.policy import PlacementPolicy
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import Held
from tandem_core.stores.sqlite import SqliteStore
from tandem_ranking.servicer import RankingServicer
from tandem_retrieval.servicer import RetrievalServicer

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `tracing` is not installed")
from opentelemetry.sdk.trace import ReadableSpan  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from tandem_core.signals_traces import Tracing, provider  # noqa: E402

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


class Bundles:
    """Holds one pipeline, as a worker does."""

    def __init__(self, pipeline: Any) -> None:
        self.held: Held[Any] = Held(pipeline.bundle.id, "", ((pipeline.bundle.id, pipeline),), "", "")


class Traced:
    """Both services, each with a server and a tracer of its own, in this process."""

    def __init__(self, bundle: Bundle, store: SqliteStore, ratio: float) -> None:
        self.exporters = {name: InMemorySpanExporter() for name in ("retrieval", "ranking")}
        self._servers = []
        servicer = RetrievalServicer(Bundles(RetrievalPipeline(bundle)), store)  # type: ignore[arg-type]
        retrieval, port = self._server("retrieval", ratio)
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, retrieval)
        self._client = RetrievalClient(f"ipv4:127.0.0.1:{port}", 30.0)
        experiments = make_experiments({}, {"default": PlacementPolicy()}, "these tests")
        pipeline = RankingPipeline(bundle, experiments.policies)
        ranking, port = self._server("ranking", ratio)
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(
            RankingServicer(Bundles(pipeline), store, self._client, experiments),  # type: ignore[arg-type]
            ranking,
        )
        for server in self._servers:
            server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])
        self.stub = ranking_pb2_grpc.RankingServiceStub(self.channel)

    def _server(self, name: str, ratio: float) -> tuple[grpc.Server, int]:
        from concurrent.futures import ThreadPoolExecutor

        provided = provider(name, ratio)
        provided.add_span_processor(SimpleSpanProcessor(self.exporters[name]))
        interceptors = [ObserveInterceptor(tracing=Tracing(provided)), ErrorInterceptor()]
        server = grpc.server(ThreadPoolExecutor(2), interceptors=interceptors)
        self._servers.append(server)
        return server, server.add_insecure_port("127.0.0.1:0")

    def spans(self, name: str) -> dict[str, ReadableSpan]:
        finished: dict[str, ReadableSpan] = {span.name: span for span in self.exporters[name].get_finished_spans()}
        return finished

    def recommend(self, **options: Any) -> ranking_pb2.RecommendResponse:
        context = context_pb2.RequestContext(user_id="nobody", request_id="r1")
        request = ranking_pb2.RecommendRequest(context=context, max_results=5)
        response: ranking_pb2.RecommendResponse = self.stub.Recommend(request, timeout=60, **options)
        return response

    def close(self) -> None:
        self.channel.close()
        self._client.close()
        for server in self._servers:
            server.stop(None).wait()


@pytest.fixture
def make(bundle: Bundle, tmp_path: Any) -> Iterator[Any]:
    made: list[Traced] = []
    store = SqliteStore(tmp_path / "store.db")

    def one(ratio: float) -> Traced:
        made.append(Traced(bundle, store, ratio))
        return made[-1]

    yield one
    for each in made:
        each.close()
    store.close()


def until_retrieval_answers(traced: Traced, wait_until_true: Any) -> None:
    wait_until_true(lambda: not traced.recommend().degradations)
    for exporter in traced.exporters.values():
        exporter.clear()


def wait_until_true(ask: Any) -> None:
    import time

    deadline = time.monotonic() + 60
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_recommend_is_one_trace_over_both_services(make: Any) -> None:
    traced = make(1.0)
    until_retrieval_answers(traced, wait_until_true)
    traced.recommend(metadata=(("traceparent", f"{CALLER}-01"),))
    wait_until_true(lambda: "Retrieve" in traced.spans("retrieval") and "Recommend" in traced.spans("ranking"))
    ranking, retrieval = traced.spans("ranking"), traced.spans("retrieval")
    trace_ids = {span.context.trace_id for span in (*ranking.values(), *retrieval.values())}
    assert [f"{trace_id:032x}" for trace_id in trace_ids] == ["0af7651916cd43dd8448eb211c80319c"]

    names = {span.context.span_id: name for spans in (ranking, retrieval) for name, span in spans.items()}
    names[int("b7ad6b7169203331", 16)] = "the caller"
    parents = {
        (service, name): names[span.parent.span_id]
        for service, spans in (("ranking", ranking), ("retrieval", retrieval))
        for name, span in spans.items()
    }
    assert parents["ranking", "Recommend"] == "the caller"
    assert parents["retrieval", "Retrieve"] == "retrieve", "retrieval's call hangs below ranking's stage"
    stages = {("ranking", name) for name in ("parse", "store", "retrieve", "rules", "render")}
    assert {key for key, parent in parents.items() if parent == "Recommend"} >= stages
    below = {name for (_, name), parent in parents.items() if parent == "Retrieve"}
    assert below >= {"parse", "store", "merge", "render"}
    assert any(name.startswith("source:") for name in below)
    call = ranking["Recommend"]
    assert call.attributes["rpc.grpc.status_code"] == "OK"
    assert call.attributes["tandem.request_id"] == "r1"
    assert retrieval["Retrieve"].attributes["tandem.request_id"] == "r1"
    assert call.resource.attributes["service.name"] == "tandem-ranking"
    assert all("nobody" not in str(span.to_json()) for span in (*ranking.values(), *retrieval.values())), "no user ids"


def test_callers_decide_what_is_traced(make: Any) -> None:
    traced = make(1.0)
    until_retrieval_answers(traced, wait_until_true)
    traced.recommend(metadata=(("traceparent", f"{CALLER}-00"),))
    assert (traced.spans("ranking"), traced.spans("retrieval")) == ({}, {})


def test_a_ratio_of_zero_traces_what_callers_ask_for_alone(make: Any) -> None:
    traced = make(0.0)
    until_retrieval_answers(traced, wait_until_true)
    traced.recommend()
    assert (traced.spans("ranking"), traced.spans("retrieval")) == ({}, {})
    traced.recommend(metadata=(("traceparent", f"{CALLER}-01"),))
    wait_until_true(lambda: "Recommend" in traced.spans("ranking"))


def test_a_refused_call_is_no_error_of_the_service(make: Any) -> None:
    traced = make(1.0)
    with pytest.raises(grpc.RpcError):
        traced.stub.Recommend(ranking_pb2.RecommendRequest(max_results=-1), timeout=60)
    wait_until_true(lambda: "Recommend" in traced.spans("ranking"))
    span = traced.spans("ranking")["Recommend"]
    assert span.attributes["rpc.grpc.status_code"] == "INVALID_ARGUMENT"
    assert span.status.is_unset


def test_without_the_setting_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, tandem_core.grpc_worker, tandem_core.grpc_side, tandem_ranking.parts\n"
        "from tandem_core.grpc_observe import import_signals\n"
        "from tandem_core.service_settings import ServiceSettings\n"
        "import_signals(ServiceSettings())\n"
        "sys.exit(any(name.startswith(('opentelemetry', 'prometheus_client')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
