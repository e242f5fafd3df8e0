from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.blend import BlendWeights, Union, blend
from tandem_core.sources.base import Found

ONLY_TOP = BlendWeights({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, head=0)
LISTS = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.dictionaries(st.integers(0, 15), st.floats(-50, 50, width=32), max_size=10),
    max_size=3,
)
WEIGHTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.floats(0, 5), max_size=3)


def found(scores: dict[int, float], everywhere: dict[int, float] | None = None) -> Found:
    rows = sorted(scores, key=lambda row: (-scores[row], row))
    say = None
    if everywhere is not None:
        table = np.zeros(100, np.float32)
        for row, score in everywhere.items():
            table[row] = score
        say = table.__getitem__
    return Found(np.array(rows, np.int32), np.array([scores[row] for row in rows], np.float32), say)


def test_a_blend_worked_out_by_hand() -> None:
    # a says 3, 2, 1 of rows 1, 2, 3 (mean 2, deviation sqrt(2/3)); b found row 3 alone but says 0, 0, 9 of all.
    sources = {"a": found({1: 3.0, 2: 2.0, 3: 1.0}), "b": found({3: 9.0}, {3: 9.0})}
    union = Union.of(sources)
    one = 1 / np.sqrt(2 / 3)
    np.testing.assert_allclose(union.scores["a"], [one, 0, -one], atol=1e-6)
    np.testing.assert_allclose(union.scores["b"], [-np.sqrt(0.5), -np.sqrt(0.5), np.sqrt(2)], atol=1e-6)
    merged = blend(sources, BlendWeights({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, head=0))
    assert merged.rows.tolist() == [3, 1, 2]
    expected = [2 * np.sqrt(2) - one, one - 2 * np.sqrt(0.5), -2 * np.sqrt(0.5)]
    np.testing.assert_allclose(np.diff(merged.scores), np.diff(expected), atol=1e-5)
    assert merged.columns["rank:a"].tolist() == [3, 1, 2]
    assert merged.columns["rank:b"].tolist() == [1, 0, 0]
    assert merged.columns["score:b"].tolist() == [9, 0, 0]


def test_a_source_that_cannot_say_gives_its_lowest_to_what_it_did_not_find() -> None:
    union = Union.of({"a": found({1: 5.0, 2: 1.0}), "b": found({3: 1.0}, {3: 1.0})})
    assert union.rows.tolist() == [1, 2, 3]
    assert union.scores["a"][1] == union.scores["a"][2]


def test_the_head_is_ordered_by_the_top_and_the_rest_by_the_pool() -> None:
    sources = {
        "a": found({row: float(row) for row in range(6)}, {row: float(row) for row in range(6)}),
        "b": found({row: -float(row) for row in range(6)}, {row: -float(row) for row in range(6)}),
    }
    merged = blend(sources, BlendWeights({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, head=2))
    assert merged.rows.tolist() == [5, 4, 0, 1, 2, 3]
    assert (np.diff(merged.scores) < 0).all()


def test_a_source_that_says_the_same_of_all_decides_nothing() -> None:
    merged = blend({"a": found({1: 2.0, 4: 1.0}), "b": found({1: 7.0, 4: 7.0})}, ONLY_TOP)
    assert merged.rows.tolist() == [1, 4]
    assert np.isfinite(merged.scores).all()


def test_a_source_without_a_learned_weight_keeps_that_of_the_plan() -> None:
    learned = BlendWeights({"a": 0.7}, {"a": 0.4}, 10).with_defaults({"a": 1.0, "search": 2.0})
    assert learned.top == {"a": 0.7, "search": 2.0}
    assert learned.pool == {"a": 0.4, "search": 2.0}


@pytest.mark.parametrize("sources", [{}, {"a": Found()}])
def test_nothing_found_is_an_empty_batch_that_still_names_who_was_asked(sources: dict[str, Found]) -> None:
    merged = blend(sources, ONLY_TOP)
    assert len(merged) == 0
    assert merged.sources == list(sources)


@given(LISTS, WEIGHTS, WEIGHTS, st.integers(0, 20))
def test_a_blend_keeps_the_union_none_twice_with_positive_falling_scores(
    lists: dict[str, dict[int, float]], top: dict[str, float], pool: dict[str, float], head: int
) -> None:
    merged = blend({name: found(scores) for name, scores in lists.items()}, BlendWeights(top, pool, head))
    assert sorted(merged.rows.tolist()) == sorted({row for scores in lists.values() for row in scores})
    assert (np.diff(merged.scores) <= 0).all()
    assert (merged.scores > 0).all()
    assert merged.sources == list(lists)


@given(LISTS, st.floats(0.1, 10), st.floats(-5, 5))
def test_the_scale_of_a_source_does_not_matter(lists: dict[str, dict[int, float]], factor: float, shift: float) -> None:
    if any(len(set(np.float32(list(scores.values())))) < 2 for scores in lists.values()):
        return  # differences that rounding can lose
    plain = Union.of({name: found(scores) for name, scores in lists.items()}) if lists else None
    if plain is None:
        return
    moved = {name: found({row: s * factor + shift for row, s in scores.items()}) for name, scores in lists.items()}
    for name, column in Union.of(moved).scores.items():
        spread = np.ptp(list(lists[name].values()))
        if spread > 1e-2:
            np.testing.assert_allclose(column, plain.scores[name], atol=1e-2)
