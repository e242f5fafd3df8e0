"""What the ranker costs: the columns of 500 candidates, and one call of the model for all of them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.features import resolve_user
from tandem_core.ranker_features import ranker_features
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.train import Trained

pytestmark = pytest.mark.bench
CALLS = 200
N = 500


def test_columns_and_model_of_500_candidates(bundle: Bundle, trained: Trained) -> None:
    assert bundle.scorer is not None
    (query,) = queries_of_test(bundle, trained.dataset, trained.split, most_users=1, seed=0).queries
    found = RetrievalPipeline(bundle).retrieve(query, Budget()).candidates
    # The catalogue of the tests is smaller: what takes time is how many rows there are, not which.
    again = np.arange(N) % len(found)
    batch = CandidateBatch(
        found.rows[again], found.scores[again], {name: column[again] for name, column in found.columns.items()}
    )
    user = resolve_user(bundle.schema, bundle.catalog, query)
    names = bundle.scorer.feature_names
    times = np.empty((CALLS, 2))
    for call in range(CALLS):
        begun = time.perf_counter_ns()
        features = ranker_features(names, batch, user, bundle, query.now_ms)
        between = time.perf_counter_ns()
        bundle.scorer.score(features)
        times[call] = between - begun, time.perf_counter_ns() - between
    assert features.shape == (N, len(names))
    for name, each in (("columns", times[:, 0]), ("model", times[:, 1]), ("together", times.sum(axis=1))):
        p50, p95 = np.percentile(each / 1e6, [50, 95])
        print(f"\nranker, {N} candidates, {len(names)} columns: {name:8s} p50 {p50:.3f} ms, p95 {p95:.3f} ms", end="")
    print()
