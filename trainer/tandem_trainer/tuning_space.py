"""What a search for settings tries: keys of the training configuration and what they may be."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from tandem_core.settings import ConfigError, Settings, parse_settings, read_toml
from tandem_trainer.config import TrainConfig

MOST_TRIALS = 10_000
# What decides which events are measured on, and how: figures of trials that differ in it could not be compared.
_MEASURED_BY = (
    *("data", "split", "seed", "refit", "event_types", "towers.validation_examples", "blend.most_requests"),
    *("ranker_data.most_requests", "ranker_data.moments", "ranker_data.candidates"),
)

Values: TypeAlias = dict[str, Any]  # what a trial sets, by dotted key


class Range(Settings):
    """Numbers from low to high, both included."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False  # as many between 1 and 10 as between 10 and 100
    whole: bool = False

    @model_validator(mode="after")
    def _rules(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low:g}, must be below high, {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}, must be above 0 where log is on")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"low and high are {self.low:g} and {self.high:g}, must be whole where whole is on")
        return self

    def draw(self, rng: np.random.Generator) -> float | int:
        """Return a number, six digits of it: what a person can read and type."""
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high), endpoint=True))
        drawn = rng.random()
        if self.log:
            drawn = math.exp(math.log(self.low) + drawn * (math.log(self.high) - math.log(self.low)))
        else:
            drawn = self.low + drawn * (self.high - self.low)
        drawn = round(drawn) if self.whole else float(f"{drawn:.6g}")
        within = min(max(drawn, self.low), self.high)
        return int(within) if self.whole else within


class Search(Settings):
    """A search for settings, as its file says it."""

    method: Literal["random", "grid"] = "random"
    trials: int | None = Field(default=None, ge=1, le=MOST_TRIALS)  # of a random search; a grid has as many as it has
    seed: int = Field(default=7, ge=0)  # of the drawing; the trainings keep the configuration's
    figure: str = "towers_recall@100"  # of the bundle's manifest; those of the towers need nothing else trained
    better: Literal["higher", "lower"] = "higher"
    search: dict[str, Range | tuple[Any, ...]] = Field(min_length=1)  # dotted key -> a range, or a list of values

    @model_validator(mode="before")
    @classmethod
    def _flat_keys(cls, values: Any) -> Any:
        """TOML reads a dotted key without quotes as tables in tables: both ways of writing it mean the same."""
        if isinstance(values, dict) and isinstance(values.get("search"), dict):
            return values | {"search": dict(_flat(values["search"]))}
        return values

    @model_validator(mode="after")
    def _rules(self) -> Search:
        for key, values in self.search.items():
            if fixed := [f for f in _MEASURED_BY if f == key or _within(key, f) or _within(f, key)]:
                raise ValueError(f"search.{key}: {fixed[0]} decides what is measured, so trials must not differ in it")
            if around := [other for other in self.search if _within(key, other)]:
                raise ValueError(f"search.{key}: {around[0]} is searched too, and holds it")
            if isinstance(values, tuple) and not values:
                raise ValueError(f"search.{key}: the list is empty")
            if isinstance(values, Range) and self.method == "grid":
                raise ValueError(f"search.{key}: a grid needs a list of values, not a range")
        if self.method == "grid" and self.trials is not None:
            raise ValueError("trials: a grid tries all combinations; leave it out")
        if self.method == "random" and self.trials is None:
            raise ValueError("trials: a random search needs to know how many")
        size = self.combinations()
        if size is not None and size < (self.trials or 0):
            raise ValueError(f"trials: {self.trials} are asked for, and the lists have {size} combinations")
        if size is not None and size > MOST_TRIALS and self.method == "grid":
            raise ValueError(f"search: the grid has {size} combinations; at most {MOST_TRIALS} are tried")
        return self

    def combinations(self) -> int | None:
        """Return how many there are; None: without end, since there is a range."""
        lists = [values for values in self.search.values() if isinstance(values, tuple)]
        return math.prod(len(values) for values in lists) if len(lists) == len(self.search) else None

    @property
    def towers_alone(self) -> bool:
        """Whether the figure is known as soon as the towers are trained."""
        return self.figure.startswith("towers_")


def read_search(path: Path) -> Search:
    """Read a TOML file; raises ConfigError naming every wrong key."""
    return parse_settings(Search, read_toml(path), str(path))


def trials_of(search: Search) -> list[Values]:
    """Return what each trial sets: the same seed gives the same, and more trials begin with those of fewer.

    None comes twice. A grid goes through its lists in the order of the file, the last one fastest.
    """
    if search.method == "grid":
        lists = [values for values in search.search.values() if isinstance(values, tuple)]
        return [dict(zip(search.search, values, strict=True)) for values in itertools.product(*lists)]
    rng = np.random.default_rng(search.seed)
    found: list[Values] = []
    misses = 0
    while len(found) < (search.trials or 0):
        drawn = {key: _drawn(values, rng) for key, values in search.search.items()}
        if drawn not in found:
            found.append(drawn)
        elif (misses := misses + 1) > 100 * MOST_TRIALS:
            raise ConfigError(f"trials: there are hardly more than {len(found)} different ones; ask for fewer")
    return found


def _drawn(values: Range | tuple[Any, ...], rng: np.random.Generator) -> Any:
    return values.draw(rng) if isinstance(values, Range) else values[rng.integers(len(values))]


def with_values(base: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return a configuration, as a TOML file holds it, with the values of a trial put in."""
    whole = copy.deepcopy(dict(base))
    for key, value in values.items():
        *tables, name = key.split(".")
        at = whole
        for table in tables:
            at = at.setdefault(table, {})
            if not isinstance(at, dict):
                raise ConfigError(f"search.{key}: {table} is a value, and no table that could hold {name}")
        at[name] = copy.deepcopy(value)
    return whole


def checked(base: Mapping[str, Any], trials: Sequence[Values], where: str) -> list[TrainConfig]:
    """Return the configuration of each trial; raises ConfigError naming the first that cannot be trained, and why."""
    return [
        parse_settings(TrainConfig, with_values(base, values), f"{where}: trial {number} ({described(values)})")
        for number, values in enumerate(trials)
    ]


def described(values: Values) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def to_toml(values: Mapping[str, Any]) -> str:
    """Return settings as TOML, a line a value, for `tandem train --config`."""
    return "".join(f"{'.'.join(map(_key, path))} = {_toml(value)}\n" for path, value in _leaves(values))


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from (((name, *path), leaf) for path, leaf in _leaves(value))
        else:
            yield (name,), value


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)  # dates, which look alike in both


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value and not {"low", "high"} & set(value):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _within(key: str, other: str) -> bool:
    return key.startswith(f"{other}.")
