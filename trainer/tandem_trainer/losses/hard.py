"""Hard negatives: what the towers of the moment score highest among the items that the user did not choose."""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tandem_core.settings import Settings
from tandem_trainer.losses.negatives import KnownPositives

log = logging.getLogger(__name__)

_PAIRS = 2000  # random pairs of items: their mean cosine is then known to about .01
_ENOUGH = 1000  # hard negatives seen before their scores can switch them off


class HardNegativeSettings(Settings):
    """How many of the negatives are hard (5-10 % is the rule; 0 is off), and when that does harm."""

    share: float = Field(default=0.0, ge=0, le=0.1)
    top_k: int = Field(default=100, ge=1)  # drawn at random from so many: the very first are often unseen positives
    max_cosine: float = Field(default=0.5, gt=-1, le=1)  # mean over random pairs of items; above it vectors collapse
    max_above_positive: float = Field(default=0.9, gt=0, le=1)  # share of hard negatives that outscore the positive


class HardNegatives:
    """Mines hard negatives from item vectors given anew each epoch; stops for the epoch where vectors collapse."""

    def __init__(
        self,
        settings: HardNegativeSettings,
        counts: NDArray[np.integer],
        rng: np.random.Generator,
        positives: KnownPositives | None = None,
    ) -> None:
        """counts: int [N]; an item without training events is no negative. positives: never mined for their users."""
        self.settings = settings
        self._rng = rng
        self._positives = positives
        self._untrained = torch.from_numpy(np.asarray(counts) == 0)
        self._items: Tensor | None = None
        self._above = self._seen = 0

    @property
    def on(self) -> bool:
        """Whether hard negatives are drawn: asked for, vectors known, and nothing wrong with them."""
        return self._items is not None

    def refresh(self, item_vectors: Tensor) -> None:
        """Begin an epoch with the item vectors of the moment, float [N, D]."""
        self._above = self._seen = 0
        self._items = None
        if not self.settings.share:
            return
        item_vectors = item_vectors.detach()
        cosine = mean_cosine(item_vectors, self._rng)
        # Not "above": NaN must switch off, too.
        if not cosine <= self.settings.max_cosine:
            log.warning("hard negatives off for this epoch: mean cosine of random items is %.3f", cosine)
            return
        self._items = item_vectors

    @torch.no_grad()
    def draw(
        self,
        targets: NDArray[np.int64],
        count: int,
        users: NDArray[np.integer] | None = None,
        query: Tensor | None = None,
    ) -> NDArray[np.int64] | None:
        """Return int64 [B, count] of the top-K of each row, with repetition, -1 where there is none; None when off.

        targets: int64 [B]. users: int [B], needed for known positives to count. query: float [B, D], what is close to
        it is hard; None: what is close to the target.
        """
        if self._items is None:
            return None
        near = self._items[torch.from_numpy(targets)] if query is None else query
        scores = near @ self._items.T  # [B, N]
        scores[:, self._untrained] = -torch.inf
        scores.scatter_(1, torch.from_numpy(targets)[:, None], -torch.inf)
        if self._positives is not None and users is not None:
            of, rows = self._positives.pairs(users)
            scores[torch.from_numpy(of), torch.from_numpy(rows)] = -torch.inf
        top = scores.topk(min(self.settings.top_k, scores.shape[1]), dim=1)
        mined = torch.where(top.values > -torch.inf, top.indices, -1).numpy()
        there = np.maximum((mined >= 0).sum(1, keepdims=True), 1)  # those there come first
        chosen = (self._rng.random((len(targets), count)) * there).astype(np.int64)
        return np.take_along_axis(mined, chosen, axis=1)

    def watch(self, positive: Tensor, hard: Tensor) -> None:
        """Take note of scores: positive float [B], hard float [B, H], NaN where there is none."""
        self._above += int((hard > positive[:, None]).sum())
        self._seen += int(torch.isfinite(hard).sum())
        if self.on and self._seen >= _ENOUGH and self._above > self.settings.max_above_positive * self._seen:
            log.warning(
                "hard negatives off for this epoch: %.3f of %d score above the positive",
                self._above / self._seen,
                self._seen,
            )
            self._items = None


def mean_cosine(vectors: Tensor, rng: np.random.Generator) -> float:
    """Return the mean cosine of random pairs of different rows; vectors: float [N, D]. NaN for fewer than two rows."""
    n = len(vectors)
    if n < 2:
        return float("nan")
    one = rng.integers(0, n, _PAIRS)
    other = (one + rng.integers(1, n, _PAIRS)) % n
    return float(F.cosine_similarity(vectors[torch.from_numpy(one)], vectors[torch.from_numpy(other)]).mean())
