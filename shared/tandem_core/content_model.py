"""From the words of an item to its content vector, as the trainer learned it: for items that come after training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.text_blob import pack_strings, unpack_strings

WORD = re.compile(r"\w\w+")


def content_tokens(title: str, text: str, categories: Sequence[str], creator: str | None) -> list[str]:
    """Return the words of title and text, and a token per category and for the creator."""
    tokens: list[str] = WORD.findall(f"{title} {text}".lower())
    tokens += [f"category:{category}" for category in categories]
    return [*tokens, f"creator:{creator}"] if creator else tokens


@dataclass(frozen=True, slots=True, eq=False)
class ContentModel:
    """TF-IDF in few directions (latent semantic analysis; Deerwester et al., 1990).

    words: W tokens. idf: float32 [W]. directions: float32 [d, W]. dims: length of the bundle's content vectors, d or
    more: behind the words stand what a text encoder makes of the text, and vectors that the tables brought.
    Raises ValueError where the shapes disagree or a number is not finite.
    """

    words: Sequence[str]
    idf: NDArray[np.float32]
    directions: NDArray[np.float32]
    dims: int
    _place_of: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        w, d = len(self.words), self.directions.shape[0]
        if self.idf.shape != (w,) or self.directions.shape != (d, w) or not d <= self.dims:
            raise ValueError(
                f"idf of shape {self.idf.shape} and directions of {self.directions.shape} for {w} words and vectors of "
                f"{self.dims}: they are not of one model"
            )
        if not (np.isfinite(self.idf).all() and np.isfinite(self.directions).all()):
            raise ValueError("the content model has a number that is not finite: it was damaged, or training failed")
        object.__setattr__(self, "_place_of", {word: place for place, word in enumerate(self.words)})

    def encode(self, documents: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """Return float32 [n, d] of n lists of tokens: unit length, zero where no token is known."""
        vectors = np.zeros((len(documents), self.directions.shape[0]), np.float32)
        for i, tokens in enumerate(documents):
            counts = Counter(place for token in tokens if (place := self._place_of.get(token)) is not None)
            if not counts:
                continue
            places = np.array(list(counts), np.intp)
            weights = (1 + np.log(np.array(list(counts.values()), np.float32))) * self.idf[places]
            vectors[i] = self.directions[:, places] @ (weights / np.linalg.norm(weights))
        return unit_rows(vectors)

    def save(self, path: Path) -> None:
        """Write as npz without pickle."""
        words = pack_strings("words", self.words)
        np.savez(path, allow_pickle=False, idf=self.idf, directions=self.directions, dims=np.array(self.dims), **words)

    @classmethod
    def load(cls, path: Path) -> ContentModel:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            words = unpack_strings(arrays, "words")
            return cls(words, arrays["idf"], arrays["directions"], int(arrays["dims"]))


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows of float32 [n, d] at unit length; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
