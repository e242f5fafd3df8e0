"""Buckets of experiments: GrowthBook's hashes, so that its SDKs put the same unit into the same variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

HashVersion = Literal[1, 2]

_OFFSET = 0x811C9DC5
_PRIME = 0x01000193
_MASK = 0xFFFFFFFF


def fnv1a32(text: str, state: int = _OFFSET) -> int:
    """Return the FNV-1a hash (Fowler, Noll, Vo, 1991; 32 bits) over UTF-16 code units, as JavaScript's strings have.

    state: the hash of what stands before `text`: fnv1a32(b, fnv1a32(a)) is fnv1a32(a + b) where a ends with a whole
    character.
    """
    units = text.encode() if text.isascii() else np.frombuffer(text.encode("utf-16-le"), "<u2").tolist()
    for unit in units:
        state = ((state ^ unit) * _PRIME) & _MASK
    return state


def bucket(seed: str, unit: str, version: HashVersion) -> float:
    """Return where a unit stands in [0, 1): in steps of 1/10,000 (version 2) or 1/1,000 (version 1, biased).

    Version 1 correlates between experiments whose names are alike; it is here for experiments begun with it.
    """
    if version == 1:
        return (fnv1a32(seed, fnv1a32(unit)) % 1000) / 1000
    return (fnv1a32(str(fnv1a32(unit, fnv1a32(seed)))) % 10_000) / 10_000


def namespace_bucket(namespace: str, unit: str) -> float:
    """Return where a unit stands in a namespace, in [0, 1)."""
    return bucket(f"__{namespace}", unit, 1)


def bucket_ranges(weights: Sequence[float], coverage: float) -> tuple[tuple[float, float], ...]:
    """Return each variant's range of buckets, start included and end not.

    With coverage below 1 every range keeps its start and gives up its end, so that raising coverage moves nobody from
    one variant to another.
    """
    ranges, start = [], 0.0
    for weight in weights:
        ranges.append((start, start + coverage * weight))
        start += weight
    return tuple(ranges)
