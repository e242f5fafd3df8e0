"""Seeded synthetic data with a planted structure that a recommender can find, and the popularity list cannot.

Each user has two preferred categories (one may change) and a latent taste for styles and creators; items
have Zipf popularity that drifts; what is taken next depends on what was taken last (`follow`); items
arrive over time; some users and items never appear in any event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from tandem_trainer.data.synthetic_catalog import (
    DAY_MS,
    Catalog,
    Floats,
    Ints,
    Population,
    SyntheticConfig,
    make_catalog,
    make_population,
)
from tandem_trainer.data.tables import Dataset, TableSchema, validate

__all__ = ["SyntheticConfig", "generate"]

SCHEMA = TableSchema(
    item_categorical=("price_bucket",),
    user_attributes=("age_bucket", "gender", "country"),
    segments=(("age_bucket", "gender"), ("age_bucket",), ("country",)),
)
EVENT_TYPES = np.array(["view", "click", "like", "purchase"], dtype=object)
_TYPE_QUANTILES = (0.55, 0.8, 0.92)  # 55 % views, 25 % clicks, 12 % likes, 8 % purchases
_EPOCHS = 6  # popularity is constant within an epoch
_CANDIDATES = 4  # drawn by popularity for each event; taste and history choose among them
_USERS_PER_CHUNK = 8192  # bounds the memory: some 150,000 events at a time


def generate(config: SyntheticConfig | None = None) -> Dataset:
    """A whole data set from one config."""
    config = config or SyntheticConfig()
    catalog_rng, user_rng, event_rng = np.random.default_rng(config.seed).spawn(3)
    catalog = make_catalog(config, catalog_rng)
    population = make_population(config, catalog, user_rng)
    world = World(config, catalog, population, Shelf(config, catalog, event_rng))
    warm = np.flatnonzero(~population.cold)
    chunks = [
        _chunk(world, warm[at : at + _USERS_PER_CHUNK], event_rng) for at in range(0, len(warm), _USERS_PER_CHUNK)
    ]
    taken = Taken(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))
    events = _event_frame(world, taken, event_rng)
    return validate(events, catalog.frame, population.frame, SCHEMA, name="synthetic")


class Shelf:
    """Draws items by group, by what is there at the time, and by the popularity of the time.

    Items lie sorted by group and then arrival, so what a group offers at any time is a run of positions, and
    a draw within a run is a search in cumulative weights: no users x items matrix at any size.
    """

    def __init__(self, config: SyntheticConfig, catalog: Catalog, rng: np.random.Generator) -> None:
        warm = np.flatnonzero(~catalog.cold)
        self._oldest = int(catalog.created_ms.min())
        self._group_step = config.end_ms - self._oldest + 1
        keys = catalog.group * self._group_step + (catalog.created_ms - self._oldest)
        order = warm[np.argsort(keys[warm], kind="stable")]
        self.items: Ints = order  # position -> item
        self.group: Ints = catalog.group[order]
        self._keys = keys[order]
        groups = len(catalog.group_factors)
        self.start: Ints = np.searchsorted(self.group, np.arange(groups))  # first position of each group
        self._epoch_ms = -(-(config.end_ms - config.start_ms) // _EPOCHS)
        self._start_ms = config.start_ms
        self._cumulative: Floats = self._weights(catalog, rng)
        self.mass = np.bincount(self.group, catalog.popularity[order], groups).astype(np.float64)

    def _weights(self, catalog: Catalog, rng: np.random.Generator) -> Floats:
        """Cumulative weights [epochs * n + 1]: Zipf, times a random walk, times a bonus for what is new."""
        walk = np.zeros(len(self.items))
        weights = []
        for epoch in range(_EPOCHS):
            middle = self._start_ms + (epoch + 0.5) * self._epoch_ms
            age_days = np.maximum(middle - catalog.created_ms[self.items], 0) / DAY_MS
            weights.append(catalog.popularity[self.items] * np.exp(walk) * (1 + 2 * np.exp(-age_days / 20)))
            walk = walk + 0.4 * rng.normal(size=len(self.items))
        return np.concatenate([[0.0], np.cumsum(np.concatenate(weights))])

    def offered(self, group: Ints, time_ms: Ints) -> Ints:
        """How many items of `group` [m] are there at `time_ms` [m]; at least 1."""
        keys = group * self._group_step + (time_ms - self._oldest)
        count: Ints = np.searchsorted(self._keys, keys, side="right") - self.start[group]
        return np.maximum(count, 1)

    def draw(self, group: Ints, time_ms: Ints, count: int, rng: np.random.Generator) -> Ints:
        """Positions [m, count] of items of `group` [m] that are there at `time_ms` [m], by popularity."""
        epoch = np.minimum((time_ms - self._start_ms) // self._epoch_ms, _EPOCHS - 1) * len(self.items)
        first = self.start[group]
        last = first + self.offered(group, time_ms)
        low, high = self._cumulative[epoch + first], self._cumulative[epoch + last]
        drawn = low[:, None] + rng.random((len(group), count)) * (high - low)[:, None]
        found = np.searchsorted(self._cumulative, drawn, side="right") - 1 - epoch[:, None]
        clipped: Ints = np.clip(found, first[:, None], last[:, None] - 1)
        return clipped

    def after(self, position: Ints, time_ms: Ints, steps: Ints) -> Ints:
        """Positions [m, k]: `steps` [m, k] further round the ring of the item's group: what follows it."""
        group = self.group[position]
        first = self.start[group][:, None]
        offered = self.offered(group, time_ms)[:, None]
        return np.asarray(first + (position[:, None] - first + steps) % offered, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """All that events are drawn from."""

    config: SyntheticConfig
    catalog: Catalog
    population: Population
    shelf: Shelf


class Taken(NamedTuple):
    """Events as columns [m], per user in order of time."""

    user: Ints
    item: Ints
    time_ms: Ints
    affinity: Floats


def _chunk(world: World, users: Ints, rng: np.random.Generator) -> Taken:
    """All events of some users."""
    config, shelf = world.config, world.shelf
    counts = _event_counts(config, len(users), rng)
    counts = counts[np.argsort(-counts, kind="stable")]  # busiest first: round k is then a run of users
    users = rng.permutation(users)
    user = np.repeat(users, counts)
    time = _times(config, counts, rng)
    group = _choose_groups(world, user, time, rng)
    free = shelf.draw(group, time, _CANDIDATES, rng)  # [m, candidates]
    liking = _affinity(world, user, shelf.items[free])
    best_first = np.argsort(-(1.5 * liking + rng.gumbel(size=liking.shape)), axis=1)
    free = np.take_along_axis(free, best_first, axis=1)
    follows = rng.random(len(user)) < config.follow
    steps = 1 + rng.choice(3, size=len(user), p=(0.6, 0.25, 0.15))
    item = shelf.items[_walk(shelf, counts, time, free, np.where(follows, steps, 0))]
    return Taken(user, item, time, _affinity(world, user, item[:, None])[:, 0])


def _event_counts(config: SyntheticConfig, n: int, rng: np.random.Generator) -> Ints:
    """Events per user [n]: lognormal, at least 1, at most 6 times the mean."""
    spread = 0.7
    drawn = rng.lognormal(np.log(config.events_per_user) - spread**2 / 2, spread, size=n)
    return np.clip(np.rint(drawn), 1, np.ceil(6 * config.events_per_user)).astype(np.int64)


def _times(config: SyntheticConfig, counts: Ints, rng: np.random.Generator) -> Ints:
    """Times in ms [m], ascending per user: sessions of minutes with days between them."""
    total, users = int(counts.sum()), len(counts)
    first = np.cumsum(counts) - counts
    new_session = rng.random(total) < 0.3
    gap = np.where(new_session, rng.exponential(6 * DAY_MS, total), rng.exponential(4 * 60_000, total) + 2_000)
    gap[first] = 0
    elapsed = np.cumsum(gap)
    elapsed -= np.repeat(elapsed[first], counts)
    span = config.end_ms - config.start_ms - 1
    joined = span * 0.85 * rng.random(users) ** 1.5
    longest = elapsed[first + counts - 1]
    squeeze = np.minimum(1.0, (span - joined) / np.maximum(longest, 1.0))
    since_start = np.repeat(joined, counts) + elapsed * np.repeat(squeeze, counts)
    return np.asarray(config.start_ms + since_start.astype(np.int64))


def _choose_groups(world: World, user: Ints, time: Ints, rng: np.random.Generator) -> Ints:
    """The group [m] in which each event looks for an item: first the category, then the style within it."""
    config, catalog, population, shelf = world.config, world.catalog, world.population, world.shelf
    styles = catalog.styles
    by_category = shelf.mass.reshape(-1, styles).sum(axis=1)
    anything = np.searchsorted(np.cumsum(by_category), rng.random(len(user)) * by_category.sum(), side="right")
    wanted = np.where((time < population.change_ms[user])[:, None], population.preferred[user], population.later[user])
    own = np.where(rng.random(len(user)) < 0.6, wanted[:, 0], wanted[:, 1])
    stocked = by_category[own] > 0  # in a tiny catalogue a category may have no item
    prefers = (rng.random(len(user)) < config.preferred_share) & stocked
    category = np.where(prefers, own, np.minimum(anything, len(by_category) - 1))
    groups = category[:, None] * styles + np.arange(styles)  # [m, styles]
    liking = np.einsum("md,msd->ms", population.factors[user], catalog.group_factors[groups])
    with np.errstate(divide="ignore"):
        chance = liking + np.log(shelf.mass[groups]) + rng.gumbel(size=groups.shape)
    chosen: Ints = groups[np.arange(len(user)), np.argmax(chance, axis=1)]
    return chosen


def _affinity(world: World, user: Ints, item: Ints) -> Floats:
    """How much each user [m] likes each of their items [m, k]: latent taste plus price level."""
    catalog, population = world.catalog, world.population
    taste = np.einsum("md,mkd->mk", population.factors[user], catalog.factors[item])
    fits = catalog.price_level[item] == population.price_level[user][:, None]
    liking: Floats = taste / 2 + 0.4 * fits
    return liking


def _walk(shelf: Shelf, counts: Ints, time: Ints, free: Ints, steps: Ints) -> Ints:
    """Positions [m] of the items taken, in order: all users take their k-th event in round k.

    counts: events per user, descending. free: candidates [m, k], best first. steps: how far an event goes on from
    the one before, 0 = not at all. An event takes the best candidate that its user has not had yet.
    """
    first = np.cumsum(counts) - counts
    taken = np.full((len(counts), int(counts.max())), -1, dtype=np.int64)  # [users, rounds]
    position = np.empty(len(time), dtype=np.int64)
    for turn in range(int(counts.max())):
        active = int(np.searchsorted(-counts, -turn, side="left"))  # those with more than `turn` events
        now = first[:active] + turn
        options = free[now]
        if turn > 0:
            ahead = steps[now][:, None] + np.arange(_CANDIDATES)
            options = np.where(
                steps[now][:, None] > 0, shelf.after(taken[:active, turn - 1], time[now], ahead), options
            )
        had = (taken[:active, :turn, None] == options[:, None, :]).any(axis=1)  # [active, candidates]
        choice = options[np.arange(active), np.argmin(had, axis=1)]
        taken[:active, turn] = choice
        position[now] = choice
    return position


def _event_frame(world: World, events: Taken, rng: np.random.Generator) -> pd.DataFrame:
    """The events table: stronger types where the affinity is high; half of the repeats, as views."""
    spread = max(float(events.affinity.std()), 1e-9)
    noisy = events.affinity / spread + rng.logistic(size=len(events.user))
    kind = np.searchsorted(np.quantile(noisy, _TYPE_QUANTILES), noisy, side="left")
    pair = pd.Series(events.user * len(world.catalog.group) + events.item)
    repeated = pair.duplicated().to_numpy(dtype=bool)
    kind = np.where(repeated, 0, kind)
    dwell_share = np.round(rng.beta(2, 3, size=len(kind)), 3)
    quantity = 1 + (rng.random(len(kind)) < 0.2)
    value = np.select([kind == 0, kind == 3], [dwell_share, quantity], default=np.nan)
    kept = ~repeated | (rng.random(len(kind)) < 0.5)
    user_ids = world.population.frame["user_id"].to_numpy(dtype=object)
    item_ids = world.catalog.frame["item_id"].to_numpy(dtype=object)
    return pd.DataFrame(
        {
            "user_id": user_ids[events.user[kept]],
            "item_id": item_ids[events.item[kept]],
            "timestamp": events.time_ms[kept],
            "event_type": EVENT_TYPES[kind[kept]],
            "value": value[kept].astype(np.float32),
        }
    )
