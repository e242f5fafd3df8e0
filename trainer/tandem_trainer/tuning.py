"""Search for settings: each trial is a real training, and a journal of them lets a search go on where it stopped."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

from tandem_core.registry import Registry
from tandem_core.settings import ConfigError, parse_settings
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.inputs import fingerprint, split_data
from tandem_trainer.progress import Progress
from tandem_trainer.train import train
from tandem_trainer.training_run import TrainingRun
from tandem_trainer.tuning_space import Search, Values, checked, described, to_toml, trials_of, with_values

JOURNAL, BEST, WORKPLACE = "journal.jsonl", "best.toml", "trial"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one training. number: from 0. metrics: on validation events. error: "" where it came to its end."""

    number: int
    settings: Values
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


def tune(
    search: Search, base: Mapping[str, Any], dataset: Dataset, folder: Path, progress: Progress, where: str
) -> list[Trial]:
    """Train what the search asks for and the journal in `folder` lacks, and return all trials, in their order.

    base: the configuration that trials differ from, as its file holds it. where: the file of the search. What fails is
    written down as failed and not tried again. A trial that was under way when the search was stopped begins anew. All
    figures are of validation events: the best is the luckiest too, measure it once on test events with its bundle.
    Raises ConfigError before anything is trained where a key or a value is wrong, where the journal is of another
    search, or where another process is at it; and as soon as trials turn out not to have the figure.
    """
    own = parse_settings(TrainConfig, dict(base), "the configuration")
    drawn = trials_of(search)
    configs = checked(base, drawn, where)
    rules = search.model_dump(mode="json", exclude={"trials", "figure", "better"})
    identity = {
        "search": rules,
        "config": own.model_dump(mode="json"),
        "data": fingerprint(dataset.events),
        "towers_alone": search.towers_alone,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with _journal(folder / JOURNAL, identity) as (file, trials):
        done = {trial.number for trial in trials}
        _check_figure(search, trials)
        for number, (values, config) in enumerate(zip(drawn, configs, strict=True)):
            if number in done:
                continue
            with progress.step(f"trial {number + 1} of {len(drawn)}: {described(values)}"):
                trials.append(_tried(number, values, config, search, dataset, folder / WORKPLACE))
                _write_line(file, asdict(trials[-1]))
            _check_figure(search, trials)
    trials = sorted((trial for trial in trials if trial.number < len(drawn)), key=lambda trial: trial.number)
    if best := ranked(search, trials):
        (folder / BEST).write_text(to_toml(with_values(base, best[0].settings)))
    return trials


def ranked(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have the figure, best first; of equals the earlier."""
    sign = -1 if search.better == "higher" else 1
    known = [trial for trial in trials if search.figure in trial.metrics]
    return sorted(known, key=lambda trial: (sign * trial.metrics[search.figure], trial.number))


def _tried(
    number: int, values: Values, config: TrainConfig, search: Search, dataset: Dataset, workplace: Path
) -> Trial:
    started = time.monotonic()
    shutil.rmtree(workplace, ignore_errors=True)  # what a killed search left
    metrics: dict[str, float] = {}
    error = ""
    try:
        metrics = _metrics(config, search, dataset, workplace)
    except Exception as failure:  # noqa: BLE001  whatever a trial dies of, the others are worth their time
        error = f"{type(failure).__name__}: {failure}"
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    if not math.isfinite(metrics.get(search.figure, 0.0)):
        metrics, error = {}, f"{search.figure} is {metrics[search.figure]}"
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return Trial(number, values, finite, error, round(time.monotonic() - started, 1))


def _metrics(config: TrainConfig, search: Search, dataset: Dataset, workplace: Path) -> dict[str, float]:
    # The figures are those of the cut: fitting again on all events would change none of them.
    config = config.model_copy(update={"refit": False})
    if not search.towers_alone:
        return train(config, dataset, Registry(workplace), Progress()).manifest.metrics
    torch.set_num_threads(config.threads)
    workplace.mkdir()
    run = TrainingRun(config, dataset, split_data(config, dataset), workplace, Progress())
    run.fit_tables()
    run.fit_als()
    run.fit_towers()
    return {f"towers_{name}": value for name, value in run.towers.history[run.towers.best].items()}


def _check_figure(search: Search, trials: Sequence[Trial]) -> None:
    """Raise ConfigError where trials came to their end and none has the figure."""
    names = {name for trial in trials for name in trial.metrics}
    if names and search.figure not in names:
        raise ConfigError(f"figure: there is no {search.figure!r}; trials have {', '.join(sorted(names))}")


@contextmanager
def _journal(path: Path, identity: dict[str, Any]) -> Iterator[tuple[TextIO, list[Trial]]]:
    """Give the journal, open for adding lines, and the trials in it; its first line says which search it is of."""
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, whatever it dies of
        except BlockingIOError as error:
            raise ConfigError(f"{path} is in use by another search; wait for it or give another folder") from error
        file.seek(0)
        whole, _, torn = file.read().rpartition("\n")
        lines = whole.splitlines()
        if torn:  # the process died while it wrote
            file.truncate(len(whole.encode()) + 1 if whole else 0)
        if not lines:
            _write_line(file, identity)
        elif wrong := _differing(path, lines[0], identity):
            raise ConfigError(
                f"{path} is of another search: {', '.join(wrong)} differ. Give another folder, or what it began with"
            )
        yield file, [Trial(**json.loads(line)) for line in lines[1:]]


def _differing(path: Path, line: str, identity: dict[str, Any]) -> list[str]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is no journal of a search: its first line is no JSON") from error
    mine = json.loads(json.dumps(identity))
    return [name for name in mine if not isinstance(found, dict) or found.get(name) != mine[name]]


def _write_line(file: TextIO, values: dict[str, Any]) -> None:
    file.write(json.dumps(values) + "\n")
    file.flush()
    os.fsync(file.fileno())
