"""Which items stand against a positive, and how likely each was to be drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_ROUNDS = 20  # of rejection; who still lacks a negative then has chosen nearly all that is ever drawn


class KnownPositives:
    """What each user chose, as sorted keys: one search answers for any number of pairs."""

    def __init__(self, users: NDArray[np.integer], items: NDArray[np.integer], n_items: int) -> None:
        """users, items: [P], numbers of users and catalogue rows, in any order, pairs may repeat."""
        self.n_items = n_items
        self._keys = np.unique(self._key(users, items))

    def __len__(self) -> int:
        return len(self._keys)

    def contains(self, users: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return whether each user chose each item; shapes broadcast."""
        keys = self._key(users, items)
        if not len(self._keys):
            return np.zeros(keys.shape, np.bool_)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.asarray(self._keys[at] == keys)

    def pairs(self, users: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all that each of `users` [B] chose: two int64 [S], positions in `users`, and catalogue rows."""
        first = np.searchsorted(self._keys, self._key(users, np.int64(0)))
        counts = np.searchsorted(self._keys, self._key(users, np.int64(self.n_items))) - first
        of = np.repeat(np.arange(len(users)), counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        return of, self._keys[first[of] + np.arange(len(of)) - before] % self.n_items

    def _key(self, users: NDArray[np.integer], items: NDArray[np.integer] | np.integer) -> NDArray[np.int64]:
        return np.asarray(users, np.int64) * self.n_items + items


class NegativeSampler:
    """Draws items with P ~ popularity^alpha; 0 is uniform. An item without training events is never drawn:
    that would teach the towers to bury new items.
    """

    def __init__(
        self,
        counts: NDArray[np.integer],
        alpha: float,
        rng: np.random.Generator,
        positives: KnownPositives | None = None,
    ) -> None:
        """counts: int [N], how often each item is a positive, at least one above 0. positives: never drawn for the
        user whose they are.
        """
        self.items = np.flatnonzero(counts)
        if not len(self.items):
            raise ValueError("no item has a training event: nothing can be drawn as a negative")
        self.uniform = alpha == 0
        self._rng = rng
        self._positives = positives
        weights = counts[self.items].astype(np.float64) ** alpha
        self._shares = weights / weights.sum()
        self._ends = np.cumsum(self._shares)
        self.probability = np.zeros(len(counts))
        self.probability[self.items] = self._shares

    def draw(self, shape: int | tuple[int, ...]) -> NDArray[np.int64]:
        """Return catalogue rows, int64, independent of each other."""
        if self.uniform:
            return self.items[self._rng.integers(0, len(self.items), shape)]
        places = np.searchsorted(self._ends, self._rng.random(shape), side="right")
        return self.items[np.minimum(places, len(self.items) - 1)]  # the last end may be a little below 1

    def draw_shared(self, count: int) -> NDArray[np.int64]:
        """Return negatives for a whole batch, int64 [E]; uniform ones are all different, so at most all there are."""
        if self.uniform:
            return self._rng.choice(self.items, min(count, len(self.items)), replace=False)
        return self.draw(count)

    def expected(self, count: int) -> NDArray[np.float64]:
        """Return float64 [N], how often each item is expected among those of `draw_shared`."""
        return self.probability * (min(count, len(self.items)) if self.uniform else count)

    def draw_for(
        self, targets: NDArray[np.int64], k: int, users: NDArray[np.integer] | None = None
    ) -> NDArray[np.int64]:
        """Return int64 [B, k]: for each target other items, none of them known to be chosen by its user.

        targets: int64 [B]. users: int [B], needed for known positives to count. -1 where no such item exists.
        """
        drawn = self.draw((len(targets), k))
        row, column = np.nonzero(self._wrong(targets[:, None], None if users is None else users[:, None], drawn))
        for _ in range(_ROUNDS):
            if not len(row):
                return drawn
            again = self.draw(len(row))
            drawn[row, column] = again
            left = self._wrong(targets[row], None if users is None else users[row], again)
            row, column = row[left], column[left]
        for r in np.unique(row):
            mine = column[row == r]
            allowed = ~self._wrong(targets[r], None if users is None else users[r : r + 1], self.items)
            shares = self._shares * allowed
            total = shares.sum()
            drawn[r, mine] = self._rng.choice(self.items, len(mine), p=shares / total) if total > 0 else -1
        return drawn

    def _wrong(
        self,
        targets: NDArray[np.int64] | np.int64,
        users: NDArray[np.integer] | None,
        drawn: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        wrong = np.asarray(drawn == targets)
        if self._positives is not None and users is not None:
            wrong |= self._positives.contains(users, drawn)
        return wrong


class MixedNegatives:
    """Draws shared negatives and knows how likely each item is to be among a step's candidates."""

    def __init__(self, counts: NDArray[np.int64], batch_size: int, uniform: int, rng: np.random.Generator) -> None:
        """counts: int64 [N], how often each item is a positive."""
        self.batch_size = batch_size
        self._rng = rng
        # An item without training events is no negative: that would teach the tower to bury new items.
        self._trained = np.flatnonzero(counts)
        self._uniform = min(uniform, len(self._trained))
        # Both kinds together are one sample of batch_size + uniform candidates (mixed negative sampling).
        expected = batch_size * counts / counts.sum() + self._uniform * (counts > 0) / len(self._trained)
        share = expected / (batch_size + self._uniform)
        self.log_q = torch.from_numpy(np.log(np.maximum(share, 1e-12)).astype(np.float32))

    def draw(self) -> NDArray[np.int64]:
        """Return int64 [E], catalogue rows, none twice."""
        return self._rng.choice(self._trained, self._uniform, replace=False)


@dataclass(frozen=True, slots=True)
class RatedPairs:
    """P pairs and what is known of them. users, items: int64 [P]. ratings: float32 [P]. is_negative: bool [P]."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    ratings: NDArray[np.float32]
    is_negative: NDArray[np.bool_]


def with_negatives(
    users: NDArray[np.integer],
    items: NDArray[np.integer],
    ratings: NDArray[np.floating],
    n_items: int,
    rng: np.random.Generator,
    k: int = 3,
    alpha: float = 1.0,
    pseudo_rating: tuple[float, float] = (0.0, 2.0),
) -> RatedPairs:
    """Return the P pairs given, then up to k negatives of each, P ~ popularity^alpha, never a pair that was given.

    users, items, ratings: [P]. pseudo_rating: negatives get a rating drawn uniformly between these two. A user who
    chose all items gets no negatives, so that the length is P (1 + k) at most.
    """
    counts = np.bincount(items, minlength=n_items)
    sampler = NegativeSampler(counts, alpha, rng, KnownPositives(users, items, n_items))
    drawn = sampler.draw_for(np.asarray(items, np.int64), k, users)
    found = drawn.ravel() >= 0
    low, high = pseudo_rating
    made_up = rng.uniform(low, high, found.sum())
    return RatedPairs(
        users=np.concatenate([users, np.repeat(users, k)[found]]).astype(np.int64),
        items=np.concatenate([items, drawn.ravel()[found]]).astype(np.int64),
        ratings=np.concatenate([ratings, made_up]).astype(np.float32),
        is_negative=np.repeat([False, True], [len(users), len(made_up)]),
    )
