"""Plausible answers from a seed: the same question always finds the same items, in every process."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from google.protobuf.message import Message

from tandem.common.v1 import context_pb2, filter_pb2

BUNDLE_ID = "stub-bundle"
SOURCES = ("two_tower", "als", "popularity")
BACKFILL = "backfill"
DIMENSION = 16
WARM_EVENTS = 5

_RRF_K = 60  # reciprocal rank fusion, as the real merge without learned weights
_ADJECTIVES = (
    "amber ancient autumn bold brave bright calm clever coastal copper crimson dapper eager early emerald fabled "
    "gentle golden hidden humble indigo ivory jolly kind lively lucid mellow misty noble olive patient quiet rapid "
    "rustic silver sunny tidy velvet vivid wild"
)
_NOUNS = (
    "anchor badger beacon canyon cedar comet falcon fern garden harbor heron island lantern maple meadow otter pebble "
    "prairie raven river sparrow summit thistle valley willow"
)


def readable_ids(n: int = 1000, seed: int = 0) -> list[str]:
    """Return n different item ids such as "quiet-river", in seeded order; those after the 1000th are numbered."""
    pairs = [f"{adjective}-{noun}" for adjective in _ADJECTIVES.split() for noun in _NOUNS.split()]
    order = _affinities(seed_of("readable_ids", str(seed)), len(pairs))
    pairs = [pairs[i] for i in sorted(range(len(pairs)), key=order.__getitem__)]
    return [pairs[i % len(pairs)] + (f"-{i // len(pairs) + 1}" if i >= len(pairs) else "") for i in range(n)]


def title_of(item_id: str) -> str:
    """Return a title for an id such as "quiet-river"."""
    return item_id.replace("-", " ").title()


def seed_of(*parts: str | bytes) -> int:
    """Return a 64-bit seed of texts, the same in every process (unlike hash())."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)  # with lengths: ("ab", "c") is not ("a", "bc")
    return int.from_bytes(digest.digest(), "big")


def request_id_of(request: Message, given: str) -> str:
    """Return the given id, or one made from the request, so that the same request has the same answer."""
    return given or f"stub-{seed_of(request.SerializeToString(deterministic=True)):016x}"


def taste_of(context: context_pb2.RequestContext) -> str:
    """Return what decides a user's list: who and what the context tells of, without the names of this one request."""
    kept = context_pb2.RequestContext()
    kept.CopyFrom(context)
    for name in ("request_id", "placement", "event_time", "experiments"):
        kept.ClearField(name)
    return f"{seed_of(kept.SerializeToString(deterministic=True)):016x}"


def regime_of(context: context_pb2.RequestContext) -> context_pb2.UserRegime.ValueType:
    """Return what is known of the user. A user_id counts as known: a stub has no store to look it up in."""
    events = len(context.recent_events) + len(context.seed_item_ids)
    if (context.user_id and not context.anonymous) or events >= WARM_EVENTS:
        return context_pb2.USER_REGIME_WARM
    if events:
        return context_pb2.USER_REGIME_FEW_EVENTS
    return context_pb2.USER_REGIME_PROFILE_ONLY if context.user_attributes else context_pb2.USER_REGIME_UNKNOWN


def interacted_ids(context: context_pb2.RequestContext) -> list[str]:
    """Return the items that the request itself says the user had to do with."""
    return [*(event.item_id for event in context.recent_events), *context.seed_item_ids]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many items a source is asked for, and what its word weighs in the merge (above 0)."""

    source: str
    limit: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One item found: its merged score, and source -> (rank from 1, the source's own score)."""

    row: int
    score: float
    said: Mapping[str, tuple[int, float]]


