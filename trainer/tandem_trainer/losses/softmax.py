"""Softmax over a sample of the catalogue, corrected for how likely each item was to be in the sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def in_batch_softmax_loss(
    query: Tensor,
    item: Tensor,
    log_q: Tensor,
    item_id: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    extra_item: Tensor | None = None,
    extra_log_q: Tensor | None = None,
    extra_item_id: Tensor | None = None,
    own_score: Tensor | None = None,
    own_log_q: Tensor | None = None,
) -> Tensor:
    """In-batch negatives with logQ correction (Yi et al., RecSys 2019), mixed with shared ones (Yang et al., 2020).

    query, item: float [B, D], unit length, row i of `item` being the positive of row i of `query`. log_q: float [B],
    log sampling probability of each item. item_id: int64 [B]. weight: float [B], at least one above 0; None: all 1.
    extra_item: float [E, D] further negatives of every row, with extra_log_q float [E] and extra_item_id int64 [E].
    own_score: float [B, H], inner products of a row with negatives of its own, with own_log_q float [B, H], +inf where
    there is none.
    Returns a scalar (nats), the weighted mean over rows.
    """
    own = torch.arange(len(item_id), device=item_id.device)
    candidate, candidate_id = item, item_id
    if extra_item is not None and extra_log_q is not None and extra_item_id is not None:
        candidate, log_q = torch.cat([item, extra_item]), torch.cat([log_q, extra_log_q])
        candidate_id = torch.cat([item_id, extra_item_id])
    # Subtracted from the positive too: the sum over candidates then estimates the sum over the whole catalogue.
    scaled = query / temperature
    logits = scaled @ candidate.T - log_q  # [B, B + E]
    twins = item_id[:, None] == candidate_id[None, :]  # the row's positive once more is no negative
    twins[own, own] = False
    logits = logits.masked_fill(twins, -torch.inf)
    if own_score is not None and own_log_q is not None:
        logits = torch.cat([logits, own_score / temperature - own_log_q], dim=1)
    return _weighted_mean(F.cross_entropy(logits, own, reduction="none"), weight)


def sampled_softmax_loss(
    query: Tensor,
    item: Tensor,
    item_id: Tensor,
    negative: Tensor,
    negative_log_count: Tensor,
    negative_id: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    own_score: Tensor | None = None,
    own_log_count: Tensor | None = None,
) -> Tensor:
    """Softmax over the positive and shared negatives drawn apart from it (Bengio and Senécal, 2008).

    query, item: float [B, D], row i of `item` being the positive of row i of `query`. item_id: int64 [B]. negative:
    float [E, D], with negative_id int64 [E] and negative_log_count float [E], log of how often each is expected among
    the E. own_score: float [B, H], inner products of a row with negatives of its own, with own_log_count float [B, H],
    +inf where there is none. weight: float [B], at least one above 0; None: all 1. Returns a scalar (nats), the
    weighted mean over rows: an estimate of the softmax over the catalogue, and exactly that where each other item is
    drawn once for certain.
    """
    scaled = query / temperature
    # The positive is among the candidates for certain: log 1 = 0 is what it is corrected by.
    positive = (scaled * item).sum(1, keepdim=True)
    logits = scaled @ negative.T - negative_log_count  # [B, E]
    logits = logits.masked_fill(item_id[:, None] == negative_id[None, :], -torch.inf)
    parts = [positive, logits]
    if own_score is not None and own_log_count is not None:
        parts.append(own_score / temperature - own_log_count)
    return _weighted_mean(torch.logsumexp(torch.cat(parts, dim=1), 1) - positive.squeeze(1), weight)


def _weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    return losses.mean() if weight is None else (losses * weight).sum() / weight.sum()
