"""Scoring items that nobody chose yet: a linear item model whose columns are predicted from content.

Two steps. EASE (Steck, WWW 2019) says of each warm item how much a history speaks for it. A Gaussian process with a
content kernel (kernel ridge regression) carries these columns, and the logarithm of popularity, over to items without
events: attribute-to-factor mapping (Gantner et al., ICDM 2010) with whole columns in the place of factors. What no
data says is chosen on an inner split in which warm items play the cold ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray
from pydantic import Field

from tandem_core.metrics.accuracy import Relevant, hits, ndcg_at
from tandem_core.settings import Settings
from tandem_core.sources.cold_items_model import ColdItemModel
from tandem_trainer.content_kernel import MIXES, ContentKernel, Kernel, Mix

Histories: TypeAlias = scipy.sparse.csr_matrix  # [U, m], weight of each anchor in each history

MOST_COLUMNS = 3000  # of the score matrix, for its directions; each costs a row of the singular value decomposition
JUDGED = 20  # length of the lists by which settings are chosen


class ColdItemSettings(Settings):
    """The model of cold items. Tuples are what the inner split chooses from."""

    most_anchors: int = Field(default=6000, ge=1)  # the most chosen warm items; cost grows with the cube
    dims: int = Field(default=512, ge=1)  # fewer lose near-copies: NDCG@20 .396 at 256 against .408 (online-retail)
    ease_regularization: float = Field(default=300.0, gt=0)
    inner_splits: int = Field(default=2, ge=1)
    inner_fraction: float = Field(default=0.1, gt=0, lt=1)
    inner_users: int = Field(default=3000, ge=1)  # judged per split
    noises: tuple[float, ...] = (0.3, 1.0, 3.0)  # of the Gaussian process, in units of an item's own variance
    directs: tuple[float, ...] = (0.0, 0.3, 1.0)  # weight of being like an item of the history, beside EASE's
    priors: tuple[float, ...] = (0.0, 0.2, 0.4)  # power of the expected popularity in an item's score
    half_lives: tuple[float, ...] = (20.0, 100.0, 1e9)  # in events, of the weights of a history


@dataclass(frozen=True, slots=True)
class Choice:
    """What the inner split chose; ndcg: its mean there, to compare choices and for nothing else."""

    mix: Mix
    noise: float
    direct: float
    prior: float
    half_life: float
    ndcg: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Positive training events, oldest first. users: int [E] in 0..n_users-1. rows: int [E], catalogue rows."""

    users: NDArray[np.integer]
    rows: NDArray[np.integer]
    n_users: int


class TooLittleToLearn(ValueError):  # noqa: N818
    """The warm items and their events say nothing of cold ones; the text says what is missing."""


