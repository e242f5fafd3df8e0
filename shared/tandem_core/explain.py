"""Why an item is not in a list: the first stage that lost it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.features import User
from tandem_core.filters import AllOf, AnyOf, Condition, Exists, InRange, InSet, NotOf
from tandem_core.query import Fill, Query, Seen
from tandem_core.ranking_pipeline import RankingPipeline, Retrieve, Slate
from tandem_core.retrieval_pipeline import Retrieved
from tandem_core.rule_trace import Part, displaced_by, parts_of

MOST_MERGED = 2000  # candidates looked at, the most that retrieval gives: usual plans find fewer in all


@dataclass(frozen=True, slots=True)
class Explained:
    """Where an item stands, or what lost it.

    position: 1 is the top, 0 not in the list. lost_at: "" where it is in the list; otherwise "filter:<which>" (it was
    not eligible), "policy:<which>" (the placement's own filter), "source" (no source found it), "merge" (a source found
    it, and too low to become a candidate), "rule:<which>" (a rule dropped it or moved it out), or "score" (never high
    enough). parts: what each source said of it (stage "source:<name>"), then what each stage of ranking did to it.
    """

    position: int
    lost_at: str
    parts: tuple[Part, ...]
    bundle_id: str


def explain(
    pipeline: RankingPipeline, query: Query, retrieved: Retrieved, slate: Slate, row: int, retrieve: Retrieve
) -> Explained:
    """Say where the item of a row of the pipeline's bundle stands in a slate made with a trace of these candidates.

    retrieve: asked again, for all that the sources find, where the item is not among the candidates.
    """
    at = np.flatnonzero(slate.items.rows == row)
    parts = parts_of(slate.stages, row)
    if row in retrieved.candidates.rows:
        parts = [*_said(retrieved, row), *parts]
        if len(at):
            return Explained(int(at[0]) + 1, "", tuple(parts), pipeline.bundle.id)
        rule = displaced_by(slate.stages, row, query.max_results)
        lost = "score" if rule in ("", "ranker") else f"rule:{rule}"
        return Explained(0, lost, tuple(parts), pipeline.bundle.id)
    user = pipeline.user(query)
    asked = pipeline.as_asked(query, user)
    if reason := ineligible(pipeline.bundle, replace(query, interacted=asked.interacted), user, row):
        return Explained(0, f"filter:{reason}", (), pipeline.bundle.id)
    if reason := ineligible(pipeline.bundle, asked, user, row):
        return Explained(0, f"policy:{reason}", (), pipeline.bundle.id)
    found = _ranks(pipeline, query, user, row, retrieve)
    return Explained(0, "merge" if found else "source", tuple(found), pipeline.bundle.id)


def ineligible(bundle: Bundle, query: Query, user: User, row: int) -> str:
    """Return what makes an item ineligible for a request: the field or column concerned; "" where nothing does."""
    if row in bundle.catalog.rows(query.exclude_item_ids):
        return "exclude_item_ids"
    if query.interacted in (Seen.EXCLUDE, None) and (
        row in user.interacted or row in bundle.catalog.rows(query.seed_item_ids)
    ):
        return "seen"
    if (
        query.served is Seen.EXCLUDE
        and query.served_within_s
        and row in query.shown.rows_within(bundle.catalog, query.now_ms, query.served_within_s)
    ):
        return "served"
    if query.condition is None:
        return ""
    return _failing(query.condition, bundle, np.array([row], np.int32))


def _failing(condition: Condition, bundle: Bundle, row: NDArray[np.int32]) -> str:
    """Return the columns of the first part that the item does not fulfil, "" where it fulfils all."""
    if condition.mask(bundle.catalog, row)[0]:
        return ""
    if isinstance(condition, AllOf):
        return next(name for part in condition.parts if (name := _failing(part, bundle, row)))
    return "+".join(dict.fromkeys(_columns(condition)))


def _columns(condition: Condition) -> Sequence[str]:
    if isinstance(condition, (AllOf, AnyOf)):
        return [name for part in condition.parts for name in _columns(part)]
    if isinstance(condition, NotOf):
        return _columns(condition.part)
    return [condition.column] if isinstance(condition, (InSet, InRange, Exists)) else [type(condition).__name__]


def _said(retrieved: Retrieved, row: int) -> list[Part]:
    """Return what each source said of a candidate."""
    batch = retrieved.candidates
    place = int(np.flatnonzero(batch.rows == row)[0])
    return [
        Part(f"source:{name}", 0.0, float(batch.columns[f"score:{name}"][place]), 0, int(rank))
        for name in batch.sources
        if (rank := batch.columns[f"rank:{name}"][place]) > 0
    ]


def _ranks(pipeline: RankingPipeline, query: Query, user: User, row: int, retrieve: Retrieve) -> list[Part]:
    """Return the item's place in the list of each source that is asked and found it, however low the merge puts it."""
    asked = replace(pipeline.as_asked(query, user), max_results=MOST_MERGED, fill=Fill.STRICT)
    all_found = retrieve(asked, Budget())
    if all_found.bundle_id != pipeline.bundle.id or row not in all_found.candidates.rows:
        return []
    return _said(all_found, row)
