"""The fused loss over the whole catalogue against what autograd makes of the plain formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tandem_trainer.losses import Taught, full_softmax_loss

B, N, D = 37, 53, 8


def inputs(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    query = F.normalize(torch.randn(B, D, generator=g, dtype=dtype), dim=1) * scale
    items = F.normalize(torch.randn(N, D, generator=g, dtype=dtype), dim=1)
    return query, items, torch.randn(N, generator=g, dtype=dtype), torch.randint(0, N, (B,), generator=g)


def plain(
    query: Tensor, items: Tensor, targets: Tensor, temperature: float, weight: Tensor, bias: Tensor | None
) -> Tensor:
    logits = query @ items.T / temperature
    losses = F.cross_entropy(logits if bias is None else logits + bias, targets, reduction="none", ignore_index=-1)
    weight = weight * (targets >= 0)
    return (losses * weight).sum() / weight.sum()


@pytest.mark.parametrize("chunk", [1, 10, B, 1000])
@pytest.mark.parametrize("with_bias", [False, True])
# The second has logits that exp could not take unshifted; there float32 itself is off by more than 1e-5.
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1.0), (torch.float64, 300.0)])
def test_loss_and_gradients_are_those_of_cross_entropy(
    chunk: int, with_bias: bool, dtype: torch.dtype, scale: float
) -> None:
    query, items, bias, targets = inputs(dtype, scale)
    targets[3] = targets[20] = -1
    weight = torch.rand(B, generator=torch.Generator().manual_seed(1), dtype=dtype)
    weight[5] = 0.0
    found = []
    for fused in (True, False):
        leaves = [t.clone().requires_grad_() for t in (query, items, bias)]
        used = leaves[2] if with_bias else None
        if fused:
            loss = full_softmax_loss(leaves[0], leaves[1], targets, 0.1, weight, used, chunk)
        else:
            loss = plain(leaves[0], leaves[1], targets, 0.1, weight, used)
        (3 * loss).backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert len(found[0]) == len(found[1]) == 3 + with_bias
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert found[0][1][3].abs().max() == 0  # a masked row
    assert found[0][1][5].abs().max() == 0  # a row of no weight


def test_gradients_are_those_of_finite_differences() -> None:
    query, items, bias, targets = inputs(torch.float64)
    leaves = tuple(t.requires_grad_() for t in (query[:4], items[:6], bias[:6]))
    assert torch.autograd.gradcheck(
        lambda q, v, b: full_softmax_loss(q, v, targets[:4] % 6, 0.5, None, b, chunk=3), leaves
    )


def test_two_items_give_the_loss_computed_by_hand() -> None:
    loss = full_softmax_loss(torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([0]), 0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)


def test_the_bias_is_added_to_the_logits_and_minus_infinity_takes_an_item_out() -> None:
    query, items, targets = torch.tensor([[1.0, 0.0]]), torch.eye(3, 2), torch.tensor([0])
    bias = torch.tensor([0.0, math.log(2), -math.inf])
    leaf = items.clone().requires_grad_()
    loss = full_softmax_loss(query, leaf, targets, 1.0, bias=bias)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 2)), abs=1e-6)
    assert leaf.grad is not None
    assert leaf.grad[2].abs().max() == 0


def test_without_gradients_none_are_computed_and_the_loss_is_the_same() -> None:
    query, items, bias, targets = inputs()
    with torch.no_grad():
        quiet = full_softmax_loss(query, items, targets, 0.1, bias=bias)
    torch.testing.assert_close(quiet, full_softmax_loss(query.requires_grad_(), items, targets, 0.1, bias=bias))
    assert not quiet.requires_grad


def test_a_batch_in_which_no_row_counts_is_refused() -> None:
    query, items, _, _ = inputs()
    with pytest.raises(ValueError, match="none of 37 rows"):
        full_softmax_loss(query, items, torch.full((B,), -1), 0.1)


def test_vectors_that_are_not_finite_give_a_loss_that_is_not_finite() -> None:
    query, items, _, targets = inputs()
    query[0, 0] = torch.nan
    assert full_softmax_loss(query, items, targets, 0.1).isnan()


@pytest.mark.parametrize("chunk", [1, 10, 1000])
def test_spared_items_are_no_negatives_of_their_row_but_its_own_target_stays(chunk: int) -> None:
    query, items, _, targets = inputs()
    targets[3] = -1
    g = torch.Generator().manual_seed(2)
    spared = torch.rand(B, N, generator=g) < 0.3
    spared[torch.arange(B), targets.clamp(min=0)] = True  # a user's known items hold the target, too
    found = []
    for fused in (True, False):
        leaves = [t.clone().requires_grad_() for t in (query, items)]
        if fused:
            of, rows = spared.nonzero(as_tuple=True)
            loss = full_softmax_loss(*leaves, targets, 0.1, None, None, chunk, (of, rows))
        else:
            out = spared.clone()
            out[torch.arange(B), targets.clamp(min=0)] = False
            logits = (leaves[0] @ leaves[1].T / 0.1).masked_fill(out, -torch.inf)
            loss = F.cross_entropy(logits, targets, ignore_index=-1)
        loss.backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_three_items_of_which_one_is_spared_give_the_loss_of_two() -> None:
    spared = torch.tensor([0]), torch.tensor([2])
    loss = full_softmax_loss(torch.tensor([[1.0, 0.0]]), torch.eye(3, 2), torch.tensor([0]), 0.5, spared=spared)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 10, 1000])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_what_a_teacher_says_takes_its_share_of_the_target(chunk: int, scale: float) -> None:
    query, items, bias, targets = inputs(torch.float64, scale)
    bias[7] = -torch.inf  # no item to choose, whatever the teacher says
    targets[targets == 7] = 8
    targets[3] = -1
    g = torch.Generator().manual_seed(3)
    says, of_items = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (B, N))
    spared = torch.rand(B, N, generator=g) < 0.3
    spared[torch.arange(B), targets.clamp(min=0)] = False
    found = []
    for fused in (True, False):
        leaves = [t.clone().requires_grad_() for t in (query, items)]
        if fused:
            of, rows = spared.nonzero(as_tuple=True)
            told = Taught(says, of_items, 0.7)
            loss = full_softmax_loss(*leaves, targets, 0.1, None, bias, chunk, (of, rows), told)
        else:
            out = (spared | (bias == -torch.inf)) & (F.one_hot(targets.clamp(min=0), N) == 0)
            logits = (leaves[0] @ leaves[1].T / 0.1 + bias).masked_fill(out, -1e9)
            wanted = 0.7 * torch.softmax((says @ of_items.T).masked_fill(out, -torch.inf), 1)
            wanted = wanted + 0.3 * F.one_hot(targets.clamp(min=0), N).double()
            loss = F.cross_entropy(logits, wanted, reduction="none")[targets >= 0].mean()
        (3 * loss).backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
