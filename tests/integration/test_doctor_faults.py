"""tandem doctor on the faults that it claims to find and `test_doctor.py` does not have, on the real thing."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2_grpc
from tandem_cli import doctor_data, doctor_machine, doctor_security, doctor_services
from tandem_cli.doctor_findings import Finding, State
from tandem_cli.main import app
from tandem_core.bundle import load_bundle
from tandem_core.certificates import CertificateFiles
from tandem_core.grpc_access import Access
from tandem_core.grpc_process import Service
from tandem_core.manifest import read_manifest
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.security_settings import SecuritySettings
from tandem_core.service_settings import ServiceSettings
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.open import open_store
from tandem_core.stores.sqlite import SqliteStore
from tandem_core.tokens import Scope, new_token
from tandem_retrieval.servicer import RetrievalServicer

BAD, DOUBTFUL, GOOD = State.BAD, State.DOUBTFUL, State.GOOD


def worst(findings: Iterator[Finding]) -> Finding:
    """Return the one finding that is not good; all that is not good says what to do."""
    (found,) = (each for each in findings if each.state is not GOOD)
    assert found.do
    return found


# --- machine


def test_an_old_python_few_files_and_a_wrong_clock_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "_OLDEST_PYTHON", (9, 9))
    monkeypatch.setattr(doctor_machine, "_FEW_FILES", 2**62)
    monkeypatch.setattr(doctor_machine, "_YEAR_2025_S", 2**40)
    found = {finding.check: finding for finding in doctor_machine.machine(["serving"], workers=1)}
    assert (found["python"].state, found["clock"].state) == (BAD, BAD)
    assert "too old" in found["python"].says
    assert found["open files"].state in (DOUBTFUL, GOOD)  # good where nothing limits them
    assert "no limit" in found["open files"].says or "each connection is one" in found["open files"].says


def test_a_limit_of_a_control_group_counts_before_the_processors_that_are_seen(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert doctor_machine._cgroup_limit(tmp_path / "cpu.max") == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor_machine._cgroup_limit(tmp_path / "cpu.max") == float("inf")
    assert doctor_machine._cgroup_limit(tmp_path / "none") == float("inf")


# --- bundle


def test_a_registry_that_points_nowhere_or_whose_manifest_is_damaged_is_told(
    own_registry: Registry, publish_copy: Callable[..., Path]
) -> None:
    own_registry.root.mkdir()
    assert "has no current bundle" in worst(doctor_data.bundle(own_registry.root)).says
    folder = publish_copy(own_registry, "b1")
    manifest = folder / "manifest.json"
    good = manifest.read_text()
    manifest.write_text(good[:100])
    found = worst(doctor_data.bundle(own_registry.root))
    assert (found.check, found.state) == ("manifest", BAD)
    assert "manifest.json" in found.says
    manifest.write_text(json.dumps(json.loads(good) | {"created_ms": 32_503_680_000_000}))
    found = worst(doctor_data.bundle(own_registry.root))
    assert (found.check, found.says) == ("age", "the bundle was made in the future")


def test_a_bundle_that_takes_down_who_loads_it_is_told_with_the_code(
    own_registry: Registry, publish_copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_copy(own_registry, "b1")
    monkeypatch.setattr(doctor_data, "_LOAD", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    found = worst(doctor_data.bundle(own_registry.root))
    assert (found.check, found.says) == ("files", "loading it ended with code -11")


# --- store


def test_a_redis_that_is_there_is_good_and_one_that_is_not_is_told(valkey: Any, a_free_port: Callable[[], int]) -> None:
    (found,) = doctor_data.store(f"redis://127.0.0.1:{valkey.port}/5")
    assert (found.state, found.check) == (GOOD, "answers")
    found = worst(doctor_data.store(f"redis://127.0.0.1:{a_free_port()}/5"))
    assert (found.state, found.check) == (BAD, "answers")
    found = worst(doctor_data.store(f"redis://who:hunter2@127.0.0.1:{valkey.port}/5"))
    assert "password" in f"{found.says} {found.do}"
    assert "hunter2" not in found.says


def test_a_store_that_is_held_older_or_out_of_reach_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_data, "_BUSY_S", 0.1)
    path = tmp_path / "store.db"
    url = f"sqlite:///{path}"
    with closing(open_store(url)) as store:
        store.read("u")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        found = worst(doctor_data.store(url))
        assert (found.check, found.state) == ("writes", BAD)
        assert "locked" in found.says
        connection.execute("ROLLBACK")
        connection.execute("PRAGMA user_version = 0")
    found = worst(doctor_data.store(url))
    assert (found.check, found.state) == ("version", DOUBTFUL)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    found = worst(doctor_data.store(f"sqlite:///{tmp_path}/store.db"))
    assert (found.check, found.state) == ("file", BAD)


# --- security


def test_tokens_in_plaintext_and_files_that_cannot_be_used_are_told(tmp_path: Path, new_authority: Any) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(new_token("shop", frozenset({Scope.SERVE}))[1])
    anywhere = "0.0.0.0"  # noqa: S104  (what is looked for)
    found = worst(doctor_security.server("ranking", SecuritySettings(tokens_file=tokens), anywhere))
    assert (found.state, "plaintext" in found.says) == (DOUBTFUL, True)
    tokens.write_text("[[tokens]]\nname = 3")
    found = worst(doctor_security.server("ranking", SecuritySettings(tokens_file=tokens), "127.0.0.1"))
    assert (found.state, found.check) == (BAD, "ranking tokens")
    callers = new_authority("callers")
    settings = SecuritySettings(tls_cert=(pair := callers.issue("s"))[0], tls_key=pair[1], tls_client_ca=callers.path)
    assert {each.state for each in doctor_security.server("ranking", settings, anywhere)} == {GOOD}


def test_a_certificate_that_holds_later_is_told(new_authority: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = new_authority("ours").issue("server")
    long_ago = dt.datetime(2001, 1, 1, tzinfo=dt.UTC).timestamp()
    monkeypatch.setattr(doctor_security.time, "time", lambda: long_ago)
    found = worst(doctor_security.certificates("ranking", CertificateFiles(certificate, key)))
    assert (found.state, "holds only from" in found.says) == (BAD, True)


# --- ports


@contextmanager
def serving(register: Callable[[grpc.Server], Sequence[str]], *, ready: bool = True, **settings: Any) -> Iterator[str]:
    """Serve in this process and yield the address."""
    service = Service(ServiceSettings(drain_s=0.0, grace_s=5.0, **settings), register, 0)
    service.start(serving=ready)
    yield f"127.0.0.1:{service.port}"
    service.stop()


def nothing(server: grpc.Server) -> Sequence[str]:
    """Events alone: no state is told."""
    events_pb2_grpc.add_EventServiceServicer_to_server(events_pb2_grpc.EventServiceServicer(), server)
    return [events_pb2.DESCRIPTOR.services_by_name["EventService"].full_name]


def asked(target: str, access: Access | None = None) -> Finding:
    (found,) = doctor_services.answers(target, access or Access(), [])
    return found


def test_a_service_that_speaks_tls_or_wants_a_token_is_told_from_one_that_is_down(
    new_authority: Any, tmp_path: Path
) -> None:
    ours, theirs = new_authority("ours"), new_authority("theirs")
    certificate, key = ours.issue("server")
    with serving(nothing, tls_cert=certificate, tls_key=key) as target:
        found = asked(target, Access(CertificateFiles(authority=theirs.path)))
        assert (found.state, "TLS handshake fails" in found.says) == (BAD, True)
        assert "does it speak TLS" in asked(target).do  # plaintext
        found = asked(target, Access(CertificateFiles(authority=ours.path)))
        assert (found.state, "neither ranking nor retrieval" in found.says) == (GOOD, True)
    (tmp_path / "tokens.toml").write_text(new_token("shop", frozenset({Scope.SERVE}))[1])
    with serving(nothing, tokens_file=tmp_path / "tokens.toml") as target:
        found = asked(target)
        assert (found.state, "--token-file" in found.do) == (DOUBTFUL, True)


def test_a_service_without_a_bundle_and_one_that_refuses_the_newest_are_told(
    own_registry: Registry, publish_copy: Callable[..., Path], tmp_path: Path
) -> None:
    def load(bundle_id: str) -> RetrievalPipeline:
        return RetrievalPipeline(load_bundle(own_registry.path_of(bundle_id)))

    bundles = ServingBundles(own_registry, load)
    store = SqliteStore(tmp_path / "store.db")

    def retrieval(server: grpc.Server) -> Sequence[str]:
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(RetrievalServicer(bundles, store), server)
        return ["tandem.retrieval.v1.RetrievalService"]

    bundles.refresh()
    with serving(retrieval, ready=False) as target:
        found = asked(target)
        assert (found.state, "does not serve" in found.says, "no current bundle" in found.says) == (BAD, True, True)
    publish_copy(own_registry, "b1")
    assert bundles.refresh()
    with serving(retrieval) as target:
        assert asked(target).says == "retrieval serves bundle b1"
        folder = publish_copy(own_registry, "b2")
        (folder / "item_vectors.npy").write_bytes(b"damaged")
        bundles.refresh()
        found = asked(target)
        assert (found.state, "refuses b2" in found.says, "item_vectors.npy" in found.says) == (BAD, True, True)
    assert read_manifest(folder).bundle_id == "b2"


def test_a_port_that_cannot_be_bound_is_told() -> None:
    (found,) = doctor_services.ports("ranking", ServiceSettings(host="192.0.2.1", port=50052))  # nobody's
    assert isinstance(found, Finding)
    assert (found.state, "the host is not ours" in found.says) == (BAD, True)
    with socket.socket() as held:  # bound, and nobody listens
        held.bind(("127.0.0.1", 0))
        (found,) = doctor_services.ports("ranking", ServiceSettings(port=held.getsockname()[1]))
        assert isinstance(found, Finding)
        assert (found.state, "the port is taken" in found.says) == (BAD, True)


def test_a_setup_that_is_not_there_at_all_ends_with_code_1(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--registry", str(tmp_path / "none"), "--store", "nothing"])
    assert done.exit_code == 1
    assert "store: address" in done.stdout
