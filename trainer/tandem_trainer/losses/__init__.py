"""What trains the towers: losses as pure functions, the sampling of negatives, and one object that joins them."""

from __future__ import annotations

from tandem_trainer.losses.choose import Loss, make_loss
from tandem_trainer.losses.full_softmax import Taught, full_softmax_loss
from tandem_trainer.losses.hard import HardNegatives, HardNegativeSettings, mean_cosine
from tandem_trainer.losses.negatives import (
    KnownPositives,
    MixedNegatives,
    NegativeSampler,
    RatedPairs,
    with_negatives,
)
from tandem_trainer.losses.scores import bce_loss, bpr_loss, gbce_beta, gbce_loss, rating_mse, triplet_loss
from tandem_trainer.losses.settings import SMALLEST_BATCH, LossSettings
from tandem_trainer.losses.softmax import in_batch_softmax_loss, sampled_softmax_loss

__all__ = [
    "SMALLEST_BATCH",
    "HardNegativeSettings",
    "HardNegatives",
    "KnownPositives",
    "Loss",
    "LossSettings",
    "MixedNegatives",
    "NegativeSampler",
    "RatedPairs",
    "Taught",
    "bce_loss",
    "bpr_loss",
    "full_softmax_loss",
    "gbce_beta",
    "gbce_loss",
    "in_batch_softmax_loss",
    "make_loss",
    "mean_cosine",
    "rating_mse",
    "sampled_softmax_loss",
    "triplet_loss",
    "with_negatives",
]
