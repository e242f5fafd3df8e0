"""Calls that wait for the disk at the same time share one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Row = TypeVar("Row")
Result = TypeVar("Result")


class _Waiting(Generic[Row, Result]):
    """Rows of one call, and what became of them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.results: Sequence[Result] | None = None
        self.error: Exception | None = None


class GroupCommit(Generic[Row, Result]):
    """Runs `commit` for the rows of several calls at once: while one commit runs, those that come wait for the next.

    commit: takes rows, returns a result for each, in order, once they are durable. It is never run twice at a time.
    """

    def __init__(self, commit: Callable[[list[Row]], Sequence[Result]]) -> None:
        self._commit = commit
        self._waiting: list[_Waiting[Row, Result]] = []
        self._joining = threading.Lock()
        self._committing = threading.Lock()

    def __call__(self, rows: Sequence[Row]) -> Sequence[Result]:
        """Return a result per row, once durable; raises what `commit` raised for the group."""
        mine: _Waiting[Row, Result] = _Waiting(rows)
        with self._joining:
            self._waiting.append(mine)
        with self._committing:
            if mine.results is None and mine.error is None:  # nobody has taken these rows along
                self._commit_all()
        if mine.error is not None:
            raise mine.error
        return mine.results or ()

    def _commit_all(self) -> None:
        with self._joining:
            group, self._waiting = self._waiting, []
        try:
            results = self._commit([row for each in group for row in each.rows])
        except Exception as error:  # noqa: BLE001  every call of the group must hear of it, and raises it itself
            for each in group:
                each.error = error
            return
        start = 0
        for each in group:
            each.results = results[start : start + len(each.rows)]
            start += len(each.rows)
