"""Ranking and figures on numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tandem_trainer.data import Dataset
from tandem_trainer.quality.log import HeldOut, Queries, held_out, make_log
from tandem_trainer.quality.measure import figures, make_lists, rank_rows
from tandem_trainer.quality.rows.base import Scorer, Scores

ByHand = Callable[..., Dataset]

ITEMS = ["a", "b", "c", "d"]
METRICS = ("hr@10", "ndcg@10", "recall@10")


def asked(by_hand: ByHand, events: list[tuple[str, str, int]], first_wanted: int) -> HeldOut:
    log = make_log(by_hand(events, ITEMS))
    return held_out(log, np.arange(first_wanted), np.arange(first_wanted, len(log)), now_ms=None)


def always(*scores: float) -> Scorer:
    def score(queries: Queries) -> Scores:
        return np.tile(np.array(scores, np.float32), (len(queries), 1))

    return score


def test_equal_scores_go_to_the_smaller_row_and_minus_infinity_is_not_listed() -> None:
    scores = np.array([[1, 2, 1, 2], [0, 0, 0, 0], [-np.inf, 3, -np.inf, 3]], np.float32)
    assert rank_rows(scores, 3).tolist() == [[1, 3, 0], [0, 1, 2], [1, 3, -1]]


def test_without_repeats_what_the_user_had_is_neither_ranked_nor_an_answer(by_hand: ByHand) -> None:
    held = asked(by_hand, [("u", "a", 1), ("v", "b", 2), ("u", "a", 3), ("u", "c", 4), ("v", "b", 5)], 2)
    scorer = always(4, 3, 2, 1)
    new = make_lists("row", scorer, held, 4, repeats=False)
    again = make_lists("row", scorer, held, 4, repeats=True)
    assert new.ranked.tolist() == [[1, 2, 3, -1], [0, 2, 3, -1]]
    assert again.ranked.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    everybody = np.ones(2, np.bool_)
    first, both = (figures(each, everybody, METRICS, 0) for each in (new, again))
    # u's first c is found in second place; v came back to b alone and has nothing to find.
    assert first.users == 1
    assert first.metrics["ndcg@10"] == pytest.approx(1 / np.log2(3))
    assert first.metrics["coverage@10"] == 0.75
    assert both.users == 2
    assert both.metrics["recall@10"] == 1.0
    assert both.metrics["coverage@10"] == 1.0


def test_of_several_answers_hit_rate_takes_any_and_recall_their_share(by_hand: ByHand) -> None:
    held = asked(by_hand, [("u", "a", 1), *((f"{i}", "a", 1) for i in range(3)), ("u", "b", 4), ("u", "c", 5)], 4)
    only_b = make_lists("row", always(-np.inf, 1, -np.inf, 0), held, 4, repeats=False)
    found = figures(only_b, np.ones(1, np.bool_), METRICS, 0).metrics
    assert (found["hr@10"], found["recall@10"]) == (1.0, 0.5)


def test_candidates_alone_are_ranked(by_hand: ByHand) -> None:
    log = make_log(by_hand([("u", "a", 1), ("u", "d", 2)], ITEMS))
    held = held_out(log, np.array([0]), np.array([1]), now_ms=None, candidates=np.array([1, 3], np.int32))
    lists = make_lists("row", always(9, 1, 9, 2), held, 4, repeats=False)
    assert lists.ranked.tolist() == [[3, 1]]
    assert lists.n_candidates == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_have_no_order_are_refused(bad: float, by_hand: ByHand) -> None:
    held = asked(by_hand, [("u", "a", 1), ("u", "b", 2)], 1)
    with pytest.raises(ValueError, match="row broken gave scores that are NaN or infinite"):
        make_lists("broken", always(0, bad, 0, 0), held, 4, repeats=False)


def test_scores_of_another_catalogue_are_refused(by_hand: ByHand) -> None:
    held = asked(by_hand, [("u", "a", 1), ("u", "b", 2)], 1)
    with pytest.raises(ValueError, match=r"scored \(1, 3\), not \(1, 4\)"):
        make_lists("short", always(0, 0, 0), held, 4, repeats=False)
