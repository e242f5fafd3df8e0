from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.candidates import CandidateBatch, order

SCORES = st.lists(st.floats(width=32) | st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf]), max_size=30)


def batch(scores: list[float]) -> CandidateBatch:
    n = len(scores)
    return CandidateBatch(np.arange(n, dtype=np.int32)[::-1], np.array(scores, np.float32), {"old": np.arange(n)})


def test_scores_that_are_not_finite_sink_below_all_others_and_ties_go_to_smaller_rows() -> None:
    scores = np.array([1, np.nan, 2, -np.inf, 2, np.inf, -9], np.float32)
    rows = np.array([9, 1, 8, 0, 3, 2, 7], np.int32)
    assert rows[order(scores, rows)].tolist() == [3, 8, 9, 7, 0, 1, 2]


@given(SCORES)
def test_best_first_agrees_with_sorting_in_plain_python_and_loses_nothing(scores: list[float]) -> None:
    given_ = batch(scores)
    got = given_.best_first()
    with np.errstate(over="ignore"):
        values = given_.scores.tolist()
    key = {
        row: (-value if np.isfinite(value) else np.inf, row)
        for row, value in zip(given_.rows.tolist(), values, strict=True)
    }
    assert got.rows.tolist() == sorted(key, key=lambda row: key[row])
    assert sorted(got.columns["old"].tolist()) == list(range(len(scores)))


def test_taking_moves_all_columns_together() -> None:
    given_ = batch([0.1, 0.2, 0.3])
    by_position, by_mask = given_.take(np.array([2, 0])), given_.take(np.array([True, False, True]))
    assert by_position.rows.tolist() == [0, 2]
    assert by_position.columns["old"].tolist() == [2, 0]
    assert by_mask.rows.tolist() == [2, 0]
    assert by_mask.scores.tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize(("scores", "column"), [(2, 3), (3, 2), (0, 3)])
def test_columns_of_unequal_length_are_refused(scores: int, column: int) -> None:
    with pytest.raises(ValueError, match="other lengths than the 3 rows"):
        CandidateBatch(np.arange(3, dtype=np.int32), np.zeros(scores, np.float32), {"x": np.zeros(column)})


def test_replacing_scores_or_adding_columns_keeps_the_lengths_checked() -> None:
    given_ = batch([1.0, 2.0])
    assert given_.with_scores(np.array([3.0, 4.0])).scores.dtype == np.float32
    with pytest.raises(ValueError, match="scores"):
        given_.with_scores(np.zeros(3))
    with pytest.raises(ValueError, match="new"):
        given_.with_columns({"new": np.zeros(1)})


def test_sources_are_named_by_their_rank_columns_in_the_order_asked() -> None:
    given_ = batch([1.0]).with_columns({"rank:b": np.ones(1), "score:b": np.ones(1), "rank:a": np.ones(1)})
    assert given_.sources == ["b", "a"]
    assert CandidateBatch.empty().sources == []
    assert len(CandidateBatch.empty().best_first()) == 0
