"""Who is let in: every refusal through a real server on a real socket."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from typer.testing import CliRunner

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_cli.main import app
from tandem_core.certificates import CertificateFiles
from tandem_core.grpc_access import Access
from tandem_core.grpc_process import LARGEST_MESSAGE, Service
from tandem_core.grpc_security import SCOPES_OF, scopes_of
from tandem_core.registry import Registry
from tandem_core.service_settings import ServiceSettings
from tandem_core.settings import ConfigError
from tandem_core.tokens import Scope, digest, new_token

NewAuthority = Callable[[str], Any]
Code = grpc.StatusCode
PLAIN = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


class Ranking(ranking_pb2_grpc.RankingServiceServicer):
    """Answers every Recommend."""

    def Recommend(self, request: Any, context: Any) -> Any:
        return ranking_pb2.RecommendResponse(request_id=request.context.request_id)


class Events(events_pb2_grpc.EventServiceServicer):
    """Answers every WriteEvents."""

    def WriteEvents(self, request: Any, context: Any) -> Any:
        return events_pb2.WriteEventsResponse()


def register(server: grpc.Server) -> Sequence[str]:
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(Ranking(), server)
    events_pb2_grpc.add_EventServiceServicer_to_server(Events(), server)
    return [ranking_pb2.DESCRIPTOR.services_by_name["RankingService"].full_name]


@contextmanager
def serving(*, admin: bool = False, **settings: Any) -> Iterator[str]:
    """Serve in this process and yield the address."""
    given = {"drain_s": 0.0, "grace_s": 5.0, "max_connection_age_s": 0.5, **settings}
    service = Service(ServiceSettings(**given), register, 0, admin=admin)
    service.start(serving=True)
    yield f"127.0.0.1:{service.port}"
    service.stop()


@pytest.fixture
def call() -> Iterator[Callable[..., grpc.StatusCode]]:
    """call(target, access=None, token="", write=False, request=None): the status that a call ends with."""
    with ExitStack() as open_ones:

        def make(target: str, access: Access | None = None, token: str = "", **more: Any) -> grpc.StatusCode:
            channel = open_ones.enter_context((access or Access()).open(target, PLAIN))
            return status(channel, token, **more)

        yield make


def status(channel: grpc.Channel, token: str = "", *, write: bool = False, request: Any = None) -> grpc.StatusCode:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        if write:
            events_pb2_grpc.EventServiceStub(channel).WriteEvents(
                events_pb2.WriteEventsRequest(), timeout=20, metadata=metadata
            )
        else:
            request = request or ranking_pb2.RecommendRequest()
            ranking_pb2_grpc.RankingServiceStub(channel).Recommend(request, timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        return error.code()
    return Code.OK


def health(channel: grpc.Channel) -> int:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    return int(answer.status)


def reflected(channel: grpc.Channel, metadata: Any = ()) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = stub.ServerReflectionInfo(asked, timeout=20, metadata=metadata)
    return [service.name for service in answer.list_services_response.service]


def tokens_file(path: Path, **scopes: Scope) -> dict[str, str]:
    """Write a file with a token of each scope; return name -> token."""
    made = {name: new_token(name, frozenset({scope})) for name, scope in scopes.items()}
    path.write_text("".join(lines for _, lines in made.values()))
    return {name: token for name, (token, _) in made.items()}


def test_over_tls_only_those_who_trust_its_authority_are_answered(new_authority: NewAuthority, call: Any) -> None:
    ours, theirs = new_authority("ours"), new_authority("theirs")
    certificate, key = ours.issue("server")
    with serving(tls_cert=certificate, tls_key=key) as target:
        assert call(target, Access(CertificateFiles(authority=ours.path))) == Code.OK
        assert call(target, Access(CertificateFiles(authority=theirs.path))) == Code.UNAVAILABLE
        assert call(target) == Code.UNAVAILABLE  # plaintext
        assert call(target, Access(CertificateFiles(authority=ours.path), server_name="elsewhere")) == Code.UNAVAILABLE


def test_an_expired_certificate_is_not_believed(new_authority: NewAuthority, call: Any) -> None:
    ours = new_authority("ours")
    certificate, key = ours.issue("server", days=-1)
    with serving(tls_cert=certificate, tls_key=key) as target:
        assert call(target, Access(CertificateFiles(authority=ours.path))) == Code.UNAVAILABLE


def test_with_mtls_a_caller_must_show_a_certificate_of_the_right_authority(
    new_authority: NewAuthority, call: Any
) -> None:
    ours, callers, others = new_authority("ours"), new_authority("callers"), new_authority("others")
    certificate, key = ours.issue("server")
    with serving(tls_cert=certificate, tls_key=key, tls_client_ca=callers.path) as target:
        assert call(target, Access(CertificateFiles(*callers.issue("shop"), ours.path))) == Code.OK
        assert call(target, Access(CertificateFiles(authority=ours.path))) == Code.UNAVAILABLE
        assert call(target, Access(CertificateFiles(*others.issue("shop"), ours.path))) == Code.UNAVAILABLE
        assert call(target, Access(CertificateFiles(*callers.issue("old", -1), ours.path))) == Code.UNAVAILABLE


def served_certificate(target: str, authority: Path) -> str:
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2"])
    host, _, port = target.partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        subject: Any = (wrapped.getpeercert() or {})["subject"]
        return str(subject[0][0][1])


def test_a_renewed_certificate_is_served_without_restart_and_no_call_fails(
    new_authority: NewAuthority, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    ours = new_authority("ours")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def put(name: str) -> None:
        for there, new in zip((certificate, key), ours.issue(name), strict=True):
            there.write_bytes(new.read_bytes())

    put("first")
    failed: list[grpc.StatusCode] = []
    calls = 0
    done = threading.Event()

    def go_on(channel: grpc.Channel) -> None:
        nonlocal calls
        while not done.is_set():
            if (code := status(channel)) != Code.OK:
                failed.append(code)
            calls += 1

    with (
        serving(tls_cert=certificate, tls_key=key) as target,
        Access(CertificateFiles(authority=ours.path)).open(target, PLAIN) as channel,
    ):
        caller = threading.Thread(target=go_on, args=(channel,))
        caller.start()
        try:
            assert served_certificate(target, ours.path) == "first"
            put("second")
            assert served_certificate(target, ours.path) == "second"
            key.write_text("half a ke")  # it goes on with what was whole
            assert served_certificate(target, ours.path) == "second"
            key.unlink()
            assert served_certificate(target, ours.path) == "second"
            put("third")
            assert served_certificate(target, ours.path) == "third"
            before = calls
            wait_until(lambda: calls > before + 20, 60, "calls after the change")
        finally:
            done.set()
            caller.join(60)
    assert failed == []


def test_tls_files_that_cannot_be_used_end_the_start_by_name(new_authority: NewAuthority, tmp_path: Path) -> None:
    ours = new_authority("ours")
    certificate, key = ours.issue("server")
    _, another = ours.issue("another")
    for wrong in (
        {"tls_cert": certificate, "tls_key": another},
        {"tls_cert": tmp_path / "another.none", "tls_key": key},
        {"tls_cert": certificate, "tls_key": key, "tls_client_ca": another},
        {"tokens_file": another},
    ):
        with pytest.raises(ConfigError, match="another"):
            ServiceSettings(**wrong).check_files()
        with pytest.raises(ConfigError, match="another"), serving(**wrong):
            pass
    for missing in ({"tls_cert": certificate}, {"tls_key": key}, {"tls_client_ca": certificate}):
        with pytest.raises(ValueError, match="tls_cert"):
            ServiceSettings(**missing)


def test_every_method_of_the_contract_has_a_scope_of_its_own() -> None:
    files = (ranking_pb2, retrieval_pb2, events_pb2, catalog_pb2, bundle_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    assert {f"/{service.full_name}/" for service in services} <= set(SCOPES_OF)
    wanted = {
        "ranking": {Scope.SERVE}, "retrieval": {Scope.SERVE}, "events": {Scope.WRITE},
        "catalog": {Scope.WRITE}, "admin": {Scope.ADMIN},
    }  # fmt: skip
    for service in services:
        for method in service.methods:
            scopes = scopes_of(f"/{service.full_name}/{method.name}")
            readable = {Scope.SERVE} if method.name == "GetItem" else set()
            assert scopes == wanted[service.full_name.split(".")[1]] | readable, method.full_name
    assert scopes_of("/tandem.made_up.v1.Service/Method") == {Scope.ADMIN}
    assert scopes_of("/tandem.ranking.v1.RankingServiceX/Recommend") == {Scope.ADMIN}
    assert catalog_pb2_grpc
    assert retrieval_pb2_grpc
    assert bundle_pb2_grpc


def test_a_call_needs_a_token_of_the_right_scope_and_health_needs_none(tmp_path: Path) -> None:
    tokens = tokens_file(tmp_path / "tokens.toml", shop=Scope.SERVE, feed=Scope.WRITE, ops=Scope.ADMIN)
    with (
        serving(tokens_file=tmp_path / "tokens.toml") as target,
        grpc.insecure_channel(target, PLAIN) as channel,
    ):
        assert status(channel, tokens["shop"]) == Code.OK
        assert status(channel, tokens["feed"], write=True) == Code.OK
        assert status(channel) == Code.UNAUTHENTICATED
        assert status(channel, "tandem_guessed") == Code.UNAUTHENTICATED
        assert status(channel, digest(tokens["shop"])) == Code.UNAUTHENTICATED
        assert status(channel, tokens["feed"]) == Code.PERMISSION_DENIED
        assert status(channel, tokens["ops"]) == Code.PERMISSION_DENIED
        assert status(channel, tokens["shop"], write=True) == Code.PERMISSION_DENIED
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(iter(watch)).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        with pytest.raises(grpc.RpcError) as refused:
            reflected(channel)
        assert refused.value.code() == Code.UNAUTHENTICATED
        for token in tokens.values():
            names = reflected(channel, (("authorization", f"Bearer {token}"),))
            assert "tandem.ranking.v1.RankingService" in names
        two = tuple(("authorization", f"Bearer {tokens[name]}") for name in ("shop", "ops"))
        with pytest.raises(grpc.RpcError) as refused:
            reflected(channel, two)
        assert refused.value.code() == Code.UNAUTHENTICATED


def test_a_refusal_says_the_same_whatever_was_sent(tmp_path: Path) -> None:
    tokens = tokens_file(tmp_path / "tokens.toml", shop=Scope.SERVE, feed=Scope.WRITE)
    said: dict[grpc.StatusCode, set[str]] = {}
    with serving(tokens_file=tmp_path / "tokens.toml") as target, grpc.insecure_channel(target, PLAIN) as channel:
        for token in ("", "x", tokens["shop"][:-1], tokens["shop"] + "x", tokens["feed"]):
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            with pytest.raises(grpc.RpcError) as refused:
                ranking_pb2_grpc.RankingServiceStub(channel).Recommend(
                    ranking_pb2.RecommendRequest(), timeout=20, metadata=metadata
                )
            said.setdefault(refused.value.code(), set()).add(refused.value.details())
    assert said == {
        Code.UNAUTHENTICATED: {'send a valid token as metadata: "authorization: Bearer TOKEN"'},
        Code.PERMISSION_DENIED: {"this token's scopes do not allow this call"},
    }


def test_tokens_come_and_go_with_their_file(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    path = tmp_path / "tokens.toml"
    before = tokens_file(path, shop=Scope.SERVE)["shop"]
    with serving(tokens_file=path) as target, grpc.insecure_channel(target, PLAIN) as channel:
        assert status(channel, before) == Code.OK
        path.write_text("[[tokens]]\nname = 3")  # a mistake locks nobody out
        assert status(channel, before) == Code.OK
        after = tokens_file(path, shop=Scope.SERVE, another=Scope.SERVE)["shop"]
        wait_until(lambda: status(channel, after) == Code.OK, 30, "the new token known")
        assert status(channel, before) == Code.UNAUTHENTICATED


def test_the_admin_port_is_on_loopback_and_wants_the_scope_admin(tmp_path: Path) -> None:
    assert ServiceSettings(host="0.0.0.0").admin_host == "127.0.0.1"  # noqa: S104  (what is tested)
    tokens = tokens_file(tmp_path / "tokens.toml", shop=Scope.SERVE, ops=Scope.ADMIN)
    settings = {"tokens_file": tmp_path / "tokens.toml", "host": "192.0.2.1", "rate_per_s": 0.001, "rate_burst": 1}
    with serving(admin=True, **settings) as target, grpc.insecure_channel(target, PLAIN) as channel:
        assert status(channel) == Code.UNAUTHENTICATED
        assert status(channel, tokens["shop"]) == Code.PERMISSION_DENIED
        assert [status(channel, tokens["ops"]) for _ in range(3)] == [Code.OK] * 3  # operators are not counted
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as refused:
            reflected(channel, (("authorization", f"Bearer {tokens['shop']}"),))
        assert refused.value.code() == Code.PERMISSION_DENIED


def retry_delay_s(channel: grpc.Channel, token: str = "") -> float:
    """Call until refused for coming too often, and return the delay that is asked for."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    stub = ranking_pb2_grpc.RankingServiceStub(channel)

    def call_often() -> None:
        for _ in range(100):
            stub.Recommend(ranking_pb2.RecommendRequest(), timeout=20, metadata=metadata)

    with pytest.raises(grpc.RpcError) as refused:
        call_often()
    assert refused.value.code() == Code.RESOURCE_EXHAUSTED
    assert "more calls than this caller may make" in refused.value.details()
    told = error_details_pb2.RetryInfo()
    found = rpc_status.from_call(refused.value)
    assert found is not None
    assert found.details[0].Unpack(told)
    return told.retry_delay.seconds + told.retry_delay.nanos / 1e9


