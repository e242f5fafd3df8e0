"""What the ranking service is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_core import observe
from tandem_core.bundle import load_bundle
from tandem_core.certificates import CertificateFiles
from tandem_core.decision_log import DecisionLog, write_policies
from tandem_core.experiment_file import load_experiments
from tandem_core.grpc_access import Access
from tandem_core.grpc_retrieval_client import RetrievalClient
from tandem_core.grpc_service import ServiceParts
from tandem_core.live.serving import LiveServing
from tandem_core.policy import PlacementPolicy, load_policies
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.serving_bundles import ServingBundles
from tandem_core.settings import ConfigError
from tandem_core.stores.open import open_store
from tandem_core.stores.open_live import open_live_store
from tandem_ranking.config import RankingSettings
from tandem_ranking.decision_notes import DecisionNotes
from tandem_ranking.servicer import RankingServicer


def parts(settings: RankingSettings) -> ServiceParts:
    """Return how to load and serve; raises ConfigError for a wrong policy, store, certificate or token."""
    registry = Registry(settings.local_registry())
    experiments = load_experiments(settings.policy_file, load_policies(settings.policy_file))
    access = Access(
        CertificateFiles(settings.retrieval_tls_cert, settings.retrieval_tls_key, settings.retrieval_tls_ca),
        settings.retrieval_token_file,
        settings.retrieval_tls_name,
    )
    access.check()
    open_store(settings.store).close()  # a wrong one must end the start, not each worker

    def load(bundle_id: str) -> RankingPipeline:
        bundle = load_bundle(registry.path_of(bundle_id), retrieval=False, warm=False)
        return RankingPipeline(bundle, experiments.policies)

    def register(bundles: ServingBundles[RankingPipeline], server: grpc.Server) -> Sequence[str]:
        target, timeout_s = settings.retrieval_target, settings.retrieval_timeout_ms / 1000
        retrieval = RetrievalClient(target, timeout_s, hedging=settings.retrieval_hedging, access=access)
        live = LiveServing(
            bundles,
            open_live_store(settings.store),
            lambda bundle: RankingPipeline(bundle, experiments.policies),
            lambda pipeline: pipeline.bundle,
        )
        observe.WATCHED["store_lag_seconds"] = lambda: live.lag_s
        _ = live.held  # all live items are taken in before the first request
        decisions = _decisions(settings, experiments.policies)  # here: it has a thread, and we are past the fork
        servicer = RankingServicer(live, open_store(settings.store), retrieval, experiments, decisions)
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicer, server)
        return [ranking_pb2.DESCRIPTOR.services_by_name["RankingService"].full_name]

    return ServiceParts(load, RankingPipeline.warm, register)


def _decisions(settings: RankingSettings, policies: Mapping[str, PlacementPolicy]) -> DecisionNotes | None:
    """Return where decisions are noted, None where they are not to be."""
    if settings.decisions is None:
        return None
    try:
        write_policies(settings.decisions, policies.values())
        log = DecisionLog(settings.decisions, settings.decisions_sample, settings.decisions_keep_hours)
    except OSError as error:
        raise ConfigError(f"decisions: {settings.decisions} cannot be written: {error}") from error
    return DecisionNotes(log, policies)
