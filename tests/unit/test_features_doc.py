"""FEATURES.md: complete, and pointing at what exists."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAST = {0: 34, 1: 31, 2: 31, 3: 38}  # last row of each seed system
ROWS = [f"{seed}.{n}" for seed, last in LAST.items() for n in range(1, last + 1)]
TEXT = (ROOT / "FEATURES.md").read_text(encoding="utf-8")
TABLE = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]
FEATURES = [row for row in TABLE if row[0] != "row" and set(row[0]) != {"-"}]
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
PRINTED = ("make demo", "make bench", "tandem evaluate")


def test_every_row_is_there_once() -> None:
    assert len(ROWS) == 134
    assert Counter(row[0] for row in FEATURES) == Counter(ROWS)
    assert {len(row) for row in FEATURES} == {4}


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: str(row[0]))
def test_a_row_says_what_it_is_and_done_or_part_rows_where_it_is_shown(row: list[str]) -> None:
    _, what, state, where = row
    assert what
    assert state in {"done", "part", "later"}
    if state == "done":
        assert "tests/" in where or any(command in where for command in PRINTED)
    if state == "part":
        assert PATH.search(where) or any(command in where for command in (*PRINTED, "tandem generate"))


def test_every_path_exists() -> None:
    paths = PATH.findall(TEXT)
    assert len(paths) > 100
    assert [path for path in paths if not (ROOT / path).exists()] == []
