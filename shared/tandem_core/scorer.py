"""The learned ranker at serving time: ONNX, one call for all candidates of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem_core.errors import BundleRefused
from tandem_core.onnx_session import open_session

if TYPE_CHECKING:
    import onnxruntime

Column = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scored:
    """scores: float32 [n], higher is better, comparable within one request.

    heads: name -> float32 [n]: the probability that the user answers so when shown the candidates, in [0, 1] and
    calibrated, or the expected value of an answer; see `RankerHead`.
    """

    scores: Column
    heads: Mapping[str, Column] = field(default_factory=dict)


class OnnxScorer:
    """Scores candidates from a feature matrix whose columns are `feature_names`; `heads` are the names of its answers.

    The model is opened at its first use: after a fork, not before.
    """

    def __init__(self, path: Path, feature_names: Sequence[str], heads: Sequence[str] = ()) -> None:
        self._path = path
        self.feature_names = tuple(feature_names)
        self.heads = tuple(heads)

    def warm(self) -> None:
        """Open the model; the first call allocates what later ones use, and must not be a caller's.

        Raises BundleRefused where the model takes or gives another number of columns than there are names.
        """
        takes, gives = self._session.get_inputs()[0].shape[1], self._session.get_outputs()[0].shape[1]
        if takes != len(self.feature_names):
            raise BundleRefused(f"{self._path} takes {takes} columns, but the manifest names {len(self.feature_names)}")
        if gives != 1 + len(self.heads):
            raise BundleRefused(
                f"{self._path} gives {gives} columns, but the manifest names 1 + {len(self.heads)} heads"
            )
        self.score(np.zeros((500, len(self.feature_names)), np.float32))

    def score(self, features: NDArray[np.float32]) -> Scored:
        """features: float32 [n, F]."""
        (answers,) = self._session.run(None, {"features": features})
        heads = {name: np.ascontiguousarray(answers[:, i]) for i, name in enumerate(self.heads, start=1)}
        return Scored(np.ascontiguousarray(answers[:, 0]), heads)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self._path)
