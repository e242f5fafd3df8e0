"""Merging what the sources found into one list that keeps what each source said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.candidates import CandidateBatch
from tandem_core.sources.base import Found

RRF_K = 60  # from the paper: how little the difference between the first places counts


def rank_fusion(found: Mapping[str, Found], weights: Mapping[str, float]) -> CandidateBatch:
    """Merge by weighted reciprocal rank: score = sum of weight / (60 + rank) (Cormack et al., SIGIR 2009).

    found: source -> its list. weights: source -> above 0.
    Returns the union, best first, ties to the smaller row, with columns rank:<source> and score:<source>.
    """
    if not found:
        return CandidateBatch.empty()
    rows, places, columns = gather(found)
    fused = np.zeros(len(rows), np.float32)
    for name, at in places.items():
        fused[at] += weights[name] / (RRF_K + np.arange(1, len(at) + 1))
    return CandidateBatch(rows, fused, columns).best_first()


def gather(
    found: Mapping[str, Found],
) -> tuple[NDArray[np.int32], dict[str, NDArray[np.intp]], dict[str, NDArray[Any]]]:
    """Return the union of at least one source's list: rows int32 [n], rising, where in it each source's list is, best
    first, and the columns rank:<source>, 0 where a source did not find the row, and score:<source>: of rows that it did
    not find only where it can score any row, else 0.
    """
    rows, slot = np.unique(np.concatenate([each.rows for each in found.values()]), return_inverse=True)
    places: dict[str, NDArray[np.intp]] = {}
    columns: dict[str, NDArray[Any]] = {}
    start = 0
    for name, each in found.items():
        places[name] = slot[start : start + len(each)]
        start += len(each)
        ranks = np.zeros(len(rows), np.int32)
        scores = np.zeros(len(rows), np.float32) if each.score_rows is None else each.score_rows(rows)
        ranks[places[name]] = np.arange(1, len(each) + 1)
        scores[places[name]] = each.scores
        columns |= {f"rank:{name}": ranks, f"score:{name}": scores}
    return rows.astype(np.int32, copy=False), places, columns


def append(batch: CandidateBatch, source: str, more: Found) -> CandidateBatch:
    """Return the batch with `more` below it, in its order, as found by `source`; none of `more` may be in the batch.

    The scores go on falling below the batch's lowest, so that sorting by score keeps the fill at the end.
    """
    n, m = len(batch), len(more)
    floor = float(batch.scores.min()) if n else 1.0 / RRF_K
    scores = floor * np.linspace(1, 0, m + 2, dtype=np.float32)[1:-1]
    columns = dict(batch.columns)
    for prefix, dtype in (("rank:", np.int32), ("score:", np.float32)):
        columns.setdefault(prefix + source, np.zeros(n, dtype))
    added = {name: np.zeros((m, *column.shape[1:]), column.dtype) for name, column in columns.items()}
    highest = int(columns[f"rank:{source}"].max(initial=0))
    added[f"rank:{source}"] = np.arange(highest + 1, highest + m + 1, dtype=np.int32)
    added[f"score:{source}"] = more.scores
    return CandidateBatch(
        np.concatenate([batch.rows, more.rows]),
        np.concatenate([batch.scores, scores]),
        {name: np.concatenate([column, added[name]]) for name, column in columns.items()},
    )
