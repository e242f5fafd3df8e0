"""python -m tandem_ranking --config FILE: run the ranking service until SIGTERM."""

from __future__ import annotations

import os

# Before numpy and its libraries are imported: their threads fight over the cores that serve other requests.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import sys

import grpc

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_core.bundle import load_bundle
from tandem_core.experiment_file import load_experiments
from tandem_core.grpc_process import Service
from tandem_core.grpc_retrieval_client import RetrievalClient
from tandem_core.live.serving import LiveServing
from tandem_core.logs import log_to_stderr
from tandem_core.policy import load_policies
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.service_arguments import config_errors_end_it, settings_from_arguments
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.open import open_store
from tandem_core.stores.open_live import open_live_store
from tandem_ranking.config import RankingSettings
from tandem_ranking.servicer import RankingServicer


def build(settings: RankingSettings) -> Service:
    """Wire the service up; nothing is loaded or bound yet. Raises ConfigError for a wrong policy or store."""
    registry = Registry(settings.registry)
    experiments = load_experiments(settings.policy_file, load_policies(settings.policy_file))
    policies = experiments.policies  # of placements and of variants
    live = LiveServing(open_live_store(settings.store), lambda bundle: RankingPipeline(bundle, policies))
    bundles = ServingBundles(
        registry, lambda bundle_id: live.load(load_bundle(registry.path_of(bundle_id), retrieval=False))
    )
    retrieval = RetrievalClient(settings.retrieval_target, settings.retrieval_timeout_ms / 1000)
    servicer = RankingServicer(live.over(bundles), open_store(settings.store), retrieval, experiments)

    def register(server: grpc.Server) -> list[str]:
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicer, server)
        return [ranking_pb2.DESCRIPTOR.services_by_name["RankingService"].full_name]

    return Service(settings, bundles, register)


def main() -> None:
    settings = settings_from_arguments(RankingSettings, sys.argv[1:])
    log_to_stderr(settings.log_level)
    with config_errors_end_it():
        build(settings).run()


if __name__ == "__main__":
    main()
