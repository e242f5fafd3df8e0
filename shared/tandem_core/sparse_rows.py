"""A sparse matrix by rows, and the one thing that is done with it while serving: weighted sums of some rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Values in some columns, 0 in all others. columns: int32 [n], rising. values: float32 [n]."""

    columns: NDArray[np.int32]
    values: NDArray[np.float32]

    def at(self, columns: NDArray[Any]) -> NDArray[np.float32]:
        """Return float32 [m], the values in m columns."""
        if not len(self.columns):
            return np.zeros(len(columns), np.float32)
        places = np.minimum(np.searchsorted(self.columns, columns), len(self.columns) - 1)
        return np.where(self.columns[places] == columns, self.values[places], np.float32(0))


@dataclass(frozen=True, slots=True)
class SparseRows:
    """R x C matrix in CSR form. Row r holds `values[indptr[r]:indptr[r + 1]]` in the columns of the same places.

    indptr: int64 [R + 1]. columns: int32 [nnz], no column twice in a row. values: float32 [nnz]. n_columns: C.
    """

    indptr: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[np.float32]
    n_columns: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def weighted_sum(self, rows: NDArray[Any], weights: NDArray[Any]) -> SparseVector:
        """Return the sum over k of weights[k] * row rows[k]; a row may be named several times.

        Takes the time that the named rows' entries take, however many columns there are.
        """
        starts = self.indptr[rows]
        counts = self.indptr[rows + 1] - starts
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        places = np.arange(total) + np.repeat(starts - ends + counts, counts)
        weighted = self.values[places] * np.repeat(weights, counts)
        columns = self.columns[places]
        if not total:
            return SparseVector(columns, weighted.astype(np.float32))
        by_column = np.argsort(columns)  # a stable sort takes six times as long
        columns = columns[by_column]
        starts = np.flatnonzero(np.concatenate([[True], columns[1:] != columns[:-1]]))
        return SparseVector(columns[starts], np.add.reduceat(weighted[by_column], starts).astype(np.float32))

    def block(self, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float32]:
        """Return float32 [len(rows), len(columns)]: the entries where they cross, 0 for rows past the last one.

        columns: none twice.
        """
        starts = self.indptr[np.minimum(rows, len(self))]
        counts = self.indptr[np.minimum(rows + 1, len(self))] - starts
        ends = np.cumsum(counts)
        places = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
        by_column = np.argsort(columns, kind="stable")
        found = np.minimum(np.searchsorted(columns[by_column], self.columns[places]), max(len(columns) - 1, 0))
        block = np.zeros((len(rows), len(columns)), np.float32)
        if len(columns):
            slot = by_column[found]
            hit = columns[slot] == self.columns[places]
            block[np.repeat(np.arange(len(rows)), counts)[hit], slot[hit]] = self.values[places[hit]]
        return block

    def check(self, n_rows: int) -> None:
        """Raise ValueError saying why this can not be a matrix of `n_rows` rows and C columns."""
        if len(self) != n_rows:
            raise ValueError(f"the sparse matrix has {len(self)} rows; expected {n_rows}")
        if self.indptr[0] != 0 or (np.diff(self.indptr) < 0).any() or self.indptr[-1] != len(self.columns):
            raise ValueError("the sparse matrix has row bounds that do not rise from 0 to its number of entries")
        if len(self.values) != len(self.columns) or not np.isfinite(self.values).all():
            raise ValueError("the sparse matrix has values that are not finite, or not one per column")
        if len(self.columns) and not 0 <= self.columns.min() <= self.columns.max() < self.n_columns:
            raise ValueError(f"the sparse matrix has columns outside 0 to {self.n_columns - 1}")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what to write into an npz file."""
        return {"indptr": self.indptr, "columns": self.columns, "values": self.values}

    @classmethod
    def of(cls, arrays: Any, n_columns: int) -> SparseRows:
        """Return the matrix of what `arrays` gave, read from an npz file."""
        return cls(arrays["indptr"], arrays["columns"], arrays["values"], n_columns)

    def save(self, path: Path) -> None:
        """Write as npz without pickle."""
        np.savez(path, allow_pickle=False, **self.arrays())

    @classmethod
    def load(cls, path: Path, n_rows: int, n_columns: int) -> SparseRows:
        """Read what `save` wrote; raises ValueError where it is no such matrix."""
        with np.load(path, allow_pickle=False) as arrays:
            matrix = cls.of(arrays, n_columns)
        matrix.check(n_rows)
        return matrix
