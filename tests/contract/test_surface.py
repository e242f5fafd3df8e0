"""What the running services offer: health, reflection, serving state, and which calls are not built yet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem.catalog.v1 import catalog_pb2
from tandem.events.v1 import events_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.grpc_admin import BundleServicer
from tandem_core.grpc_process import LIVENESS, Service
from tandem_core.grpc_service import ServiceParts
from tandem_core.registry import Registry
from tandem_core.serving_bundles import ServingBundles
from tandem_ranking.config import RankingSettings
from tandem_ranking.parts import parts as ranking_parts
from tandem_ranking.writer.__main__ import parts as writer_parts
from tandem_ranking.writer.config import WriterSettings
from tandem_retrieval.config import RetrievalSettings
from tandem_retrieval.parts import parts as retrieval_parts

RETRIEVAL = "tandem.retrieval.v1.RetrievalService"
RANKING = "tandem.ranking.v1.RankingService"
EVENTS = "tandem.events.v1.EventService"
ADMIN = "tandem.admin.v1.BundleService"
README = (Path(__file__).parents[2] / "protos" / "README.md").read_text()
FILES = [retrieval_pb2, ranking_pb2, events_pb2, catalog_pb2, bundle_pb2]
METHODS = [
    f"{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@dataclass(frozen=True, slots=True)
class Offered:
    """A service as its process builds it, running in this one."""

    service: Service
    name: str
    channel: grpc.Channel


def started(settings: Any, parts: Callable[[Any], ServiceParts]) -> Service:
    """Serve what a worker would, in this process."""
    made = parts(settings)
    bundles: ServingBundles[Any] = ServingBundles(Registry(settings.registry), made.load)
    assert bundles.refresh()
    for _, loaded in bundles.held.loaded:
        made.warm(loaded)
    service = Service(settings, lambda server: made.register(bundles, server), settings.port)
    service.start(serving=True)
    return service


def admin_registered(registry: Registry, server: grpc.Server) -> list[str]:
    bundle_pb2_grpc.add_BundleServiceServicer_to_server(BundleServicer(registry, lambda **_: None), server)
    return [ADMIN]


@pytest.fixture(scope="module")
def running(publish_copy: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Offered]]:
    """Both services, the writer and the admin port, as their processes build them.

    Over a registry of their own: every method is called, RollbackBundle too.
    """
    registry = Registry(tmp_path_factory.mktemp("surface-registry"))
    publish_copy(registry, "older")
    publish_copy(registry, "newer")
    common: dict[str, Any] = {
        "port": 0,
        "registry": registry.root,
        "store": f"sqlite:///{tmp_path_factory.mktemp('surface') / 'store.db'}",
        "drain_s": 0.0,
    }
    policies = tmp_path_factory.mktemp("policies") / "policies.toml"
    policies.write_text(POLICIES)
    retrieval = started(RetrievalSettings(**common), retrieval_parts)
    target = f"ipv4:127.0.0.1:{retrieval.port}"
    # Long enough that a busy machine does not turn an ignored field into a fallback.
    settings = RankingSettings(**common, retrieval_target=target, retrieval_timeout_ms=10_000, policy_file=policies)
    ranking = started(settings, ranking_parts)
    register, encoders = writer_parts(WriterSettings(**common))
    assert encoders.refresh()
    writer = Service(WriterSettings(**common), register, 0)
    writer.start(serving=True)
    admin = Service(RetrievalSettings(**common), lambda server: admin_registered(registry, server), 0)
    admin.start(serving=True)
    services = {RETRIEVAL: retrieval, RANKING: ranking, EVENTS: writer, ADMIN: admin}
    options = [("grpc.enable_http_proxy", 0)]
    channels = {name: grpc.insecure_channel(f"127.0.0.1:{s.port}", options) for name, s in services.items()}
    yield {name: Offered(service, name, channels[name]) for name, service in services.items()}
    for name in (RANKING, EVENTS, ADMIN, RETRIEVAL):
        channels[name].close()
        services[name].stop()


def table(heading: str) -> dict[str, str]:
    """Return the table under a heading of protos/README.md: what is in backquotes first, and the second column."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, flags=re.MULTILINE))


