"""A whole run: what it is fitted on, and what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle, load_bundle
from tandem_core.manifest import sha256_of
from tandem_core.query import Query, UserEvents
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer.config import DataSettings, TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import WrongBundle, check_fits
from tandem_trainer.inputs import load_data, split_data
from tandem_trainer.progress import Progress
from tandem_trainer.ranker import RankerSettings
from tandem_trainer.ranker_examples import RankerData
from tandem_trainer.split import assert_no_leak
from tandem_trainer.tower_training_settings import PairSettings, TowerTrainingSettings
from tandem_trainer.train import Trained, train
from tandem_trainer.training_run import TrainingRun


def with_other_items(dataset: Dataset, part: pd.DataFrame) -> Dataset:
    """The same events, but those of `part` are on other items of the catalogue: as if the future were another."""
    events = dataset.events.copy()
    items = dataset.items["item_id"].to_numpy()
    events.loc[part.index, "item_id"] = np.random.default_rng(0).choice(items, len(part))
    return replace(dataset, events=events)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir() if path.name != "manifest.json"}


def test_no_fitted_file_depends_on_test_events(trained: Trained, registry: Registry, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(trained.manifest.config)
    other_future = with_other_items(trained.dataset, trained.split.test)
    again = train(config, other_future, Registry(tmp_path), Progress())
    assert not again.split.test["item_id"].equals(trained.split.test["item_id"])
    first, second = (hashes(r.path_of(t.bundle_id)) for r, t in ((registry, trained), (Registry(tmp_path), again)))
    assert first == second
    assert again.manifest.metrics == trained.manifest.metrics
    assert again.manifest.schema_digest == trained.manifest.schema_digest


def test_tables_als_and_content_are_fitted_on_the_training_cut_alone(trained: Trained, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(trained.manifest.config)
    left_out = pd.concat([trained.split.validation, trained.split.test])
    made = []
    for name, dataset in (("as-is", trained.dataset), ("other", with_other_items(trained.dataset, left_out))):
        folder = tmp_path / name
        folder.mkdir()
        run = TrainingRun(config, dataset, split_data(config, dataset), folder, Progress())
        run.fit_tables()
        run.fit_als()
        run.fit_item_to_item()
        made.append(hashes(folder))
    assert set(made[0]) == {
        *("catalog.npz", "popularity.npz", "content_vectors.npy", "search.npz", "born_ms.npy"),
        *("als_factors.npy", "item_to_item.npz", "content_model.npz"),
    }
    assert made[0] == made[1]


@pytest.mark.parametrize("protocol", ["leave_last_out", "global_time", "user_disjoint", "random_within_user"])
def test_every_protocol_gives_three_parts_that_do_not_leak(trained: Trained, protocol: str) -> None:
    config = TrainConfig.model_validate(trained.manifest.config)
    config = config.model_copy(update={"split": config.split.model_copy(update={"protocol": protocol})})
    split = split_data(config, trained.dataset)
    assert_no_leak(split)
    assert min(len(split.train), len(split.validation), len(split.test)) > 0


@pytest.fixture(scope="module")
def refitted(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Bundle]:
    """The same run, fitted again on all events, and its bundle."""
    registry = Registry(tmp_path_factory.mktemp("refit"))
    config = TrainConfig.model_validate({**trained.manifest.config, "refit": True})
    again = train(config, trained.dataset, registry, Progress())
    assert not list((registry.root / "staging").iterdir())
    assert registry.bundle_ids() == [again.bundle_id]
    return again, load_bundle(registry.path_of(again.bundle_id))


def test_a_refit_bundle_has_learned_from_the_held_out_events_too(
    trained: Trained, bundle: Bundle, refitted: tuple[Trained, Bundle]
) -> None:
    again, whole = refitted
    assert again.manifest.split.refit
    assert not trained.manifest.split.refit
    assert again.manifest.data.events == len(trained.dataset.events)
    assert again.manifest.data.last_event_ms == trained.dataset.events["timestamp"].max()
    counted = trained.dataset.events["item_id"].value_counts()
    assert whole.catalog.event_counts.tolist() == [counted.get(item_id, 0) for item_id in whole.catalog.item_ids]
    assert bundle.catalog.event_counts.sum() == len(trained.split.train)
    assert not np.allclose(whole.item_vectors, bundle.item_vectors, atol=1e-3)


def test_a_refit_bundle_keeps_what_was_learned_and_measured_on_events_that_were_unseen(
    trained: Trained, bundle_folder: Path, refitted: tuple[Trained, Bundle]
) -> None:
    again, whole = refitted
    assert again.manifest.files["ranker.onnx"] == trained.manifest.files["ranker.onnx"]
    assert again.manifest.blends == trained.manifest.blends
    assert again.manifest.ranker_features == trained.manifest.ranker_features
    measured = ("merge_warm_ndcg@10", "towers_recall@100", "ranker_heldout_ndcg@10")
    assert [again.manifest.metrics[name] for name in measured] == [trained.manifest.metrics[name] for name in measured]
    assert again.manifest.metrics["onnx_parity"] <= 1e-4
    query = Query(request_id="r", now_ms=again.manifest.data.last_event_ms, max_results=20)
    assert len(RetrievalPipeline(whole).retrieve(query, Budget()).candidates) == 20


def test_a_refit_bundle_is_not_measured_on_events_that_it_has_seen(
    trained: Trained, refitted: tuple[Trained, Bundle]
) -> None:
    with pytest.raises(WrongBundle, match="was fitted on all events, the test events too"):
        check_fits(refitted[1], trained.dataset, "leave_last_out")


def test_a_bundle_says_what_it_was_made_of(trained: Trained) -> None:
    manifest = trained.manifest
    assert manifest.data.events == len(trained.split.train)
    assert manifest.data.last_event_ms == trained.split.train["timestamp"].max()
    assert manifest.split.protocol == "leave_last_out"
    assert TrainConfig.model_validate(manifest.config).seed == manifest.split.seed
    assert manifest.metrics["onnx_parity"] <= 1e-4
    assert {"catalog.npz", "popularity.npz", "user_tower.onnx", "item_tower.onnx", "ranker.onnx"} <= set(manifest.files)


def test_a_run_says_how_fast_the_towers_learned_and_how_much_of_it_was_loading(trained: Trained) -> None:
    assert trained.costs["events_per_second"] > 0
    assert 0 < trained.costs["loading_share"] < 0.5  # gathering is no bottleneck
    assert trained.costs["memory_peak_mb"] > 50


def test_a_bundle_holds_no_users(trained: Trained, bundle_folder: Path) -> None:
    user_ids = [user_id.encode() for user_id in trained.dataset.users["user_id"].tolist()[:50]]
    for path in bundle_folder.iterdir():
        content = path.read_bytes()
        assert not [user_id for user_id in user_ids if b'"' + user_id + b'"' in content], path.name


def test_a_bundle_keeps_the_history_of_its_training(trained: Trained, bundle_folder: Path) -> None:
    history = json.loads((bundle_folder / "history.json").read_text())
    assert len(history["towers"]) == 2
    assert {"loss", "recall@100"} <= set(history["towers"][0])
    best = max(epoch["ndcg@10"] for epoch in history["ranker"])
    assert best == pytest.approx(trained.manifest.metrics["ranker_heldout_ndcg@10"])  # one request per user


def test_no_staging_folder_is_left_behind(registry: Registry, trained: Trained) -> None:
    assert not list((registry.root / "staging").iterdir())


def test_too_little_data_is_said_in_one_sentence_and_leaves_nothing(trained: Trained, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(trained.manifest.config)
    few = replace(trained.dataset, events=trained.dataset.events.head(10).reset_index(drop=True))
    with pytest.raises(ValueError, match=r"synthetic: the training part has \d+ events on \d+ items; at least 20"):
        train(config, few, Registry(tmp_path), Progress())
    assert not list((tmp_path / "staging").iterdir())


@pytest.mark.long  # about 10 s: a whole run
def test_a_bundle_of_joined_towers_opens_answers_its_goldens_and_retrieves(tmp_path: Path) -> None:
    data = DataSettings(adapter="synthetic", synthetic_users=150, synthetic_items=80)
    taught = PairSettings(taught=0.5)
    pairs = (PairSettings(serves=False), PairSettings(encoder="mean_pool", spare_known=True), taught)
    config = TrainConfig(
        data=data,
        towers=TowerTrainingSettings(most_examples=1024, validations=1, pairs=pairs),
        ranker=RankerSettings(folds=2, epochs=1),
        ranker_data=RankerData(most_requests=50),
    )
    registry = Registry(tmp_path)
    trained = train(config, load_data(config, None), registry, Progress())
    bundle = load_bundle(registry.path_of(trained.bundle_id))  # its goldens are asked then
    assert bundle.item_vectors.shape[1] == bundle.schema.vector_dim == 128
    history = UserEvents([bundle.catalog.item_ids[0]], np.array([0]), ["click"], np.array([np.nan]))
    query = Query(request_id="r", user_id="u", now_ms=1, max_results=20, events=history)
    found = RetrievalPipeline(bundle).retrieve(query, Budget()).candidates
    assert len(found.rows) == 20
    assert np.isfinite(found.columns["score:two_tower"]).any()
