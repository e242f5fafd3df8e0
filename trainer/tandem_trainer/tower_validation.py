"""What towers find of held-out events: the figure that chooses the state that is kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tandem_trainer.examples import Batch, Examples, user_columns

Metrics = dict[str, float]


@torch.no_grad()
def found_shares(
    items: Tensor,
    validation: Examples,
    indices: NDArray[np.int64],
    vectors_of: Callable[[Batch], Tensor],
    chunk: int = 256,
) -> Metrics:
    """Rank the whole catalogue for each example, chosen items left out; return recall@100 and hr@10.

    items: float [N, D]. indices: of examples as `validation_indices` gives them. vectors_of: float [B, D] of a batch.
    Raises ValueError where a score is not finite.
    """
    ranks = []
    for part in np.split(indices, range(chunk, len(indices), chunk)):
        batch = validation.batch(part)
        scores = vectors_of(batch) @ items.T  # [B, N]
        target = scores.gather(1, torch.from_numpy(batch.target_rows)[:, None])
        if not target.isfinite().all():
            raise ValueError("the towers gave vectors that are not finite; lower the learning rate")
        scores[validation.seen_pairs(part)] = -torch.inf  # never the target: see `validation_indices`
        # Ties count against us: towers that give all items one vector must score nothing.
        ranks.append((scores >= target).sum(1) - 1)
    rank = torch.cat(ranks)
    return {"recall@100": (rank < 100).double().mean().item(), "hr@10": (rank < 10).double().mean().item()}


def user_vectors(user: nn.Module, batch: Batch, items: Tensor) -> Tensor:
    """Return float [B, D] from a user tower; items: float [N, D], what the history is made of."""
    history = F.embedding(torch.from_numpy(batch.history_rows), items)
    vectors: Tensor = user(history, *map(torch.from_numpy, user_columns(batch)))
    return vectors


def validation_indices(validation: Examples | None, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the examples to validate on, int64: of those whose target the user had not chosen before a sample.

    most: so many at most.
    """
    if validation is None:
        return np.empty(0, np.int64)
    everyone = np.arange(len(validation))
    of, rows = validation.seen_pairs(everyone)
    targets = validation.rows[validation.targets]
    repeated = of[rows == targets[of]]
    fresh = np.setdiff1d(everyone, repeated)
    size = min(most, len(fresh))
    return np.sort(rng.choice(fresh, size, replace=False))
