"""Learning the weights that merge the sources, on requests whose outcome is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tandem_core.blend import BlendWeights, Union
from tandem_core.candidates import CandidateBatch
from tandem_core.merge import rank_fusion
from tandem_core.metrics import Relevant, hits
from tandem_core.metrics.accuracy import ndcg_at
from tandem_core.query import Regime
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.settings import Settings
from tandem_core.sources.base import Found
from tandem_trainer.offline_queries import OfflineQueries

_STEPS = (0.0, 0.5, 0.8, 1.25, 2.0)  # a weight is tried at so many times its value
_PASSES = 6
_PAIRS = 2048  # right candidates compared with their lists at once
TOP_AT = 10
POOL_AT = (100, 500)


class BlendSettings(Settings):
    """How the merge is learned."""

    most_requests: int = Field(default=3000, ge=10)
    fewest_requests: int = Field(default=200, ge=1)  # of a regime; with fewer its sources are merged by rank
    head: int = Field(default=50, ge=0)  # candidates that are put in order for the top of a list


@dataclass(frozen=True, slots=True)
class BlendExamples:
    """What S sources said of the candidates of U requests, C at most, and which were right.

    sources: S names. scores: float32 [U, C, S], standardised; padding is -inf in every source. right_of, right_at:
    int64 [P], request and place of each right candidate that some source found. right: int64 [U], right items of each
    request, found or not.
    """

    sources: Sequence[str]
    scores: NDArray[np.float32]
    right_of: NDArray[np.int64]
    right_at: NDArray[np.int64]
    right: NDArray[np.int64]

    def part(self, chosen: NDArray[np.bool_]) -> BlendExamples:
        """Return the examples of the chosen requests, bool [U]."""
        number = np.cumsum(chosen) - 1
        kept = chosen[self.right_of]
        return BlendExamples(
            self.sources, self.scores[chosen], number[self.right_of[kept]], self.right_at[kept], self.right[chosen]
        )

    def ranks(self, weights: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return int64 [P], how many candidates come before each right one under weights [S]; ties count against it."""
        with np.errstate(invalid="ignore"):  # padding becomes -inf, or NaN where a weight is 0: neither ranks
            totals = self.scores @ weights.astype(np.float32)
        right = totals[self.right_of, self.right_at]
        ranks = np.empty(len(right), np.int64)
        for start in range(0, len(right), _PAIRS):
            part = slice(start, start + _PAIRS)
            ranks[part] = (totals[self.right_of[part]] >= right[part, None]).sum(axis=1) - 1
        return ranks


def make_examples(
    found: Sequence[Mapping[str, Found]], right: Sequence[NDArray[np.integer]], sources: Sequence[str]
) -> BlendExamples:
    """found: what each source found, by request. right: catalogue rows that each request was to find."""
    unions = [Union.of(each) for each in found]
    scores = np.full((len(unions), max(len(u.rows) for u in unions), len(sources)), -np.inf, np.float32)
    of: list[int] = []
    at: list[int] = []
    for i, (union, wanted) in enumerate(zip(unions, right, strict=True)):
        for s, name in enumerate(sources):
            scores[i, : len(union.rows), s] = union.scores.get(name, np.float32(0))
        places = np.flatnonzero(np.isin(union.rows, wanted))
        of.extend([i] * len(places))
        at.extend(places.tolist())
    sizes = np.array([len(np.unique(each)) for each in right], np.int64)
    return BlendExamples(tuple(sources), scores, np.array(of, np.int64), np.array(at, np.int64), sizes)


def ndcg(examples: BlendExamples, weights: NDArray[np.float64], k: int = TOP_AT) -> float:
    """Return mean NDCG@k over the requests."""
    return float(np.mean(_ndcg_of_each(examples, weights, k)))


def weighted_ndcg(examples: BlendExamples, weights: NDArray[np.float64], k: int = TOP_AT) -> float:
    """Return mean NDCG@k over the requests, one with n right items counting sqrt(min(n, k)) times.

    Where requests have one right item each this is `ndcg`. Where they differ, weights learned for the plain mean go
    after the many who come back for one item, and are wrong for those who come back for ten.
    """
    shares = np.sqrt(np.minimum(examples.right, k))
    return float(_ndcg_of_each(examples, weights, k) @ shares / max(shares.sum(), 1))


def _ndcg_of_each(examples: BlendExamples, weights: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    ranks = examples.ranks(weights)
    gains = np.where(ranks < k, 1 / np.log2(ranks + 2.0), 0)
    total = np.bincount(examples.right_of, gains, minlength=len(examples.right))
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2.0))])[np.minimum(examples.right, k)]
    found: NDArray[np.float64] = total / np.maximum(best, 1e-9)
    return found


