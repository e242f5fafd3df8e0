"""The loss of the towers and the sampling of its negatives."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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
) -> Tensor:
    """In-batch negatives with logQ correction (Yi et al., RecSys 2019), mixed with shared ones (Yang et al., 2020).

    query, item: float [B, D], unit length, row i of `item` being the positive of row i of `query`. log_q: float [B],
    log sampling probability of each item. item_id: int64 [B]. weight: float [B], at least one above 0; None: all 1.
    extra_item: float [E, D] further negatives of every row, with extra_log_q float [E] and extra_item_id int64 [E].
    Returns a scalar (nats), the weighted mean over rows.
    """
    own = torch.arange(len(item_id))
    candidate, candidate_id = item, item_id
    if extra_item is not None and extra_log_q is not None and extra_item_id is not None:
        candidate, log_q = torch.cat([item, extra_item]), torch.cat([log_q, extra_log_q])
        candidate_id = torch.cat([item_id, extra_item_id])
    # Subtracted from the positive too: the sum over candidates then estimates the sum over the whole catalogue.
    logits = (query / temperature) @ candidate.T - log_q  # [B, B + E]
    twins = item_id[:, None] == candidate_id[None, :]  # the row's positive once more is no negative
    twins[own, own] = False
    logits = logits.masked_fill(twins, -torch.inf)
    losses = F.cross_entropy(logits, own, reduction="none")  # [B]
    return losses.mean() if weight is None else (losses * weight).sum() / weight.sum()


class MixedNegatives:
    """Draws shared negatives and knows how likely each item is to be among a step's candidates."""

    def __init__(self, counts: NDArray[np.int64], batch_size: int, uniform: int, rng: np.random.Generator) -> None:
        """counts: int64 [N], how often each item is a positive."""
        self.batch_size = batch_size
        self._rng = rng
        # An item without training events is no negative: that would teach the tower to bury new items.
        self._trained = np.flatnonzero(counts)
        self._uniform = min(uniform, len(self._trained))
        # Both kinds together are one sample of batch_size + uniform candidates (mixed negative sampling).
        expected = batch_size * counts / counts.sum() + self._uniform * (counts > 0) / len(self._trained)
        share = expected / (batch_size + self._uniform)
        self.log_q = torch.from_numpy(np.log(np.maximum(share, 1e-12)).astype(np.float32))

    def draw(self) -> NDArray[np.int64]:
        """Return int64 [E], catalogue rows, none twice."""
        return self._rng.choice(self._trained, self._uniform, replace=False)
