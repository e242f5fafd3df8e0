"""What one decision was made from and what came of it, as one line of JSON."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.candidates import CandidateBatch
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query, Regime, Seen, UserEvents, decision_id_of
from tandem_core.ranking_pipeline import Slate
from tandem_core.retrieval_pipeline import Retrieved
from tandem_core.shown import ShownItems

FORMAT = 1


class DecisionUnreadable(Exception):  # noqa: N818
    """A line is no decision record, or one of another format; says why."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The slate, best first: n item ids, scores as sent, propensities (0 where chance took no part), reason kinds.

    teams: whose item each is where two lists were mixed ("" for nobody's); empty where none were.
    """

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    propensities: tuple[float, ...]
    reasons: tuple[tuple[str, ...], ...]
    teams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Team:
    """One of two lists that were mixed. policy: hash of its policy. degradations: of this list alone."""

    name: str
    policy: str
    retrieved: Retrieved
    degradations: tuple[Degradation, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. query and retrieved are there for a sample of decisions alone: with them it can be replayed.

    policy: hash of the placement's policy, see `policy_hash`. experiments: name -> variant. request: the caller's
    message as it came, in protobuf's own form. query: as the pipeline had it, with what the store knew, but for its
    filter and excluded items, which are in the request (see grpc_decisions.with_filters). teams: the two lists where
    two were mixed. not_replayable: why nobody can make this decision again, "" where that is not known.
    """

    decision_id: str
    request_id: str
    time_ms: int
    bundle_id: str
    placement: str
    policy: str
    user_id: str
    session_id: str
    seed: int
    regime: Regime
    experiments: Mapping[str, str]
    degradations: tuple[Degradation, ...]
    shown: Shown
    request: bytes = b""
    query: Query | None = None
    retrieved: Retrieved | None = None
    teams: tuple[Team, ...] = ()
    not_replayable: str = ""


def policy_hash(policy: PlacementPolicy) -> str:
    """Return the name of a policy: equal settings have equal names, in every process."""
    return hashlib.blake2b(policy.model_dump_json().encode(), digest_size=8).hexdigest()


def decision_of(
    query: Query,
    retrieved: Retrieved,
    slate: Slate,
    item_ids: tuple[str, ...],
    policy: str,
    experiments: Mapping[str, str],
    request: bytes,
    teams: tuple[Team, ...] = (),
) -> Decision:
    """Return the record of a decision, whole. item_ids: of the slate. degradations: all that the answer declares."""
    return Decision(
        decision_id_of(query.request_id),
        query.request_id,
        query.now_ms,
        slate.bundle_id,
        query.placement,
        policy,
        query.user_id,
        query.session_id,
        query.seed,
        slate.regime,
        experiments,
        slate.degradations,
        Shown(
            item_ids,
            tuple(slate.items.scores.tolist()),
            tuple(slate.propensities.tolist()),
            tuple(tuple(reason.kind.name for reason in reasons) for reasons in slate.reasons),
            slate.teams,
        ),
        request,
        query,
        retrieved,
        teams,
    )


def without_candidates(decision: Decision, why: str = "") -> Decision:
    """Return what is kept of every decision: it cannot be replayed. why: the reason, where it is not the sample."""
    return replace(
        decision,
        query=None,
        retrieved=None,
        request=b"",
        teams=(),
        not_replayable=why or decision.not_replayable,
    )


def to_line(decision: Decision) -> str:
    """Return one line of JSON, without its end. Arrays keep every bit."""
    record: dict[str, Any] = {
        "format": FORMAT,
        "decision_id": decision.decision_id,
        "request_id": decision.request_id,
        "time_ms": decision.time_ms,
        "bundle_id": decision.bundle_id,
        "placement": decision.placement,
        "policy": decision.policy,
        "user_id": decision.user_id,
        "session_id": decision.session_id,
        "seed": decision.seed,
        "regime": decision.regime.name,
        "experiments": dict(decision.experiments),
        "degradations": [_degradation(each) for each in decision.degradations],
        "item_ids": decision.shown.item_ids,
        "scores": decision.shown.scores,
        "propensities": decision.shown.propensities,
        "reasons": decision.shown.reasons,
    }
    if decision.shown.teams:
        record["shown_teams"] = decision.shown.teams
    if decision.not_replayable:
        record["not_replayable"] = decision.not_replayable
    if decision.query is not None and decision.retrieved is not None:
        record["request"] = base64.b64encode(decision.request).decode()
        record["query"] = _query(decision.query)
        record["candidates"] = _candidates(decision.retrieved)
        if decision.teams:
            record["teams"] = [_team(team, decision.retrieved) for team in decision.teams]
    return json.dumps(record, separators=(",", ":"))


def from_line(line: str) -> Decision:
    """Return the decision of one line; raises DecisionUnreadable."""
    try:
        record = json.loads(line)
        if record["format"] != FORMAT:
            raise DecisionUnreadable(f"a record of format {record['format']}; this version reads format {FORMAT}")
        whole = "query" in record
        retrieved = _to_retrieved(record["candidates"], record["bundle_id"]) if whole else None
        return Decision(
            record["decision_id"],
            record["request_id"],
            record["time_ms"],
            record["bundle_id"],
            record["placement"],
            record["policy"],
            record["user_id"],
            record["session_id"],
            record["seed"],
            Regime[record["regime"]],
            record["experiments"],
            tuple(_to_degradation(each) for each in record["degradations"]),
            Shown(
                tuple(record["item_ids"]),
                tuple(record["scores"]),
                tuple(record["propensities"]),
                tuple(tuple(reasons) for reasons in record["reasons"]),
                tuple(record.get("shown_teams", ())),
            ),
            base64.b64decode(record.get("request", "")),
            _to_query(record) if whole else None,
            retrieved,
            tuple(_to_team(team, retrieved, record["bundle_id"]) for team in record.get("teams", ())),
            record.get("not_replayable", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DecisionUnreadable(f"no decision record: {error!r}") from error


def _query(query: Query) -> dict[str, Any]:
    return {
        "max_results": query.max_results,
        "anonymous": query.anonymous,
        "interacted": None if query.interacted is None else query.interacted.name,
        "query_text": query.query_text,
        "seed_item_ids": list(query.seed_item_ids),
        "attributes": dict(query.attributes),
        "context": dict(query.context),
        "served": query.served.name,
        "served_within_s": query.served_within_s,
        "shown_item_ids": list(query.shown.item_ids),
        "shown_counts": _array(query.shown.counts),
        "shown_last": _array(query.shown.last_ms),
        "event_item_ids": list(query.events.item_ids),
        "event_types": list(query.events.event_types),
        "event_times": _array(query.events.timestamps),
        "event_values": _array(query.events.values),
    }


def _to_query(record: Mapping[str, Any]) -> Query:
    query = record["query"]
    return Query(
        request_id=record["request_id"],
        now_ms=record["time_ms"],
        placement=record["placement"],
        user_id=record["user_id"],
        session_id=record["session_id"],
        seed=record["seed"],
        max_results=query["max_results"],
        anonymous=query["anonymous"],
        interacted=None if query["interacted"] is None else Seen[query["interacted"]],
        query_text=query["query_text"],
        seed_item_ids=query["seed_item_ids"],
        attributes=query["attributes"],
        context=query["context"],
        served=Seen[query["served"]],
        served_within_s=query["served_within_s"],
        shown=ShownItems(query["shown_item_ids"], _to_array(query["shown_counts"]), _to_array(query["shown_last"])),
        events=UserEvents(
            query["event_item_ids"],
            _to_array(query["event_times"]),
            query["event_types"],
            _to_array(query["event_values"]),
        ),
    )


def _candidates(retrieved: Retrieved) -> dict[str, Any]:
    batch = retrieved.candidates
    return {
        "rows": _array(batch.rows),
        "scores": _array(batch.scores),
        "columns": {name: _array(column) for name, column in batch.columns.items()},
        "regime": retrieved.regime.name,
        "degradations": [_degradation(each) for each in retrieved.degradations],
        "empty_reason": retrieved.empty_reason,
    }


def _to_retrieved(found: Mapping[str, Any], bundle_id: str) -> Retrieved:
    columns = {name: _to_array(column) for name, column in found["columns"].items()}
    return Retrieved(
        CandidateBatch(_to_array(found["rows"]), _to_array(found["scores"]), columns),
        bundle_id,
        Regime[found["regime"]],
        tuple(_to_degradation(each) for each in found["degradations"]),
        found["empty_reason"],
    )


def _team(team: Team, first: Retrieved) -> dict[str, Any]:
    """Return a team's entry; lists that were made of the same candidates share them."""
    shared = team.retrieved.candidates is first.candidates
    return {
        "name": team.name,
        "policy": team.policy,
        "candidates": None if shared else _candidates(team.retrieved),
        "degradations": [_degradation(each) for each in team.degradations],
    }


def _to_team(team: Mapping[str, Any], first: Retrieved | None, bundle_id: str) -> Team:
    own = team["candidates"]
    if (retrieved := first if own is None else _to_retrieved(own, bundle_id)) is None:
        raise DecisionUnreadable(f"team {team['name']!r} has no candidates")
    degradations = tuple(_to_degradation(each) for each in team["degradations"])
    return Team(team["name"], team["policy"], retrieved, degradations)


def _degradation(each: Degradation) -> dict[str, str]:
    return {"kind": each.kind.name, "component": each.component, "message": each.message}


def _to_degradation(each: Mapping[str, str]) -> Degradation:
    return Degradation(DegradationKind[each["kind"]], each["component"], each["message"])


def _array(values: NDArray[Any]) -> dict[str, str]:
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return {"dtype": little.dtype.str, "data": base64.b64encode(little.tobytes()).decode()}


def _to_array(packed: Mapping[str, str]) -> NDArray[Any]:
    dtype = np.dtype(packed["dtype"])
    if dtype.hasobject:
        raise DecisionUnreadable(f"a column of dtype {packed['dtype']}")
    return np.frombuffer(base64.b64decode(packed["data"]), dtype).copy()
