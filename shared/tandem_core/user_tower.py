"""The user tower at serving time: ONNX, one thread."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import FeatureSchema, User, user_tower_inputs
from tandem_core.onnx_session import open_session


class UserTower:
    """Turns users into vectors of the items' space."""

    def __init__(self, path: Path, schema: FeatureSchema, item_vectors: NDArray[np.float32]) -> None:
        self._session = open_session(path)
        self._schema = schema
        self._item_vectors = item_vectors
        # The exporter drops inputs that a model does not use, such as attributes of a data set without any.
        self._inputs = {node.name for node in self._session.get_inputs()}

    def over(self, item_vectors: NDArray[np.float32]) -> UserTower:
        """Return the same tower reading histories over other, or more, items."""
        other = copy.copy(self)
        other._item_vectors = item_vectors
        return other

    def encode(self, users: Sequence[User]) -> NDArray[np.float32]:
        """Return float32 [B, D], unit length."""
        inputs = user_tower_inputs(self._schema, users, self._item_vectors)
        (vectors,) = self._session.run(None, {name: inputs[name] for name in self._inputs})
        return np.asarray(vectors, np.float32)
