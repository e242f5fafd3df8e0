"""What the ranker minimises, and how its orders are judged while it trains."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def ranking_loss(
    logits: Tensor, labels: Tensor, lengths: list[int], kind: str, weights: Tensor | None = None
) -> Tensor:
    """Return a scalar (nats per request).

    logits, labels: float [n], requests one after another; labels: 0, or how much a right candidate counts. lengths:
    their sizes. weights: float [n], candidates that each stands for (default 1). pointwise: binary cross-entropy, which
    keeps the scores log-odds. listwise: softmax over each request, which looks at their order alone.
    """
    stands_for = torch.ones_like(logits) if weights is None else weights
    loss = torch.zeros(())
    if kind in ("pointwise", "both"):
        loss = loss + _cross_entropy(logits, labels, stands_for) / len(lengths)
    if kind in ("listwise", "both"):
        request = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        top = torch.full((len(lengths),), -torch.inf).scatter_reduce(0, request, logits.detach(), "amax")
        sums = torch.zeros(len(lengths)).index_add(0, request, stands_for * (logits - top[request]).exp())
        log_share = logits - top[request] - sums.log()[request]
        loss = loss - (labels * log_share).sum() / len(lengths)
    return loss


def head_loss(answers: Tensor, truths: Tensor, values: list[bool], weights: Tensor, requests: int) -> Tensor:
    """Return a scalar, the mean over heads (nats, or squared error of values, per request).

    answers, truths: float [n, K]; a truth that is NaN is not known. values: which heads are values and not
    probabilities. weights: float [n], candidates that each stands for.
    """
    loss = torch.zeros(())
    for i, is_value in enumerate(values):
        known = ~truths[:, i].isnan()
        answer, truth, weight = answers[known, i], truths[known, i], weights[known]
        if is_value:
            loss = loss + (weight * (answer - truth) ** 2).sum() / requests
        else:
            loss = loss + _cross_entropy(answer, truth, weight) / requests
    return loss / max(len(values), 1)


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum over candidates; labels of any weight above 0 are right, and count so much."""
    right = (labels > 0).to(logits.dtype)
    counts = torch.where(labels > 0, labels, weights)
    return F.binary_cross_entropy_with_logits(logits, right, weight=counts, reduction="sum")


def ndcg_by_request(
    k: int,
    scores: NDArray[np.floating],
    labels: NDArray[np.floating],
    groups: NDArray[np.integer],
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Return float64 [requests]: NDCG@k of each request by rising group, NaN where nothing is right. All [n].

    Among equal scores the right candidates come last. weights: candidates that each stands for; the place of a
    candidate is then the sum of those before it.
    """
    stands_for = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    found = _dcg(k, scores, labels, groups, stands_for)
    ideal = _dcg(k, labels, labels, groups, np.ones(len(labels)))
    with np.errstate(invalid="ignore"):
        return np.where(ideal > 0, found / ideal, np.nan)


def ndcg_at(
    k: int,
    scores: NDArray[np.floating],
    labels: NDArray[np.floating],
    groups: NDArray[np.integer],
    weights: NDArray[np.floating] | None = None,
) -> float:
    """Return the mean NDCG@k over requests with a right candidate; 0 if there are none."""
    each = ndcg_by_request(k, scores, labels, groups, weights)
    known = each[~np.isnan(each)]
    return float(known.mean()) if len(known) else 0.0


def _dcg(
    k: int,
    scores: NDArray[np.floating],
    labels: NDArray[np.floating],
    groups: NDArray[np.integer],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    order = np.lexsort((labels, -scores, groups))
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    before = np.cumsum(weights[order]) - weights[order]
    place = before - np.repeat(before[starts], counts)
    gains = np.where(place < k, labels[order] / np.log2(place + 2.0), 0)
    return np.add.reduceat(gains, starts)
