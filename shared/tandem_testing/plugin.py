"""pytest fixtures: fresh stubs on a real socket for each test that asks for them.

Imports pytest alone at the top: pytest loads this file in every run, also where no test needs a stub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import pytest

if TYPE_CHECKING:
    import grpc
    import grpc.aio

    from tandem_testing import RunningServer, StubCatalog, StubEvents, StubRanking, StubRetrieval, StubSet

StubT = TypeVar("StubT")


@dataclass(frozen=True, slots=True)
class StubServer(Generic[StubT]):
    """A stub, or a set of them, and where it listens.

    address: "127.0.0.1:PORT". channel: a plaintext channel to it. server: its health, and breaking it off.
    """

    stub: StubT
    address: str
    channel: grpc.Channel
    server: RunningServer

    @property
    def set_health(self) -> Callable[[bool], None]:
        """Let grpc.health.v1 say SERVING or NOT_SERVING."""
        return self.server.set_health


@contextmanager
def _served(stub: StubT, *servicers: object) -> Iterator[StubServer[StubT]]:
    from tandem_testing import serve  # noqa: PLC0415  (see above)

    with serve(*(servicers or (stub,))) as running:
        yield StubServer(stub, running.address, running.channel, running)


@pytest.fixture
def tandem_stubs() -> Iterator[StubServer[StubSet]]:
    """All services on one address: `.stub.ranking`, `.stub.events` and so on script them."""
    from tandem_testing import stub_set  # noqa: PLC0415  (see above)

    stubs = stub_set()
    with _served(stubs, *stubs.all) as served:
        yield served


@pytest.fixture
def tandem_retrieval_stub() -> Iterator[StubServer[StubRetrieval]]:
    """A running StubRetrieval: `.stub` scripts it, `.address` and `.channel` reach it."""
    from tandem_testing import StubRetrieval  # noqa: PLC0415  (see above)

    with _served(StubRetrieval()) as served:
        yield served


@pytest.fixture
def tandem_ranking_stub() -> Iterator[StubServer[StubRanking]]:
    """A running StubRanking: `.stub` scripts it, `.address` and `.channel` reach it."""
    from tandem_testing import StubRanking  # noqa: PLC0415  (see above)

    with _served(StubRanking()) as served:
        yield served


@pytest.fixture
def tandem_events_stub() -> Iterator[StubServer[StubEvents]]:
    """A running StubEvents: `.stub.events` has what was written."""
    from tandem_testing import StubEvents  # noqa: PLC0415  (see above)

    with _served(StubEvents()) as served:
        yield served


@pytest.fixture
def tandem_catalog_stub() -> Iterator[StubServer[StubCatalog]]:
    """A running StubCatalog: `.stub.items` and `.stub.users` have what was written."""
    from tandem_testing import StubCatalog  # noqa: PLC0415  (see above)

    with _served(StubCatalog()) as served:
        yield served


@pytest.fixture
def tandem_channel(tandem_stubs: StubServer[StubSet]) -> grpc.Channel:
    """A channel to the stubs of `tandem_stubs`, for client classes of any service."""
    return tandem_stubs.channel


@pytest.fixture
def tandem_aio_channel(tandem_stubs: StubServer[StubSet]) -> Callable[[], grpc.aio.Channel]:
    """A function that opens a grpc.aio channel to the stubs of `tandem_stubs`.

    Call it where a loop runs, as `async with tandem_aio_channel() as channel`: such a channel belongs to its loop.
    """
    from grpc import aio  # noqa: PLC0415  (see above)

    return lambda: aio.insecure_channel(tandem_stubs.address, options=[("grpc.enable_http_proxy", 0)])
