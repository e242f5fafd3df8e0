"""The five ways of holding events back, each with its statement in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset, filter_min_interactions
from tandem_trainer.quality.log import HeldOut, Ints, Log, Training, held_out, joined, make_log, make_training
from tandem_trainer.split import LeakError, SplitError, global_time, leave_last_out, user_disjoint

Part: TypeAlias = Literal["train", "train+validation"]
Protocol: TypeAlias = Literal["loo", "time", "warm-time", "cold-item", "strong"]

WARM = 5  # events before the cut, of a user whose taste is known
LOO_ITEM_EVENTS = 5  # published leave-one-out figures drop rarer items
HELD_BACK = 0.1  # of the events (time), users (strong) or items (cold-item), and as much again for validation
WARM_TEST = 0.2  # of the events, beyond the mark of warm-time


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Events in parts. train: int64 places that models are fitted on. more: int64 places of the validation part, which
    a refit may add. validation, test: questions about what came after. statement: the protocol in sentences.

    Raises LeakError where what is fitted on holds an answer.
    """

    protocol: Protocol
    log: Log
    train: Ints
    more: Ints
    validation: HeldOut
    test: HeldOut
    statement: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, fitted, answers in (
            ("validation answers in the training part", self.train, self.validation.places),
            ("test answers in the training part", self.train, self.test.places),
            ("test answers in the validation part", self.more, self.test.places),
        ):
            if len(shared := np.intersect1d(fitted, answers)):
                raise LeakError(f"{self.protocol}: {len(shared)} {name}, first the event at {shared[0]}")

    def training(self, part: Part) -> Training:
        """Return the events to fit on: the training part, or with the validation part."""
        return make_training(self.log, self.train if part == "train" else joined(self.train, self.more))


def make_cut(protocol: str, dataset: Dataset, config: TrainConfig) -> Cut:
    """Cut a data set by the name of the protocol; raises SplitError for an unknown one or data it cannot cut."""
    if protocol not in PROTOCOLS:
        raise SplitError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if protocol == "loo" and config.data.min_item_events < LOO_ITEM_EVENTS:
        dataset = filter_min_interactions(dataset, min_item_events=LOO_ITEM_EVENTS)
    log = make_log(dataset)
    cut = PROTOCOLS[protocol](log, config)
    if not len(cut.test):
        raise SplitError(f"{protocol}: no user of {dataset.name} has a question to answer; use another protocol")
    counts = {
        "users": len(log.user_ids),
        "items": log.n_items,
        "events": len(log),
        "repeated events": log.repeats,
        "training events": len(cut.train),
        "validation events": len(cut.more),
        "test users": len(cut.test),
        "test positives": len(cut.test.places),
    }
    return replace(cut, counts=counts | cut.counts, statement=(*cut.statement, *_COMMON))


_COMMON = (
    "Every event is a positive of weight 1. Order: stable sort by timestamp, the order of the file for ties.",
    "Full ranking: every item of the catalogue (no sampled negatives), by falling score, ties to the smaller row.",
    "A source that does not know a user lists nothing.",
    "History of a test user: all events known before the answers, validation events too.",
)


def _loo(log: Log, config: TrainConfig) -> Cut:
    split = leave_last_out(log.dataset.events)
    train, more, test = (_places(part.index) for part in (split.train, split.validation, split.test))
    least = max(LOO_ITEM_EVENTS, config.data.min_item_events)
    return Cut(
        "loo",
        log,
        train,
        more,
        held_out(log, train, more, now_ms=None),
        held_out(log, joined(train, more), test, now_ms=None),
        (
            "Leave one out: a user's last event is test, the one before it validation; users with fewer than 3 events "
            f"only train. Items with fewer than {least} events are dropped.",
            "A question is asked at the time of its answer; popularity windows end there.",
        ),
    )


def _time(log: Log, config: TrainConfig) -> Cut:
    cut = _by_time(log, HELD_BACK, 0)
    statement = (
        *cut.statement,
        "Test is the last 10 % of all events by global time, validation the 10 % before. All questions are asked at "
        "the cut, popularity windows end there, and the history is what came before it.",
        f"The table is about users with at least {WARM} earlier events; others are slices of their own.",
    )
    slices = [replace(part, slices=_by_history(part)) for part in (cut.validation, cut.test)]
    return replace(cut, protocol="time", validation=slices[0], test=slices[1], statement=statement)


