"""What `tandem doctor` finds: one line each, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.StrEnum):
    """How a check ended. DOUBTFUL: works, and may be meant otherwise."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. do: what helps; empty where nothing needs to be done."""

    area: str
    check: str
    state: State
    says: str
    do: str = ""


def good(area: str, check: str, says: str) -> Finding:
    return Finding(area, check, State.GOOD, says)


def doubtful(area: str, check: str, says: str, do: str) -> Finding:
    return Finding(area, check, State.DOUBTFUL, says, do)


def bad(area: str, check: str, says: str, do: str) -> Finding:
    return Finding(area, check, State.BAD, says, do)
