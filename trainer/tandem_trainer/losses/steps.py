"""Each loss as a training step uses it: which items it needs, and what it makes of their vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tandem_trainer.losses.full_softmax import Taught, full_softmax_loss
from tandem_trainer.losses.hard import HardNegatives
from tandem_trainer.losses.negatives import KnownPositives, MixedNegatives, NegativeSampler
from tandem_trainer.losses.scores import bpr_loss, gbce_beta, gbce_loss, triplet_loss
from tandem_trainer.losses.settings import LossSettings
from tandem_trainer.losses.softmax import in_batch_softmax_loss, sampled_softmax_loss

_FEW = 16  # negatives of a row up to which gathering their vectors is cheaper than a product with all of them


class FullSoftmax:
    """All of the catalogue; only items without training events are no negatives, and what `spared` says of the user."""

    def __init__(
        self, settings: LossSettings, counts: NDArray[np.integer], spared: KnownPositives | None = None
    ) -> None:
        self._settings, self._spared = settings, spared
        self._pairs: tuple[Tensor, Tensor] | None = None
        untrained = torch.from_numpy(np.asarray(counts) == 0)
        self._bias = torch.zeros(len(counts)).masked_fill(untrained, -torch.inf) if untrained.any() else None

    def refresh(self, item_vectors: Tensor) -> None:
        """Nothing is mined: all items are negatives already."""

    def rows(
        self, target_rows: NDArray[np.int64], user_of: NDArray[np.integer] | None = None, query: Tensor | None = None
    ) -> NDArray[np.int64] | None:
        if self._spared is not None and user_of is not None:
            of, rows = self._spared.pairs(user_of)
            self._pairs = torch.from_numpy(of), torch.from_numpy(rows)
        return None

    def loss(
        self,
        query: Tensor,
        vectors: Tensor,
        rows: NDArray[np.int64] | None,
        target_rows: NDArray[np.int64],
        weight: Tensor | None = None,
        taught: Taught | None = None,
    ) -> Tensor:
        targets, settings = torch.from_numpy(target_rows), self._settings
        given = settings.temperature, weight, self._bias, settings.chunk, self._pairs, taught
        return full_softmax_loss(query, vectors, targets, *given)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A step: targets [B], negatives [E] shared or [B, k], hard ones [B, H] of each row, all the rows it takes.

    is_hard: bool [B, k], where hard ones took the place of others.
    """

    targets: NDArray[np.int64]
    negatives: NDArray[np.int64]
    hard: NDArray[np.int64] | None
    rows: NDArray[np.int64]
    is_hard: NDArray[np.bool_] | None = None


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

    def scores(self, query: Tensor, wanted: NDArray[np.int64]) -> Tensor:
        """Return float [B, k], each row of query [B, D] with wanted rows [B, k]."""
        if wanted.shape[1] <= _FEW:
            return torch.bmm(self.of(wanted), query.unsqueeze(2)).squeeze(2)
        return (query @ self.all.T).gather(1, self.places(wanted))


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
        self._step = self._draw(target_rows, user_of, query)
        return self._step.rows

    def loss(
        self,
        query: Tensor,
        vectors: Tensor,
        rows: NDArray[np.int64] | None,
        target_rows: NDArray[np.int64],
        weight: Tensor | None = None,
        taught: Taught | None = None,
    ) -> Tensor:
        if taught is not None:
            raise ValueError(f"the loss {self._settings.name} has no use for a teacher: only full_softmax has")
        step = self._step
        if (
            step is None
            or not np.array_equal(step.targets, target_rows)
            or not (rows is None or np.array_equal(rows, step.rows))
        ):
            raise ValueError("loss() got another step than rows() was last asked for: call rows() before each loss()")
        return self._loss(query, _Vectors(vectors, rows), step, weight)

    @abstractmethod
    def _draw(self, targets: NDArray[np.int64], user_of: NDArray[np.integer] | None, query: Tensor | None) -> _Drawn:
        """Return the step."""

    @abstractmethod
    def _loss(self, query: Tensor, vectors: _Vectors, step: _Drawn, weight: Tensor | None) -> Tensor:
        """Return the loss."""

    def _with_hard(
        self,
        targets: NDArray[np.int64],
        negatives: NDArray[np.int64],
        others: int,
        user_of: NDArray[np.integer] | None,
        query: Tensor | None,
    ) -> _Drawn:
        """Return a step with shared negatives and, beside a row's `others`, so many hard ones as their share says."""
        share = self._settings.hard.share
        hard = self._hard.draw(targets, max(1, round(share / (1 - share) * others)), user_of, query)
        return _Drawn(targets, negatives, hard, _all_of(targets, negatives, hard))

    def _own(
        self, query: Tensor, positive: Tensor, vectors: _Vectors, step: _Drawn, log_q: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return scores and log_q of the hard negatives, [B, H]; they count as if drawn like the others."""
        if step.hard is None:
            return None, None
        scores, missing = vectors.scores(query, step.hard), torch.from_numpy(step.hard < 0)
        self._hard.watch((query * positive).sum(1).detach(), scores.detach().masked_fill(missing, torch.nan))
        return scores, log_q[step.hard].masked_fill(missing, torch.inf)


def _all_of(*parts: NDArray[np.int64] | None) -> NDArray[np.int64]:
    every = np.unique(np.concatenate([part.ravel() for part in parts if part is not None]))
    return every[every >= 0]  # -1: there was none


class SampledSoftmax(_Sampled):
    """Negatives drawn once for the whole batch."""

    def __init__(self, settings: LossSettings, hard: HardNegatives, sampler: NegativeSampler) -> None:
        super().__init__(settings, hard)
        self._sampler = sampler
        expected = np.maximum(sampler.expected(settings.count), 1e-12)
        self._log_count = torch.from_numpy(np.log(expected).astype(np.float32))

    def _draw(self, targets: NDArray[np.int64], user_of: NDArray[np.integer] | None, query: Tensor | None) -> _Drawn:
        negatives = self._sampler.draw_shared(self._settings.count)
        return self._with_hard(targets, negatives, len(negatives), user_of, query)

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

    def _draw(self, targets: NDArray[np.int64], user_of: NDArray[np.integer] | None, query: Tensor | None) -> _Drawn:
        if self._sampler.batch_size != len(targets):  # an epoch's last batch: other shares of the two kinds
            self._sampler = MixedNegatives(self._counts, len(targets), self._uniform, self._rng)
        negatives = self._sampler.draw()
        return self._with_hard(targets, negatives, len(targets) - 1 + len(negatives), user_of, query)

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

    def _draw(self, targets: NDArray[np.int64], user_of: NDArray[np.integer] | None, query: Tensor | None) -> _Drawn:
        negatives = self._sampler.draw_for(targets, self._settings.count, user_of)
        if not self._hard.on:
            return _Drawn(targets, negatives, None, _all_of(targets, negatives))
        # In the place of others, so that k = 1 has a share of them too; mined only for rows that get one.
        takes = self._rng.random(negatives.shape) < self._settings.hard.share
        some = np.flatnonzero(takes.any(1))
        users = None if user_of is None else user_of[some]
        near = None if query is None else query[torch.from_numpy(some)]
        hard = self._hard.draw(targets[some], negatives.shape[1], users, near)
        if hard is not None:
            takes[some] &= hard >= 0
            negatives[some] = np.where(takes[some], hard, negatives[some])
        return _Drawn(targets, negatives, None, _all_of(targets, negatives), takes)

    def _loss(self, query: Tensor, vectors: _Vectors, step: _Drawn, weight: Tensor | None) -> Tensor:
        positive = (query * vectors.of(step.targets)).sum(1)
        scores = vectors.scores(query, step.negatives)
        if step.is_hard is not None:
            self._hard.watch(positive.detach(), scores.detach().masked_fill(torch.from_numpy(~step.is_hard), torch.nan))
        there = torch.from_numpy(step.negatives >= 0) if (step.negatives < 0).any() else None
        settings = self._settings
        if settings.name == "triplet":
            return triplet_loss(positive, scores, settings.margin, weight, there)
        positive, scores = positive / settings.temperature, scores / settings.temperature
        if settings.name == "bpr":
            return bpr_loss(positive, scores, weight, there)
        return gbce_loss(positive, scores, self._beta, weight, there)
