from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tandem_trainer.export import Inputs, ParityError, check_parity, to_onnx
from tandem_trainer.ranker import Ranker, RankerSettings
from tandem_trainer.towers import ItemTower, TowerSettings, UserTower

SETTINGS = TowerSettings(vector_dim=8, id_dim=8, code_dim=4, hidden=16)
HISTORY = {0: "batch", 1: "history"}


def user_inputs(batch: int, length: int, events: int | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch * 10 + length)
    mask = np.zeros((batch, length), np.float32)
    mask[:, : length if events is None else events] = 1
    return {
        "history_vectors": rng.normal(size=(batch, length, 8)).astype(np.float32) * mask[:, :, None],
        "history_mask": mask,
        "history_types": rng.integers(0, 3, (batch, length)),
        "history_ages": np.sort(rng.integers(0, 10**11, (batch, length)), axis=1),  # up to three years
        "user_attributes": rng.integers(0, 3, (batch, 2)),
        "context": rng.integers(0, 8, (batch, 2)),
    }


def item_inputs(n: int, columns: int = 2, numbers: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    values = rng.normal(size=(n, numbers)).astype(np.float32)
    values[::2] = np.nan
    base = {"item_index": rng.integers(0, 11, n), "content": rng.normal(size=(n, 6)).astype(np.float32)}
    codes = {f"codes_{i}": rng.integers(0, 4, (n, 3)) for i in range(columns)}
    return base | {"numbers": values} | codes


@pytest.fixture(scope="module")
def user_tower() -> UserTower:
    return UserTower(SETTINGS, 6, 2, [2, 2], [24, 7])


@pytest.fixture(scope="module")
def user_file(user_tower: UserTower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "user.onnx"
    dynamic = {name: HISTORY if name.startswith("history") else {0: "batch"} for name in user_inputs(2, 2)}
    to_onnx(user_tower, user_inputs(3, 6), "vector", path, dynamic)
    return path


def item_tower(columns: int, numbers: int) -> ItemTower:
    return ItemTower(SETTINGS, 10, 6, [3] * columns, torch.zeros(numbers), torch.ones(numbers))


def test_the_user_tower_gives_the_same_vectors_in_onnx_for_any_batch_and_history(
    user_tower: UserTower, user_file: Path
) -> None:
    shapes = [user_inputs(1, 6), user_inputs(7, 4), user_inputs(2, 1), user_inputs(1, 1, events=0), user_inputs(3, 9)]
    assert check_parity(user_tower, user_file, shapes) <= 1e-4


def test_a_model_is_one_file_that_passes_the_onnx_checker(user_file: Path) -> None:
    onnx.checker.check_model(onnx.load(user_file), full_check=True)
    assert [path.name for path in user_file.parent.iterdir()] == ["user.onnx"]


@pytest.mark.parametrize(("columns", "numbers"), [(2, 2), (0, 0)])
def test_the_item_tower_is_exported_with_as_many_columns_as_it_has(columns: int, numbers: int, tmp_path: Path) -> None:
    tower, example = item_tower(columns, numbers), item_inputs(5, columns, numbers)
    to_onnx(tower, example, "vector", tmp_path / "item.onnx", {name: {0: "items"} for name in example})
    check_parity(tower, tmp_path / "item.onnx", [item_inputs(n, columns, numbers) for n in (1, 2, 30)])


def test_the_file_of_another_model_fails_parity(user_file: Path) -> None:
    other = UserTower(SETTINGS, 6, 2, [2, 2], [24, 7])
    with pytest.raises(ParityError, match=r"user.onnx differs from its module by .*allowed"):
        check_parity(other, user_file, [user_inputs(2, 3)])


def test_exporting_says_nothing_and_leaves_training_mode_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    ranker = Ranker(RankerSettings(), torch.zeros(2), torch.ones(2)).train()
    inputs: Inputs = {"features": np.ones((2, 2), np.float32)}
    to_onnx(ranker, inputs, "logit", tmp_path / "r.onnx", {"features": {0: "n"}})
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert ranker.training


def test_an_example_too_small_to_leave_an_axis_open_is_refused(user_tower: UserTower, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="history_mask"):
        to_onnx(user_tower, user_inputs(2, 1), "vector", tmp_path / "u.onnx", {"history_mask": HISTORY})
