"""Encoders of the user tower at one training budget: what they find, how fast they learn, how long a request waits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from tandem_core.bundle import golden_user
from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, User, item_tower_inputs, user_tower_inputs
from tandem_core.manifest import Golden
from tandem_core.onnx_session import open_session
from tandem_core.sources.weighted_average import average_vector
from tandem_trainer.config import TrainConfig
from tandem_trainer.content import fit_content, with_vector_columns
from tandem_trainer.data import Dataset
from tandem_trainer.examples import Batch, Examples, make_examples
from tandem_trainer.export_towers import export_user_tower
from tandem_trainer.inputs import split_data, validation_examples
from tandem_trainer.memory import memory_peak_mb
from tandem_trainer.prepare import build_catalog, build_schema
from tandem_trainer.progress import Progress, text
from tandem_trainer.studies.report import Cell, StudyReport, StudyTable
from tandem_trainer.studies.timing import Call, interleaved_ms
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.tower_validation import Metrics, found_shares, validation_indices
from tandem_trainer.towers.settings import Encoder, TowerSettings
from tandem_trainer.train_towers import FittedTowers, fit_towers

PROTOCOL = "leave_last_out"
EXAMPLES = 400_000
LENGTHS = (20, 50, 100, 200)
CALLS = 300
BUDGET_MS = 0.5  # p50 of the default encoder at the configured length
WITHOUT_ATTENTION: Encoder = "mean_pool"  # what time_bias does not change
AVERAGED: Encoder = "attention_pool"  # the towers whose item vectors the parameter-free baseline averages
AVERAGE = "weighted average"


@dataclass(frozen=True, slots=True)
class Material:
    """One cut, ready to fit on. held_out: the validation examples, the same for all arms."""

    catalog: Catalog
    schema: FeatureSchema
    item_inputs: Mapping[str, NDArray[Any]]
    examples: Examples
    held_out: Examples


@dataclass(frozen=True, slots=True)
class Arm:
    """What was measured of one way to make a user's vector. towers: None for the one without parameters.

    calls: history length -> one user's vector, computed anew by each call.
    """

    towers: TowerSettings | None
    metrics: Metrics
    events_per_second: float | None
    loading_share: float | None
    calls: Mapping[int, Call]

    @property
    def name(self) -> str:
        return AVERAGE if self.towers is None else self.towers.encoder

    @property
    def time_bias(self) -> str | None:
        if self.towers is None or self.towers.encoder == WITHOUT_ATTENTION:
            return None
        return "yes" if self.towers.time_bias else "no"


@dataclass(frozen=True, slots=True)
class Latency:
    """p50 and p95 in milliseconds, float64 [arms, lengths]."""

    lengths: tuple[int, ...]
    p50: NDArray[np.float64]
    p95: NDArray[np.float64]


def study_encoders(
    dataset: Dataset, config: TrainConfig, progress: Progress, examples: int = EXAMPLES, calls: int = CALLS
) -> StudyReport:
    """Fit every encoder on `examples` events, then time all of them in turn.

    calls: timed calls per encoder and length. Raises ValueError for data that leaves nothing to train or validate on.
    """
    torch.set_num_threads(config.threads)
    settings = same_budget(config.towers, examples)
    length = config.features.history_length
    lengths = tuple(sorted({*LENGTHS, length}))
    with progress.step("cut"):
        material = prepare(dataset, config)
    arms = fit_arms(material, settings, lengths, config.seed, progress)
    with progress.step("latency"):
        latency = time_arms(arms, lengths, calls, config.seed)
    default = next(i for i, arm in enumerate(arms) if arm.towers == settings.towers)
    at = lengths.index(length)
    p50, p95 = float(latency.p50[default, at]), float(latency.p95[default, at])
    name = label(settings.towers)
    verdict = "within" if p50 <= BUDGET_MS else "above"
    n = len(material.held_out)
    return StudyReport(
        "encoders",
        {
            "data": dataset.name,
            "protocol": PROTOCOL,
            "items": len(material.catalog),
            "training events": len(material.examples),
            "events trained on": min(round(settings.epochs * len(material.examples)), examples),
            "history length": length,
            "validation examples": n,
            "calls": calls,
            "seed": config.seed,
            "default": name,
            "default p50 ms": p50,
            "default p95 ms": p95,
            "budget ms": BUDGET_MS,
            "default against budget": verdict,
        },
        (_table(arms, latency),),
        (
            f"Shares found: the best of {settings.validations} validations, one seed; with {n} examples their standard "
            f"error is at most {0.5 / n**0.5:.3f}. The cut's test part is not looked at.",
            "With and without time bias training begins alike (one seed, biases of zero): where figures are equal, the "
            "budget was too short for the bias to matter.",
            "events/s: predicted in training per second of processor time; loading: the share of it that gathering the "
            f"batches takes. Memory peak of the process {memory_peak_mb():,.0f} MB.",
            f"p50 and p95 in ms, by length of the history: onnxruntime, one thread, one user; {calls} rounds over all "
            "encoders and lengths, each in another order, so that noise hits all alike. Beyond the trained length all "
            "places share the last one's bias, which costs what a bias of their own would.",
            f"{AVERAGE}: of the item vectors of {AVERAGED} by event weight, without a parameter; timed in numpy.",
            f"Default encoder {name}: p50 {p50:.3f} ms (p95 {p95:.3f}) at {length} events, {verdict} the budget of "
            f"{BUDGET_MS:g} ms.",
        ),
    )


def fit_arms(
    material: Material, settings: TowerTrainingSettings, lengths: Sequence[int], seed: int, progress: Progress
) -> list[Arm]:
    """Fit every variant of the towers with the same settings and seed; the parameter-free arm is the last."""
    arms: list[Arm] = []
    averages: list[Arm] = []
    for towers in variants(settings.towers):
        with progress.step(label(towers)):
            fitted = fit(material, settings.model_copy(update={"towers": towers}), seed, progress)
            calls = tower_calls(material, fitted, lengths)
        arms.append(Arm(towers, fitted.history[fitted.best], fitted.examples_per_second, fitted.loading_share, calls))
        if towers.encoder == AVERAGED and towers.time_bias == settings.towers.time_bias:
            averages.append(_average_arm(material, fitted.item_vectors, lengths))
    return arms + averages


def time_arms(arms: Sequence[Arm], lengths: tuple[int, ...], calls: int, seed: int) -> Latency:
    """Time all arms at all lengths in turn."""
    each = interleaved_ms([arm.calls[n] for arm in arms for n in lengths], calls, seed)
    p50, p95 = np.percentile(each.reshape(len(arms), len(lengths), calls), [50, 95], axis=2)
    return Latency(lengths, p50, p95)


def same_budget(settings: TowerTrainingSettings, examples: int) -> TowerTrainingSettings:
    """Return settings with which every encoder spends the whole budget: none stops early."""
    return settings.model_copy(update={"most_examples": examples, "patience": settings.validations})


def variants(configured: TowerSettings) -> list[TowerSettings]:
    """Return every encoder, with and without time bias where that is a difference; the configured one among them."""
    return [
        configured.model_copy(update={"encoder": encoder, "time_bias": time_bias})
        for encoder in get_args(Encoder)
        for time_bias in ((configured.time_bias,) if encoder == WITHOUT_ATTENTION else (True, False))
    ]


def label(towers: TowerSettings) -> str:
    """Return the name of a variant in sentences."""
    plain = towers.time_bias or towers.encoder == WITHOUT_ATTENTION
    return towers.encoder if plain else f"{towers.encoder} without time bias"


def prepare(dataset: Dataset, config: TrainConfig) -> Material:
    """Cut the data by leave-last-out and return what training reads; raises ValueError without validation events."""
    split = split_data(
        config.model_copy(update={"split": config.split.model_copy(update={"protocol": PROTOCOL})}), dataset
    )
    catalog = build_catalog(dataset, split.train, config.features.most_codes)
    schema = build_schema(dataset, catalog, config)
    items = dataset.items
    title, body, categories, creator = (items[name].tolist() for name in ("title", "text", "categories", "creator"))
    known = catalog.event_counts > 0
    words = fit_content(title, body, categories, creator, config.features.content_dims, known, config.seed)
    content = with_vector_columns(words, items, dataset.schema.item_vector)
    validation = validation_examples(dataset, split, schema, catalog)
    # Drawn once, or each way of choosing would meet other users.
    chosen = validation_indices(validation, config.towers.validation_examples, np.random.default_rng(config.seed))
    if not len(chosen):
        raise ValueError(f"{dataset.name}: no validation event on an item new to its user; give users with more events")
    return Material(
        catalog,
        schema,
        item_tower_inputs(schema, catalog, content),
        make_examples(split.train, catalog, schema, dataset.users),
        replace(validation, targets=validation.targets[chosen]),
    )


def fit(material: Material, settings: TowerTrainingSettings, seed: int, progress: Progress) -> FittedTowers:
    """Train towers, told of each validation."""
    return fit_towers(
        material.examples,
        material.item_inputs,
        settings,
        seed,
        material.held_out,
        lambda part, found: progress.advance(part + 1, settings.most_validations, text(found)),
    )


def tower_calls(material: Material, fitted: FittedTowers, lengths: Sequence[int]) -> dict[int, Call]:
    """Return, by history length, one run of the exported user tower for one user; compared with torch before."""
    schema = material.schema.model_copy(update={"history_length": max(lengths)})
    users = [user_with(material, n) for n in lengths]
    inputs = {n: user_tower_inputs(schema, [user], fitted.item_vectors) for n, user in zip(lengths, users, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user_tower.onnx"
        export_user_tower(fitted.user_tower, users, schema, fitted.item_vectors, path)
        session = open_session(path)
    # The exporter drops inputs that an encoder does not use.
    names = [node.name for node in session.get_inputs()]
    return {n: partial(session.run, None, {name: inputs[n][name] for name in names}) for n in lengths}


def user_with(material: Material, length: int) -> User:
    """Return a user with so many events, on the most popular items."""
    popular = np.argsort(-material.catalog.event_counts, kind="stable")
    now = int(material.examples.timestamps.max())
    history = np.resize(popular, length).tolist()
    return golden_user(Golden(history=history, user_attributes={}, now_ms=now, expected=[]), material.schema)


def average_vectors(batch: Batch, schema: FeatureSchema, item_vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [B, D], the average of what each user chose, by event weight; zeros without a history."""
    found = np.zeros((len(batch), item_vectors.shape[1]), np.float32)
    for i, mask in enumerate(batch.history_mask > 0):
        weights = schema.type_weights[batch.history_types[i, mask]]
        vector = average_vector(batch.history_rows[i, mask], weights, item_vectors)
        if vector is not None:
            found[i] = vector
    return found


