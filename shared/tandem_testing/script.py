"""What a test tells a stub to do, and the record of what the stub was asked: shared by all stubs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from tandem.common.v1 import degradation_pb2
from tandem_testing.refusal import Refusal, bundle_mismatch

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
AskedT = TypeVar("AskedT", bound=Message)
AnswerT = TypeVar("AnswerT", bound=Message)

SCRIPTED_EMPTY = "the test's script says so"


@dataclass(frozen=True, slots=True)
class Script:
    """What to do with the next request. failures_left: None means without end."""

    delay_s: float = 0.0
    failure: Refusal | None = None
    failures_left: int | None = None
    answer: Message | Callable[[Any], Message | None] | None = None
    degradations: tuple[degradation_pb2.Degradation, ...] = ()
    empty: bool = False
    malformed: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a play: `script` holds for so many requests, 1 or more; None means until the end."""

    script: Script
    requests: int | None = None

    def __post_init__(self) -> None:
        if self.requests is not None and self.requests < 1:
            raise ValueError(f"a step of {self.requests} requests: it is 1 or more, or None for all that follow")


class ScriptedStub(Generic[RequestT, ResponseT]):
    """A stub that follows a script and records requests. Every method may be called while the stub serves.

    The script holds for the calls that answer with items or vectors, single and batched; a batch counts as its single
    requests, except that it waits only once. Without a script the stub gives seeded answers. Parts of a script add up:
    a failure goes before a given answer, a given answer before all that changes the seeded one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._script = Script()
        self._steps: deque[tuple[Script, int | None]] = deque()
        self._requests: list[RequestT] = []

    @property
    def requests(self) -> Sequence[RequestT]:
        """The requests so far, in order of arrival, those of a batch one by one, refused ones too."""
        with self._lock:
            return tuple(self._requests)

    @property
    def last_request(self) -> RequestT:
        """The latest request; raises LookupError where there was none."""
        with self._lock:
            if not self._requests:
                raise LookupError("the stub has not been asked anything yet")
            return self._requests[-1]

    def answer_with(self, answer: ResponseT | Callable[[Any], ResponseT | None]) -> None:
        """Give this answer, as it is, until reset.

        answer: a response, used for the call that returns its type; or a function from request to response, run on the
        server's threads, where None means the seeded answer. A function may raise Refusal.
        """
        if not isinstance(answer, Message) and not callable(answer):
            raise TypeError(f"answer_with takes a response or a function, not {type(answer).__name__}")
        self._change(answer=answer)

    def delay(self, seconds: float) -> None:
        """Wait this long before each call is answered; the wait ends when the caller gives up or the server stops."""
        if seconds < 0:
            raise ValueError(f"a delay of {seconds} s")
        self._change(delay_s=seconds)

    def fail(
        self,
        code: grpc.StatusCode,
        message: str = "the test's script says so",
        times: int | None = None,
        details: Sequence[Message] = (),
    ) -> None:
        """Answer with this status: the next `times` requests, or all until reset. Raises ValueError for code OK.

        details: google.rpc messages that go with the status, such as RetryInfo.
        """
        if times is not None and times < 1:
            raise ValueError(f"times is {times}; it is 1 or more, or None for all requests")
        self._change(failure=Refusal(code, message, *details), failures_left=times)

    def mismatch(self, times: int | None = None) -> None:
        """Answer FAILED_PRECONDITION with reason BUNDLE_MISMATCH, as where no bundle suits; `times` as in fail."""
        if times is not None and times < 1:
            raise ValueError(f"times is {times}; it is 1 or more, or None for all requests")
        self._change(failure=bundle_mismatch("the test's script says so"), failures_left=times)

    def late(self, *sources: str) -> None:
        """Declare these sources as late in each seeded answer; its items stay as they are."""
        kind = degradation_pb2.DEGRADATION_KIND_SOURCE_LATE
        self.degrade(*(degradation_pb2.Degradation(kind=kind, component=name) for name in sources))

    def play(self, *steps: Step) -> None:
        """Follow these steps one after another; after the last one the stub gives seeded answers again.

        Replaces the script so far. A change made meanwhile (delay, fail, ...) changes the step that is being played.
        """
        with self._lock:
            self._steps = deque((step.script, step.requests) for step in steps)
            self._script = self._steps[0][0] if steps else Script()

    def degrade(self, *degradations: degradation_pb2.Degradation) -> None:
        """Declare these degradations in each seeded answer that has a field for them; its items stay as they are."""
        self._change(degradations=degradations)

    def empty(self) -> None:
        """Answer with no items, and an empty_reason where the answer has a field for it."""
        self._change(empty=True)

    def reset(self) -> None:
        """Forget the script and the recorded requests: as new. Calls that wait already go on waiting."""
        with self._lock:
            self._script = Script()
            self._steps.clear()
            self._requests = []

    def _change(self, **parts: Any) -> None:
        with self._lock:
            self._script = replace(self._script, **parts)

    def _reply(
        self, context: grpc.ServicerContext, requests: Sequence[RequestT], answer: Callable[[], AnswerT]
    ) -> AnswerT:
        """Run one call: record its requests, wait as long as the script says, answer; refusals become statuses."""
        with self._lock:
            self._requests += requests
            delay_s = self._script.delay_s
        if delay_s:
            over = threading.Event()  # set when the call ends early, so that no thread outlives its server
            if context.add_callback(over.set):
                over.wait(delay_s)
            if not context.is_active():  # nobody hears the answer: it must not use up the script's failures
                Refusal(grpc.StatusCode.CANCELLED, "the call ended while it waited").abort(context)
        try:
            return answer()
        except Refusal as refusal:
            refusal.abort(context)

    def _follow(self, request: AskedT, kind: type[AnswerT], seeded: Callable[[AskedT, Script], AnswerT]) -> AnswerT:
        """Return the script's answer to one request, else the seeded one; raises Refusal."""
        script = self._take()
        if script.failure is not None:
            raise script.failure
        if isinstance(script.answer, kind):
            return script.answer
        if callable(script.answer) and (given := script.answer(request)) is not None:
            if not isinstance(given, kind):
                wrong = f"the function given to answer_with returned {type(given).__name__}, not {kind.__name__}"
                raise Refusal(grpc.StatusCode.INTERNAL, wrong)
            return given
        return seeded(request, script)

    def _take(self) -> Script:
        """Return the script for one request, counting its failures down."""
        with self._lock:
            script = self._script
            if script.failure is not None and script.failures_left is not None:
                left = script.failures_left - 1
                self._script = replace(script, failures_left=left, failure=script.failure if left else None)
            self._count_down()
            return script

    def _count_down(self) -> None:
        """Count one request of the step that is being played; after its last one the next step begins."""
        if not self._steps:
            return
        script, left = self._steps[0]
        if left is None:
            return
        if left > 1:
            self._steps[0] = (script, left - 1)
        else:
            self._steps.popleft()
            self._script = self._steps[0][0] if self._steps else Script()
