"""Rating models: their size to the last parameter, and what they do with the unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandem_trainer.ratings.inputs import RatingFeatures
from tandem_trainer.ratings.models import (
    DotModel,
    IdTowers,
    IdTowerSettings,
    RatingBatch,
    VectorTowers,
    VectorTowerSettings,
)

USERS, ITEMS = 5, 7


def features(als: int = 64, text: int = 384) -> RatingFeatures:
    rng = np.random.default_rng(0)

    def table(rows: int, width: int) -> np.ndarray:
        filled = rng.normal(size=(rows + 1, width)).astype(np.float32)
        filled[0] = 0
        return filled

    codes = rng.integers(1, 4, (USERS + 1, 2))
    categories = rng.integers(0, 6, (ITEMS + 1, 3))
    codes[0] = categories[0] = 0
    anonymous = np.zeros(USERS + 1, np.bool_)
    anonymous[2] = True
    return RatingFeatures(
        codes, (3, 3), (categories,), (5,), table(USERS, als), table(ITEMS, als), table(ITEMS, text), anonymous
    )


def batch(n: int = 4, text: int = 384) -> RatingBatch:
    return RatingBatch(torch.arange(n) % (USERS + 1), torch.arange(n) % (ITEMS + 1), torch.zeros(n, text))


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_two_towers_on_vectors_have_exactly_322817_parameters() -> None:
    model = VectorTowers(features(), VectorTowerSettings(), mean=3.5)
    assert size(model) == 322_817
    assert size(model.user) == 449 * 256 + 256 + 256 * 128 + 128 + 128 * 64 + 64
    assert size(model.item) == 448 * 256 + 256 + 256 * 128 + 128 + 128 * 64 + 64
    assert size(model.trunk) + size(model.answers) == 128 * 64 + 64 + 64 * 32 + 32 + 32 + 1
    assert model.eval()(batch()).shape == (4, 1)


def test_a_second_answer_costs_one_more_row_of_the_last_layer() -> None:
    model = VectorTowers(features(), VectorTowerSettings(like=True), mean=3.5)
    assert size(model) == 322_817 + 33
    assert model.eval()(batch()).shape == (4, 2)


def test_vector_towers_read_als_text_and_whether_the_user_is_anonymous() -> None:
    given = features()
    model = VectorTowers(given, VectorTowerSettings(), mean=0.0).eval()
    one = RatingBatch(torch.tensor([1]), torch.tensor([1]), torch.zeros(1, 384))
    before = model(one).item()
    for table in (model.user_als, model.item_als, model.item_text, model.anonymous):
        kept = table.clone()
        table.add_(1)
        assert model(one).item() != before
        table.copy_(kept)
    assert model(RatingBatch(one.users, one.items, torch.ones(1, 384))).item() != before
    assert model(one).item() == before


def test_hidden_weights_start_he_normal() -> None:
    model = VectorTowers(features(), VectorTowerSettings(), mean=0.0)
    first = model.user[0]
    assert isinstance(first, torch.nn.Linear)
    assert first.weight.std().item() == pytest.approx((2 / 449) ** 0.5, rel=0.02)
    assert first.bias.abs().max() == 0


def test_the_dot_model_is_relu_of_the_inner_product_and_starts_at_the_mean() -> None:
    model = DotModel(USERS, ITEMS, 32, mean=3.5)
    given = batch()
    assert model(given).mean().item() == pytest.approx(3.5, abs=0.3)
    by_hand = (model.users.weight[given.users] * model.items.weight[given.items]).sum(1)
    torch.testing.assert_close(model(given)[:, 0], by_hand)
    with torch.no_grad():
        model.users.weight.neg_()
    assert (model(given) == 0).all()


@pytest.mark.parametrize(
    ("settings", "user_width"),
    [
        (IdTowerSettings(), 32 + 2 * 32),
        (IdTowerSettings(id_dim=64, hidden=(256, 128), vector_dim=128), 64 + 2 * 32),
    ],
)
def test_id_towers_have_the_shape_asked_for_and_give_unit_vectors(settings: IdTowerSettings, user_width: int) -> None:
    model = IdTowers(features(), settings, mean=3.5).eval()
    widths = [layer.weight.shape for layer in model.user_tower if isinstance(layer, torch.nn.Linear)]
    assert [shape[0] for shape in widths] == [*settings.hidden, settings.vector_dim]
    assert widths[0][1] == user_width
    vectors = model.item_vectors(torch.arange(ITEMS + 1))
    assert vectors.shape == (ITEMS + 1, settings.vector_dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(ITEMS + 1))
    answers = model(batch())
    scores = model.score(batch().users, batch().items)
    torch.testing.assert_close(answers[:, 0], 3.5 + scores)


def test_an_unknown_item_with_known_codes_has_the_vector_of_its_codes() -> None:
    given = features()
    given.item_codes[0][3] = given.item_codes[0][4] = [1, 2, 0]
    model = IdTowers(given, IdTowerSettings(), mean=3.5).eval()
    three, four = model.item_vectors(torch.tensor([3, 4]))
    assert not torch.equal(three, four)
    with torch.no_grad():
        model.item_id.weight[3:5] = 0  # as place 0 is
    three, four = model.item_vectors(torch.tensor([3, 4]))
    torch.testing.assert_close(three, four)
    assert model.item_id.weight[0].abs().max() == 0
