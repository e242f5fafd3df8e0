"""Content vectors of items: TF-IDF of texts, categories and creators, reduced by SVD; an encoder's, and given ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from tandem_core.content_model import ContentModel, content_tokens
from tandem_trainer.data import Dataset
from tandem_trainer.text_encoder import encode_texts


def content_vectors(
    dataset: Dataset, event_counts: NDArray[np.integer], dims: int, seed: int, text_encoder: Path | None = None
) -> NDArray[np.float32]:
    """Return float32 [N, T], rows of unit length, zero for an item of which nothing is known.

    Words in up to `dims` directions, weighed on items with training events alone; beside them, with equal weight, what
    the ONNX file text_encoder makes of the same text; beside these the tables' vector columns. event_counts: int [N],
    training events per item. Raises BadEncoder.
    """
    return content_vectors_and_model(dataset, event_counts, dims, seed, text_encoder)[0]


def content_vectors_and_model(
    dataset: Dataset, event_counts: NDArray[np.integer], dims: int, seed: int, text_encoder: Path | None = None
) -> tuple[NDArray[np.float32], ContentModel]:
    """As `content_vectors`, with the model of the words, which places items that come later."""
    items = dataset.items
    titles, texts, categories, creators = (items[name].tolist() for name in ("title", "text", "categories", "creator"))
    content, model = fit_content_model(titles, texts, categories, creators, dims, event_counts > 0, seed)
    if text_encoder is not None:
        documents = [
            " ".join(filter(None, [title, text, *codes, creator]))
            for title, text, codes, creator in zip(titles, texts, categories, creators, strict=True)
        ]
        content = _side_by_side([content, encode_texts(text_encoder, documents)])
    content = with_vector_columns(content, items, dataset.schema.item_vector)
    return content, replace(model, dims=content.shape[1])


def fit_content(
    titles: Sequence[str],
    texts: Sequence[str],
    codes: Sequence[Sequence[str]],
    creators: Sequence[str | None],
    dims: int,
    fit_mask: NDArray[np.bool_],
    seed: int,
) -> NDArray[np.float32]:
    """Return float32 [N, d], rows of unit length, zero for an item of which no word is known; d <= dims.

    codes: category names per item. fit_mask: bool [N], the items to learn from: those seen in training, since words
    and weights learned from later items would tell training about the future. d is smaller than `dims` where the data
    has no more directions, and at least 1.
    """
    return fit_content_model(titles, texts, codes, creators, dims, fit_mask, seed)[0]


def fit_content_model(
    titles: Sequence[str],
    texts: Sequence[str],
    codes: Sequence[Sequence[str]],
    creators: Sequence[str | None],
    dims: int,
    fit_mask: NDArray[np.bool_],
    seed: int,
) -> tuple[NDArray[np.float32], ContentModel]:
    """As `fit_content`, with the model that gave the vectors."""
    documents = [content_tokens(*item) for item in zip(titles, texts, codes, creators, strict=True)]
    known = [document for document, fit in zip(documents, fit_mask, strict=True) if fit and document]
    if not known:
        nothing = ContentModel([], np.empty(0, np.float32), np.empty((1, 0), np.float32), 1)
        return np.zeros((len(documents), 1), np.float32), nothing
    # Our own tokens: sklearn's would split "category:Sci-Fi" in two. Log counts: a long text is no better match.
    vectorizer = TfidfVectorizer(analyzer=lambda tokens: tokens, sublinear_tf=True, dtype=np.float32)
    weights = vectorizer.fit_transform(known)  # [n, words]
    words, idf = vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.astype(np.float32)
    if weights.shape[1] == 1:  # one word in all: nothing to reduce, and sklearn refuses to
        vectors = np.asarray(vectorizer.transform(documents).toarray(), np.float32)
        return vectors, ContentModel(words, idf, np.ones((1, 1), np.float32), 1)
    svd = TruncatedSVD(min(dims, *weights.shape), random_state=seed).fit(weights)
    vectors = np.asarray(normalize(svd.transform(vectorizer.transform(documents))), np.float32)
    return vectors, ContentModel(words, idf, svd.components_.astype(np.float32), vectors.shape[1])


def with_vector_columns(content: NDArray[np.float32], items: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float32]:
    """Append vectors that the tables bring (of pictures, sounds, another text encoder); rows keep unit length.

    content: float32 [N, T]. names: columns of float32 arrays or None; of one column all have the same length. Each part
    has unit length before they are put together, so that none outweighs the others by its scale.
    """
    parts = [content]
    for name in names:
        given = items[name].to_numpy(dtype=object)
        width = next((len(vector) for vector in given if vector is not None), 1)
        parts.append(np.array([np.zeros(width) if v is None else v for v in given]).reshape(len(given), width))
    return _side_by_side(parts) if names else content


def _side_by_side(parts: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return all parts in one, each of unit length before, rows of unit length after; parts: [N, T_i]."""
    return np.asarray(normalize(np.hstack([normalize(part) for part in parts])), np.float32)
