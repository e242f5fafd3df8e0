"""Bringing what the store knows of a user into a query."""

from __future__ import annotations

import logging
from dataclasses import replace

from tandem_core import observe
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.errors import UpstreamUnavailable
from tandem_core.query import Query
from tandem_core.stores.base import StoreUnavailable, UserStore

log = logging.getLogger(__name__)


def with_stored(query: Query, store: UserStore) -> tuple[Query, tuple[Degradation, ...]]:
    """Return the query with the stored events before its own, and stored attributes under its own.

    Anonymous requests read nothing. A store that fails costs the history, not the answer: it is declared.
    """
    if query.anonymous or not query.user_id:
        return query, ()
    try:
        with observe.stage("store"):
            stored = store.read(query.user_id)
    except StoreUnavailable as error:
        observe.count("store_errors")
        log.warning("user store unavailable", extra={"reason": str(error)})
        return query, (Degradation(DegradationKind.STORE_UNAVAILABLE, "store", "the user's history was not read"),)
    known = replace(
        query,
        events=stored.events.merged_with(query.events),
        attributes={**stored.attributes, **query.attributes},
        shown=stored.shown.merged_with(query.shown),
    )
    return known, ()


def with_all_stored(query: Query, store: UserStore) -> Query:
    """As `with_stored`, for answers that cannot declare what is missing; raises UpstreamUnavailable."""
    known, missing = with_stored(query, store)
    if missing:
        raise UpstreamUnavailable(f"the user store did not answer: {missing[0].message}")
    return known
