"""What every store of live items does: items added, changed or deleted since the bundles were trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LiveItem:
    """One item as its owner describes it.

    codes: texts by column, among them "categories" and "creator". numbers: by column, finite, among them "created_at"
    (seconds since 1970) and "price". A column that is not there is unknown.
    """

    item_id: str
    title: str = ""
    text: str = ""
    codes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return everything but the text, which servers do not read."""
        codes = {name: list(values) for name, values in self.codes.items()}
        return json.dumps([self.item_id, self.title, codes, dict(self.numbers)], ensure_ascii=False)

    @classmethod
    def of_json(cls, document: str | bytes, text: str = "") -> LiveItem:
        """Read what `to_json` wrote."""
        item_id, title, codes, numbers = json.loads(document)
        return cls(item_id, title, text, codes, numbers)


class Encoding(NamedTuple):
    """An item in terms of one bundle. None: the bundle holds this very item already."""

    item_vector: Vector
    content_vector: Vector


class Cursor(NamedTuple):
    """How far a reader has come in the changes of one bundle."""

    deleted: int = 0
    added: int = 0


class Added(NamedTuple):
    """An item as it is now, its text left out. seq: its number, never reused; a later version has another."""

    seq: int
    item: LiveItem
    encoding: Encoding


class Changes(NamedTuple):
    """What came after a cursor. deleted: ids. more: there are further additions."""

    deleted: Sequence[str]
    added: Sequence[Added]
    cursor: Cursor
    more: bool


class LiveStore(Protocol):
    """Reads may come from several threads and processes, writes from one process. All raise StoreUnavailable.

    What is written is durable, and seen by every `version` that is asked for afterwards.
    """

    def version(self) -> int:
        """Return a number that grows with every change. Cheap: every request asks."""
        ...

    def changes(self, bundle_id: str, since: Cursor, most: int | None) -> Changes:
        """Return all deletions and up to `most` additions (None: all) after `since`, oldest first."""
        ...

    def upsert(self, items: Sequence[LiveItem], encodings: Mapping[str, Sequence[Encoding | None]]) -> None:
        """Add items or replace them. encodings: bundle id -> one per item."""
        ...

    def delete(self, item_ids: Sequence[str]) -> None:
        """Take items out, those of bundles too, until they are added again."""
        ...

    def get(self, item_id: str) -> LiveItem | None:
        """Return an item, None where it was never added, or was deleted."""
        ...

    def is_deleted(self, item_id: str) -> bool:
        """Return whether the item was deleted, and not added again."""
        ...

    def items(self) -> Iterator[LiveItem]:
        """Return every item, oldest change first."""
        ...

    def deleted_ids(self) -> list[str]:
        """Return the ids of all deleted items."""
        ...

    def not_encoded(self, bundle_id: str, most: int) -> list[tuple[int, LiveItem, int]]:
        """Return up to `most` items that have no encoding for a bundle: number, item, milliseconds of its change."""
        ...

    def add_encodings(self, bundle_id: str, encodings: Sequence[tuple[int, str, Encoding | None]]) -> None:
        """Add (number, item id, encoding) for a bundle; items that changed meanwhile are left alone."""
        ...

    def keep_encodings(self, bundle_ids: Sequence[str]) -> None:
        """Let go of the encodings for all other bundles."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
