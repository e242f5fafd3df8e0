"""The user tower at serving time: ONNX, one thread."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import FeatureSchema, User, user_tower_inputs
from tandem_core.onnx_session import open_session

if TYPE_CHECKING:
    import onnxruntime


class UserTower:
    """Turns users into vectors of the items' space. The model is opened at its first use: after a fork, not before."""

    def __init__(self, path: Path, schema: FeatureSchema, item_vectors: NDArray[np.float32]) -> None:
        self._path = path
        self._schema = schema
        self._item_vectors = item_vectors

    def over(self, item_vectors: NDArray[np.float32]) -> UserTower:
        """Return the same tower reading histories over other, or more, items."""
        other = copy.copy(self)
        other._item_vectors = item_vectors
        return other

    def opened(self) -> UserTower:
        """Return this tower with its model opened: the file may go."""
        _ = self._session
        return self

    def encode(self, users: Sequence[User]) -> NDArray[np.float32]:
        """Return float32 [B, D], unit length."""
        inputs = user_tower_inputs(self._schema, users, self._item_vectors)
        (vectors,) = self._session.run(None, {name: inputs[name] for name in self._inputs})
        return np.asarray(vectors, np.float32)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self._path)

    @cached_property
    def _inputs(self) -> set[str]:
        # The exporter drops inputs that a model does not use, such as attributes of a data set without any.
        return {node.name for node in self._session.get_inputs()}
