"""What a data set looks like: the values of its events, and how few items most events are on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_trainer.data import Dataset
from tandem_trainer.studies.plots import saved

MOST_BARS = 30  # distinct values up to which each has a bar of its own


def draw_data(dataset: Dataset, folder: Path) -> list[Path]:
    """Draw a histogram of the values of each event type that has any, and the events of items, most popular first."""
    events = dataset.events
    valued = events[events["value"].notna()]
    paths = [
        saved(folder / f"values_{name}.png", partial(_values, values=of["value"].to_numpy(np.float64), name=str(name)))
        for name, of in valued.groupby("event_type")
    ]
    counts = np.asarray(events["item_id"].value_counts(), np.int64)
    return [*paths, saved(folder / "popularity.png", partial(_popularity, counts=counts, items=len(dataset.items)))]


def _values(axes: Any, values: NDArray[np.float64], name: str) -> None:
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= MOST_BARS:
        width = np.diff(distinct).min(initial=np.inf)
        axes.bar(distinct, counts, width=0.9 * width if np.isfinite(width) else 0.9)
    else:
        axes.hist(values, bins=MOST_BARS)
    title = f"{len(values):,} values of {name}: mean {values.mean():.2f}, deviation {values.std():.2f}"
    axes.set(xlabel=f"value of {name}", ylabel="events", title=title)


def _popularity(axes: Any, counts: NDArray[np.int64], items: int) -> None:
    """counts: of items with events, falling. items: of the catalogue."""
    half = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) + 1
    axes.plot(np.arange(1, len(counts) + 1), counts)
    axes.axvline(half, linestyle=":", color="grey", label=f"half of the events are on {half:,} items")
    axes.legend()
    axes.set(xscale="log", yscale="log", xlabel="item, most popular first", ylabel="events")
    axes.set(title=f"{counts.sum():,} events on {len(counts):,} of {items:,} items")
