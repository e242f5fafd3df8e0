"""A ranker trained anew for a bundle that is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tandem_core.bundle import load_bundle
from tandem_core.manifest import sha256_of
from tandem_core.registry import Registry
from tandem_trainer.config import TrainConfig
from tandem_trainer.progress import Progress
from tandem_trainer.ranker_step import HISTORY, RANKER, differs_in_ranker_alone
from tandem_trainer.studies.unseen_bundle import find_or_train
from tandem_trainer.train import Trained


def test_other_settings_of_the_ranker_train_it_anew_and_keep_every_other_file(
    trained: Trained, bundle_folder: Path, publish_copy: Callable[..., Path], tmp_path: Path
) -> None:
    registry = Registry(tmp_path)
    publish_copy(registry, "before")
    before = TrainConfig.model_validate(trained.manifest.config)
    smaller = before.ranker_data.model_copy(update={"most_requests": 40, "moments": 1})
    config = before.model_copy(
        update={"ranker": before.ranker.model_copy(update={"epochs": 1}), "ranker_data": smaller}
    )
    progress = Progress()
    bundle = find_or_train(config, trained.dataset, registry, progress)
    assert list(progress.seconds) == ["ranker"]
    assert bundle.id not in ("before", trained.bundle_id)
    folder = registry.path_of(bundle.id)
    changed = [name for name in trained.manifest.files if sha256_of(folder / name) != sha256_of(bundle_folder / name)]
    assert changed == [HISTORY, RANKER]
    assert bundle.manifest.config == config.model_dump(mode="json")
    assert bundle.manifest.metrics["ranker_requests"] == 40
    assert load_bundle(folder).id == bundle.id  # its files are what its manifest says
    again = Progress()
    assert find_or_train(config, trained.dataset, registry, again).id == bundle.id
    assert not again.seconds


def test_a_bundle_of_other_towers_is_not_the_same(trained: Trained) -> None:
    config = TrainConfig.model_validate(trained.manifest.config)
    assert differs_in_ranker_alone(trained.manifest, config)
    towers = config.towers.model_copy(update={"most_examples": 1})
    assert not differs_in_ranker_alone(trained.manifest, config.model_copy(update={"towers": towers}))
