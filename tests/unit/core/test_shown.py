from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tandem_core.candidates import CandidateBatch
from tandem_core.shown import ShownItems, lowered, with_shown


@dataclass
class Rows:
    """As much of a catalogue as is needed here."""

    ids: Sequence[str]

    @property
    def row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.ids)}

    def rows(self, item_ids: Sequence[str]) -> np.ndarray:
        return np.array([self.row_of[i] for i in item_ids if i in self.row_of], np.int32)


CATALOG = Rows("abcdef")
SHOWN = ShownItems.of(["d", "gone", "b"], [2, 1, 5], [7_000, 9_000, 4_000])


def batch(rows: list[int], scores: list[float]) -> CandidateBatch:
    return CandidateBatch(np.array(rows, np.int32), np.array(scores, np.float32))


def test_columns_say_how_often_and_how_long_ago_each_candidate_was_shown() -> None:
    columns = SHOWN.columns(CATALOG, np.array([5, 3, 0, 1], np.int32), now_ms=10_000)  # type: ignore[arg-type]
    assert columns["impressions"].tolist() == [0, 2, 0, 5]
    assert columns["last_shown_age_s"].tolist() == [np.inf, 3.0, np.inf, 6.0]


def test_a_time_after_the_request_counts_as_now_and_an_empty_list_as_never() -> None:
    later = SHOWN.columns(CATALOG, np.array([3], np.int32), now_ms=0)  # type: ignore[arg-type]
    assert later["last_shown_age_s"].tolist() == [0.0]
    never = ShownItems().columns(CATALOG, np.array([3], np.int32), now_ms=0)  # type: ignore[arg-type]
    assert never["impressions"].tolist() == [0]
    none = SHOWN.columns(CATALOG, np.empty(0, np.int32), now_ms=0)  # type: ignore[arg-type]
    assert len(none["impressions"]) == 0


def test_what_was_shown_within_a_time_is_found_up_to_its_last_moment() -> None:
    assert SHOWN.rows_within(CATALOG, 10_000, 3.0).tolist() == [3]  # type: ignore[arg-type]
    assert SHOWN.rows_within(CATALOG, 10_000, 6.0).tolist() == [3, 1]  # type: ignore[arg-type]
    assert SHOWN.rows_within(CATALOG, 10_001, 3.0).tolist() == []  # type: ignore[arg-type]


def test_both_of_two_lists_count() -> None:
    both = SHOWN.merged_with(ShownItems.of(["b", "a", "b"], [1, 1, 1], [5_000, 1, 3_000]))
    assert list(both.item_ids) == ["d", "gone", "b", "a"]
    assert both.counts.tolist() == [2, 1, 7, 1]
    assert both.last_ms.tolist() == [7_000, 9_000, 5_000, 1]
    assert ShownItems().merged_with(SHOWN) is SHOWN
    assert SHOWN.merged_with(ShownItems()) is SHOWN


def test_lowering_keeps_the_order_of_the_lowered_and_works_on_any_scale() -> None:
    scores = [-1.0, -2.0, -3.0, float("nan")]
    moved = lowered(batch([0, 1, 2, 3], scores), np.array([0, 1, 3], np.int32), 0.25)
    np.testing.assert_allclose(moved.scores, [-2.5, -2.75, -3.0, np.nan])
    same = batch([0, 1], [1.0, 0.0])
    assert lowered(same, np.array([5], np.int32), 0.25) is same


def test_candidates_get_columns_where_something_was_shown() -> None:
    plain = batch([3, 0], [1.0, 0.5])
    assert with_shown(plain, ShownItems(), CATALOG, 0) is plain  # type: ignore[arg-type]
    assert with_shown(plain, SHOWN, CATALOG, 8_000).columns["impressions"].tolist() == [2, 0]  # type: ignore[arg-type]
