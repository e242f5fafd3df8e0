"""The two towers, trained as a training run trains them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from tandem_core.bundle import golden_user
from tandem_core.features import item_tower_inputs
from tandem_core.user_tower import UserTower
from tandem_trainer.config import TrainConfig
from tandem_trainer.examples import Examples, make_examples
from tandem_trainer.export_towers import export_user_tower, golden_questions
from tandem_trainer.progress import text
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import Part
from tandem_trainer.quality.rows.als import item_factors
from tandem_trainer.quality.rows.base import Need, Row, Scorer, Scores
from tandem_trainer.quality.rows.features import content_of, feature_settings, users_of
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.train_towers import FittedTowers, fit_towers

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

TowerSettingsOf = Callable[[TrainConfig], TowerTrainingSettings]


def longer(config: TrainConfig) -> TowerTrainingSettings:
    """Return the configured towers, trained for six passes over the events, or fewer if so configured.

    What they give is what deploy/config/train-long.toml makes.
    """
    epochs = min(config.towers.epochs, 6.0)
    return config.towers.model_copy(update={"epochs": epochs, "most_examples": 1_000_000_000, "validations": 6})


class TwoTowerRow(Row):
    """The towers: the best state on the validation part, then fitted again on both parts for as long as was best.

    towers: settings of this variant, from the run's configuration.
    """

    code = (
        "tandem_core.features",
        "tandem_core.catalog",
        "tandem_core.user_tower",
        "tandem_trainer.als",
        "tandem_trainer.content",
        "tandem_trainer.examples",
        "tandem_trainer.export",
        "tandem_trainer.export_towers",
        "tandem_trainer.losses",
        "tandem_trainer.prepare",
        "tandem_trainer.quality.rows.features",
        "tandem_trainer.text_encoder",
        "tandem_trainer.tower_pair",
        "tandem_trainer.tower_run",
        "tandem_trainer.tower_teacher",
        "tandem_trainer.tower_training_settings",
        "tandem_trainer.tower_validation",
        "tandem_trainer.towers",
        "tandem_trainer.train_towers",
    )

    def __init__(self, name: str, towers: TowerSettingsOf = lambda config: config.towers) -> None:
        super().__init__(name)
        self._towers = towers

    def needs(self, part: Part) -> Sequence[Need]:
        return () if part == "train" else ((self.name, "train"),)

    def settings(self, config: TrainConfig) -> Any:
        towers = self._towers(config).model_dump(mode="json")
        return [towers, feature_settings(config), config.als.model_dump(), config.threads]

    def fit(self, fitting: Fitting) -> Fit:
        torch.set_num_threads(fitting.config.threads)
        settings, validation = self._towers(fitting.config), None
        if fitting.part == "train":
            validation = _validation_examples(fitting)
        else:
            settings = settings.ending_at(fitting.fitted(self.name, "train").fit.notes["best_after"])
        catalog = fitting.catalog
        schema = fitting.schema.model_copy(update={"vector_dim": settings.joint_dim})
        training = fitting.dataset.events
        examples = make_examples(training, catalog, schema, fitting.dataset.users)
        inputs = item_tower_inputs(schema, catalog, content_of(fitting))
        towers = fit_towers(
            examples,
            inputs,
            settings,
            fitting.config.seed,
            validation,
            lambda part, found: fitting.progress.advance(part + 1, settings.most_validations, text(found)),
            item_factors(fitting) if settings.warm_start else None,
        )
        notes = {
            "best_after": towers.best_after,
            "events_per_second": towers.examples_per_second,
            "loading_share": towers.loading_share,
        }
        notes |= {f"validation_{name}": value for name, value in towers.history[towers.best].items()}
        return Fit({"item_vectors": towers.item_vectors, "user_tower": _as_onnx(fitting, towers)}, notes)

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        tower, vectors = open_tower(fitting, fit), fit.arrays["item_vectors"]

        def scores(queries: Queries) -> Scores:
            found: Scores = tower.encode(users_of(fitting, queries)) @ vectors.T
            return found

        return scores


def _validation_examples(fitting: Fitting) -> Examples | None:
    """Return the validation answers as examples, with all that training knows of their users before them."""
    held_out = fitting.validation
    if not len(held_out):
        return None
    queries, events = held_out.queries, fitting.validation_events()
    before = pd.DataFrame(
        {
            "user_id": queries.user_ids[queries.owners],
            "item_id": np.asarray(fitting.catalog.item_ids, object)[queries.rows],
            "timestamp": queries.times,
            "event_type": queries.types,
        }
    )
    both = pd.concat([before, events], ignore_index=True)
    is_target = np.arange(len(both)) >= len(before)
    order = np.argsort(both["timestamp"].to_numpy(dtype=np.int64), kind="stable")
    return make_examples(both.iloc[order], fitting.catalog, fitting.schema, fitting.dataset.users, is_target[order])


def _as_onnx(fitting: Fitting, towers: FittedTowers) -> NDArray[np.uint8]:
    """Return the user tower as the bytes of an ONNX file, compared with torch."""
    questions = golden_questions(fitting.schema, fitting.catalog, int(fitting.training.times.max()))
    users = [golden_user(question, fitting.schema) for question in questions]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user_tower.onnx"
        export_user_tower(towers.user_tower, users, fitting.schema, towers.item_vectors, path)
        return np.frombuffer(path.read_bytes(), np.uint8)


def open_tower(fitting: Fitting, fit: Fit) -> UserTower:
    """Return the fitted user tower as the service runs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user_tower.onnx"
        path.write_bytes(fit.arrays["user_tower"].tobytes())
        return UserTower(path, fitting.schema, fit.arrays["item_vectors"]).opened()
