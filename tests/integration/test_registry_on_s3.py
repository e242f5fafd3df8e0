"""A registry on S3, against moto's server: real HTTP on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tandem_core.errors import BundleRefused, NotFound
from tandem_core.registry import Current, Registry
from tandem_core.registry_s3 import S3Registry, open_registry

moto_server = pytest.importorskip("moto.server", reason="the extra moto[server] is not installed")
pytest.importorskip("s3fs", reason="the extra s3 is not installed")

MakeRegistry = Callable[..., Any]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture
def make_registry(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MakeRegistry:
    """make_registry(node="a"): the registry of this test, as one node sees it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{abs(hash(tmp_path)) % 10**9}"

    def make(node: str = "a") -> S3Registry:
        registry = open_registry(Path(f"s3://{bucket}/of/bundles"), tmp_path / node)
        assert isinstance(registry, S3Registry)
        if not registry._s3.exists(bucket):
            registry._s3.mkdir(bucket)
        return registry

    return make


def test_a_folder_is_a_folder(tmp_path: Path) -> None:
    assert type(open_registry(tmp_path)) is Registry


def test_what_one_node_publishes_another_lists_activates_and_goes_back_from(
    make_registry: MakeRegistry, publish_copy: Callable[..., Any], whole_bundles: Callable[..., list[str]]
) -> None:
    writer, reader = make_registry("writer"), make_registry("reader")
    assert writer.current() is None
    assert writer.bundle_ids() == []
    with pytest.raises(NotFound, match="no bundle to go back to"):
        reader.rollback()
    publish_copy(writer, "b1")
    publish_copy(writer, "b2")
    assert reader.bundle_ids() == ["b2", "b1"]
    assert reader.current() == Current("b2", "b1")
    assert reader.manifest("b1").bundle_id == "b1"
    assert reader.rollback() == Current("b1", "b2")
    assert writer.current() == Current("b1", "b2")
    with pytest.raises(NotFound, match="no bundle 'b9'"):
        reader.activate("b9")
    with pytest.raises(FileExistsError, match="bundles never change"):
        publish_copy(make_registry("third"), "b1")
    publish_copy(writer, "b3", activate=False)
    publish_copy(writer, "b4", activate=False)
    assert writer.retain(1) == ["b3"]
    assert reader.bundle_ids() == ["b4", "b2", "b1"]
    assert reader.mirror() == Current("b1", "b2")
    assert Registry(reader.root).current() == Current("b1", "b2")
    assert "b1" in whole_bundles(Registry(reader.root))


def test_a_bundle_damaged_there_is_refused_and_one_damaged_here_is_copied_again(
    make_registry: MakeRegistry, publish_copy: Callable[..., Any]
) -> None:
    writer, reader = make_registry("writer"), make_registry("reader")
    publish_copy(writer, "b1")
    folder = reader.fetch("b1")
    (folder / "catalog.npz").write_bytes(b"short")
    assert (reader.fetch("b1") / "catalog.npz").stat().st_size > 100
    publish_copy(writer, "b2", activate=False)
    remote = f"{writer.place}/bundles/b2"
    writer._s3.pipe_file(f"{remote}/catalog.npz", b"x" * writer._s3.size(f"{remote}/catalog.npz"))
    with pytest.raises(BundleRefused, match="does not have the sha256"):
        reader.activate("b2")
    writer._s3.rm_file(f"{remote}/ranker.onnx")
    writer._s3.pipe_file(f"{writer.place}/CURRENT", b'{"bundle_id": "b2", "previous": "b1"}')
    with pytest.raises(BundleRefused):
        reader.mirror()
    writer._s3.pipe_file(f"{writer.place}/CURRENT", b"{")
    with pytest.raises(BundleRefused, match="CURRENT is damaged"):
        reader.mirror()
    assert not reader.path_of("b2").exists()


def test_a_bundle_without_a_manifest_is_not_there_yet(
    make_registry: MakeRegistry, publish_copy: Callable[..., Any]
) -> None:
    registry = make_registry()
    publish_copy(registry, "b1")
    registry._s3.pipe_file(f"{registry.place}/bundles/b2/catalog.npz", b"half")
    assert registry.bundle_ids() == ["b1"]
    with pytest.raises(NotFound):
        registry.activate("b2")


def test_writers_at_the_same_time_leave_a_whole_pointer_and_whole_bundles(
    make_registry: MakeRegistry, publish_copy: Callable[..., Any]
) -> None:
    nodes = [make_registry(f"node{k}") for k in range(3)]
    writers = [threading.Thread(target=publish_copy, args=(node, f"b{k}")) for k, node in enumerate(nodes)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert nodes[0].bundle_ids() == ["b2", "b1", "b0"]
    current = make_registry("reader").mirror()
    assert current is not None
    assert current.bundle_id in ("b0", "b1", "b2")


def test_calls_to_one_admin_port_at_the_same_time_do_not_meet(
    make_registry: MakeRegistry, publish_copy: Callable[..., Any]
) -> None:
    writer, node = make_registry("writer"), make_registry("node")
    for bundle_id in ("b1", "b2"):
        publish_copy(writer, bundle_id)
    with ThreadPoolExecutor(4) as threads:
        listed = [threads.submit(node.manifest, "b1") for _ in range(12)]
        assert {each.result().bundle_id for each in listed} == {"b1"}
        activated = [threads.submit(node.activate, "b1") for _ in range(4)]
        assert {each.result().bundle_id for each in activated} == {"b1"}
    assert list((node.root / "staging").iterdir()) == []


def test_out_of_reach_is_an_oserror_that_names_the_place(
    make_registry: MakeRegistry, monkeypatch: pytest.MonkeyPatch, a_free_port: Callable[[], int]
) -> None:
    make_registry()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{a_free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    registry = open_registry(Path("s3://bucket/of/bundles"), Path("nowhere"))
    with pytest.raises(OSError, match="s3://bucket/of/bundles"):
        registry.current()


def test_a_service_serves_from_s3_takes_up_what_is_published_and_restarts_without_it(
    make_registry: MakeRegistry,
    publish_copy: Callable[..., Any],
    launch: Any,
    environment: dict[str, str],
    wait_until: Callable[..., Any],
    tmp_path: Path,
) -> None:
    writer = make_registry("writer")
    publish_copy(writer, "b1")
    config = tmp_path / "retrieval.toml"
    config.write_text(
        f'port = 0\nbundle_poll_s = 0.2\nmax_connection_age_s = 1.0\nregistry = "s3://{writer.place}"\n'
        f'registry_cache = "{tmp_path}/served"\nstore = "sqlite:///{tmp_path}/store.db"\n'
    )
    arguments = ("-m", "tandem_retrieval", "--config", str(config))
    running = launch.command("retrieval", *arguments, environment=environment)
    running.wait_serving(60)
    publish_copy(writer, "b2")
    wait_until(lambda: '"bundle serves", "bundle_id": "b2"' in running.text, 60, "b2 served")
    assert running.terminate() == 0
    gone = environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    launch.command("retrieval", *arguments, environment=gone).wait_serving(60)
