from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.candidates import CandidateBatch
from tandem_core.merge import append, rank_fusion
from tandem_core.sources.base import Found

LISTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.lists(st.integers(0, 15), unique=True, max_size=10), max_size=4
)


def found(*rows: int) -> Found:
    return Found(np.array(rows, np.int32), np.linspace(9, 5, len(rows), dtype=np.float32))


def by_row(batch: CandidateBatch) -> dict[int, float]:
    return dict(zip(batch.rows.tolist(), batch.scores.tolist(), strict=True))


def test_fusion_worked_out_by_hand() -> None:
    merged = rank_fusion({"a": found(7, 3), "b": found(3, 5, 7)}, {"a": 1.0, "b": 0.5})
    assert merged.rows.tolist() == [7, 3, 5]
    expected = [1 / 61 + 0.5 / 63, 1 / 62 + 0.5 / 61, 0.5 / 62]  # .024330, .024326, .008065
    assert merged.scores.tolist() == pytest.approx(expected, rel=1e-5)
    assert merged.columns["rank:a"].tolist() == [1, 2, 0]
    assert merged.columns["rank:b"].tolist() == [3, 1, 2]
    assert merged.columns["score:a"].tolist() == [9, 5, 0]
    assert merged.columns["score:b"].tolist() == [5, 9, 7]


def test_a_source_that_can_score_any_item_is_asked_about_those_that_others_found() -> None:
    table = np.arange(10, dtype=np.float32)
    can = Found(np.array([7], np.int32), np.array([7.0], np.float32), table.__getitem__)
    merged = rank_fusion({"a": can, "b": found(3)}, {"a": 1.0, "b": 0.5})
    assert merged.rows.tolist() == [7, 3]
    assert merged.columns["rank:a"].tolist() == [1, 0]
    assert merged.columns["score:a"].tolist() == [7, 3]
    assert merged.columns["score:b"].tolist() == [0, 9]


def test_equal_scores_go_to_the_smaller_row() -> None:
    assert rank_fusion({"a": found(9), "b": found(4)}, {"a": 1, "b": 1}).rows.tolist() == [4, 9]


def test_nothing_found_is_an_empty_batch_that_still_names_who_was_asked() -> None:
    assert len(rank_fusion({}, {})) == 0
    merged = rank_fusion({"a": found(), "b": found()}, {"a": 1, "b": 1})
    assert len(merged) == 0
    assert merged.sources == ["a", "b"]


@given(LISTS, st.data())
def test_fusion_keeps_the_union_none_twice_and_what_each_source_said(
    lists: dict[str, list[int]], data: st.DataObject
) -> None:
    weights = {name: data.draw(st.floats(0.1, 5)) for name in lists}
    sources = {name: found(*rows) for name, rows in lists.items()}
    merged = rank_fusion(sources, weights)
    rows = merged.rows.tolist()
    assert len(rows) == len(set(rows))
    assert set(rows) == {row for each in lists.values() for row in each}
    assert merged.sources == list(lists)
    assert np.all(np.diff(merged.scores) <= 0)
    for row, score in by_row(merged).items():
        naive = sum(weights[name] / (61 + each.index(row)) for name, each in lists.items() if row in each)
        assert score == pytest.approx(naive, rel=1e-5)
    for name, each in lists.items():
        ranks, scores = merged.columns[f"rank:{name}"], merged.columns[f"score:{name}"]
        assert dict(zip(rows, ranks.tolist(), strict=True)) == {
            row: each.index(row) + 1 if row in each else 0 for row in rows
        }
        np.testing.assert_array_equal(scores[ranks > 0], sources[name].scores[ranks[ranks > 0] - 1])
        assert not scores[ranks == 0].any()


@given(LISTS)
def test_the_order_in_which_sources_were_asked_changes_no_score(lists: dict[str, list[int]]) -> None:
    sources = {name: found(*rows) for name, rows in lists.items()}
    weights = dict.fromkeys(lists, 1.0)
    one, other = rank_fusion(sources, weights), rank_fusion(dict(reversed(sources.items())), weights)
    assert by_row(one) == pytest.approx(by_row(other), rel=1e-6)


@given(LISTS, st.lists(st.integers(16, 40), unique=True, max_size=12), st.floats(1e-3, 100))
def test_a_fill_stays_below_the_list_in_its_order_even_when_sorted_again(
    lists: dict[str, list[int]], fill: list[int], weight: float
) -> None:
    merged = rank_fusion({name: found(*rows) for name, rows in lists.items()}, dict.fromkeys(lists, weight))
    filled = append(merged, "backfill", found(*fill))
    assert filled.rows.tolist() == [*merged.rows.tolist(), *fill]
    assert filled.best_first().rows.tolist() == filled.rows.tolist()
    assert filled.columns["rank:backfill"].tolist() == [0] * len(merged) + list(range(1, len(fill) + 1))
    np.testing.assert_array_equal(filled.columns["score:backfill"][len(merged) :], found(*fill).scores)
    for name in lists:
        np.testing.assert_array_equal(filled.columns[f"rank:{name}"][: len(merged)], merged.columns[f"rank:{name}"])
        assert not filled.columns[f"rank:{name}"][len(merged) :].any()


def test_more_of_a_source_that_is_there_already_counts_its_ranks_on() -> None:
    filled = append(rank_fusion({"popularity": found(1, 2)}, {"popularity": 1}), "popularity", found(8, 9))
    assert filled.columns["rank:popularity"].tolist() == [1, 2, 3, 4]
    assert filled.sources == ["popularity"]
