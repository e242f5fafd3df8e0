"""Items that stand at an exact place."""

from __future__ import annotations

from dataclasses import dataclass

from tandem_core.rules.when import ALWAYS, When


@dataclass(frozen=True, slots=True)
class Pin:
    """One item at one slot (0 is the top) while `when` holds. row: of the catalogue."""

    item_id: str
    row: int
    slot: int
    when: When = ALWAYS

    @property
    def name(self) -> str:
        return f"pin:{self.item_id}"
