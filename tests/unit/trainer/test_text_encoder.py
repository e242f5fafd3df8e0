"""Content vectors by an ONNX file that takes strings, run for real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tandem_core.manifest import sha256_of
from tandem_core.registry import Registry
from tandem_trainer.config import FeatureSettings, TrainConfig
from tandem_trainer.content import content_vectors, fit_content
from tandem_trainer.inputs import split_data
from tandem_trainer.progress import Progress
from tandem_trainer.quality.rows.features import feature_settings
from tandem_trainer.text_encoder import BATCH, BadEncoder, encode_texts, encoder_sha256
from tandem_trainer.train import Trained, train
from tandem_trainer.training_run import TrainingRun

# Word -> vector; a text is the sum of its words. "ship" and "rocket" mean the same, which TF-IDF cannot know.
WORDS = {"ship": [3.0, 0.0], "rocket": [3.0, 0.0], "love": [0.0, 4.0]}
STRINGS, FLOATS = ("texts", TensorProto.STRING, ["N"]), ("vectors", TensorProto.FLOAT, ["N", 2])


def write_encoder(
    path: Path,
    words: dict[str, list[float]] = WORDS,
    takes: tuple[str, int, list[Any]] = STRINGS,
    gives: Sequence[tuple[str, int, list[Any]]] = (FLOATS,),
    *,
    keepdims: int = 0,
) -> Path:
    """Write a bag of words: split at spaces, number the words, look up their vectors, add them up."""
    table = np.array([np.zeros(2), *words.values()], np.float32)
    numbers = {"keys_strings": list(words), "values_int64s": list(range(1, len(words) + 1)), "default_int64": 0}
    nodes = [
        helper.make_node("StringSplit", ["texts"], ["words", "counts"]),
        helper.make_node("LabelEncoder", ["words"], ["codes"], domain="ai.onnx.ml", **numbers),
        helper.make_node("Gather", ["table", "codes"], ["looked_up"]),
        helper.make_node("ReduceSum", ["looked_up", "axis"], ["vectors"], keepdims=keepdims),
    ]
    graph = helper.make_graph(
        nodes,
        "bag_of_words",
        [helper.make_tensor_value_info(*takes)],
        [helper.make_tensor_value_info(*output) for output in gives],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    return _save(graph, path)


def write_pass_through(path: Path) -> Path:
    """Write a model that takes and gives float vectors: no encoder of texts."""
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("x", "y")]
    return _save(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", sides[:1], sides[1:]), path)


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 4)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder.onnx")


def test_texts_become_what_the_file_says_and_blank_ones_zero(encoder: Path) -> None:
    found = encode_texts(encoder, ["ship love", "", "rocket", "  ", "unknown"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[3, 4], [0, 0], [3, 0], [0, 0], [0, 0]])


def test_texts_of_several_batches_keep_their_places(encoder: Path) -> None:
    texts = [("ship", "love", "")[place % 3] for place in range(2 * BATCH + 5)]
    expected = [([3, 0], [0, 4], [0, 0])[place % 3] for place in range(len(texts))]
    np.testing.assert_array_equal(encode_texts(encoder, texts), expected)


def test_a_catalogue_without_any_text_asks_nothing_and_is_zero(encoder: Path) -> None:
    assert not encode_texts(encoder, ["", " "]).any()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadEncoder, match=r"features\.text_encoder: .*absent\.onnx is not a file"):
        encode_texts(tmp_path / "absent.onnx", ["ship"])
    with pytest.raises(BadEncoder, match=r"absent\.onnx is not a file"):
        encoder_sha256(tmp_path / "absent.onnx")


def test_a_file_that_is_no_onnx_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.onnx"
    path.write_bytes(b"ship love")
    with pytest.raises(BadEncoder, match=r"words\.onnx is no ONNX file that onnxruntime can run"):
        encode_texts(path, ["ship"])


def test_a_model_of_other_inputs_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    path = write_pass_through(tmp_path / "towers.onnx")
    with pytest.raises(
        BadEncoder, match=r"towers\.onnx has inputs tensor\(float\) \['N', 2\].*one input, strings \[N\]"
    ):
        encode_texts(path, ["ship"])


def test_a_model_of_two_outputs_is_refused(tmp_path: Path) -> None:
    gives = [FLOATS, ("counts", TensorProto.INT64, ["N"])]
    with pytest.raises(BadEncoder, match=r"outputs tensor\(float\) .*, tensor\(int64\) .*one output, float32 \[N, T\]"):
        encode_texts(write_encoder(tmp_path / "two.onnx", gives=gives), ["ship"])


def test_a_model_made_for_a_fixed_number_of_texts_is_refused(tmp_path: Path) -> None:
    fixed = write_encoder(tmp_path / "one.onnx", takes=("texts", TensorProto.STRING, [1]))
    with pytest.raises(BadEncoder, match=r"tensor\(string\) \[1\].*N of any size"):
        encode_texts(fixed, ["ship"])


def test_vectors_of_another_shape_are_refused(tmp_path: Path) -> None:
    deep = write_encoder(tmp_path / "deep.onnx", gives=[("vectors", TensorProto.FLOAT, ["N", 1, 2])], keepdims=1)
    with pytest.raises(BadEncoder, match=r"deep\.onnx gives shape \(2, 1, 2\) for 2 texts"):
        encode_texts(deep, ["ship", "love"])


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_text(tmp_path: Path, number: float) -> None:
    path = write_encoder(tmp_path / "torn.onnx", {**WORDS, "void": [number, 0.0]})
    with pytest.raises(BadEncoder, match=r"torn\.onnx gives NaN or infinity for 1 of 2 texts, first 'the void'"):
        encode_texts(path, ["ship", "the void"])


def test_words_and_encoder_weigh_the_same_and_rows_have_unit_length(encoder: Path, trained: Trained) -> None:
    titles = ["ship", "rocket", "love", ""]
    items = trained.dataset.items.head(4).assign(
        title=titles, text="", categories=[[] for _ in titles], creator=[None] * 4
    )
    dataset = replace(trained.dataset, items=items, schema=replace(trained.dataset.schema, item_vector=()))
    plain = content_vectors(dataset, np.ones(4, np.int64), 64, 0)
    both = content_vectors(dataset, np.ones(4, np.int64), 64, 0, encoder)
    np.testing.assert_allclose(both[:3, :-2], plain[:3] * np.sqrt(0.5), atol=1e-6)
    np.testing.assert_allclose(both[:, -2:], np.sqrt(0.5) * np.array([[1, 0], [1, 0], [0, 1], [0, 0]]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), [1, 1, 1, 0], atol=1e-6)
    assert both[0] @ both[1] == pytest.approx(0.5, abs=1e-6)  # no word in common, the same meaning
    assert both[0] @ both[2] == pytest.approx(0, abs=1e-6)


def test_the_encoder_reads_title_text_categories_and_creator(encoder: Path, trained: Trained) -> None:
    columns = {
        "title": ["ship", "love"],
        "text": ["love", ""],
        "categories": [["rocket", "ship"], []],
        "creator": ["love", ""],
    }
    items = trained.dataset.items.head(2).assign(**columns)
    dataset = replace(trained.dataset, items=items, schema=replace(trained.dataset.schema, item_vector=()))
    found, _ = content_vectors(dataset, np.ones(2, np.int64), 64, 0, encoder)
    expected = np.array([9, 8]) / np.hypot(9, 8)
    np.testing.assert_allclose(found[-2:], expected * np.sqrt(0.5), atol=1e-6)


def words_of(trained: Trained) -> dict[str, list[float]]:
    words = sorted({word for title in trained.dataset.items["title"] for word in title.split()})
    return dict(zip(words, np.random.default_rng(0).normal(size=(len(words), 2)).tolist(), strict=True))


def with_encoder(trained: Trained, path: Path) -> TrainConfig:
    config = TrainConfig.model_validate(trained.manifest.config)
    return config.model_copy(update={"features": config.features.model_copy(update={"text_encoder": path})})


def test_a_training_run_writes_the_encoders_vectors_and_the_bundle_says_what_made_them(
    trained: Trained, registry: Registry, tmp_path: Path
) -> None:
    encoder = write_encoder(tmp_path / "encoder.onnx", words_of(trained))
    manifest = train(with_encoder(trained, encoder), trained.dataset, Registry(tmp_path / "r"), Progress()).manifest
    assert manifest.text_encoder == sha256_of(encoder)
    assert manifest.config["features"]["text_encoder"] == str(encoder)
    assert trained.manifest.text_encoder is None

    def content(root: Registry, bundle_id: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.load(root.path_of(bundle_id) / "content_vectors.npy")
        return found

    before = content(registry, trained.bundle_id)
    after = content(Registry(tmp_path / "r"), manifest.bundle_id)
    assert after.shape == (len(before), before.shape[1] + 2)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)


def test_a_training_run_with_a_missing_encoder_ends_before_anything_is_fitted(trained: Trained, tmp_path: Path) -> None:
    config = with_encoder(trained, tmp_path / "absent.onnx")
    staging = tmp_path / "staging"
    staging.mkdir()
    run = TrainingRun(config, trained.dataset, split_data(config, trained.dataset), staging, Progress())
    with pytest.raises(BadEncoder, match="is not a file"):
        run.fit_tables()
    assert not list(staging.iterdir())


def test_a_kept_fit_depends_on_what_an_encoder_holds_and_not_on_where_it_lies(encoder: Path, tmp_path: Path) -> None:
    def key(path: Path) -> dict[str, Any]:
        return feature_settings(TrainConfig(features=FeatureSettings(text_encoder=path)))

    copied = tmp_path / "copied.onnx"
    copied.write_bytes(encoder.read_bytes())
    assert key(copied) == key(encoder)
    assert key(write_encoder(copied, {"other": [1.0, 0.0]})) != key(encoder)


def test_without_an_encoder_content_is_the_words_alone(trained: Trained) -> None:
    items = trained.dataset.items
    counts = np.ones(len(items), np.int64)
    titles, texts, categories, creators = (items[name].tolist() for name in ("title", "text", "categories", "creator"))
    dataset = replace(trained.dataset, schema=replace(trained.dataset.schema, item_vector=()))
    np.testing.assert_array_equal(
        content_vectors(dataset, counts, 64, 3), fit_content(titles, texts, categories, creators, 64, counts > 0, 3)
    )
