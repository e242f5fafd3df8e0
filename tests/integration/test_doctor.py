"""tandem doctor on good and broken setups: what it says, and that it changes nothing."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tandem_cli import doctor_machine, doctor_services
from tandem_cli.doctor_findings import State
from tandem_cli.doctor_services import Serves
from tandem_cli.main import app
from tandem_core.registry import Registry
from tandem_core.stores.base import StoredEvent
from tandem_core.stores.open import open_store
from tandem_core.tokens import Scope, new_token

NO_BUNDLES = "no-bundles"  # a registry without any: loading one takes most of doctor's time


class Report:
    """What doctor said. arguments: of the command; those that are not given are of a setup without faults."""

    def __init__(self, *arguments: str) -> None:
        done = CliRunner().invoke(app, ["doctor", "--json", *arguments])
        said = json.loads(done.stdout)
        self.exit_code = done.exit_code
        self.findings = {f"{f['area']}: {f['check']}": f for f in said["findings"]}
        assert said["good"] is (done.exit_code == 0)
        if NO_BUNDLES in done.stdout:
            del self.findings["bundle: registry"]  # known: the setup leaves the bundle out
        assert all(f["do"] for f in said["findings"] if f["state"] != "good")

    @property
    def bad(self) -> dict[str, str]:
        return {name: f["says"] for name, f in self.findings.items() if f["state"] == "bad"}

    @property
    def doubtful(self) -> dict[str, str]:
        return {name: f["says"] for name, f in self.findings.items() if f["state"] == "doubtful"}


@pytest.fixture
def config(tmp_path: Path, write_toml: Any, a_free_port: Callable[[], int]) -> Callable[..., str]:
    """config(ranking={}, **both): a TOML of tandem serve whose ports are free; settings of ranking, and of both.

    The registry, where none is given, has no bundles, of which `Report` says nothing.
    """

    def write(ranking: Any = None, **both: Any) -> str:
        common = {"registry": tmp_path / NO_BUNDLES, "store": f"sqlite:///{tmp_path / 'store.db'}", **both}
        tables = {
            "retrieval": {"port": a_free_port(), **common},
            "ranking": {"port": a_free_port(), **common, **(ranking or {})},
        }
        return str(write_toml(tmp_path / "serve.toml", tables))

    return write


def test_a_good_setup_is_good_and_nothing_is_made_by_looking_at_it(
    config: Any, registry: Registry, trained: Any, tmp_path: Path
) -> None:
    report = Report("--config", config(registry=registry.root))
    assert report.bad == {}
    assert report.exit_code == 0
    assert "whole" in report.findings["bundle: files"]["says"]
    assert "not there yet" in report.findings["store: file"]["says"]
    assert not (tmp_path / "store.db").exists()
    areas = {f["area"] for f in report.findings.values()}
    assert areas >= {"machine", "bundle", "store", "security", "ports"}


def test_it_says_so_in_words_too(config: Any) -> None:
    done = CliRunner().invoke(app, ["doctor", "--config", config(), "--registry", "/nowhere"])
    assert done.exit_code == 1
    assert "bad      bundle: registry: /nowhere is no folder" in done.stdout
    assert "do: train one (tandem train --registry /nowhere)" in done.stdout
    assert ", 1 bad" in done.stdout


def test_a_damaged_bundle_is_named_with_the_file(config: Any, own_registry: Registry, publish_copy: Any) -> None:
    assert Report("--config", config(registry=own_registry.root)).bad.keys() == {"bundle: registry"}
    folder = publish_copy(own_registry, "20260101T000000-damaged0")
    with (folder / "item_vectors.npy").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\xff\xff\xff\xff")
    bad = Report("--config", config(registry=own_registry.root)).bad
    assert bad.keys() == {"bundle: files"}
    assert "item_vectors.npy does not have the sha256" in bad["bundle: files"]
    (own_registry.root / "CURRENT").write_text("{")
    assert "is damaged" in Report("--config", config(registry=own_registry.root)).bad["bundle: pointer"]


def test_a_store_is_read_and_tried_and_left_as_it_was(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(open_store(f"sqlite:///{path}")) as store:
        store.add_events([StoredEvent("", "u", "i", 1, "click", None)])
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())
    report = Report("--config", config())
    assert report.bad == {}
    assert report.findings["store: writes"]["state"] == "good"
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        ("PRAGMA user_version = 99", "store: version", "is of version 99"),
        ("ALTER TABLE events DROP COLUMN value", "store: schema", "lacks events.value"),
        ("DROP TABLE users", "store: schema", "users.attributes"),
    ],
)
def test_a_store_of_another_make_is_told_apart(config: Any, tmp_path: Path, change: str, check: str, said: str) -> None:
    path = tmp_path / "store.db"
    with closing(open_store(f"sqlite:///{path}")) as store:
        store.read("u")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(change)
    bad = Report("--config", config()).bad
    assert bad.keys() == {check}
    assert said in bad[check]


def test_what_is_no_store_is_called_so(config: Any, tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("no database " * 100)
    assert "not a database" in Report("--config", config()).bad["store: file"]
    assert "is not supported" in Report("--config", config(), "--store", "mysql://host/db").bad["store: address"]


def test_certificates_and_tokens_are_looked_at_before_they_fail(
    config: Any, tmp_path: Path, new_authority: Callable[[str], Any]
) -> None:
    ours = new_authority("ours")
    good, key = ours.issue("good")
    assert Report("--config", config(tls_cert=good, tls_key=key)).bad == {}
    old, old_key = ours.issue("old", days=-1)
    bad = Report("--config", config(tls_cert=old, tls_key=old_key)).bad
    assert bad.keys() == {"security: retrieval TLS", "security: ranking TLS"}
    assert "old.pem expired at" in bad["security: ranking TLS"]
    soon, soon_key = ours.issue("soon", days=5)
    (tmp_path / "tokens.toml").write_text(new_token("shop", frozenset({Scope.SERVE}))[1])
    open_to_all = config(
        tls_cert=soon,
        tls_key=soon_key,
        host="0.0.0.0",  # noqa: S104  (what is looked for)
        ranking={"retrieval_token_file": tmp_path / "none"},
    )
    report = Report("--config", open_to_all)
    assert "soon.pem expires at" in report.doubtful["security: ranking TLS"]
    assert "whoever reaches the port may call" in report.doubtful["security: ranking callers"]
    assert "none cannot be read" in report.bad["security: ranking to retrieval token"]
    mismatched = config(tls_cert=good, tls_key=old_key, tokens_file=tmp_path / "tokens.toml", host="0.0.0.0")  # noqa: S104
    report = Report("--config", mismatched)
    assert "is not the key of certificate" in report.bad["security: retrieval TLS"]
    assert "1 callers" in report.findings["security: retrieval tokens"]["says"]


def test_wrong_settings_are_named(config: Any, tmp_path: Path) -> None:
    bad = Report("--config", config(ranking={"treads": 3})).bad
    assert "treads" in bad["settings: ranking"]
    bad = Report("--config", str(tmp_path / "none.toml"), "--registry", str(tmp_path)).bad
    assert any("does not exist" in says for says in bad.values())


def test_who_does_not_answer_and_who_is_no_service_of_ours_are_told(
    config: Any, launch: Any, a_free_port: Callable[[], int], wait_until: Any
) -> None:
    nobody = f"127.0.0.1:{a_free_port()}"
    assert "no gRPC service answers" in Report("--config", config(), "--target", nobody).bad[f"ports: {nobody}"]
    port = a_free_port()
    web = launch.command("web", "-m", "http.server", str(port), "--bind", "127.0.0.1")
    wait_until(lambda: doctor_services_sees(port), 30, "the web server listening")
    assert web.process.poll() is None
    bad = Report("--config", config(ranking={"port": port})).bad
    assert "no gRPC service answers" in bad[f"ports: 127.0.0.1:{port}"]


def doctor_services_sees(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def both(launch: Any, registry: Registry, trained: Any, a_free_port: Callable[[], int]) -> tuple[Any, Any]:
    port = a_free_port()
    retrieval = launch.service("retrieval", registry=registry.root, port=port)
    ranking = launch.service("ranking", registry=registry.root, retrieval_target=f"ipv4:127.0.0.1:{port}")
    return retrieval.wait_serving(), ranking.wait_serving()


def test_services_that_run_are_asked_for_health_bundle_and_connection(
    both: tuple[Any, Any], config: Any, registry: Registry, trained: Any, wait_until: Any
) -> None:
    retrieval, ranking = both
    asked = ["--config", config(registry=registry.root), "--target", retrieval.target, "--target", ranking.target]
    wait_until(lambda: not Report(*asked).bad, 60, "ranking connected")
    report = Report(*asked)
    assert report.findings[f"ports: {ranking.target}"]["says"] == f"ranking serves bundle {trained.bundle_id}"
    assert trained.bundle_id in report.findings["versions: bundle"]["says"]
    retrieval.kill()
    report = Report(*asked)
    assert "no gRPC service answers" in report.bad[f"ports: {retrieval.target}"]
    wait_until(lambda: "serves without retrieval" in Report(*asked).bad.get(f"ports: {ranking.target}", ""), 60)


def test_services_on_different_bundles_are_told(capsys: Any) -> None:
    found = [Serves("a:1", "ranking", "new"), Serves("b:2", "retrieval", "old")]
    (finding,) = doctor_services.agreement(found, "new")
    assert (finding.state, "ranking a:1 has new, retrieval b:2 has old" in finding.says) == (State.BAD, True)
    (finding,) = doctor_services.agreement(found[:1], "newer")
    assert finding.state is State.DOUBTFUL
    assert list(doctor_services.agreement([], "new")) == []


def test_packages_are_compared_with_what_our_own_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_machine.packages(["serving"]).state is State.GOOD
    info = tmp_path / "tandem_recommender-9.9.dist-info"
    info.mkdir()
    needs = ["numpy>=999", "surely-not-there>=1", "torch-like>=1; extra == 'training'", "rich>=1"]
    lines = "".join(f"Requires-Dist: {each}\n" for each in needs)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tandem-recommender\nVersion: 9.9\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)
    finding = doctor_machine.packages(["serving"])
    assert finding.state is State.BAD
    assert finding.says.startswith("numpy is ")
    assert "surely-not-there is missing" in finding.says
    assert "torch-like" not in finding.says


def test_the_machine_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    found = {finding.check: finding for finding in doctor_machine.machine(["serving"], workers=10_000)}
    assert found["threads"].state is State.DOUBTFUL
    assert "OMP_NUM_THREADS=8" in found["threads"].says
    assert "10000 workers" in found["processors"].says
    assert found["clock"].says.startswith(time.strftime("%Y-%m", time.gmtime()))
    assert found["python"].state is State.GOOD
