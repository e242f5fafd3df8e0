"""From settings to a loss that a training loop can use without knowing which it is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tandem_trainer.losses.full_softmax import Taught
from tandem_trainer.losses.hard import HardNegatives
from tandem_trainer.losses.negatives import KnownPositives, NegativeSampler
from tandem_trainer.losses.settings import LossSettings
from tandem_trainer.losses.steps import FullSoftmax, InBatchSoftmax, OwnNegatives, SampledSoftmax


class Loss(Protocol):
    """What a training loop calls: `refresh` before an epoch, then for each step `rows` and with its answer `loss`."""

    def refresh(self, item_vectors: Tensor) -> None:
        """Take the item vectors of the moment, float [N, D], to mine hard negatives from."""

    def rows(
        self, target_rows: NDArray[np.int64], user_of: NDArray[np.integer] | None = None, query: Tensor | None = None
    ) -> NDArray[np.int64] | None:
        """Draw the step's negatives; return the catalogue rows whose vectors it needs, or None for all of them.

        target_rows: int64 [B]. user_of: int [B], numbers of users as in `KnownPositives`. query: float [B, D], to mine
        hard negatives with; None: near the target. Returns sorted int64 [M], targets included, none twice.
        """

    def loss(
        self,
        query: Tensor,
        vectors: Tensor,
        rows: NDArray[np.int64] | None,
        target_rows: NDArray[np.int64],
        weight: Tensor | None = None,
        taught: Taught | None = None,
    ) -> Tensor:
        """Return the scalar loss of the step that `rows` was last asked for.

        query: float [B, D]. vectors: float [M, D] of `rows`, or [N, D] of the catalogue with rows None. weight: float
        [B], at least one above 0; None: all 1. taught: what a teacher says, for the full softmax alone. Raises
        ValueError for another step.
        """
        ...


def make_loss(
    settings: LossSettings,
    counts: NDArray[np.integer],
    rng: np.random.Generator,
    positives: KnownPositives | None = None,
    spare_known: bool = False,
) -> Loss:
    """Return the loss of that name.

    counts: int [N], how often each catalogue item is a target; one without is never a negative. positives: not drawn
    as negatives of a row whose user is given (by losses with negatives of each row, and not as hard negatives).
    spare_known: the full softmax leaves them out, too.
    """
    if settings.name == "full_softmax":
        return FullSoftmax(settings, counts, positives if spare_known else None)
    hard = HardNegatives(settings.hard, counts, rng, positives)
    if settings.name in {"in_batch", "mixed"}:
        return InBatchSoftmax(settings, hard, counts, rng)
    sampler = NegativeSampler(counts, settings.alpha, rng, positives)
    if settings.name == "sampled_softmax":
        return SampledSoftmax(settings, hard, sampler)
    return OwnNegatives(settings, hard, sampler, rng)
