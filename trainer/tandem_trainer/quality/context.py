"""What a row is fitted with: the events it may see, the models it rests on, and a cache of both."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.catalog import Catalog
from tandem_core.features import EventType, FeatureSchema
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.inputs import fingerprint
from tandem_trainer.prepare import build_catalog, build_schema
from tandem_trainer.progress import Progress
from tandem_trainer.quality.cache import Fit, FitCache
from tandem_trainer.quality.log import HeldOut, Queries, Training
from tandem_trainer.quality.protocols import Cut, Part
from tandem_trainer.quality.rows.base import Row, Scorer, Scores

FORMAT = 1  # of the keys: raise it when this package changes what a fit means
LIBRARIES = ("numpy", "scipy", "scikit-learn", "implicit", "torch")
CHUNK = 256  # questions scored at once


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted row.

    core_seconds: of its fit and of all fits it rests on, as they were when they were made. cached: not fitted now.
    """

    row: Row
    part: Part
    fit: Fit
    scorer: Scorer
    core_seconds: float
    cached: bool

    def scores(self, queries: Queries) -> Scores:
        """Return float32 [U, N], higher is better, -inf for what is not listed; computed in chunks."""
        parts = [self.scorer(queries.part(start, start + CHUNK)) for start in range(0, len(queries), CHUNK)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Fitting:
    """One fit's view: training events, the validation questions, tables. No event of the test part can be reached."""

    def __init__(self, context: Context, row: Row, part: Part) -> None:
        self._context, self._row = context, row
        self.part: Part = part
        self.config: TrainConfig = context.config
        self.progress: Progress = context.progress

    @property
    def training(self) -> Training:
        return self._context.training(self.part)

    @property
    def dataset(self) -> Dataset:
        """The tables, with the training events alone."""
        return self.training.dataset

    @property
    def validation(self) -> HeldOut:
        """Questions and answers of the validation part; held out only from fits on "train"."""
        return self._context.cut.validation

    def validation_events(self) -> pd.DataFrame:
        """Return the events that answer the validation questions, in the order of the log."""
        cut = self._context.cut
        return cut.log.dataset.events.iloc[np.sort(cut.validation.places)]

    @property
    def catalog(self) -> Catalog:
        """The items, counting only training events."""
        return self._context.features(self.part)[0]

    @property
    def schema(self) -> FeatureSchema:
        return self._context.features(self.part)[1]

    def fitted(self, name: str, part: Part | None = None) -> Fitted:
        """Return another row's fit (on the same part, if none is named); it must be among the row's needs."""
        wanted = (name, part or self.part)
        if wanted not in self._row.needs(self.part):
            raise ValueError(f"row {self._row.name} does not declare that it needs {wanted}: add it to needs()")
        return self._context.fitted(*wanted)

    def leaked_counts(self) -> NDArray[np.int64]:
        """Return the test answers per item, int64 [N]: only for rows that are marked as leaking."""
        if not self._row.leaks:
            raise ValueError(f"row {self._row.name} asks for test answers without being marked as leaking")
        cut = self._context.cut
        return np.bincount(cut.test.rows, minlength=cut.log.n_items)


class Context:
    """Fits rows of one cut, each once, out of the cache where it can."""

    def __init__(
        self,
        cut: Cut,
        config: TrainConfig,
        rows: Mapping[str, Row],
        cache: FitCache | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.cut = cut
        self.config = _every_event_positive(config, cut.log.dataset)
        self.rows = rows
        self.progress = progress or Progress()
        self._cache = cache
        self._training: dict[Part, Training] = {}
        self._features: dict[Part, tuple[Catalog, FeatureSchema]] = {}
        self._fitted: dict[tuple[str, Part], Fitted] = {}

    def training(self, part: Part) -> Training:
        """Return the events of a part."""
        if part not in self._training:
            self._training[part] = self.cut.training(part)
        return self._training[part]

    def features(self, part: Part) -> tuple[Catalog, FeatureSchema]:
        """Return catalogue and schema as a training run on the part would make them."""
        if part not in self._features:
            dataset = self.training(part).dataset
            catalog = build_catalog(dataset, dataset.events, self.config.features.most_codes)
            validated = None if part == "train" else self.features("train")[1]
            self._features[part] = catalog, build_schema(dataset, dataset.events, catalog, self.config, validated)
        return self._features[part]

    def fitted(self, name: str, part: Part = "train") -> Fitted:
        """Return the row fitted on the part, and scores from it; whatever it rests on is fitted first."""
        if (name, part) not in self._fitted:
            row = self._row(name)
            for need in row.needs(part):
                self.fitted(*need)
            self._fitted[name, part] = self._fit(row, part)
        return self._fitted[name, part]

    def part_for_test(self, name: str) -> Part:
        """Return what the row is fitted on before its test figures: with the validation part where it refits."""
        return "train+validation" if self.cut.protocol in self._row(name).refit else "train"

    def key(self, name: str, part: Part) -> str:
        """Return sha256 hex of all that decides the fit: settings, data, cut, code, libraries and what it rests on."""
        row = self._row(name)
        modules = (type(row).__module__, *row.code)
        parts = {
            "format": FORMAT,
            "row": name,
            "part": part,
            "seed": self.config.seed,
            "settings": row.settings(self.config),
            "data": self._data_key,
            "cut": self._cut_key(part),
            "code": {module: _source_sha(module) for module in modules},
            "libraries": {library: _version(library) for library in LIBRARIES},
            "needs": [self.key(*need) for need in row.needs(part)],
        }
        if row.leaks:
            parts["leaked"] = hashlib.sha256(self.cut.test.places.tobytes()).hexdigest()
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def _row(self, name: str) -> Row:
        if name not in self.rows:
            raise ValueError(f"unknown row {name!r}; known: {', '.join(self.rows)}")
        return self.rows[name]

    def _fit(self, row: Row, part: Part) -> Fitted:
        fitting = Fitting(self, row, part)
        fit = Fit({}) if not row.fits else self._from_cache(row, part)
        cached = fit is not None
        if fit is None:
            with self.progress.step(f"fit {row.name} on {part}"):
                started = time.process_time()
                fit = row.fit(fitting)
                fit = replace(fit, core_seconds=time.process_time() - started)
            if self._cache is not None:
                self._cache.store(row.name, self.key(row.name, part), fit)
        cost = fit.core_seconds + sum(self._fitted[need].fit.core_seconds for need in self._below(row, part))
        return Fitted(row, part, fit, row.scorer(fitting, fit), cost, cached)

    def _from_cache(self, row: Row, part: Part) -> Fit | None:
        return None if self._cache is None else self._cache.load(row.name, self.key(row.name, part))

    def _below(self, row: Row, part: Part) -> set[tuple[str, Part]]:
        """Return all fits that a row's fit rests on, directly or not, each once."""
        found: set[tuple[str, Part]] = set()
        for name, on in row.needs(part):
            found |= {(name, on)} | self._below(self._row(name), on)
        return found

    @cached_property
    def _data_key(self) -> str:
        dataset = self.cut.log.dataset
        tables = (table.to_json(orient="split", index=False) or "" for table in (dataset.items, dataset.users))
        events = fingerprint(dataset.events)
        return hashlib.sha256("\n".join((events, dataset.schema.__repr__(), *tables)).encode()).hexdigest()

    def _cut_key(self, part: Part) -> str:
        """Return what says which events are fitted on, and which are validated on."""
        sha = hashlib.sha256(self.training(part).places.tobytes())
        sha.update(self.cut.validation.places.tobytes())
        sha.update(self.cut.validation.queries.now_ms.tobytes())
        return sha.hexdigest()


def _every_event_positive(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return the configuration with every event type of the data at weight 1 that does not fade."""
    names = sorted(set(dataset.events["event_type"]))
    return config.model_copy(update={"event_types": tuple(EventType(name=name, weight=1.0) for name in names)})


def _source_sha(module: str) -> str:
    """Return sha256 hex of a module's source; of a package, of all its files."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"module {module} has no source: a row must declare the modules that decide its fit")
    origin = Path(spec.origin)
    files: Sequence[Path] = [origin]
    if spec.submodule_search_locations is not None:
        files = sorted(origin.parent.rglob("*.py"))
    sha = hashlib.sha256()
    for file in files:
        sha.update(f"{file.name}\n".encode() + file.read_bytes())
    return sha.hexdigest()


def _version(library: str) -> Any:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
