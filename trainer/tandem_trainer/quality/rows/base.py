"""What every row of the table does. A new row is a subclass, or one with other settings, and a register line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tandem_trainer.config import TrainConfig
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import PROTOCOLS, Part

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

Scores: TypeAlias = NDArray[np.float32]  # [U, N], higher is better; -inf: not listed
Scorer: TypeAlias = Callable[[Queries], Scores]
Need: TypeAlias = tuple[str, Part]

EVERY = frozenset(PROTOCOLS)


def nothing_for_unknown(queries: Queries, scores: Scores) -> Scores:
    """Return the scores with -inf for users without a history: a source that does not know a user lists nothing."""
    found: Scores = np.where(queries.sizes[:, None] > 0, scores, np.float32(-np.inf))
    return found


class Row(ABC):
    """A way of recommending.

    refit: protocols in which its test figures come from a fit on the training and the validation part; elsewhere from
    the training part alone. code: modules that decide the fit, beside the row's own. single: one source, not a merge of
    several. leaks: reads the test answers, for comparison. fits: False where it only reads other rows' fits.
    """

    refit: frozenset[str] = EVERY
    code: Sequence[str] = ()
    single: bool = True
    leaks: bool = False
    fits: bool = True

    def __init__(self, name: str) -> None:
        self.name = name

    def needs(self, part: Part) -> Sequence[Need]:
        """Return the fits that a fit on `part` rests on, as (row, part)."""
        return ()

    def settings(self, config: TrainConfig) -> Any:
        """Return what of the configuration decides the fit, JSON-ready."""
        return None

    def fit(self, fitting: Fitting) -> Fit:
        """Fit on fitting.training and return arrays that the cache can keep."""
        return Fit({})

    @abstractmethod
    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        """Return the function that scores questions, from what `fit` gave (perhaps in an earlier run)."""
