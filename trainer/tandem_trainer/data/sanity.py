"""Sanity checks over clean tables: what a reader should see before trusting a training run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd


def sanity_checks(events: pd.DataFrame, items: pd.DataFrame, users: pd.DataFrame) -> dict[str, Any]:
    """JSON-ready facts about clean tables (events sorted by time, at least one).

    Codes are what models index by: they must run from 0 to n - 1 without a gap, whatever the ids look like.
    """
    user_codes, user_ids = pd.factorize(events["user_id"])
    item_codes, item_ids = pd.factorize(events["item_id"])
    per_user = np.bincount(user_codes)
    per_item = np.bincount(item_codes)
    first, last = int(events["timestamp"].iloc[0]), int(events["timestamp"].iloc[-1])
    return {
        "nulls in required columns": int(events[["user_id", "item_id", "timestamp", "event_type"]].isna().sum().sum())
        + int(items["item_id"].isna().sum())
        + int(users["user_id"].isna().sum()),
        "events without a value": int(events["value"].isna().sum()),
        "user codes run from 0 to": len(user_ids) - 1,
        "item codes run from 0 to": len(item_ids) - 1,
        "codes without a gap": bool(per_user.all() and per_item.all()),
        "users without events": len(users) - len(user_ids),
        "items without events": len(items) - len(item_ids),
        "events per user (least, median, most)": _spread(per_user),
        "events per item (least, median, most)": _spread(per_item),
        # Far above the others it is rarely a person: a placeholder for "no id", a robot, a shared account.
        "busiest user's share of the events": round(float(per_user.max() / len(events)), 4),
        "event types": {str(kind): int(n) for kind, n in events["event_type"].value_counts().items()},
        "first event": _utc(first),
        "last event": _utc(last),
        "items with an event before created_at": _early_items(events, items),
    }


def _spread(counts: Any) -> list[float]:
    return [int(counts.min()), float(np.median(counts)), int(counts.max())]


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).isoformat(timespec="seconds")


def _early_items(events: pd.DataFrame, items: pd.DataFrame) -> int:
    """Items whose first event lies before their created_at: a sign of wrong times or units."""
    if not items["created_at"].notna().any():
        return 0
    firsts = events.drop_duplicates("item_id").set_index("item_id")["timestamp"]
    first = firsts.reindex(items["item_id"]).astype("Int64").to_numpy(dtype=np.float64, na_value=np.nan)
    created = items["created_at"].to_numpy(dtype=np.float64, na_value=np.nan)
    return int((first < created).sum())
