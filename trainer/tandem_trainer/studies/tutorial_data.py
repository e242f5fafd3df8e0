"""The tutorial's protocol: 100,000 shuffled ratings, 80 % to train on, one candidate list per held-out rating."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray

from tandem_trainer.data import Dataset

ROWS, TRAIN_SHARE, SEED, K = 100_000, 0.8, 42, 100
_CHUNK = 256  # users scored at once

# Scores of users, int64 [u], for all items: float [u, N].
Scorer = Callable[[NDArray[np.int64]], NDArray[np.floating]]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """n ratings in shuffled order, the first `train_rows` of them to train on.

    users, items: int64 [n]; a user is a row of `dataset.users`, an item one of `dataset.items`. rest: the users and
    items of all other ratings of the data set, int64 [2, m].
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    train_rows: int
    n_users: int
    n_items: int
    rest: NDArray[np.int64]

    @property
    def train(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.users[: self.train_rows], self.items[: self.train_rows]

    @property
    def test(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.users[self.train_rows :], self.items[self.train_rows :]

    def matrix(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> scipy.sparse.csr_matrix:
        """Return float32 [U, N], 1 where a user rated an item."""
        cells = scipy.sparse.csr_matrix(
            (np.ones(len(users), np.float32), (users, items)), shape=(self.n_users, self.n_items)
        )
        cells.data[:] = 1
        return cells


def draw_sample(dataset: Dataset, *, buffered: bool, rows: int = ROWS, seed: int = SEED) -> Sample:
    """Take `rows` ratings (or all there are) of shuffled ones; pairs rated twice are counted once.

    buffered: shuffle as tf.data does with a buffer of `rows`, over a file that is sorted by user as MovieLens 1M is:
    what comes out first is of the first users alone, who then have several times as many ratings each. Otherwise all
    ratings are shuffled.
    """
    pairs = dataset.events[["user_id", "item_id"]].drop_duplicates()
    users = pd.Index(dataset.users["user_id"]).get_indexer(pd.Index(pairs["user_id"])).astype(np.int64)
    items = pd.Index(dataset.items["item_id"]).get_indexer(pd.Index(pairs["item_id"])).astype(np.int64)
    rng = np.random.default_rng(seed)
    rows = min(rows, len(pairs))
    order = _buffered(np.argsort(users, kind="stable"), rows, rng) if buffered else rng.permutation(len(pairs))
    sizes = len(dataset.users), len(dataset.items)
    rest = np.stack([users[order[rows:]], items[order[rows:]]])
    return Sample(users[order[:rows]], items[order[:rows]], int(rows * TRAIN_SHARE), *sizes, rest)


def _buffered(stream: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the stream with its first `size` places filled by a shuffle through a buffer of that size."""
    buffer, following = stream[:size].copy(), stream[size:]
    first = np.empty(size, np.int64)
    for n, at in enumerate(rng.integers(0, size, size)):
        first[n] = buffer[at]
        if n < len(following):
            buffer[at] = following[n]
        else:  # the stream has ended, and the buffer empties
            left = np.delete(buffer, at)
            first[n + 1 :] = rng.permutation(left)[: size - n - 1]
            break
    return np.concatenate([first, np.setdiff1d(stream, first)])


def without_test_as_validation(sample: Sample, share: float = 0.05) -> Sample:
    """Return the training rows alone, the last `share` of them held out: what settings are chosen on."""
    users, items = sample.train
    return Sample(users, items, round(len(users) * (1 - share)), sample.n_users, sample.n_items, sample.rest[:, :0])


def accuracy(
    scores: Scorer, rows: tuple[NDArray[np.int64], NDArray[np.int64]], seen: scipy.sparse.csr_matrix
) -> tuple[float, float]:
    """Return top-100 accuracy with seen items as candidates, and without: the share of rows whose item is there.

    rows: users and items, int64 [n]. Ties count against the row's item. With one right item per row this is
    Recall@100. A row's own item is never left out, also where it was seen.
    """
    order = np.argsort(rows[0], kind="stable")
    users, items = rows[0][order], rows[1][order]
    found = np.zeros(2)
    names, starts = np.unique(users, return_index=True)
    for first in range(0, len(names), _CHUNK):
        chosen = names[first : first + _CHUNK]
        begin = starts[first]
        end = starts[first + _CHUNK] if first + _CHUNK < len(starts) else len(users)
        table = np.asarray(scores(chosen))  # [u, N]
        of = np.searchsorted(chosen, users[begin:end])
        target = table[of, items[begin:end]][:, None]
        found[0] += _within(table[of], target)
        masked = np.where(seen[chosen].toarray() > 0, -np.inf, table)
        found[1] += _within(masked[of], target, own=masked[of, items[begin:end]] > -np.inf)
    kept, left_out = found / len(users)
    return float(kept), float(left_out)


def _within(table: NDArray[np.floating], target: NDArray[np.floating], own: NDArray[np.bool_] | None = None) -> int:
    """Count rows with fewer than K other items that score as much; own: where the row's item is in the table."""
    others = (table >= target).sum(axis=1) - (1 if own is None else own)
    return int(np.count_nonzero(others < K))
