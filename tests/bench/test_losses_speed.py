"""How long a step of the loss over the whole catalogue takes, at the size of MovieLens 1M."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tandem_trainer.losses import full_softmax_loss

pytestmark = pytest.mark.bench
DIM, TEMPERATURE = 64, 0.07


@pytest.mark.parametrize(("rows", "items"), [(2048, 3416), (2048, 30_000)])
def test_forward_and_backward_against_cross_entropy(rows: int, items: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    query = F.normalize(torch.randn(rows, DIM), dim=1).requires_grad_()
    vectors = F.normalize(torch.randn(items, DIM), dim=1).requires_grad_()
    targets = torch.randint(0, items, (rows,))

    def median_ms(loss: Callable[[], torch.Tensor], times: int = 7) -> float:
        taken = []
        for _ in range(times):
            query.grad = vectors.grad = None
            begun = time.perf_counter()
            loss().backward()  # type: ignore[no-untyped-call]
            taken.append(time.perf_counter() - begun)
        return float(np.median(taken) * 1000)

    plain = median_ms(lambda: F.cross_entropy(query @ vectors.T / TEMPERATURE, targets))
    scaled = median_ms(lambda: F.cross_entropy((query / TEMPERATURE) @ vectors.T, targets))
    fused = median_ms(lambda: full_softmax_loss(query, vectors, targets, TEMPERATURE))
    torch.set_num_threads(threads)
    print(
        f"\nfull softmax {rows} x {items} x {DIM}, one thread: {fused:.0f} ms; F.cross_entropy(q @ items.T / t): "
        f"{plain:.0f} ms ({plain / fused:.1f}x), with q scaled before the product: {scaled:.0f} ms "
        f"({scaled / fused:.1f}x)"
    )
