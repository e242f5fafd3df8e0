"""Items whose words match what the user typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.base import top_k
from tandem_core.sources.base import Found
from tandem_core.sparse_rows import SparseRows
from tandem_core.text_blob import pack_strings, unpack_strings

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return the words of a text in order, case folded; what is neither letter, digit nor underscore parts them."""
    return _WORD.findall(text.casefold())


@dataclass(frozen=True, slots=True)
class Search:
    """BM25 (Robertson and Walker, 1994) over the words of titles, texts and categories.

    Score: the sum over the distinct words of the query of each item's weight for it, above 0; words that no item has
    count nothing. Finds items with at least one of the words; nothing without a query text, whoever asks.
    weights: word -> items, [V, N]; computed by the trainer, k1 and b included. vocabulary: V words.
    """

    weights: SparseRows
    vocabulary: Sequence[str]
    _row_of: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_row_of", {word: row for row, word in enumerate(self.vocabulary)})

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        if not user.query_text:
            return Found()
        known = [row for word in dict.fromkeys(words(user.query_text)) if (row := self._row_of.get(word)) is not None]
        scores = self.weights.weighted_sum(np.array(known, np.int64), np.ones(len(known), np.float32))
        matching = scores.values > 0
        rows, values = scores.columns[matching], scores.values[matching]
        kept = eligible.keep(rows)
        return Found(*top_k(values[kept], rows[kept], limit), scores.at)

    def save(self, path: Path) -> None:
        """Write as npz without pickle."""
        np.savez(path, allow_pickle=False, **self.weights.arrays(), **pack_strings("vocabulary", self.vocabulary))

    @classmethod
    def load(cls, path: Path, n_items: int) -> Search:
        """Read what `save` wrote; raises ValueError where it does not fit a catalogue of `n_items`."""
        with np.load(path, allow_pickle=False) as arrays:
            vocabulary = unpack_strings(arrays, "vocabulary")
            weights = SparseRows.of(arrays, n_items)
        weights.check(len(vocabulary))
        return cls(weights, vocabulary)
