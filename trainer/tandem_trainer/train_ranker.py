"""The ranker's examples: what retrieval really returns to users whose next events are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tandem_core.budget import Budget
from tandem_core.features import resolve_user
from tandem_core.ranker_features import RETRIEVAL_PLACE, from_sources, ranker_features
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.progress import Progress, text
from tandem_trainer.ranker import FittedRanker, RankerSettings, RankingData, fit_ranker, ndcg_at

HELD_OUT = 0.3  # share of requests that choose the epoch and say whether the ranker helps


def ranker_examples(
    pipeline: RetrievalPipeline,
    offline: OfflineQueries,
    names: Sequence[str],
    most_candidates: int,
    progress: Progress,
) -> RankingData:
    """Ask retrieval for each query and label what it returns; requests without any positive teach nothing.

    Returned: the candidates of each request in the order retrieval gave them; groups count requests from 0. Features
    are those the service computes, by the same function, at the time of the query.
    """
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for i, query in enumerate(offline.queries):
        found = pipeline.retrieve(replace(query, max_results=most_candidates), Budget()).candidates
        relevant = offline.relevant.rows[offline.relevant.indptr[i] : offline.relevant.indptr[i + 1]]
        labels = np.isin(found.rows, relevant).astype(np.float32)
        if labels.any():
            user = resolve_user(pipeline.bundle.schema, pipeline.bundle.catalog, query)
            parts.append((ranker_features(names, found, user, pipeline.bundle, query.now_ms), labels))
        if i % 100 == 0:
            progress.advance(i, len(offline), "candidates of validation users")
    if not parts:
        raise ValueError("retrieval found no validation event among its candidates: nothing to train the ranker on")
    return RankingData(
        np.concatenate([features for features, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
        np.repeat(np.arange(len(parts)), [len(labels) for _, labels in parts]),
    )


def train_ranker(
    examples: RankingData,
    names: Sequence[str],
    settings: RankerSettings,
    source_dropout: float,
    seed: int,
    progress: Progress,
) -> tuple[FittedRanker, dict[str, float]]:
    """Fit on most of the requests; say on those held out how the order compares with retrieval's (NDCG@10).

    source_dropout: share of the requests to fit on that hide what sources said, since callers of Rank bring candidates
    without it. Those held out hide nothing: they stand for what Recommend ranks.
    """
    rng = np.random.default_rng(seed)
    requests = np.unique(examples.groups)
    drawn = rng.permutation(requests)[: max(1, int(HELD_OUT * len(requests)))]
    held = np.isin(examples.groups, drawn)
    fit_on = np.ones_like(held) if held.all() else ~held  # a lone request stands on both sides
    kept, held_out = _where(examples, fit_on), _where(examples, held)
    hidden = np.isin(kept.groups, requests[rng.random(len(requests)) < source_dropout])
    kept.features[np.ix_(hidden, from_sources(names))] = 0
    fitted = fit_ranker(
        kept.features,
        kept.labels,
        kept.groups,
        settings,
        seed,
        held_out,
        lambda epoch, found: progress.advance(epoch + 1, settings.epochs, text(found)),
        prior=list(names).index(RETRIEVAL_PLACE),
    )
    retrieval_order = -np.arange(len(held_out.labels), dtype=np.float32)  # candidates stand in the order found
    return fitted, {
        "ranker_heldout_ndcg@10": fitted.history[fitted.best_epoch]["ndcg@10"],
        "retrieval_heldout_ndcg@10": ndcg_at(10, retrieval_order, held_out.labels, held_out.groups),
        "ranker_requests": float(len(requests)),
    }


def _where(examples: RankingData, mask: NDArray[np.bool_]) -> RankingData:
    """Return a copy of the examples marked in bool [n]."""
    return RankingData(examples.features[mask], examples.labels[mask], examples.groups[mask])
