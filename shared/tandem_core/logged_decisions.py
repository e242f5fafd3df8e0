"""Logged decisions as JSON lines, for off-policy evaluation: one object for each shown item.

    {"decision_id": "d1", "item_id": "i7", "position": 1, "propensity": 0.2, "reward": 1.0,
     "target_probability": 0.5, "alternatives": {"i7": 0.5, "i9": 0.5}}

decision_id: of the answer that showed the item. position: from 1. propensity: the logging policy's probability of this
item at this position, above 0; 1 where no chance took part (the contract writes 0 there: translate it). reward: what
the item earned there, such as 1 for a click. target_probability: the same probability under the policy to be judged.
alternatives: optional, on all lines or none: all items that policy could have put there, with probabilities adding up
to 1. Items of interleaved lists have no propensity and do not belong here. Other keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tandem_core.metrics.off_policy import Alternatives, LoggedItems

_TEXTS = ("decision_id", "item_id")
_NUMBERS = ("propensity", "reward", "target_probability")


def read_logged(path: Path) -> LoggedItems:
    """Read a file of logged decisions; raises ValueError naming the file, the line and what is wrong there."""
    try:
        with path.open(encoding="utf-8") as lines:
            return logged_items(lines, str(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def logged_items(lines: Iterable[str], name: str = "log") -> LoggedItems:
    """Return the shown items of JSON lines; blank ones are skipped. name: of the log, in errors."""
    decisions: dict[str, int] = {}
    items: dict[str, int] = {}
    records: list[dict[str, Any]] = []
    rows: list[int] = []
    others: list[tuple[int, float]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _record(line, f"{name}, line {number}")
        if records and ("alternatives" in record) != ("alternatives" in records[0]):
            raise ValueError(f"{name}, line {number}: alternatives stand on all lines or on none")
        for item, probability in record.get("alternatives", {}).items():
            rows.append(len(records))
            others.append((items.setdefault(item, len(items)), probability))
        items.setdefault(record["item_id"], len(items))
        decisions.setdefault(record["decision_id"], len(decisions))
        records.append(record)
    alternatives = None
    if records and "alternatives" in records[0]:
        alternatives = Alternatives(
            np.array(rows, np.int64),
            np.array([item for item, _ in others], np.int64),
            np.array([probability for _, probability in others], np.float64),
        )
    try:
        return LoggedItems(
            np.array([decisions[r["decision_id"]] for r in records], np.int64),
            np.array([items[r["item_id"]] for r in records], np.int64),
            np.array([r["position"] for r in records], np.int64),
            np.array([r["propensity"] for r in records], np.float64),
            np.array([r["target_probability"] for r in records], np.float64),
            np.array([r["reward"] for r in records], np.float64),
            alternatives,
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} is no object: write {{...}}, one for each shown item")
    for key in _TEXTS:
        if not isinstance(record.get(key), str) or not record[key]:
            raise ValueError(f"{where}: {key} is required, a text; it is {record.get(key)!r}")
    if not isinstance(record.get("position"), int) or isinstance(record["position"], bool):
        raise ValueError(f"{where}: position is required, a whole number; it is {record.get('position')!r}")
    for key in _NUMBERS:
        if not _is_number(record.get(key)):
            raise ValueError(f"{where}: {key} is required, a number; it is {record.get(key)!r}")
    others = record.get("alternatives", {})
    if not isinstance(others, dict) or not all(_is_number(p) for p in others.values()):
        raise ValueError(f"{where}: alternatives are item ids with probabilities; it is {others!r}")
    return record


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
