"""How long measuring takes, at the size of MovieLens 1M."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tandem_core.metrics import Relevant, evaluate_lists, hits

pytestmark = pytest.mark.bench
USERS, ITEMS = 6040, 3883


def lists(width: int) -> np.ndarray:
    return np.argsort(np.random.default_rng(0).random((USERS, ITEMS)), axis=1)[:, :width].astype(np.int32)


def relevant(pairs: int) -> Relevant:
    rng = np.random.default_rng(1)
    return Relevant.from_pairs(rng.integers(0, USERS, pairs), rng.integers(0, ITEMS, pairs), USERS)


def median_seconds(call: object, times: int = 5) -> float:
    assert callable(call)
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken))


def test_a_whole_evaluation_and_its_largest_part() -> None:
    ranked, wide = lists(100), lists(1000)
    truth, much = relevant(30_000), relevant(200_000)
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(ITEMS, 64)).astype(np.float32)
    counts, users = rng.integers(0, 500, ITEMS), rng.integers(0, 300, USERS)
    whole = median_seconds(
        lambda: evaluate_lists(
            ranked,
            truth,
            catalogue_size=ITEMS,
            item_vectors=vectors,
            item_counts=counts,
            user_counts=users,
            rng=np.random.default_rng(3),
        )
    )
    print(f"\nevaluate_lists {USERS} x 100, bootstrap of 1000: {whole:.2f} s; hits {USERS} x 1000: ", end="")
    print(f"{median_seconds(lambda: hits(wide, much)):.2f} s")
