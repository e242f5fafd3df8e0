"""Which negatives are drawn: how often, and never what a user chose."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tandem_trainer.losses import (
    HardNegatives,
    HardNegativeSettings,
    KnownPositives,
    NegativeSampler,
    mean_cosine,
    with_negatives,
)

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=40)
RNG = np.random.default_rng


@given(PAIRS)
def test_known_positives_are_the_pairs_given(pairs: list[tuple[int, int]]) -> None:
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    known = KnownPositives(users, items, 7)
    every = np.arange(5)
    found = known.contains(every[:, None], np.arange(7))
    assert {(int(u), int(i)) for u, i in zip(*np.nonzero(found), strict=True)} == set(pairs)
    of, rows = known.pairs(every)
    assert sorted(zip(of.tolist(), rows.tolist(), strict=True)) == sorted(set(pairs))


@given(PAIRS.filter(bool), st.integers(0, 3))
def test_a_negative_is_neither_the_target_nor_chosen_by_the_user_and_was_trained(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    users, items = np.array(pairs, np.int64).T
    counts = np.bincount(items, minlength=7)
    known = KnownPositives(users, items, 7)
    drawn = NegativeSampler(counts, 1.0, RNG(seed), known).draw_for(items, 3, users)
    for user, row in zip(users, drawn, strict=True):
        possible = set(np.flatnonzero(counts)) - {i for u, i in pairs if u == user}
        assert set(row) <= (possible or {-1})


def test_popularity_to_the_power_of_alpha_says_how_often_an_item_is_drawn() -> None:
    counts = np.array([1, 4, 0, 16])
    for alpha, shares in ((0.0, [1 / 3, 1 / 3, 0, 1 / 3]), (0.5, [1 / 7, 2 / 7, 0, 4 / 7]), (1.0, [1, 4, 0, 16])):
        sampler = NegativeSampler(counts, alpha, RNG(0))
        expected = np.array(shares) / np.sum(shares)
        np.testing.assert_allclose(sampler.probability, expected)
        found = np.bincount(sampler.draw(20_000), minlength=4) / 20_000
        np.testing.assert_allclose(found, expected, atol=0.015)


def test_who_chose_nearly_everything_still_gets_the_item_that_is_left() -> None:
    counts = np.array([10_000, 10_000, 1])  # rejection alone would hardly ever find item 2
    sampler = NegativeSampler(counts, 1.0, RNG(0), KnownPositives(np.array([0, 0]), np.array([0, 1]), 3))
    assert (sampler.draw_for(np.array([0, 1]), 4, np.array([0, 0])) == 2).all()


def test_the_same_seed_draws_the_same() -> None:
    counts = np.arange(1, 50)
    one, other = (NegativeSampler(counts, 1.0, RNG(5)).draw_for(np.arange(49), 3) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_shared_uniform_negatives_are_all_different_and_each_is_as_likely_as_said() -> None:
    sampler = NegativeSampler(np.array([3, 0, 5, 1]), 0.0, RNG(0))
    assert sorted(sampler.draw_shared(100)) == [0, 2, 3]
    np.testing.assert_allclose(sampler.expected(100), [1, 0, 1, 1])
    np.testing.assert_allclose(sampler.expected(2), [2 / 3, 0, 2 / 3, 2 / 3])
    np.testing.assert_allclose(NegativeSampler(np.array([1, 3]), 1.0, RNG(0)).expected(8), [2, 6])


def test_a_table_with_three_negatives_for_each_rating_is_four_times_as_long_and_three_quarters_negative() -> None:
    rng = RNG(0)
    users, items = rng.integers(0, 3000, 5000), (rng.random(5000) ** 3 * 400).astype(np.int64)
    table = with_negatives(users, items, rng.uniform(3, 5, 5000), 400, rng, k=3, alpha=1.0)
    assert len(table.users) == len(table.items) == len(table.ratings) == 20_000
    assert table.is_negative.mean() == 0.75
    made_up = table.ratings[table.is_negative]
    assert 0 <= made_up.min() < 0.01
    assert 1.99 < made_up.max() <= 2
    assert made_up.mean() == pytest.approx(1.0, abs=0.02)
    known = KnownPositives(users, items, 400)
    assert not known.contains(table.users[table.is_negative], table.items[table.is_negative]).any()
    share = np.bincount(table.items[table.is_negative], minlength=400) / 15_000
    assert np.corrcoef(share, np.bincount(items, minlength=400))[0, 1] > 0.98


def items_of(n: int = 30, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def miner(n: int = 30, top_k: int = 5, known: KnownPositives | None = None) -> HardNegatives:
    return HardNegatives(HardNegativeSettings(share=0.1, top_k=top_k), np.arange(n), RNG(0), known)  # item 0: untrained


def test_hard_negatives_are_the_best_scored_that_the_user_did_not_choose() -> None:
    items, query = items_of(), items_of(4, seed=1)
    users, targets = np.array([0, 1, 2, 3]), np.array([5, 6, 7, 8])
    best = (query @ items.T).argsort(dim=1, descending=True).numpy()
    known = KnownPositives(np.repeat(users, 3), best[:, :3].ravel(), 30)
    hard = miner(known=known)
    hard.refresh(items)
    drawn = hard.draw(targets, 200, users, query)
    assert drawn is not None
    for row in range(4):
        allowed = [i for i in best[row] if i not in best[row, :3] and i not in {0, targets[row]}][:5]
        assert set(drawn[row]) == set(allowed)


def test_without_a_query_what_is_near_the_target_is_hard() -> None:
    items, hard = items_of(), miner(top_k=1)
    hard.refresh(items)
    drawn = hard.draw(np.array([5, 6]), 1)
    assert drawn is not None
    similar = items @ items.T
    similar[:, 0] = similar.diagonal()[:] = -1
    assert drawn[:, 0].tolist() == similar[[5, 6]].argmax(1).tolist()


def test_hard_negatives_stop_for_an_epoch_whose_item_vectors_lie_together(caplog: pytest.LogCaptureFixture) -> None:
    hard = miner()
    with caplog.at_level(logging.WARNING):
        hard.refresh(F.normalize(items_of() + 2, dim=1))
    assert not hard.on
    assert hard.draw(np.array([5]), 3) is None
    assert "hard negatives off for this epoch: mean cosine" in caplog.text
    hard.refresh(items_of())
    assert hard.on


def test_hard_negatives_stop_when_nearly_all_of_them_outscore_the_positive(caplog: pytest.LogCaptureFixture) -> None:
    hard = miner()
    hard.refresh(items_of())
    positive = torch.zeros(1000)
    hard.watch(positive, torch.cat([torch.ones(850, 1), -torch.ones(150, 1)]))
    assert hard.on
    with caplog.at_level(logging.WARNING):
        hard.watch(positive, torch.ones(1000, 1))
    assert not hard.on
    assert "0.925 of 2000 score above the positive" in caplog.text


def test_vectors_that_are_not_finite_switch_hard_negatives_off() -> None:
    hard = miner()
    hard.refresh(items_of() * torch.nan)
    assert not hard.on


def test_mean_cosine_of_orthogonal_and_of_equal_vectors() -> None:
    assert mean_cosine(torch.eye(50), RNG(0)) == pytest.approx(0)
    assert mean_cosine(torch.ones(50, 4), RNG(0)) == pytest.approx(1)
    assert np.isnan(mean_cosine(torch.ones(1, 4), RNG(0)))
