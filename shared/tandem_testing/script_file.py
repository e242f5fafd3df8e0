"""Scripts of stubs from a file: what `tandem stub --script FILE` follows.

bundle_id = "b-7"                 # default: "stub-bundle"
catalogue = ["shoe", "hat"]       # or catalogue_size = 1000, the default
flap_health_s = 2.0               # health changes between SERVING and NOT_SERVING

[ranking]                         # also retrieval, events, catalog, bundles
delay_s = 0.05
late = ["als"]                    # sources declared as late
degrade = [{kind = "RANKER_SKIPPED", component = "ranker", message = "no time left"}]
empty = true
malformed = true                  # retrieval only
bundle_mismatch = true            # or fail = ...
fail = {code = "UNAVAILABLE", message = "down", retry_after_s = 1.5}
requests = 3                      # of this script; then the seeded answers again
answer = {type = "tandem.ranking.v1.RecommendResponse", value = {items = [{itemId = "shoe", position = 1}]}}

[[events]]                        # or several scripts, one after another; the last may do without requests
requests = 2
delay_s = 1.0
[[events]]
fail = {code = "RESOURCE_EXHAUSTED"}
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, duration_pb2, json_format, message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from tandem.common.v1 import degradation_pb2
from tandem_testing.refusal import Refusal, bundle_mismatch
from tandem_testing.script import Script, ScriptedStub, Step
from tandem_testing.seeded import BUNDLE_ID, readable_ids
from tandem_testing.stub_bundles import StubBundles
from tandem_testing.stub_catalog import StubCatalog
from tandem_testing.stub_events import StubEvents
from tandem_testing.stub_ranking import StubRanking
from tandem_testing.stub_retrieval import StubRetrieval

_SERVICES = ("retrieval", "ranking", "events", "catalog", "bundles")
_PLAIN = {"bundle_id": str, "catalogue": list, "catalogue_size": int, "flap_health_s": (int, float)}
_PARTS = {
    "delay_s": (int, float),
    "late": list,
    "degrade": list,
    "empty": bool,
    "malformed": bool,
    "bundle_mismatch": bool,
    "fail": dict,
    "requests": int,
    "answer": dict,
}


class ScriptError(ValueError):
    """A script file cannot be followed; says which key is wrong and what is allowed."""


@dataclass(frozen=True, slots=True)
class StubSet:
    """One stub of each service, and how their health is to change (0: it stays SERVING)."""

    retrieval: StubRetrieval
    ranking: StubRanking
    events: StubEvents = field(default_factory=StubEvents)
    catalog: StubCatalog = field(default_factory=StubCatalog)
    bundles: StubBundles = field(default_factory=StubBundles)
    flap_health_s: float = 0.0

    @property
    def all(self) -> tuple[ScriptedStub[Any, Any], ...]:
        """Every stub, to be served."""
        return self.retrieval, self.ranking, self.events, self.catalog, self.bundles


def stub_set(catalogue: Sequence[str] | None = None, bundle_id: str = BUNDLE_ID, flap_health_s: float = 0.0) -> StubSet:
    """Return a stub of each service over one catalogue; None means 1000 readable ids."""
    item_ids = readable_ids() if catalogue is None else catalogue
    return StubSet(
        StubRetrieval(item_ids, bundle_id),
        StubRanking(item_ids, bundle_id),
        catalog=StubCatalog(item_ids),
        bundles=StubBundles([bundle_id]),
        flap_health_s=flap_health_s,
    )


def load_script(path: Path) -> StubSet:
    """Return stubs that follow a script file (see above); raises ScriptError naming file and key."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise ScriptError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ScriptError(f"{path}: {error}") from error
    _check(tables, {**_PLAIN, **dict.fromkeys(_SERVICES, (dict, list))}, str(path))
    if "catalogue" in tables and "catalogue_size" in tables:
        raise ScriptError(f"{path}: catalogue and catalogue_size: give one of them")
    catalogue = tables.get("catalogue", readable_ids(tables.get("catalogue_size", 1000)))
    try:
        stubs = stub_set(catalogue, tables.get("bundle_id", BUNDLE_ID), float(tables.get("flap_health_s", 0)))
    except (TypeError, ValueError) as error:
        raise ScriptError(f"{path}: catalogue: {error}") from error
    for name in _SERVICES:
        if name in tables:
            given = tables[name] if isinstance(tables[name], list) else [tables[name]]
            steps = [_step(part, f"{path}: {name}[{i}]") for i, part in enumerate(given)]
            getattr(stubs, name).play(*steps)
    return stubs


