import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tandem_trainer.losses import MixedNegatives, in_batch_softmax_loss


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_one_example_has_no_negatives_and_no_loss() -> None:
    assert in_batch_softmax_loss(unit(1, 4), unit(1, 4, seed=1), torch.zeros(1), torch.tensor([7]), 0.1) == 0


def test_adding_a_constant_to_log_q_changes_nothing() -> None:
    query, item, log_q, ids = unit(5, 4), unit(5, 4, seed=1), torch.randn(5), torch.arange(5)
    one = in_batch_softmax_loss(query, item, log_q, ids, 0.1)
    other = in_batch_softmax_loss(query, item, log_q + 3.5, ids, 0.1)
    torch.testing.assert_close(one, other)


def test_two_examples_give_the_loss_computed_by_hand_and_log_q_is_subtracted() -> None:
    query = item = torch.eye(2)
    log_q = torch.log(torch.tensor([0.8, 0.2]))
    # Logits at temperature 1: own 1 - log q, other 0 - log q. Item 0 is sampled often and so counts for little. Row by
    # row, since the wrong sign would only swap the rows and keep their mean.
    first = -math.log((math.e / 0.8) / (math.e / 0.8 + 1 / 0.2))
    second = -math.log((math.e / 0.2) / (math.e / 0.2 + 1 / 0.8))
    for row, expected in ((0, first), (1, second)):
        loss = in_batch_softmax_loss(query, item, log_q, torch.tensor([0, 1]), 1.0, weight=torch.eye(2)[row])
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_weights_are_the_share_of_an_example_in_the_mean() -> None:
    query, item, log_q, ids = unit(2, 4), unit(2, 4, seed=1), torch.zeros(2), torch.arange(2)
    parts = [
        in_batch_softmax_loss(query, item, log_q, ids, 0.1, weight=torch.tensor(w)).item()
        for w in ([1.0, 0.0], [0.0, 1.0], [3.0, 1.0])
    ]
    assert parts[2] == pytest.approx((3 * parts[0] + parts[1]) / 4, abs=1e-5)


def test_an_item_that_is_positive_twice_is_no_negative_of_itself() -> None:
    query, item = unit(2, 4), unit(1, 4, seed=1).repeat(2, 1)
    assert in_batch_softmax_loss(query, item, torch.zeros(2), torch.tensor([3, 3]), 0.1) == 0


def test_the_own_positive_among_the_extra_negatives_is_masked() -> None:
    query, item = unit(1, 4), unit(1, 4, seed=1)
    loss = in_batch_softmax_loss(
        query, item, torch.zeros(1), torch.tensor([3]), 0.1, None, item, torch.zeros(1), torch.tensor([3])
    )
    assert loss == 0


def test_extra_negatives_add_to_the_loss_by_their_own_log_q() -> None:
    query = item = torch.tensor([[1.0, 0.0]])
    extra, extra_log_q = torch.tensor([[0.0, 1.0]]), torch.log(torch.tensor([0.5]))
    loss = in_batch_softmax_loss(
        query, item, torch.zeros(1), torch.tensor([0]), 1.0, None, extra, extra_log_q, torch.tensor([1])
    )
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 2)), abs=1e-6)


def test_with_log_q_sampled_negatives_estimate_the_softmax_over_the_catalogue() -> None:
    rng, n = np.random.default_rng(0), 40
    counts = rng.integers(1, 100, n)
    items, query = unit(n, 8), unit(1, 8, seed=1)
    sampler = MixedNegatives(counts, batch_size=2000, uniform=n, rng=rng)
    rows = np.concatenate([[5], rng.choice(n, 1999, p=counts / counts.sum())])
    extra = sampler.draw()
    sampled = in_batch_softmax_loss(
        query.repeat(2000, 1), items[rows], sampler.log_q[rows], torch.arange(2000) + n, 0.5,
        weight=torch.eye(2000)[0], extra_item=items[extra], extra_log_q=sampler.log_q[extra],
        extra_item_id=torch.from_numpy(extra),
    )  # fmt: skip
    # 2040 candidates by log q stand for 2040 times the catalogue's sum.
    logits = (query @ items.T / 0.5)[0].double()
    positive = logits[5] - sampler.log_q[5].double()
    expected = torch.logsumexp(logits, 0) + math.log(2000 + n) - positive
    assert sampled.item() == pytest.approx(expected.item(), abs=0.1)


def test_items_without_training_events_are_never_drawn_as_negatives() -> None:
    sampler = MixedNegatives(np.array([3, 0, 5, 0]), batch_size=4, uniform=100, rng=np.random.default_rng(0))
    assert set(sampler.draw()) == {0, 2}
