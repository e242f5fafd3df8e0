"""Passwords, keys and tokens given to real processes are in nothing that they write, whatever goes wrong."""

from __future__ import annotations

import re
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from typer.testing import CliRunner

from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2
from tandem_cli.main import app
from tandem_core.certificates import CertificateFiles
from tandem_core.grpc_access import Access
from tandem_core.registry_s3 import open_registry
from tandem_core.service_arguments import load_settings
from tandem_core.settings import ConfigError
from tandem_core.stores.open import open_store
from tandem_core.stores.open_live import open_live_store
from tandem_core.tokens import Scope, digest, new_token
from tandem_ranking.config import RankingSettings
from tandem_ranking.writer.config import WriterSettings
from tandem_retrieval.config import RetrievalSettings

moto_server = pytest.importorskip("moto.server", reason="the extra moto[server] is not installed")
redis = pytest.importorskip("redis", reason="the extra redis is not installed")
pytest.importorskip("s3fs", reason="the extra s3 is not installed")

KEY_ID = "AKIA-of-this-test"
MODULES = {"retrieval": "tandem_retrieval", "writer": "tandem_ranking.writer"}


@pytest.fixture
def s3() -> Iterator[Any]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


def of_processes(running: Any) -> str:
    """What anybody on the machine may read of a tree's processes."""
    found = ""
    for pid in running.tree():
        try:
            found += Path(f"/proc/{pid}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


def metrics_of(running: Any) -> str:
    (port,) = re.findall(r'"metrics_port": (\d+)', running.text)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is not behind a proxy
    with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def test_nothing_that_processes_write_has_a_password_a_key_or_a_token(
    launch: Any,
    valkey: Any,
    s3: Any,
    publish_copy: Callable[..., Path],
    write_toml: Callable[..., Path],
    wait_until: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    password, secret_key = (f"{secrets.token_hex(8)}/&{secrets.token_hex(8)}" for _ in range(2))
    token, lines = new_token("shop", frozenset({Scope.SERVE, Scope.WRITE}))
    (tmp_path / "tokens.toml").write_text(lines)
    users = redis.Redis(port=valkey.port)
    may: dict[str, Any] = {"enabled": True, "keys": ["*"], "categories": ["+@all"], "reset_passwords": True}
    users.acl_setuser("shop", passwords=[f"+{password}"], **may)
    host, port = s3.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    registry: Any = open_registry(Path("s3://secret-bucket/bundles"), tmp_path / "publisher")
    registry._s3.mkdir("secret-bucket")
    publish_copy(registry, "b1")
    store = f"redis://shop:{quote(password, safe='')}@127.0.0.1:{valkey.port}/7"
    settings = {
        "port": 0, "registry": "s3://secret-bucket/bundles", "registry_cache": tmp_path / "cache", "store": store,
        "tokens_file": tmp_path / "tokens.toml", "bundle_poll_s": 0.1, "drain_s": 0.1, "log_level": "debug",
    }  # fmt: skip

    def start(name: str, **changed: Any) -> Any:
        config = write_toml(tmp_path / f"{name}-{len(launch.started)}.toml", settings | changed)
        return launch.command(name, "-m", MODULES[name], "--config", str(config), environment=environment)

    retrieval, writer = start("retrieval", metrics_port=0), start("writer")
    for each in (retrieval, writer):
        each.wait_serving()
    mine = (("authorization", f"Bearer {token}"),)
    event = events_pb2.Event(user_id="ann", item_id="i001", event_type="click")

    def write() -> grpc.StatusCode:
        stub = events_pb2_grpc.EventServiceStub(writer.channel)
        try:
            stub.WriteEvents(events_pb2.WriteEventsRequest(events=[event]), timeout=60, metadata=mine)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def retrieve(metadata: Any = mine) -> Any:
        request = retrieval_pb2.RetrieveRequest(context={"user_id": "ann"})  # type: ignore[arg-type]
        return retrieval.stub.Retrieve(request, timeout=60, metadata=metadata)

    assert write() is grpc.StatusCode.OK
    assert not retrieve().degradations
    for wrong in (f"Bearer {token}x", token, f"Bearer {digest(token)}"):
        with pytest.raises(grpc.RpcError) as refused:
            retrieve((("authorization", wrong),))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    # The store's password changes under way, and the registry goes.
    users.acl_setuser("shop", passwords=["+another"], **may)
    users.client_kill_filter(user="shop")
    assert write() is grpc.StatusCode.UNAVAILABLE
    assert [d.component for d in retrieve().degradations] == ["store"]
    s3.stop()
    wait_until(lambda: "secret-bucket" in retrieval.text.partition('"listening"')[2], 60, "the registry missed")
    wait_until(lambda: re.search(r"^tandem_store_lag_seconds [1-9]", metrics_of(retrieval), re.M), 60, "the lag told")
    assert re.search(r"^tandem_store_errors_total [1-9]", metrics_of(retrieval), re.M)
    told, seen = metrics_of(retrieval), of_processes(retrieval) + of_processes(writer)

    assert retrieval.terminate() == 0
    assert writer.terminate() == 0

    written = told + seen + "".join(each.text for each in (retrieval, writer))
    assert "store" in written
    secret = {
        "the store's password": password, "the same in a URL": quote(password, safe=""), "the key of S3": secret_key,
        "a token": token, "its digest": digest(token),
    }  # fmt: skip
    assert [what for what, text in secret.items() if text in written] == []


STORE = "redis://shop:hunter2@127.0.0.1:6379/0"


def test_a_start_that_fails_and_a_doctor_show_no_password(
    launch: Any, write_toml: Callable[..., Path], a_free_port: Callable[[], int], tmp_path: Path
) -> None:
    good = {"port": 0, "registry": tmp_path / "none", "store": STORE.replace("6379", str(a_free_port()))}
    config = write_toml(tmp_path / "wrong.toml", good | {"store": f"{good['store']}?unknown=1"})
    running = launch.command("retrieval", "-m", "tandem_retrieval", "--config", str(config))
    config = write_toml(tmp_path / "serve.toml", {"retrieval": good})
    doctor = CliRunner().invoke(app, ["doctor", "--config", str(config)])
    assert doctor.exit_code == 1
    assert "127.0.0.1" in doctor.output
    assert running.process.wait(120) == 2
    assert "unknown" in running.text
    assert "hunter2" not in doctor.output + running.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"store": STORE.replace("redis:", "mysql:")},
        {"store": f"{STORE}?unknown=1"},
        {"store": STORE.replace(":6379", ":no-port")},
        {"tls_client_ca": "none"},  # a mistake of the settings as a whole
        {"port": "many"},
        {"treads": 3},
    ],
)
def test_no_error_of_a_configuration_quotes_a_password(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(load_settings(RetrievalSettings, {"store": STORE} | wrong, "a.toml").store)
    assert "hunter2" not in str(caught.value)


def test_no_object_shows_a_secret_that_it_holds(tmp_path: Path) -> None:
    token, lines = new_token("shop", frozenset({Scope.SERVE}))
    (tmp_path / "token").write_text(token)
    (tmp_path / "tokens.toml").write_text(lines)
    given: dict[str, Any] = {"store": STORE, "otlp_endpoint": "http://me:hunter2@collector/v1/traces"}
    access = Access(CertificateFiles(), tmp_path / "token")
    access.check()
    shown = [kind(**given) for kind in (RetrievalSettings, RankingSettings, WriterSettings)]
    for each in (*shown, open_store(STORE), open_live_store(STORE), access):
        for text in (repr(each), str(each)):
            assert "hunter2" not in text
            assert token not in text
