"""Several pairs of towers as one pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tandem_trainer.export import check_parity, to_onnx
from tandem_trainer.towers import ItemTower, JoinedItemTowers, JoinedUserTowers, TowerSettings, UserTower

SETTINGS = TowerSettings(vector_dim=8, id_dim=8, code_dim=4, hidden=16)
N, B, H, K = 9, 3, 5, 2


def item_towers() -> list[ItemTower]:
    return [ItemTower(SETTINGS, N, 6, [3], torch.zeros(1), torch.ones(1)).eval() for _ in range(K)]


def user_towers() -> list[UserTower]:
    encoders = ("attention_pool", "mean_pool")
    return [UserTower(SETTINGS.model_copy(update={"encoder": encoder}), H, 2, [3]).eval() for encoder in encoders]


def items(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "item_index": rng.integers(0, N + 1, n),
        "content": rng.normal(size=(n, 6)).astype(np.float32),
        "numbers": rng.normal(size=(n, 1)).astype(np.float32),
        "codes": rng.integers(0, 4, (n, 2)),
    }


def users(item_vectors: torch.Tensor, b: int = B, h: int = H) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(b)
    mask = (np.arange(h) < rng.integers(0, h + 1, b)[:, None]).astype(np.float32)
    rows = rng.integers(0, len(item_vectors), (b, h))
    return {
        "history_vectors": item_vectors.numpy()[rows] * mask[:, :, None],
        "history_mask": mask,
        "history_types": rng.integers(0, 3, (b, h)),
        "history_ages": np.sort(rng.integers(0, 10**10, (b, h)), axis=1),
        "user_attributes": rng.integers(0, 4, (b, 1)),
        "context": rng.integers(0, 8, (b, 2)),
    }


def tensors(columns: dict[str, np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(column) for column in columns.values()]


@torch.no_grad()
def test_the_dot_product_of_joint_vectors_is_the_mean_of_the_pairs_cosines() -> None:
    torch.manual_seed(0)
    each_item, each_user = item_towers(), user_towers()
    joint_items = JoinedItemTowers(each_item)(*tensors(items(N)))
    asked = users(joint_items)
    joint_users = JoinedUserTowers(each_user)(*tensors(asked))
    assert joint_items.shape == (N, K * 8)
    assert joint_users.shape == (B, K * 8)
    torch.testing.assert_close(joint_items.norm(dim=1), torch.ones(N))
    torch.testing.assert_close(joint_users.norm(dim=1), torch.ones(B))
    cosines = []
    for i, (item, user) in enumerate(zip(each_item, each_user, strict=True)):
        vectors = item(*tensors(items(N)))
        # What this pair alone would read: unit vectors of its own item tower.
        own = asked | {"history_vectors": asked["history_vectors"][:, :, 8 * i : 8 * (i + 1)] * np.float32(K**0.5)}
        norms = np.linalg.norm(own["history_vectors"], axis=2)
        np.testing.assert_allclose(norms, asked["history_mask"], atol=1e-5)
        cosines.append(F.cosine_similarity(user(*tensors(own))[:, None], vectors[None], dim=2))
    torch.testing.assert_close(joint_users @ joint_items.T, torch.stack(cosines).mean(0))


def test_joined_towers_are_one_onnx_file_each_for_any_number_of_items_users_and_events(tmp_path: Path) -> None:
    torch.manual_seed(0)
    item, user = JoinedItemTowers(item_towers()).eval(), JoinedUserTowers(user_towers()).eval()
    example = items(5)
    to_onnx(item, example, "item_vectors", tmp_path / "item.onnx", {name: {0: "items"} for name in example})
    cold = items(4) | {"item_index": np.zeros(4, np.int64)}
    assert check_parity(item, tmp_path / "item.onnx", [items(1), items(30), cold]) <= 1e-4
    with torch.no_grad():
        vectors = item(*tensors(items(N)))
    asked = users(vectors)
    dynamic = {name: {0: "users", 1: "history"} if name.startswith("history") else {0: "users"} for name in asked}
    to_onnx(user, asked, "user_vectors", tmp_path / "user.onnx", dynamic)
    assert check_parity(user, tmp_path / "user.onnx", [users(vectors, 1, 1), users(vectors, 7, 3)]) <= 1e-4


@torch.no_grad()
def test_at_the_newest_place_joint_users_are_what_they_are_when_served() -> None:
    torch.manual_seed(0)
    user, items_of_all = JoinedUserTowers(user_towers()), JoinedItemTowers(item_towers())(*tensors(items(N)))
    asked = users(items_of_all)
    everywhere = asked | {"context": np.repeat(asked["context"][:, None], H, axis=1)}
    states = user.at_every_place(*tensors(everywhere))
    assert states.shape == (B, H, K * 8)
    torch.testing.assert_close(states[:, 0], user(*tensors(asked)))