def test_who_calls_too_often_is_told_when_to_come_back_and_others_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    tokens = tokens_file(path, busy=Scope.SERVE, calm=Scope.SERVE)
    with (
        serving(tokens_file=path, rate_per_s=0.1, rate_burst=5) as target,
        grpc.insecure_channel(target, PLAIN) as channel,
    ):
        assert 0 < retry_delay_s(channel, tokens["busy"]) <= 10.01
        assert status(channel, tokens["calm"]) == Code.OK
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING


def test_without_tokens_calls_are_counted_by_address(call: Any) -> None:
    with serving(rate_per_s=0.1, rate_burst=5) as target, grpc.insecure_channel(target, PLAIN) as channel:
        assert 0 < retry_delay_s(channel) <= 10.01
        assert call(target) == Code.RESOURCE_EXHAUSTED  # another connection is no other caller
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING


def test_a_message_above_the_limit_is_refused_and_the_next_call_is_served(call: Any) -> None:
    def of_size(size: int) -> ranking_pb2.RecommendRequest:
        request = ranking_pb2.RecommendRequest()
        request.context.request_id = "x" * size
        return request

    options = [*PLAIN, ("grpc.max_receive_message_length", -1)]  # the answer quotes what was sent
    with serving(max_connection_age_s=600) as target, grpc.insecure_channel(target, options) as channel:
        assert status(channel, request=of_size(LARGEST_MESSAGE - 64)) == Code.OK
        assert status(channel, request=of_size(LARGEST_MESSAGE)) == Code.RESOURCE_EXHAUSTED
        assert status(channel) == Code.OK


