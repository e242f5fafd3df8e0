from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem_core.serving_bundles import Held
from tandem_core.stores.base import StoreUnavailable
from tandem_core.stores.live import Encoding, LiveItem
from tandem_core.stores.live_sqlite import SqliteLiveStore
from tandem_ranking.writer.reencoder import Reencoder

VECTOR = Encoding(np.ones(2, np.float32), np.ones(3, np.float32))


class Encodes:
    """Holds one bundle, for which every item has the same vectors."""

    def __init__(self) -> None:
        self.held: Held[Any] = Held("b2", "", (("b2", self),), "", "")

    def encode(self, items: list[LiveItem]) -> list[Encoding]:
        return [VECTOR] * len(items)

    def holds(self, item: LiveItem, changed_ms: int) -> bool:
        return False


class Flaky:
    """A store that does not answer so many times, and says when the last item has been encoded."""

    def __init__(self, store: SqliteLiveStore, down: int, error: Exception) -> None:
        self._store = store
        self._down = down
        self._error = error
        self.encoded = threading.Event()

    def not_encoded(self, bundle_id: str, most: int) -> Any:
        if self._down:
            self._down -= 1
            raise self._error
        return self._store.not_encoded(bundle_id, most)

    def add_encodings(self, *arguments: Any) -> None:
        self._store.add_encodings(*arguments)
        self.encoded.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("error", [StoreUnavailable("down"), RuntimeError("never seen before")])
def test_items_are_encoded_for_a_new_bundle_however_long_the_store_is_out(tmp_path: Path, error: Exception) -> None:
    store = SqliteLiveStore(tmp_path / "store.db")
    store.upsert([LiveItem("new")], {"b1": [VECTOR]})
    flaky = Flaky(store, down=50, error=error)
    Reencoder(Encodes(), flaky, pause_s=0.001).look()  # type: ignore[arg-type]
    assert flaky.encoded.wait(30)
    assert not store.not_encoded("b2", 10)
