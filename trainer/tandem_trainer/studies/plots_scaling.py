"""How latency grows with the catalogue, from the figures of `tandem bench serve --json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tandem_trainer.studies.plots import saved

KINDS = ("warm", "cold")  # users with a history, and without
WAYS = ("kernels", "in process", "over gRPC")


def read_figures(path: Path) -> list[dict[str, Any]]:
    """Read figures of several sizes; raises ValueError naming the file where it holds others."""
    try:
        found = json.loads(path.read_text())
        for figures in found:
            _ = (
                int(figures["items"]),
                [float(figures[kind][way][p]) for p in ("p50", "p95") for kind in KINDS for way in WAYS],
            )
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold figures of tandem bench serve --json: {error!r}") from error
    if not found:
        raise ValueError(f"{path} holds figures of no size")
    return list(found)


def draw_scaling(found: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw the latency of a request by catalogue size, a curve for each way of asking, a file for each kind of user."""
    by_size = sorted(found, key=lambda figures: int(figures["items"]))
    return [saved(folder / f"latency_{kind}.png", partial(_latency, found=by_size, kind=kind)) for kind in KINDS]


def _latency(axes: Any, found: Sequence[Mapping[str, Any]], kind: str) -> None:
    sizes = [figures["items"] for figures in found]
    for way in WAYS:
        (line,) = axes.plot(sizes, [figures[kind][way]["p50"] for figures in found], marker="o", label=f"{way}, p50")
        p95 = [figures[kind][way]["p95"] for figures in found]
        axes.plot(sizes, p95, marker=".", linestyle="--", color=line.get_color(), label=f"{way}, p95")
    axes.legend(bbox_to_anchor=(1, 1), loc="upper left")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.set(xscale="log", yscale="log", xlabel="items in the catalogue", ylabel="ms")
    axes.set(title=f"one request of a {kind} user at a time")
