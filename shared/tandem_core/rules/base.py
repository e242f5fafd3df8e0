"""What every rule is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tandem_core.candidates import CandidateBatch


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule made of a batch: the same candidates, none lost; relaxed says what could not be kept, or is ""."""

    batch: CandidateBatch
    relaxed: str = ""


class Rule(Protocol):
    """Pure: no I/O, no clock, no randomness; what it needs comes in columns, its parameters are its fields.

    Rules before the sort change scores; rules after it change the order. Scores arrive in [0, 1].
    """

    def __call__(self, batch: CandidateBatch, slots: int) -> Outcome:
        """Return the candidates changed; slots: length of the list that will be shown."""
        ...
