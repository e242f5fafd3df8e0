"""From an answered request to its decision record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tandem.ranking.v1 import ranking_pb2
from tandem_core.bundle import Bundle
from tandem_core.decision_log import DecisionLog
from tandem_core.decisions import decision_of, policy_hash, without_candidates
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query
from tandem_core.ranking_pipeline import Slate
from tandem_core.retrieval_pipeline import Retrieved


class DecisionNotes:
    """Notes decisions in a log. policies: by placement, and by the names that experiments give their variants."""

    def __init__(self, log: DecisionLog, policies: Mapping[str, PlacementPolicy]) -> None:
        self._log = log
        self._names = {key: policy_hash(policy) for key, policy in policies.items()}

    def note(
        self,
        request: ranking_pb2.RecommendRequest,
        query: Query,
        made: Sequence[tuple[Query, Retrieved]],
        slate: Slate,
        bundle: Bundle,
    ) -> None:
        """Note one answer. made: query and candidates of each list that was made for it."""
        item_ids = tuple(bundle.catalog.item_ids[row] for row in slate.items.rows.tolist())
        name = self._names[query.policy_name]
        decision = decision_of(
            query, made[0][1], slate, item_ids, name, dict(query.experiments), request.SerializeToString()
        )
        # Two mixed lists are not made again from one list's candidates.
        self._log.add(decision if len(made) == 1 else without_candidates(decision))
