"""What the rules cost: 500 candidates through each of them, and through all at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.features import History
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Regime, Seen
from tandem_core.rule_build import build_chain
from tandem_core.rules.base import RuleRequest
from tandem_core.settings import parse_settings

pytestmark = pytest.mark.bench
SLOTS, CALLS = 20, 300
CANDIDATES = 500
OFF: dict[str, Any] = {"recency": False, "mmr": False, "cold_items": False}
RULES: dict[str, dict[str, Any]] = {
    "cold_items": {"cold_items": {}},
    "recency": {"recency": {}},
    "impression_discount": {"impression_discount": {}},
    "no_repeat": {"no_repeat": {"within_hours": 0.1}},
    "filter": {"filters": [{"name": "f", "items": {"column": "price", "min": 0.01}}]},
    "boost": {"boosts": [{"name": "b", "items": {"column": "categories", "in": ["x"]}, "factor": 1.1}]},
    "creator_decay": {"creator_decay": {}},
    "group_penalty": {"group_penalty": {"weight": 0.01}},
    "cap in a window": {"caps": [{"column": "creator", "limit": 2, "window": 10}]},
    "promotion": {"promotions": [{"name": "p", "items": {"column": "price", "max": 20}, "share": 0.1}]},
    "pin": {"pins": [{"item_id": "i007", "position": 3}]},
    "cold_slots": {"cold_slots": {"first": 10, "max_age_hours": 100_000}},
    "exploration": {"exploration": {"weight": 0.1}},
}
DIVERSITY: dict[str, dict[str, Any]] = {
    "mmr": {"mmr": {}},
    "dpp": {"dpp": {}},
    "dpp by category": {"dpp": {"similarity": "categories"}},
    "calibrated": {"calibrated": {}},
}


def test_the_cost_of_rules(bundle: Bundle) -> None:
    batch, request = candidates(bundle), asked(bundle)

    def once(policy: dict[str, Any]) -> Callable[[], object]:
        chain = build_chain("bench", parse_settings(PlacementPolicy, {**OFF, **policy}, "bench"), bundle)
        return lambda: chain.apply(batch, request)

    everything = {key: value for rule in RULES.values() for key, value in rule.items()}
    variants = {"nothing but the sort": once({})}
    variants |= {name: once(rule) for name, rule in (RULES | DIVERSITY).items()}
    variants |= {f"all with {name}": once(everything | rule) for name, rule in DIVERSITY.items()}
    variants |= {"the default placement": once({"recency": {}, "mmr": {}, "cold_items": {}})}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(CALLS + 20):
        for name, call in variants.items():
            begun = time.perf_counter()
            call()
            if i >= 20:  # the first ones warm up
                times[name].append(time.perf_counter() - begun)
    floor = np.median(times["nothing but the sort"]) * 1e6
    print(f"\n{len(batch)} candidates, {SLOTS} slots; medians and 95th percentiles of {CALLS} calls")
    for name, each in times.items():
        p50, p95 = np.percentile(np.array(each) * 1e6, [50, 95])
        print(f"{name:24s} p50 {p50:6.0f} us  p95 {p95:6.0f} us  over the sort {p50 - floor:6.0f} us")


def candidates(bundle: Bundle) -> CandidateBatch:
    """Return candidates drawn by their popularity: few of them are cold, as few are that retrieval finds."""
    rng = np.random.default_rng(1)
    events = bundle.catalog.event_counts + 1.0
    n = min(CANDIDATES, len(events))
    rows = rng.choice(len(events), n, replace=False, p=events / events.sum()).astype(np.int32)
    columns: dict[str, Any] = {
        "impressions": rng.integers(0, 3, n),
        "last_shown_age_s": rng.uniform(0, 86_400, n),
        "item_impressions": rng.integers(0, 5000, n),
    }
    columns["item_clicks"] = columns["item_impressions"] // 20
    for source in ("als", "two_tower", "popularity_segment", "item_to_item", "content", "fresh"):
        columns |= {f"rank:{source}": rng.integers(0, 300, n).astype(np.int32), f"score:{source}": rng.random(n)}
    return CandidateBatch(rows, rng.normal(size=n).astype(np.float32), columns)


def asked(bundle: Bundle) -> RuleRequest:
    rows = np.arange(50, dtype=np.int32)
    history = History(rows, np.zeros(50, np.int32), np.zeros(50, np.int64), np.ones(50, np.float32))
    now_ms = bundle.manifest.data.last_event_ms
    return RuleRequest(
        slots=SLOTS, now_ms=now_ms, seed=5, regime=Regime.WARM, seen=Seen.DISCOUNT, interacted=rows, history=history
    )
