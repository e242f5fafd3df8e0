"""What the ranker adds to the fused order on test events, and whether its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import order
from tandem_core.features import resolve_user
from tandem_core.metrics import Interval, hits, mean_interval, paired_difference
from tandem_core.metrics.accuracy import hit_rate_at, ndcg_at
from tandem_core.metrics.calibration import CalibrationCurve, calibration_curve, log_losses
from tandem_core.ranker_features import ranker_features
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.scorer import OnnxScorer
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.inputs import validation_queries
from tandem_trainer.offline_queries import OfflineQueries
from tandem_trainer.progress import Progress
from tandem_trainer.quality.protocols import LOO_ITEM_EVENTS
from tandem_trainer.ranker_examples import HeadSettings, head_truths, ranker_examples
from tandem_trainer.ranker_fit import RankingData
from tandem_trainer.ranker_step import BASE_RATE
from tandem_trainer.split import Split
from tandem_trainer.studies.report import Cell, StudyReport, StudyTable

K = 10
FUSED, RANKED, TREES = "fused retrieval order", "ranker", "boosted trees, same columns (not served)"
Trees: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float64]]  # features [n, f] -> scores [n]
PERMUTED = 200  # requests that permutation importance is measured on
SHOWN = 20  # of the permuted columns, the ones that matter most
NOTES = (
    "Retrieval is fitted on the training part alone. The ranker learns on requests of the validation part, whose "
    "events no retrieval model has been fitted on (towers chose their best state, and the merge its few weights, on "
    "them). Tested is on later events, with the same bundle; validation events are history by then.",
    "Right items that retrieval did not find count against every order. Means over users, 95 % bootstrap intervals.",
    "The base rate that log-loss is compared with is that of the validation requests. ECE: 15 bins of equally many "
    "candidates.",
    "Permutation importance: NDCG@10 lost when a column is shuffled over the candidates of all requests.",
)


def config_for(config: TrainConfig, protocol: str) -> TrainConfig:
    """Return the settings of a protocol, "loo" or "time", cut as `tandem bench quality` cuts."""
    cut = {"loo": "leave_last_out", "time": "global_time"}[protocol]
    data = config.data
    if protocol == "loo" and data.min_item_events < LOO_ITEM_EVENTS:
        data = data.model_copy(update={"min_item_events": LOO_ITEM_EVENTS})
    return config.model_copy(update={"data": data, "split": config.split.model_copy(update={"protocol": cut})})


@dataclass(frozen=True, slots=True)
class RankerStudy:
    """curves: head -> its calibration curve."""

    report: StudyReport
    curves: dict[str, CalibrationCurve]


@dataclass(frozen=True, slots=True, eq=False)
class _Tested:
    """What was listed for U test requests. lists: order -> int32 [U, 10]. answers: head -> (probabilities, truths),
    float32 [n], over all candidates. requests: int64 [n]. some: features of a sample, for permutation.
    """

    lists: dict[str, NDArray[np.int32]]
    answers: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    requests: NDArray[np.int64]
    some: list[tuple[int, NDArray[np.int32], NDArray[np.float32]]]


def study_ranker(
    bundle: Bundle,
    dataset: Dataset,
    split: Split,
    config: TrainConfig,
    progress: Progress,
    most_users: int | None = None,
    *,
    with_trees: bool = False,
) -> RankerStudy:
    """Rank for the users of the test events. bundle: trained with `config` on the training part of `split`.

    with_trees: gradient boosting on the ranker's examples, which must be made again for it, is compared too. Raises
    ValueError for a bundle without its ranker, or of an older version.
    """
    scorer = bundle.scorer
    if scorer is None:
        raise ValueError(f"bundle {bundle.id} was loaded without its ranker")
    pipeline, seed = RetrievalPipeline(bundle), config.seed
    heads = [HeadSettings(**head.model_dump()) for head in bundle.manifest.ranker_heads if head.event_types]
    if any(BASE_RATE + head.name not in bundle.manifest.metrics for head in heads if not head.value):
        raise ValueError(f"bundle {bundle.id} is of a version that noted no base rates: delete it and run this again")
    trees = _trees(bundle, dataset, split, heads, config, progress) if with_trees else None
    offline = queries_of_test(bundle, dataset, split, most_users=most_users, seed=seed)
    with progress.step("test"):
        tested = _test(pipeline, scorer, offline, heads, trees, config, progress)
    facts: dict[str, Cell] = {
        "data": dataset.name,
        "protocol": split.protocol,
        "test users": len(offline),
        "validation requests": int(bundle.manifest.metrics["ranker_requests"]),
        "columns": len(scorer.feature_names),
        "served": "ranker" if bundle.manifest.ranker_helps else "fused order",
        "seed": seed,
    }
    calibrated, curves = _calibration(tested, heads, bundle.manifest.metrics, seed)
    tables = (_orders(tested, offline, seed), calibrated, _importance(tested, scorer, offline, seed))
    return RankerStudy(StudyReport("ranker", facts, tables, NOTES), curves)


def _trees(
    bundle: Bundle,
    dataset: Dataset,
    split: Split,
    heads: Sequence[HeadSettings],
    config: TrainConfig,
    progress: Progress,
) -> Trees:
    data = config.ranker_data
    known = validation_queries(
        config, dataset, split, bundle.schema, bundle.catalog, most=data.most_requests, moments=data.moments
    )
    names = bundle.manifest.ranker_features
    with progress.step("candidates of validation"):
        examples = ranker_examples(RetrievalPipeline(bundle), known, names, heads, data, config.seed, progress)
    with progress.step("boosted trees"):
        return fit_trees(examples, config.seed)


def fit_trees(examples: RankingData, seed: int) -> Trees:
    """Fit trees on the ranker's own examples (gradient boosting on histograms, as Ke et al., NeurIPS 2017)."""
    model = HistGradientBoostingClassifier(
        max_iter=100,
        learning_rate=0.05,
        max_leaf_nodes=15,
        min_samples_leaf=100,
        l2_regularization=5,
        random_state=seed,
    )
    model.fit(examples.features, examples.labels > 0, sample_weight=examples.weights)
    return lambda features: np.asarray(model.decision_function(features), np.float64)