def _check(values: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> None:
    for key, value in values.items():
        if key not in kinds:
            raise ScriptError(f"{where}: no key {key!r}; there are {', '.join(kinds)}")
        wanted = kinds[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ScriptError(f"{where}: {key} is {value!r}, of the wrong type")


def _step(values: Mapping[str, Any], where: str) -> Step:
    if not isinstance(values, Mapping):
        raise ScriptError(f"{where}: is {values!r}, not a table")
    _check(values, _PARTS, where)
    script = Script(
        delay_s=_at_least_0(values.get("delay_s", 0.0), f"{where}: delay_s"),
        failure=_failure(values, where),
        answer=_answer(values["answer"], f"{where}: answer") if "answer" in values else None,
        degradations=(
            *(_degradation({"kind": "SOURCE_LATE", "component": name}, where) for name in values.get("late", ())),
            *(_degradation(each, f"{where}: degrade") for each in values.get("degrade", ())),
        ),
        empty=values.get("empty", False),
        malformed=values.get("malformed", False),
    )
    try:
        return Step(script, values.get("requests"))
    except ValueError as error:
        raise ScriptError(f"{where}: requests: {error}") from error


def _at_least_0(value: float, where: str) -> float:
    if not 0 <= value < float("inf"):
        raise ScriptError(f"{where} is {value}; it is 0 or more seconds")
    return float(value)


def _failure(values: Mapping[str, Any], where: str) -> Refusal | None:
    if values.get("bundle_mismatch"):
        if "fail" in values:
            raise ScriptError(f"{where}: fail and bundle_mismatch: give one of them")
        return bundle_mismatch("the script says so")
    if "fail" not in values:
        return None
    fail = values["fail"]
    _check(fail, {"code": str, "message": str, "retry_after_s": (int, float)}, f"{where}: fail")
    codes = {code.name: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
    if fail.get("code") not in codes:
        raise ScriptError(f"{where}: fail.code is {fail.get('code')!r}; there are {', '.join(codes)}")
    details = []
    if "retry_after_s" in fail:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(1000 * _at_least_0(fail["retry_after_s"], f"{where}: fail.retry_after_s")))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return Refusal(codes[fail["code"]], fail.get("message", "the script says so"), *details)


def _degradation(values: Mapping[str, Any], where: str) -> degradation_pb2.Degradation:
    _check(values, {"kind": str, "component": str, "message": str}, where)
    prefix = "DEGRADATION_KIND_"
    kinds = [name.removeprefix(prefix) for name in degradation_pb2.DegradationKind.keys()[1:]]
    if values.get("kind") not in kinds:
        raise ScriptError(f"{where}: kind is {values.get('kind')!r}; there are {', '.join(kinds)}")
    return degradation_pb2.Degradation(
        kind=degradation_pb2.DegradationKind.Value(prefix + values["kind"]),
        component=values.get("component", ""),
        message=values.get("message", ""),
    )


def _answer(values: Mapping[str, Any], where: str) -> Message:
    """Return a message from its type and its value in protobuf's JSON form."""
    _check(values, {"type": str, "value": dict}, where)
    try:
        kind = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(values.get("type", "")))
        answer: Message = json_format.ParseDict(values.get("value", {}), kind())
    except KeyError as error:
        raise ScriptError(f"{where}: no message type {values.get('type')!r} in the contract") from error
    except json_format.ParseError as error:
        raise ScriptError(f"{where}: {error}") from error
    return answer
