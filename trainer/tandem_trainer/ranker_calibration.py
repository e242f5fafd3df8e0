"""Probabilities that mean what they say, as functions that an ONNX graph can hold."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn

_KNOTS = 24
_ROUNDS = 50
_TINY = 1e-6


class Ramps(nn.Module):
    """Linear between knots, flat before the first and after the last; 0 slope is allowed, so it may never fall."""

    at: Tensor
    length: Tensor
    slope: Tensor

    def __init__(self, at: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """at: [k], rising, at least one. values: [k]."""
        super().__init__()
        length = np.diff(at)
        self.first = float(values[0])
        self.register_buffer("at", torch.from_numpy(at[:-1]).float())
        self.register_buffer("length", torch.from_numpy(length).float())
        self.register_buffer("slope", torch.from_numpy(np.diff(values) / np.maximum(length, 1e-12)).float())

    def forward(self, logits: Tensor) -> Tensor:
        along = torch.minimum((logits.unsqueeze(1) - self.at).clamp(min=0), self.length)
        return self.first + (along * self.slope).sum(1)


class Platt(nn.Module):
    """sigmoid(a * logit + b) (Platt 1999)."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(self.scale * logits + self.shift)


def fit_calibrator(
    kind: Literal["isotonic", "platt"],
    logits: NDArray[np.floating],
    labels: NDArray[np.floating],
    weights: NDArray[np.floating],
) -> nn.Module:
    """Fit on candidates the model was not trained on, all [n].

    labels: 0 or 1. weights: candidates that each stands for.

    isotonic: the rising function of least squares (Zadrozny and Elkan, KDD 2002), read at knots between which equally
    many right candidates lie. Nothing right among them: the model's own probability is kept.
    """
    if not labels.any() or labels.all():
        return Platt(1.0, 0.0)
    exact = logits.astype(np.float64), labels.astype(np.float64), weights.astype(np.float64)
    return Platt(*_platt(*exact)) if kind == "platt" else Ramps(*_isotonic(*exact))


def _platt(
    logits: NDArray[np.float64], labels: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float]:
    """Return scale and shift of the least log-loss, by Newton's method."""
    inputs = np.stack([logits, np.ones_like(logits)], axis=1)
    theta = np.array([1.0, 0.0])
    for _ in range(_ROUNDS):
        p = 1 / (1 + np.exp(-np.clip(inputs @ theta, -30, 30)))
        gradient = inputs.T @ (weights * (p - labels))
        hessian = (inputs * (weights * p * (1 - p))[:, None]).T @ inputs + _TINY * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        theta -= np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return float(theta[0]), float(theta[1])


def _isotonic(
    logits: NDArray[np.float64], labels: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return knots and the probability at each: means of the isotonic fit between them, so that masses are kept."""
    fitted = IsotonicRegression(y_min=0, y_max=1).fit_transform(logits, labels, sample_weight=weights)
    by_logit = np.argsort(logits, kind="stable")
    logits, fitted, weights = logits[by_logit], fitted[by_logit], weights[by_logit]
    # As many expected right candidates between any two knots: where they are dense, the curve is known well.
    mass = np.cumsum(fitted * weights)
    part = np.minimum((mass / mass[-1] * _KNOTS).astype(np.int64), _KNOTS - 1)
    total = np.bincount(part, weights, minlength=_KNOTS)
    some = total > 0
    at = np.bincount(part, weights * logits, minlength=_KNOTS)[some] / total[some]
    values = np.bincount(part, weights * fitted, minlength=_KNOTS)[some] / total[some]
    return at, values
