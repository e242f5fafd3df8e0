"""What metrics cost a worker that serves: CPU of its process per request, with them and without, taking turns.

Logs are the default ones in both: of a call that is answered they say nothing, and cost the look at their level.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.common.v1 import context_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.bundle import Bundle
from tandem_core.registry import Registry

pytestmark = pytest.mark.bench
ROUNDS, CALLS = 40, 50


def cpu_s(pid: int) -> float:
    """Return what all threads of a process have had of the processors, to the nanosecond."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def per_call_s(running: Any, call: Callable[[], Any]) -> float:
    (worker,) = running.members("worker")
    begun = cpu_s(worker)
    for _ in range(CALLS):
        call()
    return (cpu_s(worker) - begun) / CALLS


def test_cpu_of_a_worker_with_metrics_and_without(
    launch: Any, registry: Registry, trained: Any, bundle: Bundle, wait_until: Any
) -> None:
    modes: dict[str, dict[str, Any]] = {"off": {}, "on": {"metrics_port": 0}}
    retrieval = {
        mode: launch.service("retrieval", registry=registry.root, **more).wait_serving() for mode, more in modes.items()
    }
    target = f"ipv4:{retrieval['off'].target}"
    ranking = {
        mode: launch.service("ranking", registry=registry.root, retrieval_target=target, **more).wait_serving()
        for mode, more in modes.items()
    }
    context = context_pb2.RequestContext(user_id="u1")
    for item_id in bundle.catalog.item_ids[:50]:
        context.recent_events.add(item_id=item_id, event_type="click")
    by_row = retrieval_pb2.ITEM_FORM_ROWS
    retrieve = retrieval_pb2.RetrieveRequest(context=context, max_candidates=500, item_form=by_row)
    recommend = ranking_pb2.RecommendRequest(context=context, max_results=20)
    state = ranking_pb2.GetServingStateRequest()
    for each in ranking.values():
        wait_until(lambda each=each: each.stub.GetServingState(state).retrieval_connection == "ready", 120)
    for name, services, request in (("Retrieve", retrieval, retrieve), ("Recommend", ranking, recommend)):
        found: dict[str, list[float]] = {mode: [] for mode in modes}
        for i in range(ROUNDS + 2):
            for mode, running in services.items():
                took = per_call_s(running, partial(getattr(running.stub, name), request, timeout=60))
                if i >= 2:  # the first ones warm up
                    found[mode].append(took)
        off, on = (np.array(found[mode]) for mode in ("off", "on"))
        ratios = np.sort(on / off)
        low, high = np.quantile(np.median(resampled(ratios), axis=1), [0.025, 0.975])
        print(  # noqa: T201
            f"\n{name}: {1e6 * np.median(off):.0f} us CPU of a worker without metrics, {1e6 * np.median(on):.0f} with:"
            f" {100 * (np.median(ratios) - 1):+.1f} % (95 %: {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
        )


def resampled(values: Any) -> Any:
    return np.random.default_rng(7).choice(values, (2000, len(values)))
