"""Two lists shown as one, so that the same person chooses between them: team-draft interleaving.

Radlinski, Kurup and Joachims, "How does clickthrough data reflect retrieval quality?", 2008. Who got more clicks is
`metrics.interleaving`. Each list has kept its placement's rules; what filters took out is in neither, but positions of
pins, caps and shares hold in the lists, not in the mixed one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tandem_core.budget import Budget
from tandem_core.candidates import CandidateBatch
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.query import Query
from tandem_core.ranking_pipeline import Retrieve, Slate
from tandem_core.retrieval_pipeline import Retrieved

_FLIPS = 512  # bits of one digest: a flip for every second item of a list, and no list is longer than 1,000


class Pick(NamedTuple):
    """One item of a mixed list. team: 0 or 1, whose list it is from. place: in that list. credited: see team_draft."""

    row: int
    team: int
    place: int
    credited: bool


def team_draft(ours: Sequence[int], theirs: Sequence[int], length: int, seed: int) -> list[Pick]:
    """Return up to `length` picks, best first, no row twice.

    ours, theirs: rows of team 0 and 1, best first, none twice. In each round both teams pick their best row that is
    not in yet, a coin saying who goes first; so both have as many at every even place. Where one list has nothing
    left the other goes on uncredited: a click there does not tell which list is better. seed: 0 to 2^64 - 1; the same
    one gives the same list.
    """
    coins = int.from_bytes(
        hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=_FLIPS // 8, person=b"team draft").digest(), "little"
    )
    lists, at = (ours, theirs), [0, 0]
    taken: set[int] = set()
    drafted: list[Pick] = []

    def has_more(team: int) -> bool:
        while at[team] < len(lists[team]) and lists[team][at[team]] in taken:
            at[team] += 1
        return at[team] < len(lists[team])

    def pick(team: int, credited: bool) -> None:
        row = lists[team][at[team]]
        taken.add(row)
        drafted.append(Pick(row, team, at[team], credited))

    rounds = 0
    while len(drafted) < length and has_more(0) and has_more(1):
        first = (coins >> (rounds % _FLIPS)) & 1
        rounds += 1
        pick(first, True)
        if len(drafted) < length and has_more(1 - first):
            pick(1 - first, True)
    for team in (0, 1):
        while len(drafted) < length and has_more(team):
            pick(team, False)
    return drafted


def shown(query: Query, teams: Mapping[str, str], slate_of: Callable[[Query], Slate]) -> Slate:
    """Return the list for a query: one team's after the other mixed where there are teams, else its own.

    teams: team -> policy, as `experiments.Assigned` has them. slate_of: makes the list of a query under its policy.
    """
    if not teams:
        return slate_of(query)
    return interleave(query, {team: slate_of(replace(query, policy=policy)) for team, policy in teams.items()})


def once(retrieve: Retrieve) -> Retrieve:
    """Return a way to candidates that asks again only for other candidates: teams that differ in rules share one call.

    For the queries of one request, which share the very same events.
    """
    answers: list[tuple[Query, Retrieved]] = []

    def ask(query: Query, budget: Budget) -> Retrieved:
        wanted = replace(query, policy="")
        found = next((found for asked, found in answers if asked == wanted), None)
        if found is None:
            found = retrieve(wanted, budget)
            answers.append((wanted, found))
        return found

    return ask


def interleave(query: Query, slates: Mapping[str, Slate]) -> Slate:
    """Return one list of at most query.max_results items from two, each item with its team.

    slates: team -> its list, two of them, in the experiment's order. Where the lists are of different bundles (a new
    one came between) they cannot be mixed: the first is returned, as nobody's, and that is declared.
    """
    (name, ours), (other, theirs) = slates.items()
    declared = tuple(dict.fromkeys((*ours.degradations, *theirs.degradations)))
    if ours.bundle_id != theirs.bundle_id:
        told = f"lists of {ours.bundle_id} and {theirs.bundle_id} are not mixed"
        mismatch = Degradation(DegradationKind.BUNDLE_MISMATCH, "interleaving", told)
        return replace(ours, degradations=(*declared, mismatch))
    drafted = team_draft(ours.items.rows.tolist(), theirs.items.rows.tolist(), query.max_results, query.seed)
    index = np.array([pick.place + pick.team * len(ours.items) for pick in drafted], np.intp)
    items = _stacked(ours.items, theirs.items).take(index)
    return replace(
        ours,
        items=items.with_scores(np.minimum.accumulate(items.scores)),
        reasons=tuple((ours, theirs)[pick.team].reasons[pick.place] for pick in drafted),
        degradations=declared,
        empty_reason="" if len(items) else ours.empty_reason,
        propensities=np.concatenate([ours.propensities, theirs.propensities])[index],
        teams=tuple((name, other)[pick.team] if pick.credited else "" for pick in drafted),
    )


def _stacked(ours: CandidateBatch, theirs: CandidateBatch) -> CandidateBatch:
    """Return one batch after the other. A source that only one asked says 0 in the other's; other columns that only
    one has are left out."""
    columns = {}
    for name in dict.fromkeys((*ours.columns, *theirs.columns)):
        parts = [batch.columns.get(name) for batch in (ours, theirs)]
        if name.startswith(("rank:", "score:")):
            dtype = next(part.dtype for part in parts if part is not None)
            parts = [np.zeros(len(b), dtype) if p is None else p for b, p in zip((ours, theirs), parts, strict=True)]
        there = [part for part in parts if part is not None]
        if len(there) == 2:
            columns[name] = np.concatenate(there)
    return CandidateBatch(
        np.concatenate([ours.rows, theirs.rows]), np.concatenate([ours.scores, theirs.scores]), columns
    )