def _warm_time(log: Log, config: TrainConfig) -> Cut:
    cut = _by_time(log, WARM_TEST, WARM)
    statement = (
        *cut.statement,
        "The mark is the time before which 80 % of all events lie. Test users have at least "
        f"{WARM} events before it and one after: their later events are the answers, whoever came later is left out.",
        "Validation likewise, with the mark at 70 % and answers up to the mark at 80 %. Models see all events before a "
        "mark; questions are asked at the mark, and popularity windows end there.",
    )
    return replace(cut, protocol="warm-time", statement=statement)


def _by_time(log: Log, test_fraction: float, least_known: int) -> Cut:
    split = global_time(log.dataset.events, HELD_BACK, test_fraction)
    train, more, test = (_places(part.index) for part in (split.train, split.validation, split.test))
    t1, t2 = int(split.detail["t1_ms"]), int(split.detail["t2_ms"])
    return Cut(
        "time",
        log,
        train,
        more,
        held_out(log, train, more, now_ms=t1, least_known=least_known),
        held_out(log, joined(train, more), test, now_ms=t2, least_known=least_known),
        (f"Validation begins at {_utc(t1)}, test at {_utc(t2)}.",),
        {"events in the test window": len(test)},
    )


def _by_history(part: HeldOut) -> dict[str, NDArray[np.bool_]]:
    known = part.queries.sizes
    return {
        f"at least {WARM} earlier events": known >= WARM,
        f"1 to {WARM - 1} earlier events": (known > 0) & (known < WARM),
        "new users, no earlier event": known == 0,
    }


def _strong(log: Log, config: TrainConfig) -> Cut:
    half = "a random half" if config.split.shuffle_history else "the earlier half"
    split = user_disjoint(
        log.dataset.events,
        n_users=config.split.test_users,
        fraction=HELD_BACK if config.split.test_users is None else None,
        seed=config.seed,
        shuffle_history=config.split.shuffle_history,
    )
    parts = {name: _places(frame.index) for name, frame in split.parts().items()}
    known, wanted = parts["validation_history"], parts["validation"]
    return Cut(
        "strong",
        log,
        parts["train"],
        joined(known, wanted),
        held_out(log, known, wanted, now_ms=None),
        held_out(log, parts["test_history"], parts["test"], now_ms=None),
        (
            f"Strong generalisation: test users are in no training event ({split.detail['test_users']} drawn with "
            f"seed {config.seed}, as many for validation). Of each {half} of the events is given, the rest is the "
            "answer. A refit adds the validation users.",
            "A question is asked at the time of its first answer; popularity windows end there.",
        ),
    )


def _cold_item(log: Log, config: TrainConfig) -> Cut:
    sold = np.unique(log.rows)
    n = max(1, round(HELD_BACK * len(sold)))
    drawn = np.random.default_rng(config.seed).permutation(sold)
    kind = np.zeros(log.n_items, np.int8)  # 0 train, 1 validation, 2 test
    kind[drawn[:n]], kind[drawn[n : 2 * n]] = 2, 1
    train, more, test = (np.flatnonzero(kind[log.rows] == part) for part in range(3))
    return Cut(
        "cold-item",
        log,
        train,
        more,
        held_out(log, train, more, now_ms=None, candidates=np.sort(drawn[n : 2 * n]).astype(np.int32)),
        held_out(log, joined(train, more), test, now_ms=None, candidates=np.sort(drawn[:n]).astype(np.int32)),
        (
            f"Cold items: {n} of {len(sold)} items (seed {config.seed}) are in no training event, {n} others likewise "
            "for validation. Test users have an event on a cold item; their history is all their events on other "
            "items, whenever they were.",
            f"The {n} cold items are ranked among themselves. A refit adds the validation items.",
        ),
        {"cold items": n},
    )


def _utc(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%S} UTC"


def _places(index: object) -> Ints:
    return np.sort(np.asarray(index, np.int64))


PROTOCOLS: dict[str, Callable[[Log, TrainConfig], Cut]] = {
    "loo": _loo,
    "time": _time,
    "warm-time": _warm_time,
    "cold-item": _cold_item,
    "strong": _strong,
}
