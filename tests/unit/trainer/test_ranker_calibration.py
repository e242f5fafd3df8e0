from __future__ import annotations

import numpy as np
import pytest
import torch

from tandem_core.metrics.calibration import calibration_curve, log_losses
from tandem_trainer.ranker_calibration import Platt, Ramps, fit_calibrator


def sampled(n: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds that say twice what is true, and what happened."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 1.5, n)
    return logits * 2, (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.float64)


@pytest.mark.parametrize("kind", ["isotonic", "platt"])
def test_probabilities_mean_what_they_say_after_calibration_and_did_not_before(kind: str) -> None:
    logits, happened = sampled()
    half = len(logits) // 2
    calibrate = fit_calibrator(kind, logits[:half], happened[:half], np.ones(half))  # type: ignore[arg-type]
    base = happened[half:].mean()
    said = calibrate(torch.from_numpy(logits[half:])).numpy()
    raw = 1 / (1 + np.exp(-logits[half:]))
    assert calibration_curve(said, happened[half:]).error < 0.1 * base < calibration_curve(raw, happened[half:]).error
    assert log_losses(said, happened[half:]).mean() < log_losses(raw, happened[half:]).mean()
    order = np.argsort(logits[half:])
    assert (np.diff(said[order]) >= -1e-6).all()  # calibration never turns two candidates around


def test_platt_finds_the_scale_and_shift_that_made_the_data() -> None:
    logits, happened = sampled()
    found = fit_calibrator("platt", logits, happened, np.ones(len(logits)))
    assert isinstance(found, Platt)
    assert found.scale == pytest.approx(0.5, abs=0.03)
    assert found.shift == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("kind", ["isotonic", "platt"])
def test_a_weight_is_so_many_candidates(kind: str) -> None:
    logits, happened = np.array([-1.0, 0.0, 0.5, 1.0]), np.array([0.0, 1, 0, 1])
    weighted = fit_calibrator(kind, logits, happened, np.array([3.0, 1, 1, 1]))  # type: ignore[arg-type]
    again = np.array([0, 0, 0, 1, 2, 3])
    repeated = fit_calibrator(kind, logits[again], happened[again], np.ones(6))  # type: ignore[arg-type]
    at = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(weighted(at), repeated(at), atol=1e-4, rtol=1e-4)


def test_ramps_are_linear_between_knots_and_flat_outside() -> None:
    ramps = Ramps(np.array([-1.0, 0, 2]), np.array([0.1, 0.3, 0.7]))
    got = ramps(torch.tensor([-9.0, -1, -0.5, 0, 1, 2, 9]))
    torch.testing.assert_close(got, torch.tensor([0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 0.7]))


def test_with_nothing_right_the_models_own_probability_is_kept() -> None:
    keep = fit_calibrator("isotonic", np.zeros(3), np.zeros(3), np.ones(3))
    torch.testing.assert_close(keep(torch.zeros(1)), torch.tensor([0.5]))


def test_the_error_of_a_known_curve() -> None:
    said, happened = np.array([0.1, 0.1, 0.6, 0.8]), np.array([0.0, 0, 1, 1])
    curve = calibration_curve(said, happened, bins=2)
    np.testing.assert_allclose(curve.predicted, [0.1, 0.7])
    np.testing.assert_allclose(curve.observed, [0, 1])
    assert curve.error == pytest.approx((0.1 + 0.3) / 2)
    np.testing.assert_allclose(log_losses(said, happened), -np.log([0.9, 0.9, 0.6, 0.8]))
    with pytest.raises(ValueError, match="no probabilities"):
        calibration_curve(np.empty(0), np.empty(0))
