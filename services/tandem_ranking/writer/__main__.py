"""python -m tandem_ranking.writer --config FILE: run the writer process until SIGTERM."""

from __future__ import annotations

import os

# Before numpy and its libraries are imported: their threads fight over the cores that serve other requests.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import sys
from collections.abc import Callable, Sequence
from functools import partial

import grpc

from tandem.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem_core.decision_log import forget
from tandem_core.grpc_alone import serve_alone
from tandem_core.live.encoder import ItemEncoder
from tandem_core.logs import log_to_stderr
from tandem_core.registry import Registry
from tandem_core.service_arguments import config_errors_end_it, settings_from_arguments
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.open import open_store
from tandem_core.stores.open_live import open_live_store
from tandem_ranking.writer.catalog_servicer import CatalogServicer
from tandem_ranking.writer.config import WriterSettings
from tandem_ranking.writer.event_servicer import EventServicer
from tandem_ranking.writer.reencoder import Reencoder


def parts(settings: WriterSettings) -> tuple[Callable[[grpc.Server], Sequence[str]], ServingBundles[ItemEncoder]]:
    """Return how to serve, and what encodes items with the registry's bundles; raises ConfigError for a wrong store."""
    store, items = open_store(settings.store), open_live_store(settings.store)
    holders = [] if settings.decisions is None else [partial(forget, settings.decisions)]
    events = EventServicer(store, holders)
    registry = Registry(settings.local_registry())  # of a registry on S3: what ranking's side process has copied

    def load(bundle_id: str) -> ItemEncoder:
        encoder = ItemEncoder.load(registry.path_of(bundle_id))
        reencoder.look()
        return encoder

    # What is current may be refused by those who serve: they go on with the one before, and its items must not stop.
    encoders = ServingBundles(registry, load, both_at_start=True)
    reencoder = Reencoder(encoders, items)
    catalog = CatalogServicer(encoders, items, store)

    def register(server: grpc.Server) -> list[str]:
        events_pb2_grpc.add_EventServiceServicer_to_server(events, server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, server)
        services = {**events_pb2.DESCRIPTOR.services_by_name, **catalog_pb2.DESCRIPTOR.services_by_name}
        return [service.full_name for service in services.values()]

    return register, encoders


def main() -> None:
    settings = settings_from_arguments(WriterSettings, sys.argv[1:])
    log_to_stderr(settings.log_level)
    with config_errors_end_it():
        # Events are taken in whether or not there is a bundle; items need one to be encoded.
        serve_alone("writer", settings, *parts(settings))


if __name__ == "__main__":
    main()
