"""Divide events into train, validation and test, each way with a proof that nothing leaked.

A row's identity is its position in the events given: the parts carry it as their index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

Protocol: TypeAlias = Literal["global_time", "leave_last_out", "user_disjoint", "random_within_user"]
PROTOCOLS: tuple[Protocol, ...] = ("global_time", "leave_last_out", "user_disjoint", "random_within_user")
_Ints: TypeAlias = npt.NDArray[np.int64]


class LeakError(AssertionError):
    """A split shares what it must keep apart, or lost or doubled rows; the text says what, with an example."""


class SplitError(ValueError):
    """These events cannot be split this way; the text says why and what to change."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Events in parts that together are the events given; columns unchanged, index = position in those."""

    protocol: Protocol
    given: int  # rows that were split
    train: pd.DataFrame
    validation: pd.DataFrame  # may be empty
    test: pd.DataFrame
    # Only for user_disjoint: what may be known of the held-out users, while validation and test are the truth.
    validation_history: pd.DataFrame | None = None
    test_history: pd.DataFrame | None = None
    detail: dict[str, Any] = field(default_factory=dict)  # JSON-ready: cut times, counts, seed

    def parts(self) -> dict[str, pd.DataFrame]:
        """All parts there are, by name."""
        named = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
            "validation_history": self.validation_history,
            "test_history": self.test_history,
        }
        return {name: part for name, part in named.items() if part is not None}


def make_split(
    protocol: str,
    events: pd.DataFrame,
    *,
    seed: int,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    n_users: int | None = None,
    shuffle_history: bool = False,
) -> Split:
    """Split by the name of the protocol; each uses of the arguments what it needs.

    n_users: held-out test users of user_disjoint (and as many for validation); None = `test_fraction` of all.
    Raises SplitError for an unknown protocol or events that it cannot split.
    """
    if protocol == "global_time":
        return global_time(events, validation_fraction, test_fraction)
    if protocol == "leave_last_out":
        return leave_last_out(events)
    if protocol == "user_disjoint":
        fraction = test_fraction if n_users is None else None
        return user_disjoint(events, n_users=n_users, fraction=fraction, seed=seed, shuffle_history=shuffle_history)
    if protocol == "random_within_user":
        return random_within_user(events, test_fraction, seed=seed)
    raise SplitError(f"unknown split protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")


def global_time(events: pd.DataFrame, validation_fraction: float = 0.1, test_fraction: float = 0.1) -> Split:
    """Cut at two times: train < t1 <= validation < t2 <= test, for all users alike.

    The fractions are of the events; rows at a cut time fall on one side, so parts may come out larger.
    Raises SplitError when times leave train or a wanted part empty, as when events have no time.
    """
    _check_fractions(validation_fraction, test_fraction)
    events = _numbered(events)
    times = events["timestamp"].to_numpy(dtype=np.int64)
    ordered = np.sort(times)
    n = len(ordered)
    t2 = int(ordered[n - max(1, round(n * test_fraction))])
    before = int(np.searchsorted(ordered, t2))  # events before t2: many may share the time t2
    t1 = t2
    if validation_fraction > 0:
        t1 = int(ordered[max(0, before - max(1, round(n * validation_fraction)))])
    if t1 == ordered[0] or (validation_fraction > 0 and t1 == t2):
        raise SplitError(
            f"global_time: {n} events have {len(np.unique(ordered))} different times, too few to cut at (cuts would be "
            f"{t1} and {t2}); use leave_last_out or random_within_user, or give events a timestamp"
        )
    part = (times >= t1).astype(np.int8) + (times >= t2)
    return _checked(Split("global_time", n, *_by_part(events, part), detail={"t1_ms": t1, "t2_ms": t2}))


def leave_last_out(events: pd.DataFrame) -> Split:
    """Each user's last event is test, the one before validation; users with fewer than 3 stay in train.

    The order is by timestamp, with the order of `events` for ties.
    """
    events = _numbered(events)
    users = pd.factorize(events["user_id"])[0]
    order, rank, size = _ranked(users, events["timestamp"].to_numpy(dtype=np.int64))
    left = size - rank  # 1 = last
    part = np.empty(len(events), dtype=np.int8)
    part[order] = np.where(size < 3, 0, np.select([left == 1, left == 2], [2, 1], default=0))
    detail = {"users_all_in_train": int(((rank == 0) & (size < 3)).sum())}
    return _checked(Split("leave_last_out", len(events), *_by_part(events, part), detail=detail))


