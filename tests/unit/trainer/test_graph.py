from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tandem_trainer.config import TrainConfig
from tandem_trainer.data import SyntheticConfig
from tandem_trainer.data.synthetic import generate
from tandem_trainer.graph import GraphSettings, smooth_over_graph
from tandem_trainer.progress import Progress
from tandem_trainer.split import global_time
from tandem_trainer.training_run import TrainingRun

# u0 chose i0 and i1 (i1 twice), u1 chose i1, u2 chose i1 and i2; nobody chose i3.
USERS = np.array([0, 0, 1, 2, 2, 0, 1])
ITEMS = np.array([0, 1, 1, 1, 2, 1, -1])
VECTORS = np.array([[1, 0], [0, 1], [2, 0], [0, 3]], np.float32)


def test_one_step_worked_out_by_hand() -> None:
    """S = R'R: i0 and i1 share u0, of two items; i1 and i2 share u2, of two; u1 chose i1 alone; i1 has three users."""
    root = 1 / (2 * np.sqrt(3))
    step = np.array([[1 / 2, root, 0, 0], [root, (1 / 2 + 1 + 1 / 2) / 3, root, 0], [0, root, 1 / 2, 0], [0] * 4])
    got = smooth_over_graph(VECTORS, USERS, ITEMS, 3, layers=1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, (VECTORS + step @ VECTORS) / 2, atol=1e-6)
    twice = smooth_over_graph(VECTORS, USERS, ITEMS, 3, layers=2)
    np.testing.assert_allclose(twice, (VECTORS + step @ VECTORS + step @ step @ VECTORS) / 3, atol=1e-6)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_it_is_what_the_paper_propagates_where_users_begin_at_0(layers: int) -> None:
    """The paper's equations 7 and 8 on three users and three items: twice as many layers, half of which are 0."""
    chosen = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]])
    adjacency = np.block([[np.zeros((3, 3)), chosen], [chosen.T, np.zeros((3, 3))]])
    scale = np.diag(adjacency.sum(axis=1) ** -0.5)
    layer = np.vstack([np.zeros((3, 2)), VECTORS[:3]])
    total = layer.copy()
    for _ in range(2 * layers):
        layer = scale @ adjacency @ scale @ layer
        total += layer
    paper = total[3:] / (2 * layers + 1)
    got = smooth_over_graph(VECTORS[:3], USERS, ITEMS, 3, layers)
    np.testing.assert_allclose(got * (layers + 1), paper * (2 * layers + 1), atol=1e-6)


def test_without_steps_and_for_items_that_nobody_chose_the_direction_stays() -> None:
    np.testing.assert_array_equal(smooth_over_graph(VECTORS, USERS, ITEMS, 3, 0), VECTORS)
    np.testing.assert_allclose(smooth_over_graph(VECTORS, USERS, ITEMS, 3, 2)[3], VECTORS[3] / 3)
    nothing = np.empty(0, np.int64)
    np.testing.assert_allclose(smooth_over_graph(VECTORS, nothing, nothing, 3, 1), VECTORS / 2)


def test_items_that_the_same_users_chose_come_nearer() -> None:
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(40), 5), rng.integers(0, 10, 200)
    items = items * 2 + users % 2  # even users choose even items
    vectors = rng.normal(size=(20, 8)).astype(np.float32)

    def cohesion(found: np.ndarray) -> float:
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        cosines = unit @ unit.T
        same = np.equal.outer(np.arange(20) % 2, np.arange(20) % 2)
        return float(cosines[same].mean() - cosines[~same].mean())

    by_layers = [cohesion(smooth_over_graph(vectors, users, items, 40, layers)) for layers in (0, 1, 3)]
    assert by_layers[0] < by_layers[1] < by_layers[2]


def test_the_towers_begin_as_smoothed_factors_where_the_settings_say_so(tmp_path: Path) -> None:
    dataset = generate(SyntheticConfig(n_users=60, n_items=40, seed=3))
    split = global_time(dataset.events, 0.15, 0.15)
    base = TrainConfig()
    base = base.model_copy(update={"towers": base.towers.model_copy(update={"epochs": 0.01})})
    vectors = []
    for layers in (0, 0, 2):
        folder = tmp_path / str(len(vectors))
        folder.mkdir()
        config = base.model_copy(update={"graph": GraphSettings(layers=layers)})
        run = TrainingRun(config, dataset, split, folder, Progress())
        run.fit_tables()
        run.fit_als()
        run.fit_towers()
        vectors.append(run.towers.item_vectors)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[2] - vectors[0]).max() > 0.01
