"""How alike two items are by content alone: texts, categories and numbers in one positive definite kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from tandem_core.content_model import WORD

Kernel: TypeAlias = NDArray[np.float64]

WIDE, NARROW = 0.6, 0.2  # bandwidths of numbers, in standard deviations: an era or a price class, the very same


@dataclass(frozen=True, slots=True)
class Mix:
    """Weights of the parts of a kernel; a product of parts is high only where items agree in all of them.

    text: TF-IDF of words and of parts of words, so that sequels and variants are alike. category: of categories and
    creator. number: wide and narrow. The products with numbers take the wide one.
    """

    name: str
    text: float = 0.0
    category: float = 0.0
    number: float = 0.0
    category_number: float = 0.0
    text_number: float = 0.0
    sharp_text_number: float = 0.0  # squared text: near-copies only


MIXES = (
    Mix("categories", category=1.0, number=2.0, category_number=1.0, text_number=0.3),
    Mix("texts", text=0.6, number=0.2, text_number=0.5, sharp_text_number=1.0),
    Mix("both", text=0.3, category=1.0, number=1.0, category_number=1.0, text_number=0.5, sharp_text_number=0.5),
)


class ContentKernel:
    """Parts for every pair of items; vocabularies, word weights and scales are those of the rows fitted on.

    items: the table of items. numbers: its number columns to use. fit_rows: int [m], items of the training cut. A
    part that the data says nothing about (no categories, no numbers) is left out of the sums and of the products.
    """

    def __init__(self, items: pd.DataFrame, numbers: Sequence[str], fit_rows: NDArray[np.integer]) -> None:
        texts = [f"{title} {text}".lower() for title, text in zip(items["title"], items["text"], strict=True)]
        words = TfidfVectorizer(analyzer=WORD.findall, sublinear_tf=True)
        parts = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
        self._texts = [matrix for v in (words, parts) if (matrix := _tfidf(v, texts, fit_rows)) is not None]
        labels = [
            [f"category:{name}" for name in names] + ([f"creator:{creator}"] if isinstance(creator, str) else [])
            for names, creator in zip(items["categories"], items["creator"], strict=True)
        ]
        plain = TfidfVectorizer(analyzer=list, use_idf=False)  # a rare genre says no more than a common one
        self._labels = _tfidf(plain, labels, fit_rows)
        columns = [_standardised(items[name], fit_rows) for name in numbers]
        self._numbers = [column for column in columns if column is not None]

    def __call__(self, mix: Mix, rows: NDArray[np.integer], others: NDArray[np.integer]) -> Kernel:
        """Return float64 [len(rows), len(others)], 1 for an item with itself, in [0, 1]."""
        text = _mean([_product(matrix, rows, others) for matrix in self._texts])
        category = None if self._labels is None else _product(self._labels, rows, others)
        wide, narrow = (_mean([_near(c, rows, others, width) for c in self._numbers]) for width in (WIDE, NARROW))
        parts = [
            (mix.text, [text]),
            (mix.category, [category]),
            (mix.number / 2, [wide]),
            (mix.number / 2, [narrow]),
            (mix.category_number, [category, wide]),
            (mix.text_number, [text, wide]),
            (mix.sharp_text_number, [text, text, wide]),
        ]
        total, weights = np.zeros((len(rows), len(others))), 0.0
        for weight, factors in parts:
            known = [factor for factor in factors if factor is not None]
            if weight > 0 and known:
                total += weight * np.prod(known, axis=0)
                weights += weight
        return total / max(weights, 1e-12)


def _tfidf(
    vectorizer: TfidfVectorizer, documents: Sequence[object], fit_rows: NDArray[np.integer]
) -> scipy.sparse.csr_matrix | None:
    """Return rows of unit length (zero where nothing is known), None where no document says anything."""
    try:
        vectorizer.fit([documents[row] for row in fit_rows])
    except ValueError:  # sklearn's way to say that the vocabulary is empty
        return None
    return scipy.sparse.csr_matrix(normalize(vectorizer.transform(documents)))


def _product(matrix: scipy.sparse.csr_matrix, rows: NDArray[np.integer], others: NDArray[np.integer]) -> Kernel:
    return np.asarray((matrix[rows] @ matrix[others].T).toarray(), np.float64)


def _standardised(values: pd.Series[float], fit_rows: NDArray[np.integer]) -> NDArray[np.float64] | None:
    """Return the column on a scale of logarithms (prices; years stay as they are, nearly), None if it is constant."""
    column = values.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    logs = np.sign(column) * np.log1p(np.abs(column))
    known = logs[fit_rows][np.isfinite(logs[fit_rows])]
    spread = float(known.std()) if len(known) else 0.0
    return None if spread < 1e-9 else np.where(np.isfinite(logs), (logs - known.mean()) / spread, np.nan)


def _near(column: NDArray[np.float64], rows: NDArray[np.integer], others: NDArray[np.integer], width: float) -> Kernel:
    """Return a Gaussian kernel of one number; unknown numbers are alike, and unlike every known one."""
    one, other = column[rows][:, None], column[others][None]
    near = np.exp(-((np.nan_to_num(one) - np.nan_to_num(other)) ** 2) / (2 * width**2))
    return np.where(np.isnan(one) & np.isnan(other), 1.0, np.where(np.isnan(one) | np.isnan(other), 0.0, near))


def _mean(parts: Sequence[Kernel]) -> Kernel | None:
    return np.mean(parts, axis=0) if parts else None
