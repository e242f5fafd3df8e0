"""The real services behind pytest-grpc's own server (sync, real sockets), and a few users they know."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tandem_core.bundle import Bundle, load_bundle
from tandem_core.experiment_file import make_experiments
from tandem_core.experiments import Experiments
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.grpc_retrieval_client import RetrievalClient
from tandem_core.policy import CapSettings, MmrSettings, PlacementPolicy
from tandem_core.query import Seen
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.base import StoredEvent
from tandem_core.stores.sqlite import SqliteStore
from tandem_ranking.servicer import RankingServicer
from tandem_retrieval.servicer import RetrievalServicer
from tandem_testing import serve

NOW_S = 1_752_000_000
PLAIN = PlacementPolicy(recency=None, mmr=None, caps=(), cold_items=None)
POLICIES = {
    "default": PlacementPolicy(),
    "plain": PLAIN,
    "capped": PlacementPolicy(caps=(CapSettings(column="creator", limit=3),)),
    "seen_too": PLAIN.model_copy(update={"interacted": Seen.ALLOW}),
    "short_of_time": PlacementPolicy(use_ranker=True, ranker_needs_s=3600, diversity_needs_s=3600, mmr=MmrSettings()),
    "tested": PLAIN,
    "mixed": PLAIN,
}
POPULAR = {"popularity_blend": {"warm": 1.0, "few_events": 1.0, "profile_only": 1.0}, "use_ranker": False}
EXPERIMENTS = make_experiments(
    {
        "order": {"placement": "tested", "variants": {"plain": {}, "popular": {"policy": POPULAR}}},
        "duel": {
            "placement": "mixed",
            "kind": "interleaving",
            "variants": {"plain": {}, "popular": {"policy": POPULAR}},
        },
    },
    POLICIES,
    "these tests",
)


@pytest.fixture(scope="module")
def grpc_addr() -> str:
    """pytest-grpc's own takes any loopback address; ours is IPv4."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def grpc_interceptors() -> list[grpc.ServerInterceptor]:
    return [ErrorInterceptor()]


@pytest.fixture(scope="module")
def grpc_channel(grpc_create_channel: Callable[..., grpc.Channel]) -> Iterator[grpc.Channel]:
    """Without the proxy that the environment may name: loopback is not behind it."""
    with grpc_create_channel(options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


@pytest.fixture(scope="session")
def two_bundles(publish_copy: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with the trained bundle as "newer" (current) and as "older" (the one before)."""
    registry = Registry(tmp_path_factory.mktemp("two-bundles"))
    publish_copy(registry, "older")
    publish_copy(registry, "newer")
    return registry


def holding_both(registry: Registry, load: Callable[[Bundle], Any]) -> ServingBundles[Any]:
    """Serve "newer", and keep "older" for those who ask for it."""
    bundles = ServingBundles(registry, lambda bundle_id: load(load_bundle(registry.path_of(bundle_id))))
    registry.activate("older")
    assert bundles.refresh()
    registry.activate("newer")
    assert bundles.refresh()
    return bundles


@pytest.fixture(scope="session")
def store(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    """Knows "warm" (12 events and a profile), "few" (3 events) and "profile" (attributes alone)."""
    store = SqliteStore(tmp_path_factory.mktemp("store") / "store.db")
    popular = (-bundle.catalog.event_counts).argsort(kind="stable")
    for user, rows in (("warm", popular[1:25:2]), ("few", popular[:3])):
        store.add_events(
            StoredEvent("", user, bundle.catalog.item_ids[row], (NOW_S - 600 + 10 * i) * 1000, "click", None)
            for i, row in enumerate(rows)
        )
    profile = {"age_bucket": "25-34", "gender": "female", "country": "DE"}
    store.put_users([("warm", profile), ("profile", profile)])
    yield store
    store.close()


@pytest.fixture(scope="session")
def retrieval_servicer(two_bundles: Registry, store: SqliteStore) -> RetrievalServicer:
    return RetrievalServicer(holding_both(two_bundles, RetrievalPipeline), store)


@pytest.fixture(scope="session")
def ranking_servicer(
    two_bundles: Registry, store: SqliteStore, retrieval_servicer: RetrievalServicer
) -> Iterator[RankingServicer]:
    """Asks a retrieval service of its own, over a real socket."""
    with serve(retrieval_servicer, interceptors=[ErrorInterceptor()]) as retrieval:
        client = RetrievalClient(f"ipv4:{retrieval.address}", timeout_s=60.0)
        yield RankingServicer(
            holding_both(two_bundles, lambda bundle: RankingPipeline(bundle, EXPERIMENTS.policies)),
            store,
            client,
            EXPERIMENTS,
        )
        client.close()


@pytest.fixture(scope="session")
def policies() -> dict[str, PlacementPolicy]:
    return POLICIES


@pytest.fixture(scope="session")
def experiments() -> Experiments:
    return EXPERIMENTS


@pytest.fixture(scope="session")
def now_s() -> int:
    """The moment that requests are for: answers repeat."""
    return NOW_S


@pytest.fixture(scope="session")
def seen_by(store: SqliteStore) -> Callable[[str], set[str]]:
    """Item ids that a stored user had to do with."""
    return lambda user: set(store.read(user).events.item_ids)


@dataclass(frozen=True, slots=True)
class Refused:
    """A status as a caller sees it."""

    code: grpc.StatusCode
    message: str
    violations: dict[str, str]
    reason: str
    domain: str
    retry_after_s: float | None
    trailers: str


@pytest.fixture(scope="session")
def refused() -> Callable[..., Refused]:
    """refused(call, request, **options) makes a call that must fail, and takes its status apart."""

    def call_and_fail(call: Callable[..., Any], request: Any, **options: Any) -> Refused:
        with pytest.raises(grpc.RpcError) as caught:
            call(request, **options)
        error = caught.value
        bad, info, retry = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        status = rpc_status.from_call(error)
        for detail in status.details if status is not None else ():
            assert any(detail.Unpack(kind) for kind in (bad, info, retry)), detail
        return Refused(
            error.code(),
            error.details(),
            {violation.field: violation.description for violation in bad.field_violations},
            info.reason,
            info.domain,
            retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
            repr(error.trailing_metadata()),
        )

    return call_and_fail


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """until(ask, timeout_s=60) asks again and again until the answer is true, and returns it."""

    def poll(ask: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (answer := ask()):
            assert time.monotonic() < deadline, f"not true within {timeout_s} s"
            time.sleep(0.02)
        return answer

    return poll
