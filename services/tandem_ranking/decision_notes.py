"""From an answered request to its decision record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tandem.ranking.v1 import ranking_pb2
from tandem_core.bundle import Bundle
from tandem_core.decision_log import DecisionLog
from tandem_core.decisions import Team, decision_of, policy_hash, without_candidates
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query
from tandem_core.ranking_pipeline import Slate
from tandem_core.retrieval_pipeline import Retrieved


class Made(NamedTuple):
    """One list that was made for an answer."""

    query: Query
    retrieved: Retrieved
    slate: Slate


class DecisionNotes:
    """Notes decisions in a log. policies: by placement, and by the names that experiments give their variants."""

    def __init__(self, log: DecisionLog, policies: Mapping[str, PlacementPolicy]) -> None:
        self._log = log
        self._names = {key: policy_hash(policy) for key, policy in policies.items()}

    def note(
        self,
        request: ranking_pb2.RecommendRequest,
        query: Query,
        made: Mapping[str, Made],
        slate: Slate,
        bundle: Bundle,
    ) -> None:
        """Note one answer. made: by team, each list that was made for it; one of no team where none were mixed."""
        lists = list(made.values())
        item_ids = tuple(bundle.catalog.item_ids[row] for row in slate.items.rows.tolist())
        teams = tuple(
            Team(name, self._names[each.query.policy_name], each.retrieved, each.slate.degradations)
            for name, each in made.items()
            if len(lists) > 1
        )
        decision = decision_of(
            query,
            lists[0].retrieved,
            slate,
            item_ids,
            self._names[query.policy_name],
            dict(query.experiments),
            request.SerializeToString(),
            teams,
        )
        why = _not_replayable(query, lists, bundle)
        self._log.add(without_candidates(decision, why) if why else decision)


def _not_replayable(query: Query, made: Sequence[Made], bundle: Bundle) -> str:
    """Return why a decision cannot be made again from its bundle and candidates, "" where it can."""
    if any(each.retrieved.bundle_id != bundle.id for each in made):
        return "its two lists are of different bundles"
    catalog = bundle.catalog
    if len(catalog) == catalog.bundle_size:
        return ""
    if any((each.retrieved.candidates.rows >= catalog.bundle_size).any() for each in made):
        return "live items, which no bundle holds, are among its candidates"
    known = catalog.find([*query.events.item_ids, *query.seed_item_ids])
    return "live items, which no bundle holds, are in its history" if (known >= catalog.bundle_size).any() else ""
