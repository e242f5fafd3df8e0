"""What callers hear of a store that does not answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tandem_core.errors import UpstreamUnavailable
from tandem_core.stores.base import StoreUnavailable

log = logging.getLogger(__name__)


@contextmanager
def store_named() -> Iterator[None]:
    """Tell the caller to try again; what is wrong with the store is for our log, since it names paths and hosts."""
    try:
        yield
    except StoreUnavailable as error:
        log.warning("store unavailable", extra={"reason": str(error)})
        raise UpstreamUnavailable("the store did not answer; send the same again") from error
