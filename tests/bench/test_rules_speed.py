"""What the rules cost: 500 candidates through each of them, and through all at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem_core.bundle import Bundle, load_bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.features import History
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Regime, Seen
from tandem_core.registry import Registry
from tandem_core.rule_build import build_chain
from tandem_core.rules.base import RuleRequest
from tandem_core.settings import parse_settings
from tandem_trainer.config import IndexSettings
from tandem_trainer.studies.grown_bundle import grow

pytestmark = pytest.mark.bench
SLOTS, CALLS = 20, 300
CANDIDATES, COLD = 500, 20  # as many cold ones as the default plans let in beside all others
ITEMS = 1500
PINNED = 7  # place of the candidate that is pinned
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
    # Slots of their own each, so that every rule has work.
    "promotion": {"promotions": [{"name": "p", "items": {"column": "price", "max": 20}, "every": 10}]},
    "cold_slots": {"cold_slots": {"every": 20, "first": 5, "max_age_hours": 1_000_000}},
    "exploration": {"exploration": {"every": 8, "weight": 0.1}},
}
DIVERSITY: dict[str, dict[str, Any]] = {
    "mmr": {"mmr": {}},
    "dpp": {"dpp": {}},
    "dpp by category": {"dpp": {"similarity": "categories"}},
    "calibrated": {"calibrated": {}},
}


def test_the_cost_of_rules(bundle_folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    bundle = load_bundle(registry.path_of(grow(bundle_folder, registry, ITEMS, 1, IndexSettings(kinds=("exact",)))))
    batch, request = candidates(bundle), asked(bundle)
    pin = {"pins": [{"item_id": bundle.catalog.item_ids[batch.rows[PINNED]], "position": 3}]}

    def once(policy: dict[str, Any]) -> Callable[[], object]:
        chain = build_chain("bench", parse_settings(PlacementPolicy, {**OFF, **policy}, "bench"), bundle)
        return lambda: chain.apply(batch, request)

    everything = {key: value for rule in (*RULES.values(), pin) for key, value in rule.items()}
    variants = {"nothing but the sort": once({})}
    variants |= {name: once(rule) for name, rule in (RULES | {"pin": pin} | DIVERSITY).items()}
    variants |= {f"all with {name}": once(everything | rule) for name, rule in DIVERSITY.items()}
    variants |= {"the default placement": once({"recency": {}, "mmr": {}, "cold_items": {}})}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(CALLS + 20):
        for name, call in variants.items():
            begun = time.thread_time()  # of the CPU: what others do on the machine is not the rules' cost
            call()
            if i >= 20:  # the first ones warm up
                times[name].append(time.thread_time() - begun)
    floor = np.median(times["nothing but the sort"]) * 1e6
    print(f"\n{len(batch)} candidates, {COLD} of them cold, {SLOTS} slots; CPU time of {CALLS} calls")
    for name, each in times.items():
        p50, p95 = np.percentile(np.array(each) * 1e6, [50, 95])
        print(f"{name:24s} p50 {p50:6.0f} us  p95 {p95:6.0f} us  over the sort {p50 - floor:6.0f} us")


def candidates(bundle: Bundle) -> CandidateBatch:
    """Return candidates of which a few are cold, as few are that retrieval finds."""
    rng = np.random.default_rng(1)
    n = CANDIDATES
    rows = rng.choice(len(bundle.catalog), n, replace=False).astype(np.int32)
    columns: dict[str, Any] = {
        "events": rng.permutation(np.where(np.arange(n) < COLD, 0, 5000)),
        "impressions": rng.integers(0, 3, n) * (rng.random(n) < 0.2),  # of the last day or so
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
