"""What was left out of an answer: always declared, never silent."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class DegradationKind(enum.IntEnum):
    """Numbers as in `tandem.common.v1.DegradationKind`."""

    SOURCE_LATE = 1
    SOURCE_FAILED = 2
    STORE_UNAVAILABLE = 3
    RULE_RELAXED = 4
    DIVERSITY_SKIPPED = 5
    RANKER_SKIPPED = 6
    RETRIEVAL_UNAVAILABLE = 7
    BUNDLE_MISMATCH = 8
    VALIDATE_ONLY = 9


@dataclass(frozen=True, slots=True)
class Degradation:
    """One thing that was missing; component is the source, rule or stage."""

    kind: DegradationKind
    component: str = ""
    message: str = ""
