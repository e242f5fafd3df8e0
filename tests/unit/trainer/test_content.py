from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tandem_core.content_model import ContentModel, content_tokens
from tandem_trainer.content import fit_content, fit_content_model, with_vector_columns

TITLES = ["space war", "space ships at war", "quiet love story", "love in spring", "", "war of zorblax"]
TEXTS = ["", "robots fight", "two people meet", "a garden", "", "zorblax returns"]
CODES = [["Sci-Fi"], ["Sci-Fi"], ["Romance"], ["Romance", "Drama"], [], ["Sci-Fi"]]
CREATORS = ["Lucas", None, None, "Austen", None, None]
ALL = np.array([True] * 6)


def fit(texts: list[str] = TEXTS, mask: np.ndarray = ALL, dims: int = 3, seed: int = 0) -> np.ndarray:
    return fit_content(TITLES, texts, CODES, CREATORS, dims, mask, seed)


def test_items_of_like_words_lie_nearer_than_others() -> None:
    likeness = fit() @ fit().T
    assert likeness[0, 1] > likeness[0, 2] + 0.3
    assert likeness[2, 3] > likeness[1, 3] + 0.3


def test_vectors_have_unit_length_and_items_without_a_word_are_zero() -> None:
    vectors = fit()
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0, 1], atol=1e-5)


def test_the_text_of_an_item_not_learned_from_changes_no_other_vector() -> None:
    mask = np.array([True] * 5 + [False])
    other_text = [*TEXTS[:5], "garden of robots, a quiet meeting of people in space"]
    one, other = fit(mask=mask), fit(other_text, mask)
    np.testing.assert_array_equal(one[:5], other[:5])
    assert not np.allclose(one[5], other[5])


def test_an_item_not_learned_from_is_placed_by_the_words_that_are_known() -> None:
    vectors = fit(mask=np.array([True] * 5 + [False]))
    assert vectors[5] @ vectors[0] > vectors[5] @ vectors[2] + 0.3


def test_an_item_of_only_unknown_words_is_zero() -> None:
    vectors = fit_content(
        ["old", "old old", "new"], [""] * 3, [[]] * 3, [None] * 3, 2, np.array([True, True, False]), 0
    )
    assert not vectors[2].any()


@pytest.mark.parametrize(("dims", "found"), [(2, 2), (64, 5)])
def test_there_are_no_more_dimensions_than_the_data_has(dims: int, found: int) -> None:
    assert fit(dims=dims).shape == (6, found)


def test_a_catalogue_without_any_text_gives_zeros() -> None:
    assert not fit_content(["", ""], ["", ""], [[], []], [None, None], 8, np.ones(2, bool), 0).any()


def test_one_item_of_one_word_is_enough() -> None:
    np.testing.assert_allclose(
        np.abs(fit_content(["word"], [""], [[]], [None], 8, np.ones(1, bool), 0)), [[1]], atol=1e-6
    )


def test_the_same_seed_gives_the_same_vectors() -> None:
    np.testing.assert_array_equal(fit(seed=3), fit(seed=3))


def test_a_category_is_another_word_than_the_same_text_in_a_title() -> None:
    vectors = fit_content(["drama", ""], ["", ""], [[], ["drama"]], [None] * 2, 8, np.ones(2, bool), 0)
    assert abs(vectors[0] @ vectors[1]) < 1 or vectors.shape[1] == 1


def test_vectors_that_the_tables_bring_join_the_content_and_rows_keep_unit_length() -> None:
    content = np.eye(3, 2, dtype=np.float32)  # the last item has no words
    pictures = [np.array([0, 7], np.float32), None, np.array([3, 0], np.float32)]
    joined = with_vector_columns(content, pd.DataFrame({"picture": pictures}), ["picture"])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(joined, [[half, 0, 0, half], [0, 1, 0, 0], [0, 0, 1, 0]], atol=1e-6)
    assert with_vector_columns(content, pd.DataFrame(), []) is content


@pytest.mark.parametrize("texts", [TEXTS, ["word word word"] * 6])
def test_the_model_gives_later_items_the_vectors_that_training_gave(texts: list[str]) -> None:
    vectors, model = fit_content_model(TITLES, texts, CODES, CREATORS, 3, ALL, 0)
    documents = [content_tokens(*item) for item in zip(TITLES, texts, CODES, CREATORS, strict=True)]
    np.testing.assert_allclose(model.encode(documents), vectors, atol=1e-5)
    assert not model.encode([["unheard", "unseen"], []]).any()


@pytest.mark.parametrize("words", [["word"], [""]])
def test_a_model_of_one_word_or_none_works_too(words: list[str], tmp_path: Path) -> None:
    vectors, model = fit_content_model(words, [""], [[]], [None], 8, np.ones(1, bool), 0)
    model.save(tmp_path / "model.npz")
    again = ContentModel.load(tmp_path / "model.npz").encode([content_tokens(words[0], "", [], None)])
    np.testing.assert_allclose(again, vectors, atol=1e-6)
