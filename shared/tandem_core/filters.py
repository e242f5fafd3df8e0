"""Structured filters: a small tree of conditions over catalogue columns, evaluated on any set of rows."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tandem_core.catalog import Catalog
from tandem_core.errors import FieldViolation, InvalidRequest

Mask = NDArray[np.bool_]
Rows = NDArray[np.int32]

DEEPEST_FILTER = 8
MOST_CONDITIONS = 100


class Condition(Protocol):
    """One node of a filter."""

    def mask(self, catalog: Catalog, rows: Rows) -> Mask:
        """Return bool [n]: which of `rows` fulfil the condition."""
        ...

    def check(self, catalog: Catalog, field: str) -> None:
        """Raise InvalidRequest naming `field` when a column is unknown or of the wrong kind."""
        ...


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds."""

    parts: Sequence[Condition]

    def mask(self, catalog: Catalog, rows: Rows) -> Mask:
        return functools.reduce(np.logical_and, (part.mask(catalog, rows) for part in self.parts))

    def check(self, catalog: Catalog, field: str) -> None:
        for i, part in enumerate(self.parts):
            part.check(catalog, f"{field}.all_of[{i}]")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: Sequence[Condition]

    def mask(self, catalog: Catalog, rows: Rows) -> Mask:
        return functools.reduce(np.logical_or, (part.mask(catalog, rows) for part in self.parts))

    def check(self, catalog: Catalog, field: str) -> None:
        for i, part in enumerate(self.parts):
            part.check(catalog, f"{field}.any_of[{i}]")


@dataclass(frozen=True, slots=True)
class NotOf:
    """The part does not hold; an item without a value in its column passes."""

    part: Condition

    def mask(self, catalog: Catalog, rows: Rows) -> Mask:
        return ~self.part.mask(catalog, rows)

    def check(self, catalog: Catalog, field: str) -> None:
        self.part.check(catalog, f"{field}.not_of")


@dataclass(frozen=True, slots=True)
class InSet:
    """The text column has one of the values; a list column any of them. "item_id" works too."""

    column: str
    values: frozenset[str]

    def mask(self, catalog: Catalog, rows: Rows) -> Mask:
        if self.column == "item_id":
            return np.isin(rows, catalog.rows(self.values))
        column = catalog.codes[self.column]
        # One slot more than there are codes: code -1 (no value) reads the last one, which stays False.
        wanted = np.zeros(len(column.vocabulary) + 1, np.bool_)
        wanted[[column.code_of[value] for value in self.values if value in column.code_of]] = True
        return np.asarray(wanted[column.codes[rows]].any(axis=1))

    def check(self, catalog: Catalog, field: str) -> None:
        _require(self.column, ["item_id", *catalog.codes], "text", f"{field}.in_set.column")


@dataclass(frozen=True, slots=True)
class InRange:
    """The number column lies within [low, high]; unknown numbers do not."""

    column: str
    low: float = -np.inf
    high: float = np.inf

    def mask(self, catalog: Catalog, rows: Rows) -> Mask:
        numbers = catalog.numbers[self.column][rows]
        within: Mask = (numbers >= self.low) & (numbers <= self.high)
        return within

    def check(self, catalog: Catalog, field: str) -> None:
        _require(self.column, list(catalog.numbers), "number", f"{field}.in_range.column")


@dataclass(frozen=True, slots=True)
class Exists:
    """The column has a value."""

    column: str

    def mask(self, catalog: Catalog, rows: Rows) -> Mask:
        if self.column in catalog.numbers:
            known: Mask = ~np.isnan(catalog.numbers[self.column][rows])
            return known
        return np.asarray((catalog.codes[self.column].codes[rows] >= 0).any(axis=1))

    def check(self, catalog: Catalog, field: str) -> None:
        _require(self.column, [*catalog.codes, *catalog.numbers], "filterable", f"{field}.exists.column")


def with_conditions(condition: Condition | None, more: Sequence[Condition]) -> Condition | None:
    """Return one condition for all, or the first alone where all together are more than a request may have."""
    if not more:
        return condition
    both = AllOf([*([] if condition is None else [condition]), *more])
    count, depth = _size(both)
    return both if count <= MOST_CONDITIONS and depth <= DEEPEST_FILTER else condition


def _size(condition: Condition) -> tuple[int, int]:
    """Return the number of conditions in a tree, and how deeply they are nested."""
    parts: Sequence[Condition] = ()
    if isinstance(condition, AllOf | AnyOf):
        parts = condition.parts
    elif isinstance(condition, NotOf):
        parts = (condition.part,)
    sizes = [_size(part) for part in parts]
    return 1 + sum(count for count, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)


def _require(column: str, known: list[str], kind: str, field: str) -> None:
    if column not in known:
        raise InvalidRequest(
            FieldViolation(field, f"no {kind} column {column!r} in the catalogue; there are {', '.join(known)}")
        )


class Eligibility:
    """Which rows one request may return: in the catalogue, not excluded, and fulfilling its condition.

    The condition is evaluated on the rows that sources found, and on the whole catalogue only when that was too few.
    """

    def __init__(self, catalog: Catalog, excluded: Rows, condition: Condition | None) -> None:
        self._catalog = catalog
        self._condition = condition
        self._gone = catalog.gone
        # A fresh zero array costs only the pages it touches, even with a million rows.
        self._excluded = np.zeros(len(catalog), np.bool_)
        self._excluded[excluded] = True
        self.excluded_count = len(np.unique(excluded))  # not counted in the mask, which is as long as the catalogue
        self._matching: Rows | None = None
        self._whole: Eligibility | None = None
        self._part: Eligibility | None = None

    def within_bundle(self) -> Eligibility:
        """Return the same for sources that know the bundle's rows alone."""
        if self._part is None:
            if self._catalog.bundle_size == len(self._catalog):
                self._part = self
            else:
                self._part = copy.copy(self)
                self._part._whole = self
        return self._part

    def keep(self, rows: Rows) -> Mask:
        """Return bool [n]: which of `rows` may be returned."""
        kept: Mask = ~self._excluded.take(rows)
        if self._gone is not None:
            kept &= ~self._gone.take(rows)
        return kept if self._condition is None else kept & self._condition.mask(self._catalog, rows)

    def matching_rows(self) -> Rows:
        """Return every eligible row of the catalogue, rising; computed once per request."""
        if self._whole is not None:
            matching = self._whole.matching_rows()
            return matching[: np.searchsorted(matching, self._catalog.bundle_size)]
        if self._matching is None:
            rows = self._catalog.all_rows
            self._matching = rows[self.keep(rows)]
        return self._matching

    def spare(self, limit: int) -> int:
        """Return how many more than `limit` items to look for, since some will not be eligible."""
        gone = self._catalog.gone_share * limit
        doubled = limit if self.has_condition else 0
        return doubled + min(self.excluded_count + math.ceil(2 * gone), 2 * limit)

    @property
    def some_gone(self) -> bool:
        """Whether items are gone from the bundle, so that its indexes still find them."""
        return self._catalog.gone_share > 0

    @property
    def has_condition(self) -> bool:
        return self._condition is not None
