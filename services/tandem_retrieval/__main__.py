"""python -m tandem_retrieval --config FILE: run the retrieval service until SIGTERM."""

from __future__ import annotations

import os

# Before numpy and its libraries are imported: their threads fight over the cores that serve other requests.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import sys

import grpc

from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import load_bundle
from tandem_core.grpc_process import Service
from tandem_core.live.serving import LiveServing
from tandem_core.logs import log_to_stderr
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.service_arguments import config_errors_end_it, settings_from_arguments
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.open import open_store
from tandem_core.stores.open_live import open_live_store
from tandem_retrieval.config import RetrievalSettings
from tandem_retrieval.servicer import RetrievalServicer


def build(settings: RetrievalSettings) -> Service:
    """Wire the service up; nothing is loaded or bound yet. Raises ConfigError for a wrong store."""
    registry = Registry(settings.registry)
    live = LiveServing(open_live_store(settings.store), RetrievalPipeline)
    bundles = ServingBundles(
        registry, lambda bundle_id: live.load(load_bundle(registry.path_of(bundle_id), ranking=False))
    )
    servicer = RetrievalServicer(live.over(bundles), open_store(settings.store))

    def register(server: grpc.Server) -> list[str]:
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, server)
        return [retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"].full_name]

    return Service(settings, bundles, register)


def main() -> None:
    settings = settings_from_arguments(RetrievalSettings, sys.argv[1:])
    log_to_stderr(settings.log_level)
    with config_errors_end_it():
        build(settings).run()


if __name__ == "__main__":
    main()
