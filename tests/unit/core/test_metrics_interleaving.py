from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tandem_core.interleaving import team_draft
from tandem_core.metrics.interleaving import credit, sign_test


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def counts(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (8, 2), (0, 12), (60, 40), (700, 800), (3000, 1)])
def test_the_sign_test_is_the_exact_binomial_one(wins: int, losses: int) -> None:
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert sign_test(losses, wins) == sign_test(wins, losses)


def test_a_list_is_won_by_the_team_with_more_clicks() -> None:
    told = credit(counts(2, 0, 1, 0, 3), counts(1, 0, 1, 2, 0), rng=seeded())
    assert (told.wins, told.losses, told.ties) == (2, 1, 2)
    assert told.preference.mean == pytest.approx((2 + 1) / 5 - 0.5)
    assert told.preference.n == 5


def test_the_lists_of_one_unit_are_one_vote() -> None:
    told = credit(counts(1, 1, 0, 0), counts(0, 0, 1, 1), units=counts(7, 7, 7, 8), rng=seeded())
    assert (told.wins, told.losses, told.ties) == (1, 1, 0)


def test_nothing_shown_tells_nothing() -> None:
    told = credit(counts(), counts(), rng=seeded())
    assert (told.wins, told.losses, told.ties, told.p_value) == (0, 0, 0, 1.0)
    assert np.isnan(told.preference.mean)


@pytest.mark.parametrize(
    ("ours", "theirs", "units"),
    [(counts(1), counts(1, 2), None), (counts(-1), counts(0), None), (counts(1), counts(1), counts(1, 2))],
)
def test_what_cannot_be_counted_is_refused(ours: np.ndarray, theirs: np.ndarray, units: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="clicks"):
        credit(ours, theirs, units=units, rng=seeded())


def duel(better: float, seed: int, lists: int = 150) -> float:
    """Return the p-value of a duel: team 0's best item is liked with probability `better`, the others' with 0.2."""
    rng = seeded(seed)
    clicks = np.zeros((lists, 2), np.int64)
    for i in range(lists):
        for pick in team_draft(range(6), range(10, 16), 6, seed * 10_000 + i):
            likes = better if pick.row == 0 else 0.2
            clicks[i, pick.team] += rng.random() < likes
    return credit(clicks[:, 0], clicks[:, 1], rng=seeded(), resamples=2).p_value


def test_equal_lists_are_found_different_about_as_often_as_the_level_says_and_unequal_ones_are_found() -> None:
    equal = sum(duel(0.2, seed) < 0.05 for seed in range(100))
    assert equal <= 12  # 5 expected or fewer: the exact test is conservative
    assert all(duel(0.9, seed) < 0.05 for seed in range(5))
