"""The whole comparison, from tables to figures, and that held-out ratings reach no input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.onnx_session import open_session
from tandem_trainer.data import Dataset, load_dataset
from tandem_trainer.data.synthetic import SyntheticConfig, generate
from tandem_trainer.progress import Progress
from tandem_trainer.ratings.compare import BASELINE, FUSION, Comparison, RatingConfig, compare, to_json
from tandem_trainer.ratings.export import export_fusion, fusion_inputs
from tandem_trainer.ratings.fit import RatingTraining, predict
from tandem_trainer.ratings.inputs import RatingInputSettings, prepare_ratings
from tandem_trainer.ratings.tables import negatives_table, ratings_table, write_table
from tandem_trainer.split import random_within_user

ONE = RatingTraining(epochs=1)
SMALL = RatingConfig(
    inputs=RatingInputSettings(als_factors=4, text_dims=8),
    factors_training=RatingTraining(optimizer="nadam", learning_rate=0.01, epochs=2),
    towers_training=ONE,
    id_training=ONE,
    pair_training=ONE,
)


@pytest.fixture(scope="module")
def rated() -> Dataset:
    """Synthetic users whose events became ratings of 1 to 5."""
    dataset = generate(SyntheticConfig(n_users=80, n_items=60, seed=1, events_per_user=15))
    events = dataset.events.copy()
    user, item = (pd.factorize(events[name])[0] for name in ("user_id", "item_id"))
    noise = np.random.default_rng(0).normal(0, 0.3, len(events))
    events["value"] = np.clip(np.round(3 + np.sin(user) + np.cos(item) + noise), 1, 5)
    events["event_type"] = "rating"
    return replace(dataset, events=events)


@pytest.fixture(scope="module")
def found(rated: Dataset) -> Comparison:
    return compare(rated, SMALL, Progress())


def test_all_arms_are_measured_on_the_same_held_out_ratings(rated: Dataset, found: Comparison) -> None:
    assert sum(found.ratings.values()) == len(rated.events)
    assert {arm.mse.n for arm in found.arms} == {found.ratings["test"]}
    assert len({arm.name for arm in found.arms}) == len(found.arms) == 8
    mse = {arm.name: arm.mse.mean for arm in found.arms}
    assert mse[BASELINE] < mse["item bias"] < mse["constant mean"]
    for arm in found.arms:
        assert arm.gain.mean == pytest.approx(mse[BASELINE] - arm.mse.mean, abs=1e-9)
        assert arm.mse.low <= arm.mse.mean <= arm.mse.high


def test_the_constant_means_error_is_that_of_the_training_mean(rated: Dataset, found: Comparison) -> None:
    outer = random_within_user(rated.events, SMALL.test_fraction, seed=SMALL.seed)
    inner = random_within_user(outer.train, SMALL.validation_fraction, seed=SMALL.seed + 1)
    errors = outer.test["value"] - inner.train["value"].mean()
    arm = next(arm for arm in found.arms if arm.name == "constant mean")
    assert arm.mse.mean == pytest.approx(float((errors**2).mean()), rel=1e-6)
    assert arm.mae.mean == pytest.approx(float(errors.abs().mean()), rel=1e-6)


def test_predictions_are_of_the_best_model_within_the_range_and_as_whole_numbers(found: Comparison) -> None:
    table = found.predictions
    assert len(table) == found.ratings["test"]
    assert table["predicted"].between(found.low, found.high).all()
    assert set(table["pred_rating"]) <= {1, 2, 3, 4, 5}
    arm = next(arm for arm in found.arms if arm.name == found.best)
    assert float(((table["predicted"] - table["rating"]) ** 2).mean()) == pytest.approx(arm.mse.mean, rel=1e-4)


def test_every_fitted_arm_has_its_history_and_settings_in_the_json(found: Comparison) -> None:
    written = json.loads(json.dumps(to_json(found, SMALL), allow_nan=False))
    fitted = {name: arm for name, arm in written["arms"].items() if arm["history"]}
    assert len(fitted) == 5
    assert all("validation_mse" in epoch for arm in fitted.values() for epoch in arm["history"])
    assert RatingConfig.model_validate(written["config"]) == SMALL
    assert set(written["pair_accuracy"]) == {"id towers by BPR", "popularity"}
    assert set(written["like_auc"]) == {"like head", "rating head"}


def test_the_exported_fusion_head_gives_the_same_ratings_from_the_vectors_of_the_table(
    rated: Dataset, found: Comparison, tmp_path: Path
) -> None:
    path, written = tmp_path / "fusion.onnx", tmp_path / "ratings.parquet"
    assert export_fusion(found, path) < 1e-4
    assert write_table(ratings_table(rated, found.data, SMALL), written) == len(rated.events)
    table = pd.read_parquet(written)
    held_out = table[table["part"] == "test"]
    session = open_session(path)
    names = [node.name for node in session.get_inputs()]
    (ratings,) = session.run(None, {name: np.stack(held_out[name].to_list()).astype(np.float32) for name in names})
    ours = np.clip(predict(found.models[FUSION], found.data.test)[:, 0], found.low, found.high)
    np.testing.assert_allclose(ratings, ours, atol=1e-4)
    assert np.unique(ratings.round(3)).size > 10
    assert path.stat().st_size < 5 * sum(p.numel() for p in found.models[FUSION].parameters()) + 50_000


def test_the_table_of_all_ratings_says_what_is_known_of_each(rated: Dataset, found: Comparison, tmp_path: Path) -> None:
    table = ratings_table(rated, found.data, SMALL)
    assert table["part"].value_counts().to_dict() == found.ratings
    keys = ["user_id", "item_id", "timestamp"]
    both = table.merge(rated.events, on=keys)
    assert (both["rating"] == both["value"]).all()
    for part in ("train", "validation", "test"):
        rows = getattr(found.data, part)
        np.testing.assert_array_equal(table.loc[table["part"] == part, "rating"], rows.values)
    first = table.iloc[0]
    assert first["user_ratings"] == ((table["user_id"] == first["user_id"]) & (table["part"] == "train")).sum()
    assert first["title"] == rated.items.set_index("item_id")["title"][first["item_id"]]
    write_table(table, tmp_path / "ratings.csv")
    columns = list(pd.read_csv(tmp_path / "ratings.csv").columns)
    assert columns == [name for name in table if name not in fusion_inputs(found.data)]
    assert {"user_ratings", "item_ratings", "creator", "categories", *rated.schema.user_attributes} <= set(columns)


def test_negatives_are_three_to_a_training_rating_and_never_rated_in_it(rated: Dataset, found: Comparison) -> None:
    table = negatives_table(found.data, seed=1)
    n = found.ratings["train"]
    assert len(table) == 4 * n
    assert table["is_negative"].sum() == 3 * n
    negative, rating = table[table["is_negative"]], table[~table["is_negative"]]
    np.testing.assert_array_equal(rating["rating"], found.data.train.values)
    assert negative["rating"].between(0, 2).all()
    known = set(zip(rating["user_id"], rating["item_id"], strict=True))
    assert not known & set(zip(negative["user_id"], negative["item_id"], strict=True))
    assert (table["item_id"] != "").all()


def test_held_out_ratings_change_no_input_of_a_model(rated: Dataset) -> None:
    split = random_within_user(rated.events, 0.2, seed=0)
    empty = split.test.iloc[:0]
    one = prepare_ratings(rated, (split.train, empty, split.test), SMALL.inputs, seed=0)
    moved = split.test.assign(value=1.0, item_id=split.test["item_id"].to_numpy()[::-1])
    other = prepare_ratings(rated, (split.train, empty, moved), SMALL.inputs, seed=0)
    for name in ("user_als", "item_als", "item_text", "user_codes"):
        np.testing.assert_array_equal(getattr(one.features, name), getattr(other.features, name))
    np.testing.assert_array_equal(one.train.text, other.train.text)
    np.testing.assert_array_equal(one.test.text, other.test.text)  # of the same users at the same times


def test_no_vector_knows_the_value_of_a_training_rating(rated: Dataset) -> None:
    split = random_within_user(rated.events, 0.2, seed=0)
    one, other = (
        prepare_ratings(rated, (train, split.test, split.test), SMALL.inputs, seed=0)
        for train in (split.train, split.train.assign(value=1.0))
    )
    np.testing.assert_array_equal(one.features.user_als, other.features.user_als)
    np.testing.assert_array_equal(one.train.text, other.train.text)


def test_items_and_anonymous_users_without_training_ratings_are_unknown(rated: Dataset) -> None:
    split = random_within_user(rated.events, 0.2, seed=0)
    gone = split.train["item_id"].iloc[0]
    train = split.train[split.train["item_id"] != gone]
    nobody = train["user_id"].iloc[0]
    data = prepare_ratings(rated, (train, split.test, split.test), SMALL.inputs, seed=0, anonymous={nobody})
    assert (data.test.items[split.test["item_id"] == gone] == 0).all()
    assert (data.item_ids[data.test.items[split.test["item_id"] != gone]] != "").all()
    number = list(data.user_ids).index(nobody)
    assert data.features.anonymous[number]
    assert data.features.user_als[number].tolist() == [0.0] * 4
    rows = data.train.users == number
    mean = data.features.item_text[data.train.items].mean(axis=0)
    np.testing.assert_allclose(data.train.text[rows], np.tile(mean, (rows.sum(), 1)), atol=1e-6)


def test_data_without_ratings_is_refused(tmp_path: Path) -> None:
    run = CliRunner().invoke
    run(app, ["generate", "--out", str(tmp_path), "--users", "40", "--items", "30"])
    with pytest.raises(ValueError, match="no events of type 'rating' with a value"):
        compare(load_dataset("auto", tmp_path), SMALL, Progress())
    assert run(app, ["bench", "ratings", "--data", str(tmp_path)]).exit_code == 2


def test_the_command_prints_and_writes_what_was_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 30, 600), rng.integers(1, 20, 600)
    pairs = pd.DataFrame({"u": users, "i": items}).drop_duplicates()
    lines = [f"{u}\t{i}\t{1 + (u + i) % 5}\t{881250949 + at}" for at, (u, i) in enumerate(pairs.to_numpy())]
    (tmp_path / "u.data").write_text("\n".join(lines) + "\n")
    flags = "|".join(["0"] * 18 + ["1"])
    (tmp_path / "u.item").write_text("".join(f"{i}|Film {i} (1995)|01-Jan-1995||x|{flags}\n" for i in range(1, 20)))
    (tmp_path / "u.user").write_text("".join(f"{u}|24|F|artist|00000\n" for u in range(1, 30)))
    config = tmp_path / "config.toml"
    config.write_text("".join(f"[{kind}_training]\nepochs = 1\n" for kind in ("factors", "towers", "id", "pair")))
    folder = tmp_path / "out"
    json_file, table = folder / "figures.json", folder / "predictions.csv"
    result = CliRunner().invoke(
        app,
        [
            *("bench", "ratings", "--data", str(tmp_path), "--config", str(config)),
            *("--json", str(json_file), "--predictions", str(table)),
            *("--negatives", str(folder / "negatives.csv"), "--table", str(folder / "ratings.parquet")),
            *("--onnx", str(folder / "fusion.onnx"), "--plots", str(folder / "plots")),
        ],
    )
    assert result.exit_code == 0, result.output
    assert BASELINE in result.output
    figures = json.loads(json_file.read_text())
    assert figures["ratings"]["test"] == len(pd.read_csv(table)) > 0
    assert len(pd.read_csv(folder / "negatives.csv")) > 2 * figures["ratings"]["train"]
    assert len(pd.read_parquet(folder / "ratings.parquet")) == sum(figures["ratings"].values())
    assert (folder / "fusion.onnx").stat().st_size > 4 * figures["arms"][FUSION]["parameters"]
    assert len(list((folder / "plots").glob("*.png"))) == 6


def test_a_table_of_an_unknown_kind_is_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "ratings", "--data", str(tmp_path), "--table", str(tmp_path / "t.xls")])
    assert result.exit_code == 2
    assert "must end in .csv or .parquet" in result.stderr