def test_who_keeps_reflection_open_takes_no_thread_from_those_who_are_served() -> None:
    """As tools do that look at a service for as long as their window is open."""
    over = threading.Event()

    def asking() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(60)

    with serving(threads=2, max_connection_age_s=600) as target, grpc.insecure_channel(target, PLAIN) as channel:
        look = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        looking = [look(asking()) for _ in range(2)]
        try:
            assert all(next(each).list_services_response.service for each in looking)
            assert status(channel) == Code.OK
        finally:
            over.set()


def test_a_service_listens_on_an_ipv6_address(
    launch: Any, registry: Registry, trained: Any, wait_until: Callable[..., Any]
) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    hosts = {"host": "::1", "admin_host": "::1", "admin_port": 0, "metrics_port": 0}
    running = launch.service("retrieval", registry=registry.root, **hosts)
    with grpc.insecure_channel(f"ipv6:[::1]:{running.port}", PLAIN) as channel:
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
    for name in ("admin_port", "metrics_port"):
        found = wait_until(lambda name=name: re.search(f'"{name}": (\\d+)', running.text), 60, name)
        socket.create_connection(("::1", int(found[1])), timeout=20).close()


def test_no_more_connections_are_taken_than_are_allowed() -> None:
    with serving(max_connections=1, max_connection_age_s=600) as target, ExitStack() as held:
        first, second = (held.enter_context(grpc.insecure_channel(target, PLAIN)) for _ in range(2))
        assert status(first) == Code.OK
        assert status(second) in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        assert status(first) == Code.OK


