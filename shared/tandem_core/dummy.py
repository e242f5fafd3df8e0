"""Answers to requests that ask to be checked alone: from the catalogue, without models, user or rules."""

from __future__ import annotations

import numpy as np

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.filters import Eligibility
from tandem_core.query import Query, Regime
from tandem_core.ranking_pipeline import Slate
from tandem_core.retrieval_pipeline import Retrieved

_DECLARED = (Degradation(DegradationKind.VALIDATE_ONLY, "", "the request was checked alone; the items are a dummy"),)
_EMPTY = "validate_only: no item is left after exclude_item_ids"


def dummy_retrieved(bundle: Bundle, query: Query) -> Retrieved:
    """Return the first items of the catalogue that are not excluded, up to query.max_results."""
    batch = _first(bundle, query)
    return Retrieved(batch, bundle.id, Regime.UNKNOWN, _DECLARED, "" if len(batch) else _EMPTY)


def dummy_slate(bundle: Bundle, query: Query, candidates: CandidateBatch | None = None) -> Slate:
    """Return the candidates, or the first items of the catalogue that are not excluded, up to query.max_results."""
    batch = _first(bundle, query) if candidates is None else _top(candidates, query.max_results)
    empty = "" if len(batch) else _EMPTY
    return Slate(batch, ((),) * len(batch), bundle.id, Regime.UNKNOWN, _DECLARED, empty, np.zeros(len(batch)))


def _first(bundle: Bundle, query: Query) -> CandidateBatch:
    eligible = Eligibility(bundle.catalog, bundle.catalog.rows(query.exclude_item_ids), None)
    rows = eligible.matching_rows()[: query.max_results]
    return _top(CandidateBatch(rows, np.zeros(len(rows), np.float32), {}), query.max_results)


def _top(batch: CandidateBatch, n: int) -> CandidateBatch:
    """Return the first n, with scores that fall from 1 towards 0 in their order."""
    kept = batch.take(np.arange(min(len(batch), n)))
    return kept.with_scores(1 - np.arange(len(kept), dtype=np.float32) / (len(kept) + 1))