def pool_recall(examples: BlendExamples, weights: NDArray[np.float64]) -> float:
    """Return recall at 100 and at 500, their mean, each a mean over the requests."""
    ranks, sizes = examples.ranks(weights), np.maximum(examples.right, 1)
    shares = [np.bincount(examples.right_of, ranks < k, minlength=len(sizes)) / np.minimum(sizes, k) for k in POOL_AT]
    return float(np.mean(shares))


def fit_blend(examples: BlendExamples, head: int) -> BlendWeights:
    """Choose weights by coordinate ascent on what they are for: NDCG@10 for the top, recall for the pool.

    A few weights against thousands of requests: the metrics themselves can be climbed, no stand-in loss is needed.
    Each climb starts from equal weights and from the best source alone, and the better end is taken.
    """
    top = _climb(lambda weights: weighted_ndcg(examples, weights), len(examples.sources))
    pool = _climb(lambda weights: pool_recall(examples, weights), len(examples.sources))
    return BlendWeights(_named(examples.sources, top), _named(examples.sources, pool), head)


def learn_blends(
    pipeline: RetrievalPipeline,
    queries: OfflineQueries,
    sources: Sequence[str],
    settings: BlendSettings,
    seed: int,
) -> tuple[dict[Regime, BlendWeights], dict[str, float]]:
    """Learn weights for every regime that enough of the queries belong to, where they beat merging by rank.

    sources: those whose weights are learned; others keep the plan's. Returns weights by regime, and metrics of both
    ways to merge on requests held out from learning. In the end all requests are learned from.
    """
    asked = [pipeline.ask(query) for query in queries.queries]
    right = np.split(queries.relevant.rows, queries.relevant.indptr[1:-1])
    blends: dict[Regime, BlendWeights] = {}
    metrics: dict[str, float] = {}
    for regime in Regime:
        own = [i for i, (found_for, found) in enumerate(asked) if found_for is regime and found and len(right[i])]
        if len(own) < settings.fewest_requests:
            continue
        found = [{name: each for name, each in asked[i][1].items() if name in sources} for i in own]
        examples = make_examples(found, [right[i] for i in own], [s for s in sources if s in found[0]])
        learning = np.random.default_rng(seed).random(len(own)) < 0.5
        trial, held_out = fit_blend(examples.part(learning), settings.head), examples.part(~learning)
        plans = {plan.source: plan.weight for plan in pipeline.bundle.plans[regime]}
        by_rank = [rank_fusion(found[i], plans) for i in np.flatnonzero(~learning)]
        name = regime.name.lower()
        compared = {
            f"merge_{name}_ndcg@10": ndcg(held_out, _in_order(held_out, trial.top)),
            f"merge_{name}_recall": pool_recall(held_out, _in_order(held_out, trial.pool)),
            f"rank_fusion_{name}_ndcg@10": _ndcg_of_lists(by_rank, [right[own[i]] for i in np.flatnonzero(~learning)]),
        }
        metrics |= compared
        if compared[f"merge_{name}_ndcg@10"] > compared[f"rank_fusion_{name}_ndcg@10"]:
            blends[regime] = fit_blend(examples, settings.head)
    return blends, metrics


def _in_order(examples: BlendExamples, weights: Mapping[str, float]) -> NDArray[np.float64]:
    return np.array([weights[name] for name in examples.sources])


def _ndcg_of_lists(lists: Sequence[CandidateBatch], right: Sequence[NDArray[np.integer]]) -> float:
    shown = np.full((len(lists), TOP_AT), -1, np.int32)
    for i, batch in enumerate(lists):
        best = batch.rows[:TOP_AT]
        shown[i, : len(best)] = best
    owners = np.repeat(np.arange(len(right)), [len(each) for each in right])
    relevant = Relevant.from_pairs(owners, np.concatenate(right), len(right))
    return float(ndcg_at(hits(shown, relevant), relevant, TOP_AT).mean())


def _climb(score_of: Callable[[NDArray[np.float64]], float], n: int) -> NDArray[np.float64]:
    """Return weights [n], sum 1."""
    alone = list(np.eye(n) * 0.9 + 0.1 / n)
    starts = [np.ones(n), max(alone, key=score_of)]
    ends = [_climb_from(start / start.sum(), score_of) for start in starts]
    return max(ends, key=score_of)


def _climb_from(weights: NDArray[np.float64], score_of: Callable[[NDArray[np.float64]], float]) -> NDArray[np.float64]:
    score = score_of(weights)
    for _ in range(_PASSES):
        before = score
        for i in range(len(weights)):
            value = weights[i] or 0.05
            for step in _STEPS:
                tried = weights.copy()
                tried[i] = value * step
                if tried.any() and (reached := score_of(tried)) > score:
                    weights, score = tried / tried.sum(), reached
        if score <= before:
            break
    return weights


def _named(sources: Sequence[str], weights: NDArray[np.float64]) -> dict[str, float]:
    return {name: round(float(weight), 4) for name, weight in zip(sources, weights, strict=True)}
