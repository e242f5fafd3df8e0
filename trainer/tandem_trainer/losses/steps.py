"""Each loss as a training step uses it: which items it needs, and what it makes of their vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tandem_trainer.losses.full_softmax import full_softmax_loss
from tandem_trainer.losses.hard import HardNegatives
from tandem_trainer.losses.negatives import MixedNegatives, NegativeSampler
from tandem_trainer.losses.scores import bpr_loss, gbce_beta, gbce_loss, triplet_loss
from tandem_trainer.losses.settings import LossSettings
from tandem_trainer.losses.softmax import in_batch_softmax_loss, sampled_softmax_loss

_FEW = 16  # negatives of a row up to which gathering their vectors is cheaper than a product with all of them


class FullSoftmax:
    """All of the catalogue; only items without training events are no negatives."""

    def __init__(self, settings: LossSettings, counts: NDArray[np.integer]) -> None:
        self._settings = settings
        untrained = torch.from_numpy(np.asarray(counts) == 0)
        self._bias = torch.zeros(len(counts)).masked_fill(untrained, -torch.inf) if untrained.any() else None

    def refresh(self, item_vectors: Tensor) -> None:
        """Nothing is mined: all items are negatives already."""

    def rows(
        self, target_rows: NDArray[np.int64], user_of: NDArray[np.integer] | None = None, query: Tensor | None = None
    ) -> NDArray[np.int64] | None:
        return None

    def loss(
        self,
        query: Tensor,
        vectors: Tensor,
        rows: NDArray[np.int64] | None,
        target_rows: NDArray[np.int64],
        weight: Tensor | None = None,
    ) -> Tensor:
        targets, settings = torch.from_numpy(target_rows), self._settings
        return full_softmax_loss(query, vectors, targets, settings.temperature, weight, self._bias, settings.chunk)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A step: targets [B], negatives [E] shared or [B, k], hard ones [B, H] of each row, all the rows it takes."""

    targets: NDArray[np.int64]
    negatives: NDArray[np.int64]
    hard: NDArray[np.int64] | None
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Vectors:
    """The vectors of a step's catalogue rows; rows None: of all."""

    all: Tensor
    rows: NDArray[np.int64] | None

    def places(self, wanted: NDArray[np.int64]) -> Tensor:
        """Return int64, where among the vectors each wanted row is; any place for -1."""
        places = np.maximum(wanted, 0)
        if self.rows is not None:
            places = np.searchsorted(self.rows, places).clip(max=len(self.rows) - 1)
        return torch.from_numpy(places)

    def of(self, wanted: NDArray[np.int64]) -> Tensor:
        # F.embedding and not indexing: its gradient adds up in a fixed order, and faster.
        return F.embedding(self.places(wanted), self.all)


