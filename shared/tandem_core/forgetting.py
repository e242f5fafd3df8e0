"""Deleting a user everywhere."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem_core.stores.base import Forgotten, StoreUnavailable, UserStore

log = logging.getLogger(__name__)

# Deletes what one holder has of a user (decision records, for one) and returns how much it was. It may be called again,
# and is where it raised StoreUnavailable or OSError.
Forget = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was deleted. receipt_id: says nothing of the user. decisions: what the other holders deleted."""

    receipt_id: str
    stored: Forgotten
    decisions: int


def forget_user(user_id: str, store: UserStore, holders: Sequence[Forget]) -> Receipt:
    """Delete a user from the store and from all holders; raises StoreUnavailable, after which it is asked again.

    The store comes first: from then on nothing of before is taken in any more.
    """
    stored = store.forget(user_id)
    try:
        others = sum(forget(user_id) for forget in holders)
    except OSError as error:
        raise StoreUnavailable(f"not everything of a user is deleted: {error}") from error
    receipt = Receipt(uuid.uuid4().hex, stored, others)
    log.info(
        "user forgotten",
        extra={"receipt_id": receipt.receipt_id, "events": stored.events, "decisions": receipt.decisions},
    )
    return receipt
