"""Ranking's way to retrieval: bounded in time, broken off when it keeps failing."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc

from tandem.common.v1 import context_pb2
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.errors import BundleMismatch, InvalidRequest, UpstreamUnavailable
from tandem_core.grpc_client import ReadCaller, open_channel, several_addresses
from tandem_core.grpc_filter import filter_message
from tandem_core.grpc_parse_ranking import parse_candidates
from tandem_core.query import Query, Regime
from tandem_core.retrieval_pipeline import Retrieved

SERVICE = "tandem.retrieval.v1.RetrievalService"


class CircuitBreaker:
    """After `threshold` failures in a row, refuses calls for `open_s` seconds, then lets one through to try."""

    def __init__(self, threshold: int = 5, open_s: float = 1.0) -> None:
        self._threshold = threshold
        self._open_s = open_s
        self._failures = 0
        self._closed_again = 0.0
        self._lock = threading.Lock()

    def allows(self) -> bool:
        with self._lock:
            if self._failures < self._threshold:
                return True
            if time.monotonic() < self._closed_again:
                return False
            self._closed_again = time.monotonic() + self._open_s  # one call tries; the others go on waiting
            return True

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._closed_again = time.monotonic() + self._open_s


@dataclass(slots=True)
class RetrievalClient:
    """Calls a retrieval service. timeout_s: the longest a call may take, whatever the caller's own deadline."""

    target: str
    timeout_s: float
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    share: float = 0.7  # of the remaining deadline: the rest is for scoring and rules
    hedging: bool = True  # where the target names several addresses
    caller: ReadCaller = field(init=False)
    _channel: grpc.Channel = field(init=False)
    _stub: retrieval_pb2_grpc.RetrievalServiceStub = field(init=False)
    _state: str = field(init=False, default="idle")

    def __post_init__(self) -> None:
        self.caller = ReadCaller(hedges=self.hedging and several_addresses(self.target))
        self._channel = open_channel(self.target, SERVICE)
        self._channel.subscribe(self._note_state, try_to_connect=True)
        self._stub = retrieval_pb2_grpc.RetrievalServiceStub(self._channel)

    @property
    def state(self) -> str:
        """State of the connection: "ready", "connecting", "failing" or "idle"."""
        return self._state

    def retrieve(
        self, context: context_pb2.RequestContext, query: Query, budget: Budget, bundles: Mapping[str, Bundle]
    ) -> Retrieved:
        """Return candidates of the first of `bundles` that retrieval has. context: as the caller sent it.

        Raises UpstreamUnavailable or BundleMismatch.
        """
        if not self.breaker.allows():
            raise UpstreamUnavailable(f"{self.target} keeps failing; it is tried again in a moment")
        timeout_s = min(self.timeout_s, self.share * budget.remaining())
        try:
            request = _request(context, query, list(bundles))
            response = self.caller.call(self._stub.Retrieve, request, timeout_s)
        except grpc.RpcError as error:
            raise self._translated(error, short=timeout_s < self.timeout_s) from error
        self.breaker.succeeded()
        return _retrieved(response, bundles)

    def close(self) -> None:
        self._channel.close()

    def _translated(self, error: grpc.RpcError, *, short: bool) -> Exception:
        """Return what an error means. short: the caller's own deadline left less than `timeout_s`."""
        code, text = error.code(), error.details()
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            self.breaker.succeeded()  # it answers: only the bundle is another
            return BundleMismatch(text)
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            self.breaker.succeeded()  # one request's fault must not take retrieval away from the others
        elif not (short and code is grpc.StatusCode.DEADLINE_EXCEEDED):  # that says nothing of retrieval
            self.breaker.failed()
        return UpstreamUnavailable(f"{self.target}: {code.name}: {text}")

    def _note_state(self, state: grpc.ChannelConnectivity) -> None:
        names = {
            grpc.ChannelConnectivity.READY: "ready",
            grpc.ChannelConnectivity.CONNECTING: "connecting",
            grpc.ChannelConnectivity.TRANSIENT_FAILURE: "failing",
        }
        self._state = names.get(state, "idle")


def _request(context: context_pb2.RequestContext, query: Query, bundle_ids: list[str]) -> retrieval_pb2.RetrieveRequest:
    request = retrieval_pb2.RetrieveRequest(
        context=context,
        max_candidates=query.max_results,
        filter=None if query.condition is None else filter_message(query.condition),
        fill_policy=query.fill.value,  # type: ignore[arg-type]  # the numbers are the contract's
        exclude_item_ids=query.exclude_item_ids,
        acceptable_bundle_ids=bundle_ids,
        item_form=retrieval_pb2.ITEM_FORM_ROWS,
        sources=[
            retrieval_pb2.SourcePlan(source=plan.source, limit=plan.limit, weight=plan.weight) for plan in query.plans
        ],
    )
    # Both services must speak of the same request at the same moment.
    request.context.request_id = query.request_id
    request.context.event_time.FromMilliseconds(query.now_ms)
    if query.interacted is not None:
        request.seen_policy.interacted = query.interacted.value  # type: ignore[assignment]
    if query.served_within_s:
        request.seen_policy.served_within.FromMilliseconds(int(query.served_within_s * 1000))
        request.seen_policy.served_mode = query.served.value  # type: ignore[assignment]
    return request


def _retrieved(response: retrieval_pb2.RetrieveResponse, bundles: Mapping[str, Bundle]) -> Retrieved:
    if (bundle := bundles.get(response.bundle_id)) is None:
        raise BundleMismatch(f"retrieval answered with bundle {response.bundle_id!r}; asked for {list(bundles)}")
    try:
        candidates, _ = parse_candidates(response.candidates, bundle.catalog)
    except InvalidRequest as error:
        raise UpstreamUnavailable(f"retrieval's answer is malformed: {error}") from error
    # A retrieval of another version may know kinds and regimes that this one does not.
    known = set(DegradationKind)
    return Retrieved(
        candidates,
        bundle.id,
        Regime(response.regime) if int(response.regime) in set(Regime) else Regime.UNKNOWN,
        tuple(
            Degradation(DegradationKind(d.kind), d.component, d.message)
            for d in response.degradations
            if int(d.kind) in known
        ),
        "" if len(candidates) else response.empty_reason or "retrieval found no item and did not say why",
    )