def test_both_services_talk_over_mtls_with_tokens_and_no_secret_is_in_their_logs(
    new_authority: NewAuthority,
    launch: Any,
    registry: Registry,
    trained: Any,
    tmp_path: Path,
    wait_until: Callable[..., Any],
    a_free_port: Callable[[], int],
) -> None:
    ours, callers = new_authority("ours"), new_authority("callers")
    path = tmp_path / "tokens.toml"
    tokens = tokens_file(path, ranking=Scope.SERVE, shop=Scope.SERVE, ops=Scope.ADMIN)
    token_file = tmp_path / "ranking.token"
    token_file.write_text("tandem_stale")
    certificate, key = ours.issue("server")
    client_certificate, client_key = callers.issue("ranking")
    settings = {
        "registry": registry.root, "log_level": "debug", "tokens_file": path,
        "tls_cert": certificate, "tls_key": key, "tls_client_ca": callers.path,
    }  # fmt: skip
    port = a_free_port()
    retrieval = launch.service("retrieval", admin_port=0, port=port, **settings)
    ranking = launch.service(
        "ranking",
        retrieval_target=f"ipv4:127.0.0.1:{port}",
        retrieval_tls_ca=ours.path,
        retrieval_tls_cert=client_certificate,
        retrieval_tls_key=client_key,
        retrieval_tls_name="localhost",
        retrieval_token_file=token_file,
        **settings,
    )
    access = Access(CertificateFiles(*callers.issue("shop"), ours.path))
    mine = (("authorization", f"Bearer {tokens['shop']}"),)

    def recommend(channel: grpc.Channel) -> Any:
        stub = ranking_pb2_grpc.RankingServiceStub(channel)
        request = ranking_pb2.RecommendRequest(max_results=5)
        return stub.Recommend(request, timeout=60, metadata=mine, wait_for_ready=True)

    with access.open(ranking.target, PLAIN) as channel:
        assert [d.component for d in recommend(channel).degradations] == ["retrieval"]  # its token is not known
        token_file.write_text(tokens["ranking"])
        wait_until(lambda: not recommend(channel).degradations, 60, "the new token used")
        for there, new in zip((client_certificate, client_key), callers.issue("ranking-new"), strict=True):
            there.write_bytes(new.read_bytes())
        for _ in range(20):  # over the new connection, once the change is seen
            assert not recommend(channel).degradations
        assert status(channel) == Code.UNAUTHENTICATED
        assert status(channel, tokens["ops"]) == Code.PERMISSION_DENIED
    assert status(ranking.channel) == Code.UNAVAILABLE  # plaintext

    wait_until(lambda: '"admin_port"' in retrieval.text, 60, "the admin port")
    (admin_port,) = re.findall(r'"admin_port": (\d+)', retrieval.text)
    (tmp_path / "ops.token").write_text(tokens["ops"])
    (tmp_path / "shop.token").write_text(tokens["shop"])
    shop, shop_key = callers.issue("cli")
    options = ["--tls-ca", str(ours.path), "--tls-cert", str(shop), "--tls-key", str(shop_key)]
    listed = ["bundles", "list", "--target", f"127.0.0.1:{admin_port}", *options, "--token-file"]
    assert trained.bundle_id in CliRunner().invoke(app, [*listed, str(tmp_path / "ops.token")]).output
    refused = CliRunner().invoke(app, [*listed, str(tmp_path / "shop.token")])
    assert refused.exit_code == 2
    assert "PERMISSION_DENIED" in refused.output
    environment = {"TANDEM_TOKEN_FILE": str(tmp_path / "shop.token")}
    asked = ["recommend", "--target", ranking.target, *options]
    assert CliRunner().invoke(app, asked, env=environment).exit_code == 0
    assert "UNAUTHENTICATED" in CliRunner().invoke(app, asked).output

    written = retrieval.text + ranking.text
    assert "calls refused" in written
    secrets = [*tokens.values(), *map(digest, tokens.values()), "tandem_stale"]
    secrets += [line for file in (key, client_key) for line in file.read_text().splitlines() if len(line) > 40]
    assert [secret for secret in secrets if secret in written] == []


def test_a_service_whose_files_are_wrong_ends_with_one_clear_line(launch: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    without_tls = launch.service("ranking", tls_cert=tmp_path / "none.pem", tls_key=tmp_path / "none.key")
    without_token = launch.service("ranking", retrieval_token_file=tmp_path / "empty")
    assert without_tls.process.wait(120) == 2
    assert without_tls.text == f"TLS file {tmp_path / 'none.pem'} cannot be read: No such file or directory\n"
    assert without_token.process.wait(120) == 2
    assert f"token file {tmp_path / 'empty'} must hold one token" in without_token.text


def test_no_setting_shows_a_password_that_is_in_it() -> None:
    settings = ServiceSettings(store="redis://user:hunter2@host/0")
    assert "hunter2" not in f"{settings!r} {settings}"
