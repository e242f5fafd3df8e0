"""The inverted index of the search source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tandem_core.sources.search import Search, words
from tandem_core.sparse_rows import SparseRows


class SearchSettings(BaseModel):
    """Constants of BM25; the values are those of Robertson and Zaragoza (2009)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k1: float = Field(default=1.2, ge=0)  # how much a word's repetition counts; 0: not at all
    b: float = Field(default=0.75, ge=0, le=1)  # how much a long text is discounted


def fit_search(
    titles: Sequence[str], texts: Sequence[str], categories: Sequence[Sequence[str]], settings: SearchSettings
) -> Search:
    """Index N items by the words of their title, text and category names.

    Weight of word w in item i: idf(w) * f * (k1 + 1) / (f + k1 * (1 - b + b * length_i / mean length)), f how often w
    is in i, idf(w) = ln(1 + (N - n + .5) / (n + .5)), n items with w, which is above 0 for every word. Nothing is
    learned from events: new items count like all others.
    """
    documents = [words(" ".join([*item[:2], *item[2]])) for item in zip(titles, texts, categories, strict=True)]
    lengths = np.array([len(document) for document in documents], np.int64)
    vocabulary = sorted({word for document in documents for word in document})
    code_of = {word: code for code, word in enumerate(vocabulary)}
    codes = np.array([code_of[word] for document in documents for word in document], np.int64)
    items = np.repeat(np.arange(len(documents)), lengths)
    # Sorted by word, then by item: the postings, each once, with how often.
    postings, often = np.unique(codes * len(documents) + items, return_counts=True)
    word, item = np.divmod(postings, max(len(documents), 1))
    return Search(
        SparseRows(
            np.searchsorted(word, np.arange(len(vocabulary) + 1)).astype(np.int64),
            item.astype(np.int32),
            _bm25(word, often, lengths[item], lengths, len(vocabulary), settings),
            len(documents),
        ),
        vocabulary,
    )


def _bm25(
    word: NDArray[np.int64],
    often: NDArray[np.int64],
    length: NDArray[np.int64],
    lengths: NDArray[np.int64],
    n_words: int,
    settings: SearchSettings,
) -> NDArray[np.float32]:
    """Return float32, the weight of each posting. word, often, length: of the posting, its item's length."""
    with_word = np.bincount(word, minlength=n_words)
    idf = np.log1p((len(lengths) - with_word + 0.5) / (with_word + 0.5))
    mean_length = max(float(lengths.mean()), 1e-9) if len(lengths) else 1.0
    fit = settings.k1 * (1 - settings.b + settings.b * length / mean_length)
    return (idf[word] * often * (settings.k1 + 1) / (often + fit)).astype(np.float32)
