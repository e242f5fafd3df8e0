from typing import get_args

import numpy as np
import pytest
import torch

from tandem_trainer.towers import ItemTower, TowerSettings, UserTower
from tandem_trainer.towers.encoders import time_buckets
from tandem_trainer.towers.settings import Encoder

SETTINGS = TowerSettings(vector_dim=8, id_dim=8, code_dim=4, hidden=16)
ENCODERS = get_args(Encoder)


@pytest.fixture
def item_tower() -> ItemTower:
    torch.manual_seed(0)
    return ItemTower(SETTINGS, 10, 6, [3], torch.tensor([5.0]), torch.tensor([2.0])).eval()


@pytest.fixture(params=ENCODERS)
def user_tower(request: pytest.FixtureRequest) -> UserTower:
    torch.manual_seed(0)
    settings = SETTINGS.model_copy(update={"encoder": request.param, "time_bias": True})
    return UserTower(settings, history_length=5, n_types=2, attribute_sizes=[3], context_sizes=[24, 7]).eval()


def items(n: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    codes = torch.tensor([[1, 2], [3, 0]]).repeat(n, 1)[:n]
    return [torch.arange(1, n + 1), torch.randn(n, 6, generator=g), torch.randn(n, 1, generator=g) + 5, codes]


def users(b: int, h: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    mask = (torch.arange(h) < torch.arange(h, h - b, -1).clamp(min=1)[:, None]).float()
    vectors = torch.nn.functional.normalize(torch.randn(b, h, 8, generator=g), dim=2) * mask[:, :, None]
    types = torch.randint(0, 3, (b, h), generator=g)
    ages = torch.randint(0, 10**9, (b, h), generator=g).cumsum(1)
    return [vectors, mask, types, ages, torch.randint(0, 4, (b, 1)), torch.randint(0, 8, (b, 2))]


def test_item_vectors_have_unit_length(item_tower: ItemTower) -> None:
    torch.testing.assert_close(item_tower(*items(7)).norm(dim=1), torch.ones(7))


def test_unknown_numbers_and_absent_codes_and_content_give_finite_vectors(item_tower: ItemTower) -> None:
    vectors = item_tower(
        torch.zeros(2, dtype=torch.long), torch.zeros(2, 6), torch.full((2, 1), torch.nan), torch.zeros(2, 2).long()
    )
    assert vectors.isfinite().all()


def test_an_unknown_number_is_not_the_same_as_the_mean(item_tower: ItemTower) -> None:
    index, content, _, codes = items(1)
    known, unknown = (item_tower(index, content, torch.tensor([[x]]), codes) for x in (5.0, torch.nan))
    assert not torch.allclose(known, unknown)


def test_padding_codes_and_codes_after_training_change_nothing(item_tower: ItemTower) -> None:
    index, content, numbers, _ = items(1)
    one, padded, later = (item_tower(index, content, numbers, torch.tensor([c])) for c in ([2], [2, 0], [2, 99]))
    torch.testing.assert_close(one, padded)
    torch.testing.assert_close(one, later)


def test_id_dropout_hides_ids_in_training_only(item_tower: ItemTower) -> None:
    hidden = ItemTower(
        SETTINGS.model_copy(update={"id_dropout": 0.999, "dropout": 0.0}), 10, 6, [3], torch.zeros(1), torch.ones(1)
    )
    index, *rest = items(4)
    torch.testing.assert_close(hidden.train()(index, *rest), hidden(torch.zeros_like(index), *rest))
    assert not torch.allclose(hidden.eval()(index, *rest), hidden(torch.zeros_like(index), *rest))


def test_user_vectors_have_unit_length(user_tower: UserTower) -> None:
    torch.testing.assert_close(user_tower(*users(4, 5)).norm(dim=1), torch.ones(4))


def test_an_empty_history_gives_what_the_attributes_say(user_tower: UserTower) -> None:
    vectors, mask, types, ages, _, context = users(2, 3)
    attributes = torch.tensor([[1], [2]])
    found = user_tower(vectors * 0, mask * 0, types * 0, ages * 0, attributes, context)
    assert found.isfinite().all()
    assert not torch.allclose(found[0], found[1])


def test_what_stands_in_masked_places_changes_nothing(user_tower: UserTower) -> None:
    vectors, mask, types, ages, *rest = users(3, 4)
    mask[:, 2:] = 0
    short = user_tower(vectors[:, :2], mask[:, :2], types[:, :2], ages[:, :2], *rest)
    torch.testing.assert_close(short, user_tower(vectors, mask, types, ages, *rest))


def test_a_batch_of_users_equals_single_users(user_tower: UserTower) -> None:
    inputs = users(4, 5)
    singles = torch.cat([user_tower(*(column[i : i + 1] for column in inputs)) for i in range(4)])
    torch.testing.assert_close(user_tower(*inputs), singles)


def test_the_order_of_the_history_matters(user_tower: UserTower) -> None:
    vectors, mask, *rest = users(1, 4)
    assert not torch.allclose(user_tower(vectors, mask, *rest), user_tower(vectors.flip(1), mask, *rest))


def test_how_long_ago_the_newest_event_was_matters(user_tower: UserTower) -> None:
    vectors, mask, types, ages, *rest = users(1, 4)
    at_once = user_tower(vectors, mask, types, ages - ages[:, :1], *rest)
    a_month_later = user_tower(vectors, mask, types, ages - ages[:, :1] + 30 * 86_400_000, *rest)
    reads_times = user_tower.encoder is not None
    assert torch.allclose(at_once, a_month_later) != reads_times


def test_a_history_longer_than_trained_on_is_read_without_error(user_tower: UserTower) -> None:
    assert np.isfinite(user_tower(*users(1, 9)).detach().numpy()).all()


def test_one_pass_over_a_history_gives_the_vector_after_each_of_its_events(user_tower: UserTower) -> None:
    vectors, mask, types, ages, attributes, context = users(3, 5)
    everywhere = user_tower.at_every_place(vectors, mask, types, ages, attributes, context[:, None].expand(-1, 5, -1))
    for place in range(5):
        moment = ages[:, place - 1 : place] if place else 0  # of the event that came next
        rest = (column[:, place:] for column in (vectors, mask, types, ages - moment))
        torch.testing.assert_close(everywhere[:, place], user_tower(*rest, attributes, context), atol=1e-5, rtol=0)


def test_what_came_later_does_not_reach_earlier_places(user_tower: UserTower) -> None:
    """At training a place that saw its own target would predict it without learning anything."""
    vectors, mask, types, ages, attributes, context = users(1, 5)
    context = context[:, None].expand(-1, 5, -1)
    changed = torch.cat([-vectors[:, :2], vectors[:, 2:]], dim=1)
    one = user_tower.at_every_place(vectors, mask, types, ages, attributes, context)
    other = user_tower.at_every_place(changed, mask, types, ages, attributes, context)
    torch.testing.assert_close(one[:, 2:], other[:, 2:], atol=1e-6, rtol=0)
    assert not torch.allclose(one[:, :2], other[:, :2])


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(-5, 0), (0, 0), (1, 1), (10, 1), (10.1, 2), (30, 2), (30.1, 3), (10**9, 23)]
)
def test_a_time_bucket_ends_at_ten_seconds_times_a_power_of_two_less_one(seconds: float, bucket: int) -> None:
    assert time_buckets(torch.tensor([round(seconds * 1000)])).tolist() == [bucket]


def test_heads_must_divide_the_vector() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        TowerSettings(vector_dim=10, heads=4)