def user_disjoint(
    events: pd.DataFrame,
    *,
    n_users: int | None = None,
    fraction: float | None = None,
    seed: int,
    n_validation_users: int | None = None,
    shuffle_history: bool = False,
) -> Split:
    """Hold out whole users, drawn uniformly from the users with at least 2 events.

    Give `n_users` or `fraction` (of all users); validation gets as many users unless `n_validation_users` says
    otherwise. Of a held-out user's n events the first ceil(n / 2) by time are history and the rest the truth;
    with `shuffle_history` a random ceil(n / 2) of them, as in the half-split protocol.
    Raises SplitError when there are not enough users.
    """
    if (n_users is None) == (fraction is None):
        raise SplitError("user_disjoint: give either n_users or fraction")
    events = _numbered(events)
    users, names = pd.factorize(events["user_id"], sort=True)  # sorted: the draw depends on no row order
    counts = np.bincount(users)
    wanted = n_users if n_users is not None else round((fraction or 0.0) * len(names))
    wanted_validation = wanted if n_validation_users is None else n_validation_users
    able = np.flatnonzero(counts >= 2)
    if wanted < 1 or wanted_validation < 0 or wanted + wanted_validation > len(able):
        raise SplitError(
            f"user_disjoint: {wanted} test and {wanted_validation} validation users wanted (test at least 1), but "
            f"{len(able)} of {len(names)} users have the 2 events it takes; hold out fewer"
        )
    rng = np.random.default_rng(seed)
    drawn = rng.choice(able, size=wanted + wanted_validation, replace=False)
    group = np.zeros(len(names), dtype=np.int8)  # 0 train, 1 validation, 2 test
    group[drawn[:wanted]] = 2
    group[drawn[wanted:]] = 1
    key = rng.permutation(len(events)) if shuffle_history else events["timestamp"].to_numpy(dtype=np.int64)
    order, rank, size = _ranked(users, key)
    is_truth = np.empty(len(events), dtype=bool)
    is_truth[order] = rank >= (size + 1) // 2
    of_row = group[users]
    return _checked(
        Split(
            "user_disjoint",
            len(events),
            events[of_row == 0],
            events[(of_row == 1) & is_truth],
            events[(of_row == 2) & is_truth],
            events[(of_row == 1) & ~is_truth],
            events[(of_row == 2) & ~is_truth],
            detail={
                "seed": seed,
                "test_users": wanted,
                "validation_users": wanted_validation,
                "history": "random half" if shuffle_history else "first half",
            },
        )
    )


def random_within_user(events: pd.DataFrame, fraction: float = 0.1, *, seed: int) -> Split:
    """Of each user's n events a random int(n * (1 - fraction)) are train, the rest test; validation is empty.

    Users with one event stay in train. It ignores time: test events may lie before train events.
    """
    _check_fractions(0.0, fraction)
    events = _numbered(events)
    users = pd.factorize(events["user_id"])[0]
    order, rank, size = _ranked(users, np.random.default_rng(seed).permutation(len(events)))
    part = np.empty(len(events), dtype=np.int8)
    part[order] = np.where((rank >= (size * (1 - fraction)).astype(np.int64)) & (size > 1), 2, 0)
    detail = {"seed": seed, "fraction": fraction}
    return _checked(Split("random_within_user", len(events), *_by_part(events, part), detail=detail))


def assert_no_leak(split: Split) -> None:
    """Raise LeakError unless the split keeps every promise of its protocol, and lost and doubled no row."""
    parts = split.parts()
    rows = np.concatenate([part.index.to_numpy() for part in parts.values()])
    if len(np.unique(rows)) != len(rows):
        twice = rows[pd.Series(rows).duplicated().to_numpy(dtype=bool)][0]
        holders = [name for name, part in parts.items() if twice in part.index]
        raise LeakError(f"{split.protocol}: row {twice} of the events is in {' and in '.join(holders)}")
    if len(rows) != split.given or (len(rows) and (rows.min() < 0 or rows.max() >= split.given)):
        sizes = {name: len(part) for name, part in parts.items()}
        raise LeakError(f"{split.protocol}: the parts {sizes} are not the {split.given} rows given")
    _PROMISES[split.protocol](split)