class SeededCatalogue:
    """Items of one bundle, and a seeded opinion on them for every user. Safe to use from several threads."""

    def __init__(self, item_ids: Sequence[str], bundle_id: str) -> None:
        """Raises ValueError where an id is empty or comes twice, or bundle_id is empty."""
        self.item_ids = tuple(item_ids)
        self.bundle_id = bundle_id
        self.row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        if not bundle_id:
            raise ValueError("bundle_id is empty")
        if "" in self.row_of or len(self.row_of) < len(self.item_ids):
            raise ValueError("the catalogue has an empty id or an id twice")

    def affinities(self, *about: str) -> list[float]:
        """Return for each item a number in [0, 1) that depends on the bundle and on `about` alone."""
        return _affinities(seed_of(self.bundle_id, *about), len(self.item_ids))

    @cached_property
    def vectors(self) -> list[list[float]]:
        """A vector of length 1 for each item, row by row."""
        return [self.vector("item", item_id) for item_id in self.item_ids]

    def vector(self, *about: str) -> list[float]:
        """Return a vector of length 1 that depends on the bundle and on `about` alone."""
        return unit([2 * value - 1 for value in _affinities(seed_of(self.bundle_id, "vector", *about), DIMENSION)])

    def eligible(self, excluded: Iterable[str]) -> list[int]:
        """Return the rows that are not excluded."""
        gone = {self.row_of[item_id] for item_id in excluded if item_id in self.row_of}
        return [row for row in range(len(self.item_ids)) if row not in gone]

    def similar(self, item_ids: Sequence[str]) -> list[Candidate]:
        """Return all items but the given ones by their cosine with the given ones' mean, best first."""
        given = sorted({self.row_of[item_id] for item_id in item_ids})
        mean = unit([math.fsum(column) for column in zip(*(self.vectors[row] for row in given), strict=True)])
        cosine = {
            row: math.fsum(a * b for a, b in zip(self.vectors[row], mean, strict=True))
            for row in self.eligible(item_ids)
        }
        best = sorted(cosine, key=lambda row: (-cosine[row], row))
        return [Candidate(row, cosine[row], {"two_tower": (r, cosine[row])}) for r, row in enumerate(best, start=1)]

    def candidates(
        self, taste: str, eligible: Sequence[int], plans: Sequence[Plan], wanted: int, fill: int
    ) -> list[Candidate]:
        """Return up to `wanted` of the eligible rows, best first: sources merged by rank, then filled up if allowed."""
        said: dict[int, dict[str, tuple[int, float]]] = {}
        fused: dict[int, float] = {}
        for plan in plans:
            for rank, (row, score) in enumerate(self._best(plan.source, taste, eligible)[: plan.limit], start=1):
                said.setdefault(row, {})[plan.source] = (rank, score)
                fused[row] = fused.get(row, 0.0) + plan.weight / (_RRF_K + rank)
        merged = sorted(fused, key=lambda row: (-fused[row], row))[:wanted]
        found = [Candidate(row, fused[row], said[row]) for row in merged]
        if fill != filter_pb2.FILL_POLICY_STRICT:
            found += self._backfill(found, eligible, wanted - len(found))
        return found

    def _backfill(self, found: Sequence[Candidate], eligible: Sequence[int], missing: int) -> list[Candidate]:
        """Return popular rows that were not found yet, their scores falling from the lowest so far towards 0."""
        if missing <= 0:
            return []
        taken = {candidate.row for candidate in found}
        rest = [row for row in eligible if row not in taken]
        floor = found[-1].score if found else 1 / _RRF_K
        return [
            Candidate(row, floor * (1 - rank / (missing + 1)), {BACKFILL: (rank, score)})
            for rank, (row, score) in enumerate(self._best("popularity", "", rest)[:missing], start=1)
        ]

    def _best(self, source: str, taste: str, eligible: Sequence[int]) -> list[tuple[int, float]]:
        """Return the eligible rows as one source orders them, with its scores. Popularity is alike for everybody."""
        scores = self.affinities(source) if source == "popularity" else self.affinities(source, taste)
        return [(row, scores[row]) for row in sorted(eligible, key=lambda row: (-scores[row], row))]


def unit(vector: Sequence[float]) -> list[float]:
    """Return a vector at length 1; one of zeros stays as it is."""
    length = math.sqrt(math.fsum(value * value for value in vector)) or 1.0  # sum() rounds by the Python version
    return [value / length for value in vector]


def _affinities(seed: int, n: int) -> list[float]:
    dice = random.Random(seed)  # random() repeats across Python versions; shuffle() and sample() need not
    return [dice.random() for _ in range(n)]
