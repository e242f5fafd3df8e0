from __future__ import annotations

import numpy as np
import pytest

from tandem_core.sources.base import Found
from tandem_trainer.fit_blend import BlendExamples, fit_blend, make_examples, ndcg, pool_recall, weighted_ndcg

REQUESTS, ITEMS = 400, 60


def of(scores: np.ndarray) -> Found:
    rows = np.argsort(-scores, kind="stable").astype(np.int32)
    return Found(rows, scores[rows], scores.__getitem__)


@pytest.fixture(scope="module")
def examples() -> BlendExamples:
    """Two sources that each know half of what is right, and one that knows nothing."""
    rng = np.random.default_rng(0)
    found, right = [], []
    for _ in range(REQUESTS):
        target = int(rng.integers(ITEMS))
        one, other, noise = rng.normal(size=(3, ITEMS)).astype(np.float32)
        one[target] += 1.5
        other[target] += 1.5
        found.append({"one": of(one), "other": of(other), "noise": of(noise)})
        right.append(np.array([target]))
    return make_examples(found, right, ["one", "other", "noise"])


def weights(*values: float) -> np.ndarray:
    return np.array(values)


def test_ndcg_and_recall_of_a_list_with_a_known_answer() -> None:
    scores = np.array([3.0, 2.0, 1.0], np.float32)
    examples = make_examples([{"a": of(scores)}, {"a": of(scores)}], [np.array([1]), np.array([0, 2])], ["a"])
    # Second place alone: 1 / log2(3). First and third of two right ones: (1 + 1/2) / (1 + 1/log2(3)).
    first, second = 1 / np.log2(3), 1.5 / (1 + 1 / np.log2(3))
    assert ndcg(examples, weights(1.0)) == pytest.approx((first + second) / 2)
    assert pool_recall(examples, weights(1.0)) == pytest.approx(1.0)


def test_a_request_counts_by_the_root_of_its_right_items() -> None:
    scores = np.array([3.0, 2.0, 1.0], np.float32)
    examples = make_examples([{"a": of(scores)}, {"a": of(scores)}], [np.array([1]), np.array([0, 2])], ["a"])
    first, second = 1 / np.log2(3), 1.5 / (1 + 1 / np.log2(3))
    assert weighted_ndcg(examples, weights(1.0)) == pytest.approx((first + 2**0.5 * second) / (1 + 2**0.5))
    assert weighted_ndcg(examples, weights(1.0), k=1) == pytest.approx((0 + 1) / 2)


def test_weights_of_the_top_serve_those_who_want_many_items_too() -> None:
    """Many requests have one right item, found by the one source; few have ten, found by the other."""
    rng = np.random.default_rng(1)
    found, right = [], []
    for i in range(60):
        wanted = rng.permutation(ITEMS)[: 10 if i % 4 == 0 else 1]
        one, other = np.zeros((2, ITEMS), np.float32) + rng.normal(size=(2, ITEMS)).astype(np.float32) * 0.1
        (other if i % 4 == 0 else one)[wanted] += 1
        found.append({"one": of(one), "other": of(other)})
        right.append(wanted)
    learned = fit_blend(make_examples(found, right, ["one", "other"]), head=10)
    assert learned.top["other"] > learned.top["one"]


def test_a_right_item_that_no_source_found_counts_as_missed() -> None:
    examples = make_examples([{"a": Found(np.array([4], np.int32), np.ones(1, np.float32))}], [np.array([9])], ["a"])
    assert ndcg(examples, weights(1.0)) == 0
    assert pool_recall(examples, weights(1.0)) == 0


def test_ties_count_against_the_right_item() -> None:
    examples = make_examples([{"a": of(np.zeros(5, np.float32))}], [np.array([0])], ["a"])
    assert examples.ranks(weights(1.0)).tolist() == [4]


def test_learned_weights_beat_each_source_and_give_noise_nearly_none(examples: BlendExamples) -> None:
    learned = fit_blend(examples, head=10)
    best = np.array([learned.top[name] for name in examples.sources])
    assert ndcg(examples, best) > max(ndcg(examples, alone) for alone in np.eye(3)) * 1.2
    assert learned.top["noise"] < 0.15
    assert 0.5 < learned.top["one"] / learned.top["other"] < 2
    assert sum(learned.pool.values()) == pytest.approx(1, abs=1e-3)


def test_a_part_of_the_examples_ranks_as_the_whole_does(examples: BlendExamples) -> None:
    chosen = np.arange(REQUESTS) % 3 == 0
    part = examples.part(chosen)
    kept = chosen[examples.right_of]
    some = weights(0.5, 0.3, 0.2)
    np.testing.assert_array_equal(part.ranks(some), examples.ranks(some)[kept])


def test_lists_of_unequal_length_are_ranked_without_their_padding() -> None:
    short, long = of(np.array([1.0, 2.0], np.float32)), of(np.arange(9, dtype=np.float32))
    examples = make_examples([{"a": short}, {"a": long}], [np.array([0]), np.array([0])], ["a"])
    assert examples.ranks(weights(1.0)).tolist() == [1, 8]