def _assert_time_order(split: Split) -> None:
    latest, where = None, ""
    for name in ("train", "validation", "test"):
        times = split.parts()[name]["timestamp"]
        if times.empty:
            continue
        if latest is not None and int(times.min()) <= latest:
            raise LeakError(f"global_time: {name} begins at {times.min()}, but {where} lasts until {latest}")
        latest, where = int(times.max()), name


def _assert_order_per_user(split: Split) -> None:
    """Per user, by (time, row): all of train, then at most one validation event, then at most one test event."""
    stages = [("train", split.train), ("validation", split.validation), ("test", split.test)]
    for name, part in stages[1:]:
        if part["user_id"].duplicated().any():
            user = part["user_id"][part["user_id"].duplicated()].iloc[0]
            raise LeakError(f"leave_last_out: user {user!r} has several events in {name}")
    if set(split.validation["user_id"]) != set(split.test["user_id"]):
        raise LeakError("leave_last_out: validation and test are not of the same users")
    together = pd.concat([part[["user_id", "timestamp"]].assign(stage=at) for at, (_, part) in enumerate(stages)])
    users, names = pd.factorize(together["user_id"])
    order = np.lexsort((together.index.to_numpy(), together["timestamp"].to_numpy(), users))
    stage, user = together["stage"].to_numpy()[order], users[order]
    back = np.flatnonzero((user[1:] == user[:-1]) & (stage[1:] < stage[:-1]))
    if len(back):
        late, early = stages[stage[back[0]]][0], stages[stage[back[0] + 1]][0]
        raise LeakError(f"leave_last_out: user {names[user[back[0]]]!r} has a {late} event before a {early} event")


def _assert_users_apart(split: Split) -> None:
    parts = split.parts()
    users = {name: set(part["user_id"].unique()) for name, part in parts.items()}
    held_out = {"validation": ("validation", "validation_history"), "test": ("test", "test_history")}
    groups = {name: set().union(*(users.get(part, set()) for part in names)) for name, names in held_out.items()}
    groups["train"] = users["train"]
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = groups[one] & groups[other]
        if shared:
            raise LeakError(f"user_disjoint: {len(shared)} users are in {one} and {other}, first {min(shared)!r}")
    for truth, history in held_out.values():
        if users[truth] != users.get(history, set()):
            raise LeakError(f"user_disjoint: {truth} and {history} are not of the same users")


def _assert_users_known(split: Split) -> None:
    unknown = set(split.test["user_id"].unique()) - set(split.train["user_id"].unique())
    if unknown:
        raise LeakError(f"random_within_user: {len(unknown)} test users have no train event, first {min(unknown)!r}")


_PROMISES: dict[str, Callable[[Split], None]] = {
    "global_time": _assert_time_order,
    "leave_last_out": _assert_order_per_user,
    "user_disjoint": _assert_users_apart,
    "random_within_user": _assert_users_known,
}


def _checked(split: Split) -> Split:
    assert_no_leak(split)
    return split


def _numbered(events: pd.DataFrame) -> pd.DataFrame:
    if events.empty:
        raise SplitError("there are no events to split")
    return events.reset_index(drop=True)


def _check_fractions(validation: float, test: float) -> None:
    if not (0 <= validation < 1 and 0 < test < 1 and validation + test < 1):
        raise SplitError(f"fractions: validation {validation}, test {test}; each a share, test above 0, sum below 1")


def _ranked(users: npt.NDArray[np.intp], key: _Ints) -> tuple[_Ints, _Ints, _Ints]:
    """Rows ordered by user and then (stably) by `key`, all [n].

    Returns `order` (the row at each place), and at each place the row's rank among its user's rows (0 = first)
    and the number of these.
    """
    order = np.lexsort((key, users))  # a stable sort: ties keep the order of the events
    counts = np.bincount(users)
    first = np.cumsum(counts) - counts
    size = np.repeat(counts, counts)
    return order, np.arange(len(users)) - np.repeat(first, counts), size


def _by_part(events: pd.DataFrame, part: npt.NDArray[np.int8]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return events[part == 0], events[part == 1], events[part == 2]
