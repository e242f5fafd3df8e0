"""The plugin's fixtures, here from the source tree: the tests must not need a fresh install to see a change."""

from __future__ import annotations

from tandem_testing.plugin import (
    tandem_aio_channel,
    tandem_catalog_stub,
    tandem_channel,
    tandem_events_stub,
    tandem_ranking_stub,
    tandem_retrieval_stub,
    tandem_stubs,
)

__all__ = [
    "tandem_aio_channel",
    "tandem_catalog_stub",
    "tandem_channel",
    "tandem_events_stub",
    "tandem_ranking_stub",
    "tandem_retrieval_stub",
    "tandem_stubs",
]
