"""pytest fixtures: a fresh stub on a real socket for each test that asks for one.

Imports pytest alone at the top: pytest loads this file in every run, also where no test needs a stub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import pytest

if TYPE_CHECKING:
    import grpc

    from tandem_testing import StubRanking, StubRetrieval

StubT = TypeVar("StubT")


@dataclass(frozen=True, slots=True)
class StubServer(Generic[StubT]):
    """A stub and where it listens. address: "127.0.0.1:PORT". channel: a plaintext channel to it."""

    stub: StubT
    address: str
    channel: grpc.Channel
    set_health: Callable[[bool], None]


@pytest.fixture
def tandem_retrieval_stub() -> Iterator[StubServer[StubRetrieval]]:
    """A running StubRetrieval: `.stub` scripts it, `.address` and `.channel` reach it."""
    from tandem_testing import StubRetrieval, serve  # noqa: PLC0415  (see above)

    stub = StubRetrieval()
    with serve(stub) as running:
        yield StubServer(stub, running.address, running.channel, running.set_health)


@pytest.fixture
def tandem_ranking_stub() -> Iterator[StubServer[StubRanking]]:
    """A running StubRanking: `.stub` scripts it, `.address` and `.channel` reach it."""
    from tandem_testing import StubRanking, serve  # noqa: PLC0415  (see above)

    stub = StubRanking()
    with serve(stub) as running:
        yield StubServer(stub, running.address, running.channel, running.set_health)
