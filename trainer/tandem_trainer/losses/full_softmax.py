"""Cross-entropy over the whole catalogue, loss and gradients computed together, a few rows at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

CHUNK = 128  # rows at a time: 128 x 3,416 logits stay in the cache (measured 64 .. 2,048)
_SAFE_LOGIT = 40.0  # e^40 times 1e9 items still is a float32, and e^-40 still is no subnormal one
_SHUT = -1e4  # a logit that no softmax hears, and that can be multiplied by 0


@dataclass(frozen=True, slots=True)
class Taught:
    """What a teacher says of each row: the softmax of query @ items.T over the items that are no negatives left out.

    query: float [B, E], divided by the teacher's temperature. items: float [N, E]. share: 0 to 1, of the loss; the rest
    is the target's. Without gradients. (Hinton et al., 2015, at the temperature that it was trained with.)
    """

    query: Tensor
    items: Tensor
    share: float


def full_softmax_loss(
    query: Tensor,
    items: Tensor,
    target_rows: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    chunk: int = CHUNK,
    spared: tuple[Tensor, Tensor] | None = None,
    taught: Taught | None = None,
) -> Tensor:
    """Softmax cross-entropy of each target against all items; [B, N] is never held as a whole.

    query: float [B, D]. items: float [N, D], all of the catalogue. target_rows: int64 [B], places in `items`; -1 marks
    a row that does not count. weight: float [B], 0 or more; None: all 1. bias: float [N] added to the logits, -inf for
    an item that is no negative. spared: int64 [S] each, rows of the batch, rising, and items that are no negatives of
    them; a row's own target stays in. taught: what the rows are to say beside their targets. Returns a scalar (nats),
    the weighted mean over rows; gradients reach query, items and bias. Raises ValueError where no row counts.
    """
    given = torch.ones_like(query[:, 0]) if weight is None else weight.to(query.dtype)
    kept = torch.nonzero((target_rows >= 0) & (given > 0)).squeeze(1)
    if not len(kept):
        raise ValueError(f"none of {len(target_rows)} rows has a target and a weight above 0")
    if spared is not None:
        spared = _of_kept(spared, kept, target_rows)
    if len(kept) < len(target_rows):  # padding costs nothing then
        query, target_rows, given = query[kept], target_rows[kept], given[kept]
        taught = None if taught is None else replace(taught, query=taught.query[kept])
    share = given / given.sum()
    loss: Tensor = _FullSoftmax.apply(  # type: ignore[no-untyped-call]
        query, items, bias, target_rows, share, temperature, chunk, spared, taught
    )
    return loss


def _of_kept(spared: tuple[Tensor, Tensor], kept: Tensor, target_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs of the rows that count, numbered among them, without each row's own target."""
    of, rows = spared
    place = torch.full_like(target_rows, -1)
    place[kept] = torch.arange(len(kept))
    wanted = (place[of] >= 0) & (rows != target_rows[of])
    return place[of[wanted]], rows[wanted]


class _FullSoftmax(torch.autograd.Function):
    """The loss is a scalar: its gradients are known up to a factor while the logits are still in the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        items: Tensor,
        bias: Tensor | None,
        target_rows: Tensor,
        share: Tensor,
        temperature: float,
        chunk: int,
        spared: tuple[Tensor, Tensor] | None,
        taught: Taught | None,
    ) -> Tensor:
        """share: float [B], each row's part of the mean, sum 1."""
        scaled = query / temperature
        wanted = any(ctx.needs_input_grad[:3])
        shift = not _safe_unshifted(scaled, items, bias)
        log_sums = scaled.new_empty(len(scaled))
        soft = torch.zeros_like(log_sums)  # logits that the teacher expects
        grad_query = torch.empty_like(scaled) if wanted else None
        grad_items = torch.zeros_like(items) if wanted else None
        grad_bias = torch.zeros_like(bias) if wanted and bias is not None else None
        taken_out = None if spared is None else _by_chunk(spared, len(scaled), len(items), chunk)
        bias = None if bias is None else bias.clamp(min=_SHUT)
        for start in range(0, len(scaled), chunk):
            rows = slice(start, start + chunk)
            part = scaled[rows]
            taken = None if taken_out is None else taken_out[start // chunk]
            logits = part @ items.T if bias is None else torch.addmm(bias, part, items.T)
            if taken is not None:
                logits.view(-1).index_fill_(0, taken, _SHUT)
            said = None if taught is None else _said(taught, rows, bias, taken)
            if said is not None:
                soft[rows] = torch.linalg.vecdot(said, logits)
            # Softmax needs no maximum where no logit can overflow: one pass over memory less.
            highest = logits.amax(1) if shift else None
            if highest is not None:
                logits.sub_(highest[:, None])
            logits.exp_()
            sums = logits.sum(1)
            log_sums[rows] = sums.log() if highest is None else sums.log() + highest
            if grad_query is None or grad_items is None:
                continue
            factor = (share[rows] / sums)[:, None]  # on the narrow side: logits are not passed over again
            if taught is not None and said is not None:
                logits.addcmul_(said, sums[:, None], value=-taught.share)
            torch.mm(logits, items, out=grad_query[rows]).mul_(factor)
            grad_items.addmm_(logits.T, part * factor)
            if grad_bias is not None:
                grad_bias.addmv_(logits.T, factor.squeeze(1))
        own = items[target_rows]
        own_logits = (scaled * own).sum(1) if bias is None else (scaled * own).sum(1) + bias[target_rows]
        hard = 1.0 if taught is None else 1.0 - taught.share
        if grad_query is not None and grad_items is not None:
            grad_query.addcmul_(own, share[:, None], value=-hard).div_(temperature)
            grad_items.index_add_(0, target_rows, scaled * share[:, None], alpha=-hard)
            if grad_bias is not None:
                grad_bias.index_add_(0, target_rows, share, alpha=-hard)
            ctx.save_for_backward(grad_query, grad_items, grad_bias)
        return (log_sums - hard * own_logits - (1 - hard) * soft) @ share

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        of_inputs = (None if saved is None else grad * saved for saved in ctx.saved_tensors)
        return (*of_inputs, None, None, None, None, None, None)


def _said(taught: Taught, rows: slice, bias: Tensor | None, taken: Tensor | None) -> Tensor:
    """Return float [n, N], the teacher's probabilities; 0 for items that can not be chosen."""
    logits = taught.query[rows] @ taught.items.T
    if bias is not None:
        logits.masked_fill_(bias <= _SHUT, _SHUT)
    if taken is not None:
        logits.view(-1).index_fill_(0, taken, _SHUT)
    return torch.softmax(logits, dim=1)


def _by_chunk(spared: tuple[Tensor, Tensor], n_rows: int, n_items: int, chunk: int) -> list[Tensor]:
    """Return where the pairs are in each chunk's logits, laid out in one line."""
    of, rows = spared
    ends = torch.searchsorted(of, torch.arange(chunk, max(n_rows, chunk), chunk))
    return list(torch.tensor_split((of % chunk) * n_items + rows, ends))


def _safe_unshifted(scaled: Tensor, items: Tensor, bias: Tensor | None) -> bool:
    """Say whether no logit can be larger than `_SAFE_LOGIT`, and each row has one that is not below its negative."""
    largest = scaled.norm(dim=1).max() * items.norm(dim=1).max()
    if bias is not None:
        largest = largest + bias.max().abs()
    return bool(largest < _SAFE_LOGIT)  # NaN: no
