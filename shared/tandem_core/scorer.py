"""The learned ranker at serving time: ONNX, one call for all candidates of a request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.onnx_session import open_session


class OnnxScorer:
    """Scores candidates from a feature matrix whose columns are `feature_names`."""

    def __init__(self, path: Path, feature_names: Sequence[str]) -> None:
        self._session = open_session(path)
        self.feature_names = tuple(feature_names)
        # The first call allocates what later ones use: it must not be a caller's.
        self.score(np.zeros((500, len(self.feature_names)), np.float32))

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [n], higher is better, comparable within one request; features: float32 [n, F]."""
        (scores,) = self._session.run(None, {"features": features})
        return np.asarray(scores, np.float32)
