"""One request without gRPC: as bare kernels, as the two pipelines, and with messages but no wire; each part timed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_cli.serving_bench.world import World
from tandem_core import grpc_retrieval_client as wire
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.grpc_parse import parse_retrieve
from tandem_core.grpc_parse_ranking import parse_recommend
from tandem_core.grpc_render import degradations, ranked_items, retrieve_response
from tandem_core.policy import load_policies
from tandem_core.query import Query, decision_id_of
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.retrieval_pipeline import RetrievalPipeline, Retrieved
from tandem_core.rule_chain import RuleChain
from tandem_core.stores.sqlite import SqliteStore
from tandem_core.user_state import with_stored

Kernel = Callable[[], object]


class _Recording:
    """Stands before an engine (a session, an index), remembers its calls and takes their CPU time."""

    def __init__(self, engine: Any, method: str, name: str, inner: Inner) -> None:
        self._engine, self._call, self._name, self._inner = engine, getattr(engine, method), name, inner
        setattr(self, method, self._recorded)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def _recorded(self, *arguments: Any) -> Any:
        self._inner.calls.append(lambda: self._call(*arguments))
        begun = time.thread_time_ns()
        found = self._call(*arguments)
        self._inner.engine_ns[self._name] += time.thread_time_ns() - begun
        return found


class Inner:
    """The request of one user in this process, over a bundle loaded as the services load it."""

    def __init__(self, world: World) -> None:
        self.calls: list[Kernel] = []
        self.engine_ns: dict[str, int] = defaultdict(int)
        self.parts_us: dict[str, list[float]] = defaultdict(list)
        self.bundle = world.bundle()
        self._record(self.bundle)
        self.store = SqliteStore(world.store)
        self.retrieval = RetrievalPipeline(self.bundle)
        self.ranking = RankingPipeline(self.bundle, load_policies(None))
        self.now_ms = self.bundle.manifest.data.last_event_ms

    def _record(self, bundle: Bundle) -> None:
        """Put recorders before the engines: user tower, ranker, and every index that a source searches."""
        for name, engine in (("user tower", bundle.user_tower), ("ranker", bundle.scorer)):
            if engine is not None:
                engine._session = _Recording(engine._session, "run", name, self)
        for name, source in bundle.sources.items():
            if (index := getattr(source, "index", None)) is not None:
                object.__setattr__(source, "index", _Recording(index, "search", f"search {name}", self))

    def pipelines(self, user: str) -> None:
        """Both pipelines, from a user id to a slate."""
        query = Query(request_id="bench", now_ms=self.now_ms, max_results=20, user_id=user)
        known, _ = with_stored(query, self.store)
        self.ranking.recommend(known, Budget(), self.retrieval.retrieve)

    def kernels_of(self, user: str) -> list[Kernel]:
        """Return the engine calls of one request, to be made again with the very inputs it made them with."""
        self.calls = []
        self.pipelines(user)
        return list(self.calls)

    def with_messages(self, request: bytes) -> None:
        """All that both services do for a request except gRPC itself; parts_us gets CPU time by part."""
        self.engine_ns.clear()
        begun = time.thread_time_ns()
        retrieval_ns = 0
        message = ranking_pb2.RecommendRequest.FromString(request)
        query = parse_recommend(message, self.now_ms)
        query, missing = with_stored(query, self.store)
        bundles = {self.bundle.id: self.bundle}

        def retrieve(wanted: Query, budget: Budget) -> Retrieved:
            nonlocal retrieval_ns
            sent = wire._request(message.context, wanted, list(bundles)).SerializeToString()
            there = time.thread_time_ns()
            answer = self._retrieve(sent)
            retrieval_ns += time.thread_time_ns() - there
            return wire._retrieved(retrieval_pb2.RetrieveResponse.FromString(answer), bundles)

        retrieved = self.ranking.candidates(query, Budget(), retrieve)
        slate = self.ranking.arrange(query, retrieved, Budget())
        response = ranking_pb2.RecommendResponse(
            items=ranked_items(slate, self.bundle.catalog, message.return_attributes),
            bundle_id=slate.bundle_id,
            decision_id=decision_id_of(query.request_id),
            request_id=query.request_id,
            degradations=degradations([*missing, *slate.degradations]),
        )
        response.SerializeToString()
        total = time.thread_time_ns() - begun
        ranker = self.engine_ns.get("ranker", 0)
        engines = sum(self.engine_ns.values())
        self.parts_us["retrieval besides engines"].append((retrieval_ns - engines + ranker) / 1000)
        self.parts_us["ranking besides engines"].append((total - retrieval_ns - ranker) / 1000)
        for name, taken in self.engine_ns.items():
            self.parts_us[f"engine: {name}"].append(taken / 1000)

    def _retrieve(self, request: bytes) -> bytes:
        message = retrieval_pb2.RetrieveRequest.FromString(request)
        with self._part("retrieval: parse"):
            query = parse_retrieve(message, self.now_ms)
        with self._part("retrieval: store"):
            query, missing = with_stored(query, self.store)
        retrieved = self.retrieval.retrieve(query, Budget())
        with self._part("retrieval: render"):
            return retrieve_response(retrieved, query, self.bundle, missing, by_row=True).SerializeToString()

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        begun = time.thread_time_ns()
        yield
        self.parts_us[name].append((time.thread_time_ns() - begun) / 1000)

    @contextmanager
    def stages(self) -> Iterator[None]:
        """While open, the stages of both pipelines leave their CPU time in parts_us, engines included."""
        watched: list[tuple[type, str, str]] = [
            (RankingPipeline, "_score", "ranking: features and ranker"),
            (RuleChain, "apply", "ranking: rules, with the item columns they read"),
            (RetrievalPipeline, "_ask", "retrieval: sources"),
            (RetrievalPipeline, "_merge", "retrieval: merge"),
        ]
        originals = [getattr(owner, method) for owner, method, _ in watched]
        for (owner, method, name), original in zip(watched, originals, strict=True):
            setattr(owner, method, self._timed(original, name))
        try:
            yield
        finally:
            for (owner, method, _), original in zip(watched, originals, strict=True):
                setattr(owner, method, original)

    def _timed(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self._part(name):
                return call(*arguments, **named)

        return timed


def median_parts(inner: Inner, requests: list[bytes], rounds: int) -> dict[str, float]:
    """Return microseconds of CPU by part of a request: the median over `rounds` requests."""
    with inner.stages():
        for number in range(rounds + 20):
            if number == 20:
                inner.parts_us.clear()
            inner.with_messages(requests[number % len(requests)])
    return {name: float(np.median(taken)) for name, taken in inner.parts_us.items()}