def call(channel: grpc.Channel, method: str) -> grpc.StatusCode:
    """Call a method with an empty request; return the status."""
    stub = channel.unary_unary(f"/{method}", request_serializer=empty_pb2.Empty.SerializeToString)
    try:
        stub(empty_pb2.Empty())
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def test_every_call_of_the_contract_is_answered_somewhere(running: dict[str, Offered]) -> None:
    answered = {name: [call(offered.channel, name) for offered in running.values()] for name in METHODS}
    nowhere = {name for name, codes in answered.items() if set(codes) == {grpc.StatusCode.UNIMPLEMENTED}}
    assert nowhere == set()


# A placement that asks for the field, and values of which not all can give the list that none gives.
ASKED_FOR: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "context.session_id": ("tested", [{"session_id": f"s-{i}"} for i in range(20)]),
    "context.context": ("by_device", [{"context": [{"name": "device", "string_value": "phone"}]}]),
    "context.seed": ("explored", [{"seed": i} for i in range(1, 20)]),
}
POLICIES = """
[placements.tested]
[placements.by_device]
[[placements.by_device.filters]]
name = "cheap"
items = {column = "price", max = 0.0}
when = {facts = {device = "phone"}}
[placements.explored]
exploration = {every = 1, weight = 1.0}
[experiments.order]
placement = "tested"
[experiments.order.variants.plain]
[experiments.order.variants.popular.policy.popularity_blend]
few_events = 1.0
"""


def test_the_fields_that_the_readme_names_count_where_a_placement_asks_for_them_alone(
    running: dict[str, Offered],
) -> None:
    stub = ranking_pb2_grpc.RankingServiceStub(running[RANKING].channel)

    def asked(placement: str, fields: dict[str, Any]) -> list[str]:
        fixed = {"request_id": "r", "event_time": {"seconds": 1_752_000_000}, "recent_events": [{"item_id": "i007"}]}
        context = {**fixed, "placement": placement, **fields}
        return [item.item_id for item in stub.Recommend(ranking_pb2.RecommendRequest(context=context)).items]

    assert set(table("Fields that count where a placement asks for them")) == set(ASKED_FOR)
    for field, (placement, values) in ASKED_FOR.items():
        assert asked("default", {}) == asked("default", values[0]), field
        assert any(asked(placement, value) != asked(placement, {}) for value in values), field


@pytest.mark.parametrize("name", [RETRIEVAL, RANKING, EVENTS])
def test_health_is_told_for_the_service_the_server_and_the_process(running: dict[str, Offered], name: str) -> None:
    health = health_pb2_grpc.HealthStub(running[name].channel)
    for asked in (name, "", LIVENESS):
        answer = health.Check(health_pb2.HealthCheckRequest(service=asked))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="tandem.admin.v1.BundleService"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", [RETRIEVAL, RANKING, EVENTS])
def test_reflection_lists_the_services_and_describes_them(running: dict[str, Offered], name: str) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(running[name].channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
    ]
    listed, described = stub.ServerReflectionInfo(iter(requests), timeout=10)
    beside = {"tandem.catalog.v1.CatalogService"} if name == EVENTS else set()  # one process takes in both
    assert {service.name for service in listed.list_services_response.service} == beside | {
        name,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert described.file_descriptor_response.file_descriptor_proto


def test_reflection_can_be_turned_off(two_bundles: Registry, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    settings = RetrievalSettings(port=0, registry=two_bundles.root, store=store, reflection=False, drain_s=0.0)
    service = started(settings, retrieval_parts)
    with grpc.insecure_channel(f"127.0.0.1:{service.port}", [("grpc.enable_http_proxy", 0)]) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
    service.stop()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_above_four_megabytes_is_refused(running: dict[str, Offered]) -> None:
    stub = retrieval_pb2_grpc.RetrievalServiceStub(running[RETRIEVAL].channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Retrieve(retrieval_pb2.RetrieveRequest(exclude_item_ids=["i" * 5_000_000]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_watching_client_hears_of_the_end_and_does_not_hold_it_up(two_bundles: Registry, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    settings = RetrievalSettings(port=0, registry=two_bundles.root, store=store, drain_s=0.2)
    service = started(settings, retrieval_parts)
    with grpc.insecure_channel(f"127.0.0.1:{service.port}", [("grpc.enable_http_proxy", 0)]) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=RETRIEVAL))
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        began = time.monotonic()
        service.stop()
        assert time.monotonic() - began < 5, "an open watch must not hold up the end for all of grace_s"
        assert {answer.status for answer in watched} == {health_pb2.HealthCheckResponse.NOT_SERVING}
