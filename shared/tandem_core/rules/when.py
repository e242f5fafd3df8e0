"""When a rule holds: between two moments, and for requests with certain facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tandem_core.rules.base import RuleRequest


@dataclass(frozen=True, slots=True)
class When:
    """Holds from start_ms until before end_ms, where each fact of `facts` has one of its values and none of `unless`.

    Facts are attributes of the user and of the request's context; an unknown fact has no value.
    """

    start_ms: float = -np.inf
    end_ms: float = np.inf
    facts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unless: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def holds(self, request: RuleRequest) -> bool:
        known = request.facts
        return (
            self.start_ms <= request.now_ms < self.end_ms
            and all(known.get(name) in values for name, values in self.facts.items())
            and not any(known.get(name) in values for name, values in self.unless.items())
        )

    def overlaps(self, other: When) -> bool:
        """Tell whether one request may fulfil both; `unless` is not looked at."""
        in_time = self.start_ms < other.end_ms and other.start_ms < self.end_ms
        return in_time and all(self.facts[name] & other.facts[name] for name in self.facts.keys() & other.facts.keys())


ALWAYS = When()
