"""The config, items and users of the synthetic data: latent tastes, and names a reader can follow."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tandem_trainer.data.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY_MS = 86_400_000
DIM = 8  # of the latent taste vectors
AGES = ("18-24", "25-34", "35-44", "45-54", "55+")
AGE_SHARES = (0.2, 0.28, 0.22, 0.17, 0.13)
GENDERS = ("female", "male", "other")
GENDER_SHARES = (0.48, 0.48, 0.04)
COUNTRIES = ("US", "GB", "DE", "BR", "IN")
COUNTRY_SHARES = (0.35, 0.2, 0.2, 0.15, 0.1)
PRICE_BUCKETS = ("low", "mid", "high")
PRICE_SHARES = (0.5, 0.35, 0.15)

# category -> (nouns of titles, words of texts); the words are what a content model can learn from
CATEGORIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "travel": (("Harbour", "Island", "Railway", "Lagoon"), ("journeys", "coasts", "maps", "ferries")),
    "cooking": (("Kitchen", "Harvest", "Bakery", "Orchard"), ("recipes", "spices", "bread", "markets")),
    "science": (("Atom", "Telescope", "Comet", "Laboratory"), ("experiments", "stars", "physics", "cells")),
    "music": (("Melody", "Orchestra", "Rhythm", "Ballad"), ("songs", "concerts", "drums", "voices")),
    "sport": (("Marathon", "Stadium", "Summit", "Regatta"), ("training", "matches", "records", "teams")),
    "history": (("Empire", "Castle", "Archive", "Voyage"), ("kings", "wars", "letters", "ruins")),
    "nature": (("Forest", "River", "Meadow", "Glacier"), ("birds", "trees", "seasons", "wolves")),
    "design": (("Studio", "Pattern", "Palette", "Workshop"), ("colours", "rooms", "fabrics", "sketches")),
    "crime": (("Alibi", "Detective", "Cipher", "Verdict"), ("clues", "suspects", "courts", "nights")),
    "gardens": (("Rose", "Greenhouse", "Terrace", "Hedge"), ("seeds", "soil", "flowers", "bees")),
}
STYLES = ("Quiet", "Bright", "Hidden", "Grand", "Wild", "Modern", "Little", "Golden")
_FIRST = ("Mara", "Jonas", "Aiko", "Lena", "Omar", "Ines", "Tomas", "Priya", "Elif", "Noah", "Ruth", "Sven")
_LAST = (
    "Lind",
    "Okafor",
    "Tanaka",
    "Moreau",
    "Silva",
    "Brandt",
    "Novak",
    "Rao",
    "Keller",
    "Byrne",
    "Costa",
    "Holm",
)


@dataclass(frozen=True, slots=True)
class SyntheticConfig:
    """Size and character of the data; the same config gives the same data."""

    n_users: int = 2000
    n_items: int = 500
    seed: int = 7
    events_per_user: float = 18.0  # mean over warm users; with 500 items a density of about .03
    n_categories: int = 8
    days: int = 180
    start_ms: int = 1_735_689_600_000  # 2025-01-01 UTC
    zipf_exponent: float = 0.8
    preferred_share: float = 0.7  # of free choices that fall into the two preferred categories
    follow: float = 0.35  # share of events that continue from the event before
    drift_fraction: float = 0.4  # of users who change a preferred category
    cold_user_fraction: float = 0.05
    cold_item_fraction: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            share = field.name.endswith("fraction") or field.name in ("preferred_share", "follow")
            if share and not 0 <= value <= 1:
                raise DataError(f"SyntheticConfig.{field.name} is {value}; it is a share, between 0 and 1")
            if field.name in ("n_users", "n_items", "events_per_user", "days") and value < 1:
                raise DataError(f"SyntheticConfig.{field.name} is {value}; it must be at least 1")
        if not 1 <= self.n_categories <= len(CATEGORIES):
            raise DataError(
                f"SyntheticConfig.n_categories is {self.n_categories}; at most {len(CATEGORIES)} have names"
            )
        if self.cold_user_fraction == 1 or self.cold_item_fraction == 1:
            raise DataError("SyntheticConfig: not all users or items can be cold, or there are no events")

    @property
    def end_ms(self) -> int:
        """The end of the observed time; no event lies after it."""
        return self.start_ms + self.days * DAY_MS


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """Items as numpy columns of length n; `group` = category * styles + style."""

    group: Ints
    styles: int  # styles per category
    popularity: Floats  # Zipf weights, sum 1
    created_ms: Ints
    price_level: Ints  # index into PRICE_BUCKETS
    factors: Floats  # [n, DIM]
    centres: Floats  # [categories, DIM]
    group_factors: Floats  # [groups, DIM]
    cold: npt.NDArray[np.bool_]  # never gets an event
    frame: pd.DataFrame


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Users as numpy columns of length n; each has two preferred categories."""

    preferred: Ints  # [n, 2] categories
    later: Ints  # [n, 2] the same after the user's taste changed
    change_ms: Ints  # when it changes
    factors: Floats  # [n, DIM] the user's own taste, beside the preferred categories
    price_level: Ints  # index into PRICE_BUCKETS
    cold: npt.NDArray[np.bool_]  # never has an event
    frame: pd.DataFrame


