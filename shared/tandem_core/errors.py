"""Errors named by who must act; `grpc_errors` maps each to a gRPC status once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field of a request, such as field "context.recent_events[3].value"."""

    field: str
    description: str


class TandemError(Exception):
    """Base of every error that a caller may see."""


class InvalidRequest(TandemError):  # noqa: N818  (reads as a sentence where it is raised)
    """The caller must change the request; carries every violation that was found."""

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class BundleNotReady(TandemError):  # noqa: N818
    """No bundle is loaded; the caller may try again."""


class UpstreamUnavailable(TandemError):  # noqa: N818
    """A service this one needs did not answer; the caller may try again."""


class DeadlineExceeded(TandemError):  # noqa: N818
    """The caller's deadline passed before there was an answer."""


class BundleMismatch(TandemError):  # noqa: N818
    """The bundle the caller speaks of is not loaded; the caller must ask again."""


class CheckFailed(TandemError):  # noqa: N818
    """What the caller asks to be served failed its checks: names the file or check."""


class NotFound(TandemError):  # noqa: N818
    """Something asked for by name does not exist."""


class Unauthenticated(TandemError):  # noqa: N818
    """The caller did not say who it is."""


class Forbidden(TandemError):  # noqa: N818
    """The caller may not do this."""


class Overloaded(TandemError):  # noqa: N818
    """Too much at once; the caller must back off for `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unimplemented(TandemError):  # noqa: N818
    """The call is in the contract, and not built yet."""


class BundleRefused(Exception):  # noqa: N818
    """A bundle failed its checks and must not serve: names the file or check."""
