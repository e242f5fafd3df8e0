"""What metrics, logs and traces cost: CPU of one request in the process that answers it, with them and without.

Handlers are called as gRPC calls them, without gRPC: its share would only make the cost look smaller. Metrics are
written after each 20 calls, as by a worker that answers 20 in a second; one that answers more pays less for each.
`tests/integration/test_signals_cost_of_a_worker.py` prints the same of real processes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from tandem.common.v1 import context_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.experiment_file import make_experiments
from tandem_core.grpc_observe import ObserveInterceptor
from tandem_core.policy import PlacementPolicy
from tandem_core.query import UserEvents
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import Held
from tandem_core.signals import FOLDER
from tandem_core.stores.base import StoredUser
from tandem_ranking.servicer import RankingServicer
from tandem_retrieval.servicer import RetrievalServicer

pytestmark = pytest.mark.bench
ROUNDS, CALLS = 40, 20


class Context:
    """What gRPC hands to a handler."""

    def time_remaining(self) -> None:
        return None

    def code(self) -> None:
        return None


class Store:
    """A user with fifty events, read without a file: the disk would hide what is measured."""

    def __init__(self, bundle: Bundle) -> None:
        ids = bundle.catalog.item_ids[:50]
        times = np.arange(len(ids), dtype=np.int64) * 60_000 + 1_700_000_000_000
        self._user = StoredUser(UserEvents(tuple(ids), times, ("click",) * len(ids), np.full(len(ids), np.nan, "f4")))

    def read(self, user_id: str) -> StoredUser:
        return self._user


def test_cost_of_metrics_and_of_a_trace(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))  # before prometheus_client is imported
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from tandem_core.logs import log_to_stderr
    from tandem_core.signals_samples import SampleWriter
    from tandem_core.signals_traces import Tracing, provider
    from tandem_core.signals_worker import WorkerMetrics

    log_to_stderr("info")
    metrics = WorkerMetrics(SampleWriter(tmp_path, os.getpid(), lambda _: len(bundle.catalog)))
    traces = provider("bench", 1.0)
    traces.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    modes = {
        "off": ObserveInterceptor(),
        "metrics and logs": ObserveInterceptor(metrics),
        "these and a trace": ObserveInterceptor(metrics, Tracing(traces)),
    }
    context = context_pb2.RequestContext(user_id="u1", request_id="r1")
    store: Any = Store(bundle)
    retrieval = RetrievalPipeline(bundle)
    retrieve = RetrievalServicer(_holding(retrieval), store).Retrieve
    query_500 = retrieval_pb2.RetrieveRequest(
        context=context, max_candidates=500, item_form=retrieval_pb2.ITEM_FORM_ROWS
    )
    found: list[Any] = []

    def canned(_: Any, query: Any, budget: Any, bundles: Any) -> Any:
        if not found:
            found.append(retrieval.retrieve(query, Budget()))
        return found[0]

    experiments = make_experiments({}, {"default": PlacementPolicy()}, "this bench")
    client: Any = SimpleNamespace(retrieve=canned, state="ready")
    ranking = _holding(RankingPipeline(bundle, experiments.policies))
    recommend = RankingServicer(ranking, store, client, experiments).Recommend
    top_20 = ranking_pb2.RecommendRequest(context=context, max_results=20)
    for name, servicer, request in (("Retrieve", retrieve, query_500), ("Recommend", recommend, top_20)):
        cpu = _interleaved({mode: _call(name, each, servicer, request) for mode, each in modes.items()}, metrics.flush)
        off = np.array(cpu.pop("off"))
        print(f"\n{name}: {1e6 * np.median(off):.0f} us CPU without, {len(bundle.catalog)} items", end="")
        for mode, each in cpu.items():
            more = np.median(np.array(each) - off)
            print(f"; {mode} +{1e6 * more:.0f} us (+{100 * more / np.median(off):.1f} %)", end="")
    print()


def _holding(pipeline: Any) -> Any:
    return SimpleNamespace(held=Held(pipeline.bundle.id, "", ((pipeline.bundle.id, pipeline),), "", ""))


def _call(name: str, observing: ObserveInterceptor, servicer: Any, request: Any) -> Callable[[], Any]:
    details = SimpleNamespace(method=f"/tandem/{name}", invocation_metadata=())
    handler = grpc.unary_unary_rpc_method_handler(servicer)
    context = Context()
    return lambda: observing.intercept_service(lambda _: handler, details).unary_unary(request, context)


def _interleaved(variants: dict[str, Callable[[], Any]], flush: Callable[[], None]) -> dict[str, list[float]]:
    """Return CPU seconds of a call, a mean per round, variants taking turns."""
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(ROUNDS + 2):
        for name, call in variants.items():
            logging.disable(logging.CRITICAL if name == "off" else logging.NOTSET)
            begun = time.process_time()
            for _ in range(CALLS):
                call()
            flush()
            if i >= 2:  # the first ones warm up
                cpu[name].append((time.process_time() - begun) / CALLS)
    logging.disable(logging.NOTSET)
    return cpu
