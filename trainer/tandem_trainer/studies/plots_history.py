"""Curves of trainings: what was lost and what was reached, by epoch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tandem_trainer.ratings.compare import Arm
from tandem_trainer.studies.plots import saved

History = Sequence[Mapping[str, float]]  # figures of each epoch, or of each validation


def draw_history(history: Mapping[str, History], folder: Path) -> list[Path]:
    """Draw the losses and the other figures of each model of a bundle; what has no history is left out."""
    paths = []
    for model, epochs in history.items():
        names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
        losses = [name for name in names if name.endswith("loss")]
        for kind, drawn in (("losses", losses), ("figures", [name for name in names if name not in losses])):
            if drawn:
                curves = {name: [epoch.get(name, float("nan")) for epoch in epochs] for name in drawn}
                step = "validation" if model == "towers" else "epoch"
                draw = partial(_curves, curves=curves, title=f"{model}: {kind} by {step}", step=step)
                paths.append(saved(folder / f"{model}_{kind}.png", draw))
    return paths


def draw_rating_losses(arms: Sequence[Arm], folder: Path) -> list[Path]:
    """Draw what each fitted model lost on training and on validation ratings, and all of them on validation."""
    fitted = [arm for arm in arms if arm.history]
    paths = []
    for arm in fitted:
        curves = {name: [epoch[name] for epoch in arm.history] for name in arm.history[0]}
        draw = partial(_curves, curves=curves, title=arm.name, kept=arm.best_epoch)
        paths.append(saved(folder / f"{_file_name(arm.name)}.png", draw))
    together = {arm.name: [epoch["validation_mse"] for epoch in arm.history] for arm in fitted}
    draw = partial(_curves, curves=together, title="squared error on validation ratings")
    return [*paths, saved(folder / "validation_mse.png", draw)]


def _curves(
    axes: Any, curves: Mapping[str, Sequence[float]], title: str, step: str = "epoch", kept: int | None = None
) -> None:
    """kept: the step whose model was kept, from 0; None: not drawn."""
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, marker="o", label=name)
    if kept is not None:
        axes.axvline(kept + 1, linestyle=":", color="grey", label=f"kept: {kept + 1}")
    axes.legend()
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel=step, title=title)


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name)
