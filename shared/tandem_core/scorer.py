"""The learned ranker at serving time: ONNX, one call for all candidates of a request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem_core.onnx_session import open_session

if TYPE_CHECKING:
    import onnxruntime


class OnnxScorer:
    """Scores candidates from a feature matrix whose columns are `feature_names`.

    The model is opened at its first use: after a fork, not before.
    """

    def __init__(self, path: Path, feature_names: Sequence[str]) -> None:
        self._path = path
        self.feature_names = tuple(feature_names)

    def warm(self) -> None:
        """Open the model; the first call allocates what later ones use, and must not be a caller's."""
        self.score(np.zeros((500, len(self.feature_names)), np.float32))

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [n], higher is better, comparable within one request; features: float32 [n, F]."""
        (scores,) = self._session.run(None, {"features": features})
        return np.asarray(scores, np.float32)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self._path)
