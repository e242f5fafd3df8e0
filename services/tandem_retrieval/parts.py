"""What the retrieval service is made of."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core import observe
from tandem_core.bundle import load_bundle
from tandem_core.grpc_service import ServiceParts
from tandem_core.live.serving import LiveServing
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.open import open_store
from tandem_core.stores.open_live import open_live_store
from tandem_retrieval.config import RetrievalSettings
from tandem_retrieval.servicer import RetrievalServicer


def parts(settings: RetrievalSettings) -> ServiceParts:
    """Return how to load and serve; raises ConfigError for a wrong store."""
    registry = Registry(settings.local_registry())
    open_store(settings.store).close()  # a wrong one must end the start, not each worker

    def load(bundle_id: str) -> RetrievalPipeline:
        return RetrievalPipeline(load_bundle(registry.path_of(bundle_id), ranking=False, warm=False))

    def register(bundles: ServingBundles[RetrievalPipeline], server: grpc.Server) -> Sequence[str]:
        live = LiveServing(
            bundles, open_live_store(settings.store), RetrievalPipeline, lambda pipeline: pipeline.bundle
        )
        observe.WATCHED["store_lag_seconds"] = lambda: live.lag_s
        _ = live.held  # all live items are taken in before the first request
        servicer = RetrievalServicer(live, open_store(settings.store))
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, server)
        return [retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"].full_name]

    return ServiceParts(load, lambda pipeline: pipeline.bundle.warm(), register)