class ColdItemTrainer:
    """What choosing and fitting share: the anchors, their kernel and their events.

    items: the N rows of the catalogue. numbers: its number columns that tell what an item is. event_counts: int [N],
    training events; events of items with fewer than `cold_item_events` are left out.
    Raises TooLittleToLearn where fewer than two items are warm.
    """

    def __init__(
        self,
        items: pd.DataFrame,
        numbers: Sequence[str],
        events: Events,
        event_counts: NDArray[np.integer],
        cold_item_events: int,
        settings: ColdItemSettings,
        seed: int,
    ) -> None:
        warm = np.flatnonzero(event_counts >= max(cold_item_events, 1))
        if len(warm) < 2:
            raise TooLittleToLearn(
                f"{len(warm)} items have {cold_item_events} events or more: cold items need warm ones"
            )
        self._anchors = np.sort(warm[np.argsort(-event_counts[warm], kind="stable")[: settings.most_anchors]])
        self._cold = np.flatnonzero(event_counts < cold_item_events)
        self._kernel = ContentKernel(items, numbers, self._anchors)
        place = np.full(len(items), -1)
        place[self._anchors] = np.arange(len(self._anchors))
        kept = place[events.rows] >= 0
        self._events = Events(events.users[kept], place[events.rows[kept]], events.n_users)
        self._settings, self._seed = settings, seed

    def fit(self, choice: Choice) -> ColdItemModel:
        """Return the model of all cold items; it has no affinities: see `train_cold_items.with_affinity`."""
        alike = self._kernel(choice.mix, self._anchors, self._anchors)
        targets = self._kernel(choice.mix, self._anchors, self._cold)
        carried, prior = _carried(alike, targets, self._events, choice.noise)
        item_model = ease_weights(self._events, len(self._anchors), self._settings.ease_regularization)
        scores = _scores(item_model, carried, choice.direct)
        basis = _directions(scores, self._settings.dims, self._seed)
        return ColdItemModel(
            anchor_rows=self._anchors.astype(np.int32),
            anchor_vectors=basis.astype(np.float32),
            item_rows=self._cold.astype(np.int32),
            item_vectors=((scores * _quality(prior, choice.prior)).T @ basis).astype(np.float32),
            prior=prior.astype(np.float32),
            segments=(),
            affinity=np.empty((0, 0), np.float32),
            half_life=choice.half_life,
        )

    def choose(self) -> Choice:
        """Try every combination, then the half-lives with the best one, on anchors held out in turn.

        Raises TooLittleToLearn where no user has events on both sides.
        """
        settings = self._settings
        rng = np.random.default_rng(self._seed)
        m = len(self._anchors)
        size = max(1, min(round(settings.inner_fraction * m), m // (settings.inner_splits + 1)))
        held = rng.permutation(m)[: size * settings.inner_splits].reshape(settings.inner_splits, size)
        inner = [_Inner(self._events, np.sort(rows), m, settings, rng) for rows in held]
        found: dict[Choice, list[float]] = {}
        for mix in MIXES:
            alike = self._kernel(mix, self._anchors, self._anchors)
            for part, noise in itertools.product(inner, settings.noises):
                carried, prior = part.carry(alike, noise)
                for direct in settings.directs:
                    scores = part.judged @ _scores(part.item_model, carried, direct)
                    for power in settings.priors:
                        choice = Choice(mix, noise, direct, power, half_life=np.inf)
                        found.setdefault(choice, []).append(part.ndcg(scores * _quality(prior, power)))
        best = _best(found)
        alike = self._kernel(best.mix, self._anchors, self._anchors)
        by_half_life: dict[Choice, list[float]] = {}
        for part in inner:
            carried, prior = part.carry(alike, best.noise)
            scores = _scores(part.item_model, carried, best.direct) * _quality(prior, best.prior)
            for half_life in settings.half_lives:
                choice = replace(best, half_life=half_life)
                by_half_life.setdefault(choice, []).append(part.ndcg(part.histories(half_life) @ scores))
        return _best(by_half_life)


def _best(found: dict[Choice, list[float]]) -> Choice:
    best = max(found, key=lambda choice: float(np.mean(found[choice])))  # ties to the first tried
    return replace(best, ndcg=float(np.mean(found[best])))


def _quality(prior: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return the factors [n] by which expected popularity raises or lowers scores; 1 for an average item."""
    return np.exp(power * (prior - prior.mean())) if len(prior) else prior


class _Inner:
    """A split of the anchors: those held out play cold items, their events are the truth."""

    def __init__(
        self, events: Events, held: NDArray[np.intp], m: int, settings: ColdItemSettings, rng: np.random.Generator
    ) -> None:
        is_held = np.zeros(m, np.bool_)
        is_held[held] = True
        self._held, self._rest = held, np.flatnonzero(~is_held)
        place = np.where(is_held, np.cumsum(is_held) - 1, np.cumsum(~is_held) - 1)
        of_held = is_held[events.rows]
        self._known = Events(events.users[~of_held], place[events.rows[~of_held]], events.n_users)
        both = np.intersect1d(events.users[of_held], self._known.users)
        self._users = rng.permutation(both)[: settings.inner_users]
        if not len(self._users):
            raise TooLittleToLearn(
                "no user has events on items kept and on items held out: too few events for cold items"
            )
        number = np.full(events.n_users, -1)
        number[self._users] = np.arange(len(self._users))
        truth = of_held & (number[events.users] >= 0)
        self._relevant = Relevant.from_pairs(number[events.users[truth]], place[events.rows[truth]], len(self._users))
        self.item_model = ease_weights(self._known, len(self._rest), settings.ease_regularization)
        self.judged = self.histories(np.inf)

    def carry(self, alike: Kernel, noise: float) -> tuple[Kernel, NDArray[np.float64]]:
        rest = np.ix_(self._rest, self._rest)
        return _carried(alike[rest], alike[np.ix_(self._rest, self._held)], self._known, noise)

    def histories(self, half_life: float) -> Histories:
        return weighted_histories(self._known, len(self._rest), half_life)[self._users]

    def ndcg(self, scores: NDArray[np.float64]) -> float:
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :JUDGED].astype(np.int32)
        return float(np.nanmean(ndcg_at(hits(ranked, self._relevant), self._relevant, JUDGED)))


def weighted_histories(events: Events, m: int, half_life: float) -> Histories:
    """Return [U, m]: an item counts once, with the weight of its newest event, .5 ** (place / half_life)."""
    order = np.argsort(events.users, kind="stable")[::-1]  # by user, newest first
    users, rows = events.users[order], events.rows[order]
    _, first, of_event = np.unique(users, return_index=True, return_inverse=True)
    weights = np.exp2(-(np.arange(len(users)) - first[of_event]) / half_life)
    _, newest = np.unique(users.astype(np.int64) * m + rows, return_index=True)
    pairs = (users[newest], rows[newest])
    return scipy.sparse.csr_matrix((weights[newest].astype(np.float32), pairs), shape=(events.n_users, m))


def ease_weights(events: Events, m: int, regularization: float) -> NDArray[np.float64]:
    """Return EASE's weights [m, m]: entry (j, k) is how much item j in a history speaks for item k."""
    histories = weighted_histories(events, m, np.inf)
    gram = (histories.T @ histories).toarray().astype(np.float64)
    gram[np.diag_indices(m)] += regularization
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights: NDArray[np.float64] = -inverse / np.diag(inverse)
    weights[np.diag_indices(m)] = 0
    return weights


def _carried(
    alike: Kernel, targets: Kernel, events: Events, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [m, n], the weights with which anchors stand in for each target, and the targets' log popularity [n]."""
    regularized = alike.copy()
    regularized[np.diag_indices(len(alike))] += noise
    carried = scipy.linalg.solve(regularized, targets, assume_a="pos", overwrite_a=True, check_finite=False)
    histories = weighted_histories(events, len(alike), np.inf)
    popularity = np.log1p(np.asarray(histories.sum(axis=0), np.float64).ravel())
    mean = popularity.mean()
    return carried, mean + carried.T @ (popularity - mean)


def _scores(item_model: NDArray[np.float64], carried: NDArray[np.float64], direct: float) -> NDArray[np.float64]:
    """Return [m, n]: how much each anchor in a history speaks for each target."""
    scores: NDArray[np.float64] = item_model @ carried + direct * carried
    return scores


def _directions(scores: NDArray[np.float64], dims: int, seed: int) -> NDArray[np.float64]:
    """Return [m, D], orthonormal: the directions that hold most of the scores; D <= dims."""
    columns = np.random.default_rng(seed).permutation(scores.shape[1])[:MOST_COLUMNS]
    left, _, _ = scipy.linalg.svd(scores[:, np.sort(columns)], full_matrices=False, check_finite=False)
    return np.ascontiguousarray(left[:, :dims])
