"""Content vectors of items: TF-IDF of texts, categories and creators, reduced by SVD."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

WORD = re.compile(r"\w\w+")


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
    documents = [_tokens(*item) for item in zip(titles, texts, codes, creators, strict=True)]
    known = [document for document, fit in zip(documents, fit_mask, strict=True) if fit and document]
    if not known:
        return np.zeros((len(documents), 1), np.float32)
    # Our own tokens: sklearn's would split "category:Sci-Fi" in two. Log counts: a long text is no better match.
    vectorizer = TfidfVectorizer(analyzer=lambda tokens: tokens, sublinear_tf=True, dtype=np.float32)
    weights = vectorizer.fit_transform(known)  # [n, words]
    if weights.shape[1] == 1:  # one word in all: nothing to reduce, and sklearn refuses to
        return np.asarray(vectorizer.transform(documents).toarray(), np.float32)
    svd = TruncatedSVD(min(dims, *weights.shape), random_state=seed).fit(weights)
    return np.asarray(normalize(svd.transform(vectorizer.transform(documents))), np.float32)


def _tokens(title: str, text: str, codes: Sequence[str], creator: str | None) -> list[str]:
    """Return the words of title and text, and a token per category and for the creator."""
    tokens = WORD.findall(f"{title} {text}".lower())
    tokens += [f"category:{code}" for code in codes]
    return [*tokens, f"creator:{creator}"] if creator else tokens


def with_vector_columns(content: NDArray[np.float32], items: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float32]:
    """Append vectors that the tables bring (of pictures, sounds, another text encoder); rows keep unit length.

    content: float32 [N, T]. names: columns of float32 arrays or None; of one column all have the same length. Each part
    has unit length before they are put together, so that none outweighs the others by its scale.
    """
    parts = [content]
    for name in names:
        given = items[name].to_numpy(dtype=object)
        width = next((len(vector) for vector in given if vector is not None), 0)
        parts.append(
            normalize(np.array([np.zeros(width) if v is None else v for v in given]).reshape(len(given), width))
        )
    return np.asarray(normalize(np.hstack(parts)), np.float32) if names else content
