"""Training the ranker on examples, and saying whether its order beats retrieval's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tandem_core.metrics import Interval, paired_difference
from tandem_core.ranker_events import events_of
from tandem_core.ranker_features import RETRIEVAL_PLACE, from_sources
from tandem_trainer.progress import Progress, text
from tandem_trainer.ranker import RankerSettings
from tandem_trainer.ranker_examples import HeadSettings
from tandem_trainer.ranker_fit import FittedRanker, RankerInputs, RankingData, fit_ranker
from tandem_trainer.ranker_loss import ndcg_by_request


def inputs_of(names: Sequence[str], heads: Sequence[HeadSettings]) -> RankerInputs:
    return RankerInputs(
        prior=list(names).index(RETRIEVAL_PLACE),
        events=events_of(names),
        of_sources=from_sources(names),
        values=[head.value for head in heads],
    )


def train_ranker(
    examples: RankingData,
    names: Sequence[str],
    heads: Sequence[HeadSettings],
    settings: RankerSettings,
    source_dropout: float,
    seed: int,
    progress: Progress,
) -> tuple[FittedRanker, dict[str, float]]:
    """Fit; say how the order compares with retrieval's (NDCG@10) on requests, each by the model that has not seen it.

    source_dropout: share of the requests to fit on that hide what sources said, since callers of Rank bring candidates
    without it. Those held out hide nothing: they stand for what Recommend ranks.
    """
    fitted = fit_ranker(
        examples,
        settings,
        seed,
        inputs_of(names, heads),
        source_dropout=source_dropout,
        progress=lambda epoch, found: progress.advance(epoch + 1, settings.epochs, text(found)),
    )
    ranked, retrieval, gain = gain_over_retrieval(examples, names, fitted, seed)
    return fitted, {
        "ranker_heldout_ndcg@10": ranked,
        "retrieval_heldout_ndcg@10": retrieval,
        "ranker_gain_low": gain.low,
        "ranker_gain_high": gain.high,
        "ranker_requests": float(len(examples)),
    }


def gain_over_retrieval(
    examples: RankingData, names: Sequence[str], fitted: FittedRanker, seed: int
) -> tuple[float, float, Interval]:
    """Return NDCG@10 of the ranker and of retrieval's order, means over users, and the interval of the difference."""
    right = (examples.labels > 0).astype(np.float32)
    place = examples.features[:, list(names).index(RETRIEVAL_PLACE)]
    ours, theirs = (
        _by_user(ndcg_by_request(10, scores, right, examples.groups, examples.weights), examples.users)
        for scores in (fitted.out_of_fold[:, 0], place)
    )
    difference = paired_difference(ours, theirs, rng=np.random.default_rng(seed))
    return float(np.nanmean(ours)), float(np.nanmean(theirs)), difference


def _by_user(each: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Return the mean over each user's requests, NaN where none counts: requests of one user are not independent."""
    known = ~np.isnan(each)
    totals = np.bincount(users[known], each[known], minlength=int(users.max()) + 1)
    counts = np.bincount(users[known], minlength=len(totals))
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