def _average_arm(material: Material, vectors: NDArray[np.float32], lengths: Sequence[int]) -> Arm:
    metrics = found_shares(
        torch.from_numpy(vectors),
        material.held_out,
        np.arange(len(material.held_out)),
        lambda batch: torch.from_numpy(average_vectors(batch, material.schema, vectors)),
    )
    histories = {n: user_with(material, n).history for n in lengths}
    calls = {n: partial(average_vector, known.rows, known.weights, vectors) for n, known in histories.items()}
    return Arm(None, metrics, None, None, calls)


def _table(arms: Sequence[Arm], latency: Latency) -> StudyTable:
    rows: list[tuple[Cell, ...]] = []
    for i, arm in enumerate(arms):
        times = np.stack([latency.p50[i], latency.p95[i]], axis=1).ravel().tolist()
        speed = None if arm.events_per_second is None else round(arm.events_per_second)
        found = arm.metrics["hr@10"], arm.metrics["recall@100"]
        rows.append((arm.name, arm.time_bias, *found, speed, arm.loading_share, *times))
    columns = (f"{share} {n}" for n in latency.lengths for share in ("p50", "p95"))
    heads = ("encoder", "time bias", "hr@10", "recall@100", "events/s", "loading", *columns)
    return StudyTable("Encoders", heads, tuple(rows))