class _Sampled(ABC):
    """What losses with drawn negatives have in common."""

    def __init__(self, settings: LossSettings, hard: HardNegatives) -> None:
        self._settings, self._hard = settings, hard
        self._step: _Drawn | None = None

    def refresh(self, item_vectors: Tensor) -> None:
        self._hard.refresh(item_vectors)

    def rows(
        self, target_rows: NDArray[np.int64], user_of: NDArray[np.integer] | None = None, query: Tensor | None = None
    ) -> NDArray[np.int64] | None:
        negatives = self._draw(target_rows, user_of)
        hard = self._hard.draw(target_rows, self._hard_count(len(target_rows), negatives), user_of, query)
        every = np.unique(np.concatenate([target_rows, negatives.ravel(), *([] if hard is None else [hard.ravel()])]))
        self._step = _Drawn(target_rows, negatives, hard, every[every >= 0])  # -1: there was none
        return self._step.rows

    def loss(
        self,
        query: Tensor,
        vectors: Tensor,
        rows: NDArray[np.int64] | None,
        target_rows: NDArray[np.int64],
        weight: Tensor | None = None,
    ) -> Tensor:
        step = self._step
        if (
            step is None
            or not np.array_equal(step.targets, target_rows)
            or not (rows is None or np.array_equal(rows, step.rows))
        ):
            raise ValueError("loss() got another step than rows() was last asked for: call rows() before each loss()")
        return self._loss(query, _Vectors(vectors, rows), step, weight)

    @abstractmethod
    def _draw(self, targets: NDArray[np.int64], user_of: NDArray[np.integer] | None) -> NDArray[np.int64]:
        """Return the negatives that are not hard."""

    @abstractmethod
    def _hard_count(self, batch: int, negatives: NDArray[np.int64]) -> int:
        """Return how many hard negatives a row gets."""

    @abstractmethod
    def _loss(self, query: Tensor, vectors: _Vectors, step: _Drawn, weight: Tensor | None) -> Tensor:
        """Return the loss."""

    def _beside(self, others: int) -> int:
        """How many hard ones beside `others`, so that they are the share of all that is asked for; at least one."""
        share = self._settings.hard.share
        return max(1, round(share / (1 - share) * others))

    def _own(
        self, query: Tensor, positive: Tensor, vectors: _Vectors, step: _Drawn, log_q: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return vectors [B, H, D] and log_q [B, H] of the hard negatives; they count as if drawn like the others."""
        if step.hard is None:
            return None, None
        items, missing = vectors.of(step.hard), torch.from_numpy(step.hard < 0)
        with torch.no_grad():
            scores = torch.bmm(items, query.unsqueeze(2)).squeeze(2)
            self._hard.watch((query * positive).sum(1), scores.masked_fill(missing, torch.nan))
        return items, log_q[step.hard].masked_fill(missing, torch.inf)


class SampledSoftmax(_Sampled):
    """Negatives drawn once for the whole batch."""

    def __init__(self, settings: LossSettings, hard: HardNegatives, sampler: NegativeSampler) -> None:
        super().__init__(settings, hard)
        self._sampler = sampler
        expected = np.maximum(sampler.expected(settings.count), 1e-12)
        self._log_count = torch.from_numpy(np.log(expected).astype(np.float32))

    def _draw(self, targets: NDArray[np.int64], user_of: NDArray[np.integer] | None) -> NDArray[np.int64]:
        return self._sampler.draw_shared(self._settings.count)

    def _hard_count(self, batch: int, negatives: NDArray[np.int64]) -> int:
        return self._beside(len(negatives))

    def _loss(self, query: Tensor, vectors: _Vectors, step: _Drawn, weight: Tensor | None) -> Tensor:
        positive = vectors.of(step.targets)
        own, own_log_count = self._own(query, positive, vectors, step, self._log_count)
        return sampled_softmax_loss(
            query,
            positive,
            torch.from_numpy(step.targets),
            vectors.of(step.negatives),
            self._log_count[step.negatives],
            torch.from_numpy(step.negatives),
            self._settings.temperature,
            weight,
            own,
            own_log_count,
        )


class InBatchSoftmax(_Sampled):
    """The other rows' positives, and where mixed also uniform negatives."""

    def __init__(
        self, settings: LossSettings, hard: HardNegatives, counts: NDArray[np.integer], rng: np.random.Generator
    ) -> None:
        super().__init__(settings, hard)
        self._counts, self._rng = np.asarray(counts, np.int64), rng
        self._uniform = settings.count if settings.name == "mixed" else 0
        self._sampler = MixedNegatives(self._counts, 1, self._uniform, rng)

    def _draw(self, targets: NDArray[np.int64], user_of: NDArray[np.integer] | None) -> NDArray[np.int64]:
        if self._sampler.batch_size != len(targets):  # an epoch's last batch: other shares of the two kinds
            self._sampler = MixedNegatives(self._counts, len(targets), self._uniform, self._rng)
        return self._sampler.draw()

    def _hard_count(self, batch: int, negatives: NDArray[np.int64]) -> int:
        return self._beside(batch - 1 + len(negatives))

    def _loss(self, query: Tensor, vectors: _Vectors, step: _Drawn, weight: Tensor | None) -> Tensor:
        positive, log_q = vectors.of(step.targets), self._sampler.log_q
        own, own_log_q = self._own(query, positive, vectors, step, log_q)
        return in_batch_softmax_loss(
            query,
            positive,
            log_q[step.targets],
            torch.from_numpy(step.targets),
            self._settings.temperature,
            weight,
            vectors.of(step.negatives),
            log_q[step.negatives],
            torch.from_numpy(step.negatives),
            own,
            own_log_q,
        )


class OwnNegatives(_Sampled):
    """k negatives of each row, never a known positive of its user: BCE, gBCE, BPR, triplet."""

    def __init__(
        self, settings: LossSettings, hard: HardNegatives, sampler: NegativeSampler, rng: np.random.Generator
    ) -> None:
        super().__init__(settings, hard)
        self._sampler, self._rng = sampler, rng
        catalogue = len(sampler.items)
        if settings.name == "gbce" and settings.count >= catalogue:
            raise ValueError(
                f"gbce: {settings.count} negatives of a catalogue of {catalogue} trained items; ask for fewer, or use "
                f"full_softmax"
            )
        self._beta = gbce_beta(settings.count, catalogue, settings.t) if settings.name == "gbce" else 1.0

    def _draw(self, targets: NDArray[np.int64], user_of: NDArray[np.integer] | None) -> NDArray[np.int64]:
        return self._sampler.draw_for(targets, self._settings.count, user_of)

    def _hard_count(self, batch: int, negatives: NDArray[np.int64]) -> int:
        return self._settings.count

    def _loss(self, query: Tensor, vectors: _Vectors, step: _Drawn, weight: Tensor | None) -> Tensor:
        negatives = step.negatives
        if step.hard is not None:  # in the place of others, so that k = 1 has a share of them too
            takes = (self._rng.random(negatives.shape) < self._settings.hard.share) & (step.hard >= 0)
            negatives = np.where(takes, step.hard, negatives)
        positive = (query * vectors.of(step.targets)).sum(1)
        scores = self._scores(query, vectors, negatives)
        if step.hard is not None:
            hard = scores.detach().masked_fill(torch.from_numpy(~takes), torch.nan)
            self._hard.watch(positive.detach(), hard)
        there = torch.from_numpy(negatives >= 0) if (negatives < 0).any() else None
        settings = self._settings
        if settings.name == "triplet":
            return triplet_loss(positive, scores, settings.margin, weight, there)
        positive, scores = positive / settings.temperature, scores / settings.temperature
        if settings.name == "bpr":
            return bpr_loss(positive, scores, weight, there)
        return gbce_loss(positive, scores, self._beta, weight, there)

    @staticmethod
    def _scores(query: Tensor, vectors: _Vectors, negatives: NDArray[np.int64]) -> Tensor:
        """Return float [B, k]."""
        if negatives.shape[1] <= _FEW:
            return torch.bmm(vectors.of(negatives), query.unsqueeze(2)).squeeze(2)
        return (query @ vectors.all.T).gather(1, vectors.places(negatives))