def _test(
    pipeline: RetrievalPipeline,
    scorer: OnnxScorer,
    offline: OfflineQueries,
    heads: Sequence[HeadSettings],
    trees: Trees | None,
    config: TrainConfig,
    progress: Progress,
) -> _Tested:
    bundle, most = pipeline.bundle, config.ranker_data.candidates
    names = (FUSED, RANKED) if trees is None else (FUSED, RANKED, TREES)
    lists = {name: np.full((len(offline), K), -1, np.int32) for name in names}
    said: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.float32]] = []
    some: list[tuple[int, NDArray[np.int32], NDArray[np.float32]]] = []
    sampled = set(np.random.default_rng(config.seed).permutation(len(offline))[:PERMUTED].tolist())
    for i, query in enumerate(offline.queries):
        found = pipeline.retrieve(replace(query, max_results=most), Budget()).candidates
        user = resolve_user(bundle.schema, bundle.catalog, query)
        features = ranker_features(scorer.feature_names, found, user, bundle, query.now_ms)
        scored = scorer.score(features)
        orders: list[NDArray[Any]] = [found.scores, scored.scores]
        if trees is not None:
            orders.append(trees(features))
        for name, scores in zip(names, orders, strict=True):
            best = found.rows[order(scores, found.rows)[:K]]
            lists[name][i, : len(best)] = best
        relevant = offline.relevant.rows[offline.relevant.indptr[i] : offline.relevant.indptr[i + 1]]
        right = np.isin(found.rows, relevant)
        said.append(np.stack([scored.heads[head.name] for head in heads], axis=1))
        truths.append(head_truths(found.rows, right, offline.outcomes[i], heads, bundle.catalog))
        if i in sampled:
            some.append((i, found.rows, features))
        if i % 100 == 0:
            progress.advance(i, len(offline), "test requests")
    requests = np.repeat(np.arange(len(said)), [len(each) for each in said])
    answers = {head.name: (np.concatenate(said)[:, k], np.concatenate(truths)[:, k]) for k, head in enumerate(heads)}
    return _Tested(lists, answers, requests, some)


