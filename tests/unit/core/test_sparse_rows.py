from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.sparse_rows import SparseRows


def sparse(dense: np.ndarray) -> SparseRows:
    rows, columns = np.nonzero(dense)
    bounds = np.searchsorted(rows, np.arange(len(dense) + 1)).astype(np.int64)
    return SparseRows(bounds, columns.astype(np.int32), dense[rows, columns].astype(np.float32), dense.shape[1])


@given(st.lists(st.integers(0, 7), max_size=20), st.integers(0, 99))
def test_a_weighted_sum_is_that_of_the_dense_matrix_with_empty_and_repeated_rows(rows: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(8, 5)) * (rng.random((8, 5)) < 0.4)
    dense[3] = 0
    weights = rng.normal(size=len(rows)).astype(np.float32)
    got = sparse(dense).weighted_sum(np.array(rows, np.int32), weights)
    assert (got.columns.dtype, got.values.dtype) == (np.int32, np.float32)
    assert (np.diff(got.columns) > 0).all()
    np.testing.assert_allclose(got.at(np.arange(5)), weights @ dense[rows] if rows else np.zeros(5), atol=1e-5)


@given(
    st.lists(st.integers(0, 7), max_size=20), st.lists(st.integers(0, 4), max_size=5, unique=True), st.integers(0, 99)
)
def test_a_block_is_that_of_the_dense_matrix(rows: list[int], columns: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense = (rng.normal(size=(8, 5)) * (rng.random((8, 5)) < 0.4)).astype(np.float32)
    dense[3] = 0
    got = sparse(dense).block(np.array(rows, np.int32), np.array(columns, np.int32))
    np.testing.assert_array_equal(got, dense[np.ix_(np.array(rows, int), np.array(columns, int))])


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    dense = np.diag([1.0, 0, 3]).astype(np.float32)
    sparse(dense).save(tmp_path / "m.npz")
    got = SparseRows.load(tmp_path / "m.npz", 3, 3)
    np.testing.assert_array_equal(
        [got.weighted_sum(np.array([row]), np.ones(1)).at(np.arange(3)) for row in range(3)], dense
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"indptr": np.array([0, 1])}, "has 1 rows; expected 3"),
        ({"indptr": np.array([0, 2, 1, 3])}, "do not rise"),
        ({"indptr": np.array([0, 1, 2, 2])}, "do not rise from 0 to its number of entries"),
        ({"values": np.array([1, np.nan, 2], np.float32)}, "not finite"),
        ({"values": np.ones(2, np.float32)}, "not one per column"),
        ({"columns": np.array([0, 1, 3], np.int32)}, "columns outside 0 to 2"),
        ({"columns": np.array([0, -1, 2], np.int32)}, "columns outside 0 to 2"),
    ],
)
def test_arrays_that_are_no_such_matrix_are_refused_and_say_why(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(sparse(np.eye(3)), **change).check(3)
