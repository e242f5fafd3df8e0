"""The bundles that one request is answered from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tandem_core.bundle import Bundle
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.serving_bundles import Held, HoldsBundles


class Answering(Mapping[str, Bundle]):
    """The bundles of one request by id, each in the version that its candidates are read with.

    Retrieval may know of a change that came after this request: its candidates are read with what is known when they
    come, and then scored with the same.
    """

    def __init__(self, bundles: HoldsBundles[RankingPipeline], held: Held[RankingPipeline]) -> None:
        self._bundles = bundles
        self._pipelines = dict(held.loaded)

    def pipeline(self, bundle_id: str) -> RankingPipeline:
        """Return what goes on with the candidates of a bundle."""
        return self._pipelines[bundle_id]

    def __getitem__(self, bundle_id: str) -> Bundle:
        newest = dict(self._bundles.held.loaded)
        self._pipelines[bundle_id] = newest.get(bundle_id, self._pipelines[bundle_id])
        return self._pipelines[bundle_id].bundle

    def __iter__(self) -> Iterator[str]:
        return iter(self._pipelines)

    def __len__(self) -> int:
        return len(self._pipelines)
