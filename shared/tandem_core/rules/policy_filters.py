"""Items a placement must not show: by condition, or by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.filters import Condition
from tandem_core.rules.base import Given, Mask, is_among
from tandem_core.rules.when import When


@dataclass(frozen=True, slots=True)
class PolicyFilter:
    """Keep items that fulfil the condition, for requests for which `when` holds.

    condition: facts of the request -> the condition, so that it may compare an item with what is known of the user.
    """

    condition: Callable[[Mapping[str, str]], Condition]
    when: When

    def keep(self, given: Given) -> Mask:
        if not self.when.holds(given.request):
            return np.ones(len(given), np.bool_)
        return self.condition(given.request.facts).mask(given.items.catalog, given.batch.rows)


@dataclass(frozen=True, slots=True)
class Blocked:
    """Drop these items. rows: int32, of the catalogue."""

    rows: NDArray[np.int32]

    def keep(self, given: Given) -> Mask:
        return ~is_among(given.batch.rows, self.rows)
