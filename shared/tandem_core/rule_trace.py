"""What each rule did to each item: for explanations and replays, made only when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Stage:
    """The list as one stage left it. rows: int32 [n], best first. scores: float32 [n], of these rows.

    The first stage, "given", is what came in, by score; each later one bears the name of its rule. Dropped items are
    in no stage after the one that dropped them.
    """

    name: str
    rows: NDArray[np.int32]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """What one stage did to one item; places count from 1 at the top, 0: not there (any more)."""

    stage: str
    before: float
    after: float
    place_before: int
    place_after: int


def parts_of(stages: Sequence[Stage], row: int) -> list[Part]:
    """Return what each stage after the first did to the item, in the order applied; empty where it was not given."""
    seen = [_seen(stage, row) for stage in stages]
    if not seen or not seen[0][0]:
        return []
    return [
        Part(stage.name, before, after, place_before, place_after)
        for stage, (place_before, before), (place_after, after) in zip(stages[1:], seen, seen[1:], strict=False)
        if place_before
    ]


def displaced_by(stages: Sequence[Stage], row: int, slots: int) -> str:
    """Return the stage that last moved the item out of the first `slots` places, or dropped it; "" where none did.

    None did where the item is shown, or never stood high enough.
    """
    for part in reversed(parts_of(stages, row)):
        if 0 < part.place_after <= slots:
            return ""
        if 0 < part.place_before <= slots or not part.place_after:
            return part.stage
    return ""


def _seen(stage: Stage, row: int) -> tuple[int, float]:
    at = np.flatnonzero(stage.rows == row)
    return (int(at[0]) + 1, float(stage.scores[at[0]])) if len(at) else (0, 0.0)
