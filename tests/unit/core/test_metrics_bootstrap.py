from __future__ import annotations

import numpy as np
import pytest

from tandem_core.metrics import Interval, mean_interval, mean_intervals, paired_difference


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_interval_covers_a_known_mean_about_as_often_as_it_says() -> None:
    # 200 samples of an exponential of mean 2: 95 % would be 190; 3 standard deviations of that count are 9.
    inside = 0
    for seed in range(200):
        interval = mean_interval(seeded(seed).exponential(2.0, 200), rng=seeded(1000 + seed), resamples=400)
        inside += interval.low <= 2.0 <= interval.high
    assert 178 <= inside <= 199  # a skewed sample is covered a little less often than said


def test_the_interval_is_as_wide_as_the_normal_theory_says() -> None:
    values = seeded().normal(5.0, 3.0, 4000)
    interval = mean_interval(values, rng=seeded(1))
    half = 1.96 * values.std() / np.sqrt(4000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=half / 10)
    assert interval.high == pytest.approx(values.mean() + half, abs=half / 10)
    assert interval.n == 4000


def test_a_lower_level_gives_a_narrower_interval() -> None:
    values = seeded().random(300)
    wide, narrow = (mean_interval(values, rng=seeded(1), level=level) for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_difference_of_identical_arms_is_exactly_0() -> None:
    arm = seeded().random(500)
    assert paired_difference(arm, arm.copy(), rng=seeded(1)) == Interval(0.0, 0.0, 0.0, 500)


def test_a_constant_gain_for_every_user_is_certain_however_much_users_differ() -> None:
    theirs = seeded().integers(0, 100, 500).astype(np.float64)
    assert paired_difference(theirs + 0.25, theirs, rng=seeded(1)) == Interval(0.25, 0.25, 0.25, 500)


def test_the_difference_has_the_sign_of_ours_less_theirs() -> None:
    interval = paired_difference(np.array([1.0, 0.75, 0.5]), np.array([0.5, 0.25, 0.25]), rng=seeded())
    assert interval.mean == pytest.approx((0.5 + 0.5 + 0.25) / 3)
    assert interval.low >= 0.25


def test_nans_are_dropped_and_not_counted() -> None:
    with_nan = np.array([1.0, np.nan, 3.0, np.nan])
    assert mean_interval(with_nan, rng=seeded()) == mean_interval(np.array([1.0, 3.0]), rng=seeded())
    pair = paired_difference(with_nan, np.array([np.nan, 1.0, 1.0, np.nan]), rng=seeded())
    assert pair == Interval(2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_no_users_give_a_nan_interval(values: list[float]) -> None:
    interval = mean_interval(np.array(values), rng=seeded())
    assert np.isnan([interval.mean, interval.low, interval.high]).all()
    assert interval.n == 0


def test_the_same_seed_repeats_and_another_differs() -> None:
    values = seeded().random(100)
    first, again, other = (mean_interval(values, rng=seeded(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_resamples_drawn_in_many_blocks_stay_resamples() -> None:
    # 2^20 // 300,000 = 3 resamples to a block, so the seven drawn here fall into three blocks.
    values = np.arange(300_000, dtype=np.float64)
    interval = mean_interval(values, rng=seeded(), resamples=7)
    spread = values.std() / np.sqrt(300_000)
    assert abs(interval.low - values.mean()) < 5 * spread
    assert interval.low < interval.high


def test_columns_keep_their_order_and_their_own_missing_users() -> None:
    columns = {
        "b": np.array([1.0, 2.0, 3.0]),
        "a": np.array([np.nan, 1.0, 2.0]),
        "c": np.array([3.0, 2.0, 1.0]),
    }
    found = mean_intervals(columns, rng=seeded())
    assert list(found) == ["b", "a", "c"]
    assert [each.n for each in found.values()] == [3, 2, 3]
    assert [each.mean for each in found.values()] == [2.0, 1.5, 2.0]
    # b and c mirror each other, and share their resamples.
    assert found["b"].low - 2 == pytest.approx(2 - found["c"].high)


def test_values_that_have_no_mean_are_refused() -> None:
    infinite = np.array([1.0, np.inf])
    with pytest.raises(ValueError, match="values is infinite at user 1"):
        mean_interval(infinite, rng=seeded())
    with pytest.raises(ValueError, match="infinite at user 1"):
        paired_difference(infinite, infinite, rng=seeded())
    with pytest.raises(ValueError, match="same users"):
        paired_difference(np.ones(2), np.ones(3), rng=seeded())


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"level": 0.0}, {"level": 1.0}, {"level": 95.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="resamples is"):
        mean_interval(np.ones(2), rng=seeded(), **wrong)  # type: ignore[arg-type]
