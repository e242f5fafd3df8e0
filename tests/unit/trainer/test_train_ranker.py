"""What the ranker learns from, and what it is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tandem_core.bundle import Bundle
from tandem_core.ranker_features import RETRIEVAL_PLACE, from_sources
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer import train_ranker as module
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.progress import Progress
from tandem_trainer.ranker import FittedRanker, RankerSettings, RankingData, fit_ranker
from tandem_trainer.train import Trained
from tandem_trainer.train_ranker import ranker_examples, train_ranker

NAMES = [RETRIEVAL_PLACE, "reciprocal_rank:als", "source_score:als", "log_events"]


def examples(requests: int = 40, size: int = 10) -> RankingData:
    rng = np.random.default_rng(0)
    features = rng.uniform(1, 2, size=(requests * size, len(NAMES))).astype(np.float32)
    labels = np.zeros((requests, size), np.float32)
    labels[:, 0] = 1  # retrieval's first candidate is always right: its order is perfect
    return RankingData(features, labels.ravel(), np.repeat(np.arange(requests), size))


def test_source_columns_are_hidden_in_training_and_never_where_the_ranker_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, RankingData] = {}

    def spy(features: Any, labels: Any, groups: Any, *rest: Any, **more: Any) -> FittedRanker:
        seen["fit"], seen["held out"] = RankingData(features, labels, groups), rest[2]
        return fit_ranker(features, labels, groups, *rest, **more)

    monkeypatch.setattr(module, "fit_ranker", spy)
    _, metrics = train_ranker(examples(), NAMES, RankerSettings(epochs=1), 0.5, 0, Progress())
    hidden = (seen["fit"].features[:, :3] == 0).all(axis=1)
    assert 0.2 < hidden.mean() < 0.8
    assert (hidden.reshape(-1, 10).all(axis=1) | ~hidden.reshape(-1, 10).any(axis=1)).all()  # whole requests
    assert (seen["fit"].features[:, 3] > 0).all()
    assert (seen["held out"].features > 0).all()
    assert not set(seen["fit"].groups) & set(seen["held out"].groups)
    assert metrics["retrieval_heldout_ndcg@10"] == pytest.approx(1.0)


def test_the_columns_of_sources_are_told_from_the_others() -> None:
    assert from_sources(NAMES).tolist() == [True, True, True, False]


def test_examples_are_what_retrieval_returns_with_the_next_events_marked(trained: Trained, bundle: Bundle) -> None:
    offline = queries_of_test(bundle, trained.dataset, trained.split, most_users=30, seed=0)
    names: Sequence[str] = bundle.manifest.ranker_features
    made = ranker_examples(RetrievalPipeline(bundle), offline, names, 50, Progress())
    assert made.features.shape == (len(made.labels), len(names))
    assert np.isfinite(made.features).all()
    per_request = np.bincount(made.groups, made.labels)
    assert (per_request >= 1).all()  # requests whose answer retrieval missed teach nothing
    assert made.labels.sum() <= len(offline.relevant.rows)
    places = made.features[:, list(names).index(RETRIEVAL_PLACE)].reshape(-1, 50)
    assert (np.diff(places, axis=1) < 0).all()  # in the order retrieval gave them
