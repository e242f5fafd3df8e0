"""Checks of what serves: ports, health, the bundles of both services."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_cli.doctor_findings import Finding, bad, doubtful, good
from tandem_core.grpc_access import Access, Authorized
from tandem_core.process_supervisor import reserve
from tandem_core.service_settings import ServiceSettings
from tandem_core.settings import ConfigError

AREA = "ports"
_TIMEOUT_S = 10.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (what is looked for)
_KINDS: tuple[tuple[str, Any, Any], ...] = (
    ("ranking", ranking_pb2_grpc.RankingServiceStub, ranking_pb2.GetServingStateRequest),
    ("retrieval", retrieval_pb2_grpc.RetrievalServiceStub, retrieval_pb2.GetServingStateRequest),
)


@dataclass(frozen=True, slots=True)
class Serves:
    """What one address says of itself. kind: "ranking" or "retrieval"."""

    address: str
    kind: str
    bundle_id: str


def ports(name: str, settings: ServiceSettings) -> Iterator[Finding | str]:
    """Yield the addresses of a service's ports where somebody listens, and a finding for each that is free or not ours.

    name: of the service, for messages.
    """
    host = _ANYWHERE.get(settings.host, settings.host)
    for port in filter(None, settings.wanted_ports()):
        try:
            with socket.create_connection((host, port), timeout=_TIMEOUT_S):
                yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        except OSError:
            yield _free(name, settings.host, port)


def _free(name: str, host: str, port: int) -> Finding:
    try:
        for held in reserve(host, [port]):
            held.close()
    except ConfigError as error:
        return bad(AREA, f"{name} {port}", str(error), "choose another port or host, or end who holds it")
    return good(AREA, f"{name} {port}", "free: the service does not run here")


def answers(target: str, access: Access, found: list[Serves]) -> Iterator[Finding]:
    """Yield how an address is; adds what serves there to `found`."""
    check = target
    with access.open(target, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            asked = health_pb2.HealthCheckRequest()
            health = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            yield _no_answer(check, error)
            return
        try:
            kind, state = _state(channel, access)
        except grpc.RpcError as error:
            yield _no_state(check, error)
            return
    found.append(Serves(target, kind, state.state.bundle_id))
    if health.status != health_pb2.HealthCheckResponse.SERVING or not state.state.serving:
        why = state.state.refusal or "it is starting or stopping"
        yield bad(AREA, check, f"{kind} does not serve: {why}", "mend or activate a bundle (tandem bundles --help)")
    elif state.state.refusal:
        says = f"{kind} serves {state.state.bundle_id} and refuses {state.state.refused_bundle_id}"
        yield bad(AREA, check, f"{says}: {state.state.refusal}", "train again, or roll back (tandem bundles rollback)")
    elif kind == "ranking" and state.retrieval_connection != "ready":
        says = f"ranking serves without retrieval, whose connection is {state.retrieval_connection}"
        yield bad(AREA, check, says, "start retrieval, or correct retrieval_target and the settings retrieval_tls_*")
    else:
        yield good(AREA, check, f"{kind} serves bundle {state.state.bundle_id}")


def _state(channel: grpc.Channel, access: Access) -> tuple[str, Any]:
    for kind, stub, request in _KINDS:
        try:
            ask = Authorized(stub(channel).GetServingState, access.read_metadata())
            return kind, ask(request(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED or kind == _KINDS[-1][0]:
                raise
    raise AssertionError("the last kind returns or raises")


def _no_answer(check: str, error: grpc.RpcError) -> Finding:
    said = f"{error.code().name}: {error.details()}"
    if any(word in said for word in ("SSL", "TLS", "handshake", "certificate", "CERTIFICATE")):
        do = "correct --tls-ca, --tls-cert and --tls-key; without --tls-ca plaintext is spoken"
        return bad(AREA, check, f"the TLS handshake fails ({said})", do)
    do = "start the service; if it runs: does it speak TLS (--tls-ca), and is this its port?"
    return bad(AREA, check, f"no gRPC service answers ({said})", do)


def _no_state(check: str, error: grpc.RpcError) -> Finding:
    if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        do = "name a file with a token of scope serve: --token-file"
        return doubtful(AREA, check, f"healthy, and tells us no more: {error.details()}", do)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return good(AREA, check, "healthy; it is neither ranking nor retrieval")
    return bad(AREA, check, f"healthy, and does not say what it serves: {error.code().name}", "look at its log")


def agreement(found: Sequence[Serves], current_id: str) -> Iterator[Finding]:
    """Yield whether all that serves has the same bundle, and the registry's. current_id: of the registry, or empty."""
    area, check = "versions", "bundle"
    if not found:
        return
    by_id = {serves.bundle_id for serves in found}
    told = ", ".join(f"{serves.kind} {serves.address} has {serves.bundle_id or 'none'}" for serves in found)
    do = "they follow the registry within seconds; where not, their logs say why a bundle is refused"
    if len(by_id) > 1:
        yield bad(area, check, f"the services do not serve the same bundle: {told}", do)
    elif current_id and by_id != {current_id}:
        says = f"the registry points to {current_id}, and {told}"
        yield doubtful(area, check, says, f"is it the registry that they read? {do}")
    else:
        yield good(area, check, f"all that was asked serves {by_id.pop() or 'none'}")
