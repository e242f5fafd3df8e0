from __future__ import annotations

import os
from typing import Any

from tandem_core.process_loader import Loader, Worker
from tandem_core.process_wire import Wire
from tandem_core.registry import Registry
from tandem_core.service_settings import ServiceSettings
from tandem_core.serving_bundles import ServingBundles

PORT = 40_000


def worker() -> tuple[Worker, Wire]:
    """A worker of a loader, and its own end of the wire; there is no process behind it."""
    ours, theirs = Wire.pair()
    return Worker(os.getpid(), PORT, ours), theirs


def test_workers_that_serve_and_those_that_replace_them_are_both_let_go(tmp_path: Any) -> None:
    up, supervisor = Wire.pair()
    bundles: ServingBundles[Any] = ServingBundles(Registry(tmp_path), lambda bundle_id: bundle_id)
    loader = Loader(ServiceSettings(), bundles, lambda port, wire: None, lambda loaded: None, up, [PORT])
    (old, old_end), (new, new_end) = worker(), worker()
    loader._slots, loader._coming, loader._changing = {PORT: old}, {PORT: new}, True
    loader._restart_at[PORT] = 0.0  # one that died a moment ago
    supervisor.send(do="retire")
    loader._hear()
    assert [end.receive() for end in (old_end, new_end)] == [[{"do": "retire"}]] * 2
    assert loader._all() == [old, new]
    assert not loader._restart_at
