"""Calling our services: balanced over what is healthy, bounded in time, retried and hedged within budgets.

gRPC's core has no hedging, and its own retries know no budget; both are built here, on futures.
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from tandem_core import observe
from tandem_core.grpc_access import Access

# grpc's own bound is two minutes: so long would a service that is back after an outage stay unused.
_LONGEST_BACKOFF_MS = 2000
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 20_000, 5_000
ATTEMPTS = 3
FIRST_PAUSE_S = 0.01  # before the second attempt; doubled, and drawn between half and all of it


def open_channel(
    target: str, service: str, access: Access | None = None, credentials: grpc.ChannelCredentials | None = None
) -> grpc.Channel:
    """Open a channel: round robin over all resolved addresses, those left out whose health check is not SERVING.

    access, credentials: as `Access.open` takes them; without, plaintext.
    """
    config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": service}}
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),  # transparent ones stay: they are of calls that never left
        ("grpc.max_reconnect_backoff_ms", _LONGEST_BACKOFF_MS),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ]
    return (access or Access()).open(target, options, credentials)


def several_addresses(target: str) -> bool:
    """Whether a target may resolve to more than one address: hedging to the same one only adds to its load."""
    scheme, _, rest = target.partition(":")
    return "," in rest if scheme in ("ipv4", "ipv6") else scheme == "dns"


class Budget:
    """Tokens: every call brings `share` of one, up to `most`; an extra call takes one."""

    def __init__(self, share: float, most: float) -> None:
        self._share, self._most = share, most
        self._tokens = most
        self._lock = threading.Lock()

    def earn(self) -> None:
        with self._lock:
            self._tokens = min(self._most, self._tokens + self._share)

    def spend(self) -> bool:
        """Take a token; return whether there was one."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class P95:
    """The 95th percentile of the newest 200 times, in seconds; None before the first 50."""

    def __init__(self) -> None:
        self._times = np.zeros(200)
        self._count = 0
        self._lock = threading.Lock()
        self.value: float | None = None

    def add(self, seconds: float) -> None:
        with self._lock:
            self._times[self._count % len(self._times)] = seconds
            self._count += 1
            if self._count >= 50 and self._count % 10 == 0:
                self.value = float(np.percentile(self._times[: self._count], 95))


class _Traced:
    """A stub's method that says with each call which trace it belongs to."""

    def __init__(self, method: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._method = method
        self._metadata = metadata

    def __call__(self, request: Any, **options: Any) -> Any:
        return self._method(request, metadata=self._metadata, **options)

    def future(self, request: Any, **options: Any) -> Any:
        return self._method.future(request, metadata=self._metadata, **options)


class _Race:
    """Attempts at one call, of which the first good answer counts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: list[Any] = []
        self._done: list[Any] = []

    def enter(self, future: Any) -> None:
        with self._changed:
            self._running.append(future)
        future.add_done_callback(self._finished)

    def _finished(self, future: Any) -> None:
        with self._changed:
            self._done.append(future)
            self._changed.notify_all()

    def over(self, timeout_s: float | None) -> bool:
        """Wait until one has answered or all have failed; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(self._decided, timeout_s)

    def _decided(self) -> bool:
        return any(_good(future) for future in self._done) or len(self._done) == len(self._running)

    def result(self) -> Any:
        """Return the answer, cancelling those that lost; raises grpc.RpcError of the first that failed."""
        winner = next((future for future in self._done if _good(future)), self._done[0])
        for future in self._running:
            if future is not winner:
                future.cancel()
        return winner.result()

    def refused(self) -> bool:
        """Whether one that has ended found the service overloaded."""
        return any(future.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for future in self._done)


def _good(future: Any) -> bool:
    return future.code() is grpc.StatusCode.OK


@dataclass(slots=True)
class Counters:
    """What was done since the start; for metrics."""

    calls: int = 0
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0


@dataclass(slots=True)
class ReadCaller:
    """Makes calls that only read; never use it for writes, since a call may be made twice.

    hedges: send a second attempt when the first is later than 95 % of calls are; at most 5 % of calls, and none for
    `quiet_s` after a RESOURCE_EXHAUSTED. Retries: on UNAVAILABLE alone, at most 10 % of calls and `ATTEMPTS` a call.
    """

    hedges: bool = False
    quiet_s: float = 1.0
    counters: Counters = field(default_factory=Counters)
    _retry_budget: Budget = field(default_factory=lambda: Budget(0.1, 10))
    _hedge_budget: Budget = field(default_factory=lambda: Budget(0.05, 3))
    _p95: P95 = field(default_factory=P95)
    _quiet_until: float = 0.0

    def call(self, method: Any, request: Any, timeout_s: float) -> Any:
        """Return what a stub's unary method answers within `timeout_s`; raises grpc.RpcError of the last attempt."""
        if traceparent := observe.traceparent():
            method = _Traced(method, (("traceparent", traceparent),))
        deadline = time.monotonic() + timeout_s
        self.counters.calls += 1
        observe.count("retrieval_calls", "call")
        self._retry_budget.earn()
        self._hedge_budget.earn()
        pause_s = FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            begun = time.monotonic()
            try:
                response = self._attempt(method, request, deadline - begun)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # of a call that was not hedged
                    self._quiet_until = time.monotonic() + self.quiet_s
                pause = pause_s * random.uniform(0.5, 1.0)
                pause_s *= 2
                if (
                    attempt == ATTEMPTS - 1
                    or error.code() is not grpc.StatusCode.UNAVAILABLE
                    or time.monotonic() + 2 * pause > deadline
                    or not self._retry_budget.spend()
                ):
                    raise
                self.counters.retries += 1
                observe.count("retrieval_calls", "retry")
                time.sleep(pause)
                continue
            self._p95.add(time.monotonic() - begun)
            return response
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, method: Any, request: Any, timeout_s: float) -> Any:
        if not self.hedges or (delay_s := self._p95.value) is None or delay_s >= timeout_s:
            return method(request, timeout=timeout_s)  # a future costs 1.7x the CPU of a plain call
        deadline = time.monotonic() + timeout_s
        race = _Race()
        first = method.future(request, timeout=timeout_s)
        race.enter(first)
        second = None
        if not race.over(delay_s) and self._may_hedge():
            self.counters.hedges += 1
            observe.count("retrieval_calls", "hedge")
            second = method.future(request, timeout=max(0.001, deadline - time.monotonic()))
            race.enter(second)
        race.over(None)  # each attempt has its deadline
        if race.refused():
            self._quiet_until = time.monotonic() + self.quiet_s
        response = race.result()
        if second is not None and _good(second):
            self.counters.hedges_won += 1
            observe.count("retrieval_calls", "hedge_won")
        return response

    def _may_hedge(self) -> bool:
        return time.monotonic() >= self._quiet_until and self._hedge_budget.spend()