def make_catalog(config: SyntheticConfig, rng: np.random.Generator) -> Catalog:
    """Items that arrive over time: three fifths are there at the start, cold ones come last."""
    n, categories = config.n_items, config.n_categories
    styles = int(np.clip(n // (15 * categories), 1, len(STYLES)))
    mass = 1.0 / np.arange(1, categories + 1) ** 0.5
    category = rng.choice(categories, size=n, p=mass / mass.sum())
    style = rng.integers(styles, size=n)
    group = category * styles + style
    centres = _unit(rng.normal(size=(categories, DIM)))
    group_factors = np.repeat(centres, styles, axis=0) + 0.8 * _unit(rng.normal(size=(categories * styles, DIM)))
    creators = max(1, n // (10 * categories))  # per category
    creator = category * creators + (creators * rng.random(n) ** 2).astype(np.int64)  # few make most
    own = 0.4 * rng.normal(size=(categories * creators, DIM))[creator] + 0.3 * rng.normal(size=(n, DIM))
    popularity = 1.0 / (1 + rng.permutation(n)) ** config.zipf_exponent
    price_level = rng.choice(3, size=n, p=PRICE_SHARES)
    span = config.end_ms - config.start_ms
    arrival = np.where(rng.random(n) < 0.6, -rng.random(n), rng.random(n) * 0.95)
    cold = np.zeros(n, dtype=bool)
    cold[rng.permutation(n)[: int(n * config.cold_item_fraction)]] = True
    arrival[cold] = 0.95 + 0.05 * rng.random(int(cold.sum()))
    warm = np.flatnonzero(~cold)
    _, first = np.unique(group[warm], return_index=True)
    arrival[warm[first]] = -rng.random(len(first))  # so that at any time each group has something to offer
    created = config.start_ms + (arrival * span).astype(np.int64)
    frame = _item_frame(_ItemCodes(category, style, creator, price_level, created), rng)
    return Catalog(
        group, styles, popularity / popularity.sum(), created, price_level, group_factors[group] + own, centres,
        group_factors, cold, frame,
    )  # fmt: skip


def make_population(config: SyntheticConfig, catalog: Catalog, rng: np.random.Generator) -> Population:
    """Users whose preferred categories and taste lean on their age, gender and country."""
    n, categories = config.n_users, config.n_categories
    age = rng.choice(len(AGES), size=n, p=AGE_SHARES)
    gender = rng.choice(len(GENDERS), size=n, p=GENDER_SHARES)
    country = rng.choice(len(COUNTRIES), size=n, p=COUNTRY_SHARES)
    lean = (
        1.2 * rng.normal(size=(len(AGES), categories))[age]
        + 1.0 * rng.normal(size=(len(GENDERS), categories))[gender]
        + 0.6 * rng.normal(size=(len(COUNTRIES), categories))[country]
    )  # [n, categories]
    ranked = np.argsort(-(lean + rng.gumbel(size=lean.shape)), axis=1)
    preferred = ranked[:, [0, 1 % categories]]
    changes = rng.random(n) < config.drift_fraction
    later = np.where(changes[:, None], ranked[:, [2 % categories, 0]], preferred)  # the second one is given up
    span = config.end_ms - config.start_ms
    change_ms = config.start_ms + (span * rng.uniform(0.3, 0.9, size=n)).astype(np.int64)
    segment = 0.7 * rng.normal(size=(len(AGES), DIM))[age] + 0.5 * rng.normal(size=(len(GENDERS), DIM))[gender]
    factors = segment + rng.normal(size=(n, DIM))
    cold = np.zeros(n, dtype=bool)
    cold[rng.permutation(n)[: int(n * config.cold_user_fraction)]] = True
    price_level = rng.choice(3, size=n, p=PRICE_SHARES)
    frame = pd.DataFrame(
        {
            "user_id": _ids("u", n),
            "age_bucket": np.array(AGES, dtype=object)[age],
            "gender": np.array(GENDERS, dtype=object)[gender],
            "country": np.array(COUNTRIES, dtype=object)[country],
        }
    )
    return Population(preferred, later, change_ms, factors, price_level, cold, frame)


class _ItemCodes(NamedTuple):
    """What an item's row is written from, each [n]."""

    category: Ints
    style: Ints
    creator: Ints
    price_level: Ints
    created_ms: Ints


def _item_frame(codes: _ItemCodes, rng: np.random.Generator) -> pd.DataFrame:
    category, style, creator, price_level, created = codes
    n = len(category)
    names = np.array(list(CATEGORIES), dtype=object)
    nouns = np.array([words[0] for words in CATEGORIES.values()], dtype=object)
    themes = np.array([words[1] for words in CATEGORIES.values()], dtype=object)
    noun = nouns[category, rng.integers(nouns.shape[1], size=n)]
    adjective = np.array(STYLES, dtype=object)[style]
    phrase = adjective + " " + noun
    number = pd.Series(phrase, dtype="str").groupby(phrase).cumcount().to_numpy() + 1
    first_theme = rng.integers(themes.shape[1], size=n)
    one, two = themes[category, first_theme], themes[category, (first_theme + 1) % themes.shape[1]]
    people = _creators(int(creator.max()) + 1)[creator]
    texts = [
        f"{a} {c}: a {b.lower()} story of {x} and {y}, by {p}"
        for a, b, c, x, y, p in zip(noun, adjective, names[category], one, two, people, strict=True)
    ]
    low = np.array([4.0, 12.0, 30.0])[price_level]
    prices = np.round(low * np.exp(rng.uniform(0, 0.9, size=n)), 2)  # the buckets do not overlap
    lists = [[name] for name in names]
    return pd.DataFrame(
        {
            "item_id": _ids("i", n),
            "title": [f"{words} {count}" for words, count in zip(phrase, number.tolist(), strict=True)],
            "text": texts,
            "categories": pd.Series([lists[at] for at in category.tolist()], dtype=object),
            "creator": people,
            "created_at": created,
            "price": prices,
            "price_bucket": np.array(PRICE_BUCKETS, dtype=object)[price_level],
        }
    )


def _creators(n: int) -> npt.NDArray[np.object_]:
    """n distinct names: first and last, with an initial between once the pairs are used up."""
    pairs = len(_FIRST) * len(_LAST)
    names = []
    for at in range(n):
        turn, pair = divmod(at * 31 % pairs + at // pairs * pairs, pairs)
        middle = "" if turn == 0 else f" {chr(65 + (turn - 1) % 26)}.{'' if turn <= 26 else (turn - 1) // 26}"
        names.append(f"{_FIRST[pair % len(_FIRST)]}{middle} {_LAST[pair // len(_FIRST)]}")
    return np.array(names, dtype=object)


def _ids(prefix: str, n: int) -> list[str]:
    width = len(str(n))
    return [f"{prefix}{number:0{width}d}" for number in range(1, n + 1)]


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
