"""A loss chosen by configuration: what it refuses, and that it is the pure function it names."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from tandem_trainer.losses import (
    HardNegativeSettings,
    KnownPositives,
    LossSettings,
    full_softmax_loss,
    in_batch_softmax_loss,
    make_loss,
    sampled_softmax_loss,
)
from tandem_trainer.losses.settings import LossName

N, D, B = 60, 8, 40
COUNTS = np.arange(N) % 7  # every seventh item was never trained on
NAMES = get_args(LossName)


def unit(n: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)), dim=1)


QUERY, ITEMS = unit(B, 0), unit(N, 1)
TARGETS = np.random.default_rng(2).choice(np.flatnonzero(COUNTS), B)
WEIGHT = torch.rand(B, generator=torch.Generator().manual_seed(3)) + 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "bpr", "margin": 0.5}, "margin is not read by the loss bpr, only by triplet"),
        ({"name": "triplet", "temperature": 0.1}, "temperature is not read"),
        ({"name": "in_batch", "negatives": 5}, "negatives is not read"),
        ({"name": "full_softmax", "hard": {"share": 0.05}}, "hard is not read"),
        ({"name": "mixed", "alpha": 1.0}, "alpha is not read"),
        ({"name": "sampled_softmax", "log_q": False}, "log_q must be on"),
        ({"name": "in_batch", "log_q": False}, "log_q must be on"),
        ({"name": "bpr", "hard": {"share": 0.2}}, "less than or equal to 0.1"),
        ({"name": "warp"}, "full_softmax"),
        ({"name": "gbce", "t": 1.5}, "less than or equal to 1"),
        ({"name": "bce", "negative": 3}, "Extra inputs"),
    ],
)
def test_settings_that_contradict_are_refused_by_name(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LossSettings.model_validate(settings)


@pytest.mark.parametrize("name", NAMES)
def test_settings_read_back_from_a_manifest_are_the_same(name: LossName) -> None:
    settings = LossSettings(name=name)
    assert LossSettings.model_validate(settings.model_dump()) == settings


def test_the_batch_is_only_large_where_it_is_the_negatives() -> None:
    assert [LossSettings(name=name).smallest_batch for name in ("in_batch", "mixed", "bpr")] == [512, 512, 1]


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "negatives"),
    [
        *((name, None) for name in NAMES if name != "gbce"),
        *((name, k) for name in NAMES if name not in {"full_softmax", "in_batch"} for k in (3, 20)),
    ],
)
def test_only_the_rows_asked_for_are_needed_and_all_items_give_the_same(
    name: LossName, negatives: int | None, share: float
) -> None:
    hard = HardNegativeSettings(share=0.0 if name == "full_softmax" else share)
    settings = LossSettings(name=name, negatives=negatives, hard=hard)
    losses = []
    for all_items in (False, True):
        users = np.arange(B)
        known = KnownPositives(users, TARGETS, N)
        loss = make_loss(settings, COUNTS, np.random.default_rng(0), known)
        loss.refresh(ITEMS)
        rows = loss.rows(TARGETS, users)
        assert (rows is None) == (name == "full_softmax")
        if rows is not None:
            assert set(TARGETS) <= set(rows)
            assert (np.diff(rows) > 0).all()
            assert COUNTS[rows].min() > 0  # an item without training events is no negative
        items = ITEMS.clone().requires_grad_()
        if rows is None or all_items:
            value = loss.loss(QUERY, items, None, TARGETS, WEIGHT)
        else:
            value = loss.loss(QUERY, items[torch.from_numpy(rows)], rows, TARGETS, WEIGHT)
        value.backward()  # type: ignore[no-untyped-call]
        assert items.grad is not None
        assert items.grad[COUNTS == 0].abs().max() == 0
        losses.append((value.item(), items.grad))
    assert math.isfinite(losses[0][0])
    assert losses[0][0] > 0
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_step_downhill_lowers_the_loss_and_raises_the_positives(name: LossName) -> None:
    settings = LossSettings(name=name, negatives=5 if name == "gbce" else None)
    query, items = QUERY.clone().requires_grad_(), ITEMS.clone().requires_grad_()
    optimizer = torch.optim.SGD([query, items], lr=0.05)
    before = (query * items[torch.from_numpy(TARGETS)]).sum().item()
    values = []
    for _ in range(20):
        loss = make_loss(settings, COUNTS, np.random.default_rng(0))  # the same negatives each time
        rows = loss.rows(TARGETS)
        vectors = items if rows is None else items[torch.from_numpy(rows)]
        value = loss.loss(query, vectors, rows, TARGETS)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]
    assert (query * items[torch.from_numpy(TARGETS)]).sum().item() > before


def test_full_softmax_is_over_all_trained_items() -> None:
    loss = make_loss(LossSettings(temperature=0.2), COUNTS, np.random.default_rng(0))
    trained = np.flatnonzero(COUNTS)
    places = torch.from_numpy(np.searchsorted(trained, TARGETS))
    expected = full_softmax_loss(QUERY, ITEMS[trained], places, 0.2, WEIGHT)
    torch.testing.assert_close(loss.loss(QUERY, ITEMS, None, TARGETS, WEIGHT), expected)


def test_full_softmax_spares_what_the_user_is_known_to_have_chosen_where_asked() -> None:
    users = np.arange(B) % 4
    known = KnownPositives(users, TARGETS, N)
    of, rows = (torch.from_numpy(each) for each in known.pairs(users))
    losses = []
    for spare in (True, False):
        loss = make_loss(LossSettings(temperature=0.2), COUNTS, np.random.default_rng(0), known, spare)
        assert loss.rows(TARGETS, users) is None
        losses.append(loss.loss(QUERY, ITEMS, None, TARGETS, WEIGHT))
    bias = torch.zeros(N).masked_fill(torch.from_numpy(COUNTS == 0), -torch.inf)
    expected = full_softmax_loss(QUERY, ITEMS, torch.from_numpy(TARGETS), 0.2, WEIGHT, bias, spared=(of, rows))
    torch.testing.assert_close(losses[0], expected)
    assert losses[0] < losses[1]


def test_sampled_softmax_with_every_item_drawn_is_the_full_softmax() -> None:
    settings = LossSettings(name="sampled_softmax", negatives=1000, temperature=0.2)
    loss = make_loss(settings, COUNTS, np.random.default_rng(0))
    rows = loss.rows(TARGETS)
    full = make_loss(LossSettings(temperature=0.2), COUNTS, np.random.default_rng(0))
    expected = full.loss(QUERY, ITEMS, None, TARGETS, WEIGHT)
    assert rows is not None
    torch.testing.assert_close(loss.loss(QUERY, ITEMS[torch.from_numpy(rows)], rows, TARGETS, WEIGHT), expected)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_sampled_softmax_by_popularity_estimates_the_full_softmax(alpha: float) -> None:
    settings = LossSettings(name="sampled_softmax", negatives=40_000, alpha=alpha, temperature=0.5)
    loss = make_loss(settings, COUNTS, np.random.default_rng(0))
    loss.rows(TARGETS)
    expected = make_loss(LossSettings(temperature=0.5), COUNTS, np.random.default_rng(0)).loss(
        QUERY, ITEMS, None, TARGETS
    )
    assert loss.loss(QUERY, ITEMS, None, TARGETS).item() == pytest.approx(expected.item(), abs=0.02)


def test_sampled_softmax_subtracts_the_log_of_the_expected_count() -> None:
    one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    log_count = torch.log(torch.tensor([0.25]))
    loss = sampled_softmax_loss(one, one, torch.tensor([0]), two, log_count, torch.tensor([1]), 1.0)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 4)), abs=1e-6)
    hit = sampled_softmax_loss(one, one, torch.tensor([0]), two, log_count, torch.tensor([0]), 1.0)
    assert hit == 0  # the target among the negatives is none


def test_negatives_of_one_row_count_in_that_row_alone() -> None:
    query, ids = torch.eye(2), torch.tensor([0, 1])
    own = torch.tensor([[0.5], [9.0]])
    own_log_q = torch.tensor([[math.log(0.5)], [math.inf]])  # the second row has none
    plain, more = (
        [
            in_batch_softmax_loss(query, query, torch.zeros(2), ids, 1.0, torch.eye(2)[row], **given).item()
            for row in (0, 1)
        ]
        for given in ({}, {"own_score": own, "own_log_q": own_log_q})
    )
    assert more[0] == pytest.approx(-math.log(math.e / (math.e + 1 + 2 * math.exp(0.5))), abs=1e-6)
    assert more[1] == plain[1]


def test_hard_negatives_are_the_share_of_a_rows_negatives_that_was_asked_for() -> None:
    # A margin no pair reaches: every negative pulls alike, and an item's gradient says how often it was one.
    hard = HardNegativeSettings(share=0.1, top_k=1)
    loss = make_loss(
        LossSettings(name="triplet", margin=2.0, negatives=10, hard=hard), COUNTS, np.random.default_rng(0)
    )
    loss.refresh(ITEMS)
    targets = np.full(500, 1)
    others = torch.from_numpy(np.flatnonzero(COUNTS)[1:])
    hardest = others[(ITEMS[others] @ ITEMS[1]).argmax()]
    items = ITEMS.clone().requires_grad_()
    loss.rows(targets)
    loss.loss(ITEMS[targets], items, None, targets).backward()  # type: ignore[no-untyped-call]
    assert items.grad is not None
    share = items.grad[hardest].norm() / items.grad[others].norm(dim=1).sum()
    assert share.item() == pytest.approx(0.1 + 0.9 / len(others), abs=0.015)


def test_a_loss_of_another_step_is_refused() -> None:
    loss = make_loss(LossSettings(name="bpr"), COUNTS, np.random.default_rng(0))
    with pytest.raises(ValueError, match="call rows"):
        loss.loss(QUERY, ITEMS, None, TARGETS)
    loss.rows(TARGETS)
    with pytest.raises(ValueError, match="call rows"):
        loss.loss(QUERY, ITEMS, None, TARGETS[::-1].copy())


def test_gbce_refuses_more_negatives_than_there_are_items() -> None:
    with pytest.raises(ValueError, match="256 negatives of a catalogue of 51"):
        make_loss(LossSettings(name="gbce"), COUNTS, np.random.default_rng(0))


def test_bpr_in_a_step_never_uses_what_the_user_chose() -> None:
    users = np.arange(B)
    chosen = np.flatnonzero(COUNTS)[:-1]  # everything but one trained item
    known = KnownPositives(np.repeat(users, len(chosen)), np.tile(chosen, B), N)
    targets = np.full(B, chosen[0])
    rows = make_loss(LossSettings(name="bpr"), COUNTS, np.random.default_rng(0), known).rows(targets, users)
    assert rows is not None
    assert rows.tolist() == [chosen[0], np.flatnonzero(COUNTS)[-1]]
