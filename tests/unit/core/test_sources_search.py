from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, User, resolve_user
from tandem_core.filters import Eligibility
from tandem_core.query import Query
from tandem_core.sources.search import Search, words
from tandem_trainer.search_index import SearchSettings, fit_search

NONE = np.empty(0, np.int32)
TITLES = ["Heat", "The Heat", "Cold Heat", "Cold War", *[""] * 8]
TEXTS = ["heat heat", "a film", "", "", *[""] * 8]
CATEGORIES = [["Crime"], [], ["Drama", "Crime"], ["Sci-Fi"], *[[]] * 8]


@pytest.fixture(scope="module")
def source() -> Search:
    return fit_search(TITLES, TEXTS, CATEGORIES, SearchSettings())


@pytest.fixture
def typed(schema: FeatureSchema, catalog: Catalog, make_query: Callable[..., Query]) -> Callable[[str], User]:
    return lambda text: resolve_user(schema, catalog, make_query(query_text=text))


def bm25(query: str, k1: float = 1.2, b: float = 0.75) -> list[float]:
    """The formula, word by word and item by item."""
    texts = [" ".join([t, x, *c]) for t, x, c in zip(TITLES, TEXTS, CATEGORIES, strict=True)]
    documents = [text.lower().replace("-", " ").split() for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in set(query.lower().split()):
            n = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            f = document.count(word)
            score += f and idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["heat", "cold heat", "heat HEAT heat", "crime", "sci", "drama unheard-of"])
def test_scores_are_those_of_the_formula_best_first(
    query: str, source: Search, catalog: Catalog, typed: Callable[[str], User]
) -> None:
    found = source.find(typed(query), Eligibility(catalog, NONE, None), 12)
    truth = np.array(bm25(query.replace("unheard-of", "unheard of")))
    assert found.rows.tolist() == sorted(np.flatnonzero(truth > 0).tolist(), key=lambda row: (-truth[row], row))
    np.testing.assert_allclose(found.scores, truth[found.rows], rtol=1e-5)
    assert found.score_rows is not None
    np.testing.assert_array_equal(found.score_rows(found.rows), found.scores)
    np.testing.assert_allclose(found.score_rows(np.arange(12, dtype=np.int32)), truth, rtol=1e-5)


@pytest.mark.parametrize(("k1", "b"), [(0.0, 0.75), (2.0, 0.0), (1.5, 1.0)])
def test_the_constants_are_settings(k1: float, b: float, catalog: Catalog, typed: Callable[[str], User]) -> None:
    found = fit_search(TITLES, TEXTS, CATEGORIES, SearchSettings(k1=k1, b=b)).find(
        typed("cold heat"), Eligibility(catalog, NONE, None), 12
    )
    np.testing.assert_allclose(found.scores, np.array(bm25("cold heat", k1, b))[found.rows], rtol=1e-5)


def test_without_a_query_or_with_unknown_words_nothing_is_found(
    source: Search, catalog: Catalog, typed: Callable[[str], User]
) -> None:
    assert source.find(typed(""), Eligibility(catalog, NONE, None), 12).score_rows is None
    for text in ("", "   ", "...", "nowhere"):
        assert len(source.find(typed(text), Eligibility(catalog, NONE, None), 12)) == 0


def test_only_eligible_items_are_found(source: Search, catalog: Catalog, typed: Callable[[str], User]) -> None:
    found = source.find(typed("heat"), Eligibility(catalog, np.array([0], np.int32), None), 1)
    assert found.rows.tolist() == [1]  # shorter than i2


def test_words_are_folded_and_parted_by_everything_else() -> None:
    assert words("Straße, CAFÉ-bar: 2001!") == ["strasse", "café", "bar", "2001"]


def test_what_was_saved_is_read_again_and_must_fit(
    source: Search, catalog: Catalog, typed: Callable[[str], User], tmp_path: Path
) -> None:
    source.save(tmp_path / "search.npz")
    again = Search.load(tmp_path / "search.npz", 12)
    everything = Eligibility(catalog, NONE, None)
    found = source.find(typed("cold heat"), everything, 5)
    assert again.find(typed("cold heat"), everything, 5).rows.tolist() == found.rows.tolist()
    with pytest.raises(ValueError, match="columns outside 0 to 2"):
        Search.load(tmp_path / "search.npz", 3)


def test_a_catalogue_without_words_can_be_searched_too(catalog: Catalog, typed: Callable[[str], User]) -> None:
    empty = fit_search([""] * 12, [""] * 12, [[]] * 12, SearchSettings())
    assert len(empty.find(typed("heat"), Eligibility(catalog, NONE, None), 5)) == 0
