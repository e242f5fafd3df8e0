"""Both towers as ONNX files that were compared with torch, and the golden queries a bundle is checked with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, User, user_tower_inputs
from tandem_core.manifest import Golden
from tandem_trainer.export import Inputs, check_parity, to_onnx
from tandem_trainer.towers import ItemTower, JoinedItemTowers, JoinedUserTowers, UserTower

EXAMPLE_ITEMS = 64  # that the item tower is compared on


def export_item_tower(tower: ItemTower | JoinedItemTowers, items: Inputs, path: Path) -> float:
    """Write the tower and return the largest difference from torch, for known items, cold ones and one alone.

    items: the tower's inputs by name, of the catalogue. Raises ParityError where file and torch differ.
    """
    some = {name: column[:EXAMPLE_ITEMS] for name, column in items.items()}
    cold = some | {"item_index": np.zeros_like(some["item_index"])}
    to_onnx(tower, some, "item_vectors", path, {name: {0: "items"} for name in some})
    return check_parity(tower, path, [some, cold, {name: column[:1] for name, column in some.items()}])


def export_user_tower(
    tower: UserTower | JoinedUserTowers,
    users: Sequence[User],
    schema: FeatureSchema,
    item_vectors: NDArray[np.float32],
    path: Path,
) -> float:
    """Write the tower and return the largest difference from torch, for all users together and for each alone.

    users: two at least, one of them with a history of 2 events or more. item_vectors: float32 [N, D]. Raises
    ParityError where file and torch differ.
    """
    batches = [user_tower_inputs(schema, part, item_vectors) for part in (users, *[[user] for user in users])]
    together = batches[0]
    dynamic = {name: {0: "users", 1: "history"} if name.startswith("history") else {0: "users"} for name in together}
    to_onnx(tower, together, "user_vectors", path, dynamic)
    return check_parity(tower, path, batches)


@torch.no_grad()
def encode_users(
    tower: UserTower | JoinedUserTowers,
    users: Sequence[User],
    schema: FeatureSchema,
    item_vectors: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return float32 [U, D], the users' vectors as torch gives them; item_vectors: float32 [N, D]."""
    inputs = user_tower_inputs(schema, users, item_vectors)
    return np.asarray(tower(*(torch.from_numpy(column) for column in inputs.values())).numpy(), np.float32)


def golden_questions(schema: FeatureSchema, catalog: Catalog, now_ms: int) -> list[Golden]:
    """Return a user with a long history, one with a short one, and one with none; expected is still empty."""
    popular: list[int] = np.argsort(-catalog.event_counts, kind="stable")[: schema.history_length].tolist()
    profile = {name: vocabulary[0] for name, vocabulary in schema.user_attributes.items() if vocabulary}
    return [
        Golden(history=history, user_attributes=profile, now_ms=now_ms, expected=[])
        for history in (popular, popular[:2], [])
    ]