def _orders(tested: _Tested, offline: OfflineQueries, seed: int) -> StudyTable:
    """Return a row per order; gains are relative to the fused order's mean."""
    rows: list[tuple[Cell, ...]] = []
    base: dict[str, NDArray[np.float64]] = {}
    for name, ranked in tested.lists.items():
        cells: list[Cell] = [name]
        for metric, measure in (("ndcg", ndcg_at), ("hr", hit_rate_at)):
            each = measure(hits(ranked, offline.relevant), offline.relevant, K)
            own = mean_interval(each, rng=np.random.default_rng(seed))
            fused = base.setdefault(metric, each)
            gain = paired_difference(each, fused, rng=np.random.default_rng(seed))
            scale = 100 / max(float(np.nanmean(fused)), 1e-12)
            relative = Interval(gain.mean * scale, gain.low * scale, gain.high * scale, gain.n)
            cells += [own, None if name == FUSED else relative]
        rows.append(tuple(cells))
    columns = ("order", f"NDCG@{K}", "gain, %", f"HR@{K}", "gain of HR, %")
    return StudyTable("Order of the candidates", columns, tuple(rows))


def _calibration(
    tested: _Tested, heads: Sequence[HeadSettings], metrics: Mapping[str, float], seed: int
) -> tuple[StudyTable, dict[str, CalibrationCurve]]:
    rows: list[tuple[Cell, ...]] = []
    curves: dict[str, CalibrationCurve] = {}
    for head in heads:
        if head.value:
            continue
        said, happened = tested.answers[head.name]
        usual = metrics[BASE_RATE + head.name]
        base = float(happened.mean(dtype=np.float64))
        curves[head.name] = curve = calibration_curve(said, happened)
        ours, theirs = (
            _mean_by_request(log_losses(p, happened), tested.requests) for p in (said, np.full_like(said, usual))
        )
        gain = paired_difference(theirs, ours, rng=np.random.default_rng(seed))
        relative = curve.error / base if base else float("nan")
        rows.append((head.name, base, usual, curve.error, relative, float(ours.mean()), float(theirs.mean()), gain))
    columns = (
        "head",
        "base rate",
        "in validation",
        "ECE",
        "ECE / base rate",
        "log-loss",
        "of the base rate",
        "less by",
    )
    return StudyTable("Probabilities", columns, tuple(rows)), curves


def _mean_by_request(each: NDArray[np.float64], requests: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(requests)
    return np.bincount(requests, each)[counts > 0] / counts[counts > 0]


def _importance(tested: _Tested, scorer: OnnxScorer, offline: OfflineQueries, seed: int) -> StudyTable:
    """Shuffle one column at a time; columns of one kind about several events are shuffled together."""
    features = np.concatenate([each for *_, each in tested.some])
    ends = np.cumsum([len(each) for *_, each in tested.some])
    rng = np.random.default_rng(seed)

    def ndcg(changed: NDArray[np.float32]) -> float:
        ranked = np.full((len(offline), K), -1, np.int32)
        for (i, rows, _), scores in zip(tested.some, np.split(scorer.score(changed).scores, ends[:-1]), strict=True):
            best = rows[order(scores, rows)[:K]]
            ranked[i, : len(best)] = best
        each = ndcg_at(hits(ranked, offline.relevant), offline.relevant, K)
        return float(np.nanmean(each[[i for i, *_ in tested.some]]))

    whole = ndcg(features)
    families: dict[str, list[int]] = {}
    for at, name in enumerate(scorer.feature_names):
        families.setdefault(name.split(":")[0] if name.startswith("event_") else name, []).append(at)
    lost: dict[str, float] = {}
    for family, members in families.items():
        kept = features[:, members].copy()
        features[:, members] = kept[rng.permutation(len(features))]
        lost[family] = whole - ndcg(features)
        features[:, members] = kept
    worst = sorted(lost, key=lambda name: -lost[name])[:SHOWN]
    title = f"Permutation importance, {len(tested.some)} requests, NDCG@{K} {whole:.4f} whole"
    return StudyTable(title, ("column", "NDCG lost"), tuple((name, lost[name]) for name in worst))
