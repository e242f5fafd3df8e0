"""The items of one bundle as columns; an item is its row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.text_blob import pack_strings, unpack_strings


@dataclass(frozen=True, slots=True)
class CodeColumn:
    """A text column, or a list of texts per item, as codes.

    codes: int32 [N, C], -1 where an item has fewer than C values (C is 1 for plain text columns).
    vocabulary: the texts; a code is a position in it. code_of: the other way round; made here where not given.
    """

    codes: NDArray[np.int32]
    vocabulary: Sequence[str]
    code_of: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.code_of) != len(self.vocabulary):
            object.__setattr__(self, "code_of", {text: code for code, text in enumerate(self.vocabulary)})

    def values(self, row: int) -> list[str]:
        """Return the texts of one item."""
        return [self.vocabulary[code] for code in self.codes[row] if code >= 0]


@dataclass(frozen=True, slots=True)
class Catalog:
    """N items.

    item_ids: N distinct strings. titles: N strings, "" where unknown. codes: name -> text columns, among them
    "categories" and "creator". numbers: name -> float64 [N], NaN where unknown, among them "created_at" (seconds
    since 1970) and "price". event_counts: int32 [N], training events of each item (0: never seen in training).
    """

    item_ids: Sequence[str]
    titles: Sequence[str]
    codes: Mapping[str, CodeColumn]
    numbers: Mapping[str, NDArray[np.float64]]
    event_counts: NDArray[np.int32]
    row_of: Mapping[str, int] = field(init=False)
    all_rows: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row_of", {item_id: row for row, item_id in enumerate(self.item_ids)})
        object.__setattr__(self, "all_rows", np.arange(len(self.item_ids), dtype=np.int32))
        n = len(self.item_ids)
        lengths = {"titles": len(self.titles), "event_counts": len(self.event_counts), "item_ids": len(self.row_of)}
        lengths |= {name: len(column.codes) for name, column in self.codes.items()}
        lengths |= {name: len(column) for name, column in self.numbers.items()}
        if wrong := {name: length for name, length in lengths.items() if length != n}:
            raise ValueError(f"catalogue of {n} items has columns of other lengths (or duplicate ids): {wrong}")

    def __len__(self) -> int:
        return len(self.item_ids)

    def find(self, item_ids: Sequence[str]) -> NDArray[np.int32]:
        """Return int32 [n], the row of each id, -1 where there is none."""
        row_of = self.row_of
        return np.array([row_of.get(item_id, -1) for item_id in item_ids], np.int32)

    def rows(self, item_ids: Iterable[str]) -> NDArray[np.int32]:
        """Return the rows of the ids that are in the catalogue, in the order given; int32."""
        found = self.find(list(item_ids))
        return found[found >= 0]

    @property
    def bundle_size(self) -> int:
        """How many rows, the first ones, are of the bundle: with live items there are more (see `live.catalog`)."""
        return len(self)

    @property
    def gone(self) -> NDArray[np.bool_] | None:
        """bool [N]: items that were deleted, or replaced by a live one; None where none was."""
        return None

    @property
    def gone_share(self) -> float:
        """Share of the bundle's items that are `gone`, from 0 to 1."""
        return 0.0

    @property
    def present(self) -> int:
        """How many items there are, those `gone` left out."""
        return len(self)

    def wire_rows(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return rows as they travel: those of the bundle as they are, a live item as -1 - its number."""
        return rows

    def rows_of_wire(self, wire: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the rows of what `wire_rows` gave, maybe in another process; -1 for live items not known here."""
        return np.where(wire < 0, np.int32(-1), wire)

    @property
    def columns(self) -> list[str]:
        """Names that filters and `return_attributes` may use."""
        return ["item_id", "title", *self.codes, *self.numbers]

    def save(self, path: Path) -> None:
        """Write as npz without pickle."""
        arrays: dict[str, NDArray[np.generic]] = {"event_counts": self.event_counts}
        arrays |= pack_strings("item_ids", self.item_ids) | pack_strings("titles", self.titles)
        arrays |= {f"number:{name}": column for name, column in self.numbers.items()}
        for name, column in self.codes.items():
            arrays[f"code:{name}"] = column.codes
            arrays |= pack_strings(f"vocabulary:{name}", column.vocabulary)
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Catalog:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            prefixed = {prefix: [n for n in arrays.files if n.startswith(prefix)] for prefix in ("code:", "number:")}
            return cls(
                item_ids=unpack_strings(arrays, "item_ids"),
                titles=unpack_strings(arrays, "titles"),
                codes={
                    name.removeprefix("code:"): CodeColumn(
                        arrays[name], unpack_strings(arrays, name.replace("code:", "vocabulary:", 1))
                    )
                    for name in prefixed["code:"]
                },
                numbers={name.removeprefix("number:"): arrays[name] for name in prefixed["number:"]},
                event_counts=arrays["event_counts"],
            )
