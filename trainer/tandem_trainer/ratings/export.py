"""The towers on ALS and text with their fusion head, as a file that predicts ratings without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tandem_trainer.export import check_parity, to_onnx
from tandem_trainer.ratings.compare import FUSION, Comparison
from tandem_trainer.ratings.inputs import RatingData
from tandem_trainer.ratings.models import VectorTowers

_EXAMPLE = 64  # pairs that are traced
_PARITY = 10_000  # held-out pairs compared, at most


class _Ratings(nn.Module):
    """Vectors of B pairs to ratings, float [B], within the range that was trained on."""

    def __init__(self, model: VectorTowers, low: float, high: float) -> None:
        super().__init__()
        self.model, self.low, self.high = model, low, high

    def forward(
        self, user_als: Tensor, user_text: Tensor, user_anonymous: Tensor, item_als: Tensor, item_text: Tensor
    ) -> Tensor:
        answers = self.model.of_vectors(user_als, user_text, user_anonymous, item_als, item_text)
        return answers[:, 0].clamp(self.low, self.high)


def fusion_inputs(data: RatingData) -> dict[str, NDArray[np.float32]]:
    """Return what the towers read of all ratings, train, validation and test, [P, F], [P, T], [P, 1], [P, F], [P, T].

    user_text: mean over what the user wrote or rated before. user_anonymous: 1 for users who are nobody in particular.
    """
    features = data.features
    parts = (data.train, data.validation, data.test)
    users, items, text = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "items", "text")
    )
    return {
        "user_als": features.user_als[users],
        "user_text": text,
        "user_anonymous": features.anonymous[users].astype(np.float32)[:, None],
        "item_als": features.item_als[items],
        "item_text": features.item_text[items],
    }


def export_fusion(found: Comparison, path: Path) -> float:
    """Write ONNX, inputs as `fusion_inputs` names them, output "ratings" float [pairs]; return its largest error.

    Compared with torch on held-out ratings and on a single one; raises ParityError where they differ.
    """
    model = found.models[FUSION]
    if not isinstance(model, VectorTowers):
        raise TypeError(f"{FUSION} is {type(model).__name__}, not VectorTowers")
    module = _Ratings(model, found.low, found.high)
    held_out = {name: column[-len(found.data.test) :][:_PARITY] for name, column in fusion_inputs(found.data).items()}
    some = {name: np.resize(column, (_EXAMPLE, column.shape[1])) for name, column in held_out.items()}
    to_onnx(module, some, "ratings", path, {name: {0: "pairs"} for name in some})
    return check_parity(module, path, [held_out, {name: column[:1] for name, column in held_out.items()}])
