"""Who may call a server of ours: TLS, tokens and rates."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import grpc
from google.rpc import status_pb2

from tandem_core.certificates import CertificateFiles
from tandem_core.errors import Forbidden, Overloaded, TandemError, Unauthenticated
from tandem_core.grpc_errors import to_status
from tandem_core.grpc_refusal import refusal_handler
from tandem_core.rate_limit import RateLimit
from tandem_core.security_settings import SecuritySettings
from tandem_core.tokens import Scope, read_tokens
from tandem_core.watched_files import WatchedFiles

log = logging.getLogger(__name__)

HEALTH = "/grpc.health."  # asked by balancers and probes, which have no token
_REFLECTION = "/grpc.reflection."
# What each call is for; any of the scopes will do. What is not named here needs ADMIN.
SCOPES_OF: dict[str, frozenset[Scope]] = {
    "/tandem.ranking.v1.RankingService/": frozenset({Scope.SERVE}),
    "/tandem.retrieval.v1.RetrievalService/": frozenset({Scope.SERVE}),
    "/tandem.events.v1.EventService/": frozenset({Scope.WRITE}),
    "/tandem.catalog.v1.CatalogService/": frozenset({Scope.WRITE}),
    "/tandem.catalog.v1.CatalogService/GetItem": frozenset({Scope.WRITE, Scope.SERVE}),
    "/tandem.admin.v1.BundleService/": frozenset({Scope.ADMIN}),
}
_ADMIN = frozenset({Scope.ADMIN})
_SAY_EVERY_S = 10.0
_STEP_MS, _LONGEST_MS = 10, 60_000


def scopes_of(method: str) -> frozenset[Scope]:
    """Return the scopes of which a token needs one to call a method ("/package.Service/Method")."""
    if method.startswith(_REFLECTION):
        return frozenset(Scope)  # whoever may call anything may see what there is to call
    return SCOPES_OF.get(method) or SCOPES_OF.get(method[: method.rfind("/") + 1], _ADMIN)


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials | None:
    """Return credentials that follow their files, None for plaintext; raises ConfigError.

    New connections get the certificate as it is by then; those that are there keep theirs until they end by age.
    """
    if files.certificate is None:
        return None

    def configuration() -> Any:
        certificate, key, authority = files.read()
        pair = (key or b"", certificate or b"")  # both are there: the settings saw to it
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)

    watched = WatchedFiles(files.paths, configuration, every_s=0.0)
    given = [watched.get()]

    def changed() -> Any:
        """Called by gRPC before each handshake; None: nothing is new."""
        if (now := watched.get()) is given[0]:
            return None
        given[0] = now
        return now

    must_show = files.authority is not None
    return grpc.dynamic_ssl_server_credentials(given[0], changed, require_client_authentication=must_show)


def interceptors(
    settings: SecuritySettings, *, admin: bool
) -> tuple[list[grpc.ServerInterceptor], list[grpc.ServerInterceptor]]:  # type: ignore[type-arg]  # generic in stubs
    """Return what must go before admission, and what must go after the translation of errors; raises ConfigError.

    admin: the port is for operators: every call but health needs the scope admin, and none is counted.
    """
    limit = None if settings.rate_per_s is None or admin else RateLimit(settings.rate_per_s, settings.rate_burst)
    if settings.tokens_file is not None:
        return [TokenInterceptor(settings, limit, admin=admin)], []
    return [], [] if limit is None else [AddressRateInterceptor(limit)]


class TokenInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuses calls without a good token, and callers that make too many: before a thread or a place is taken."""

    def __init__(self, settings: SecuritySettings, limit: RateLimit | None, *, admin: bool) -> None:
        path = settings.tokens_file
        assert path is not None  # noqa: S101  (for mypy: the caller looks)
        self._tokens = WatchedFiles([path], lambda: read_tokens(path))
        self._limit = limit
        self._admin = admin
        self._told = _Told()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        if details.method.startswith(HEALTH):
            return continuation(details)
        given = [value for name, value in details.invocation_metadata or () if name == "authorization"]
        token = self._tokens.get().of(given[0]) if len(given) == 1 and isinstance(given[0], str) else None
        if token is None:
            self._told.count("UNAUTHENTICATED", details.method)
            return _UNAUTHENTICATED
        if not token.scopes & (_ADMIN if self._admin else scopes_of(details.method)):
            self._told.count("PERMISSION_DENIED", details.method)
            return _FORBIDDEN
        if self._limit is not None and (wait_s := self._limit.wait_s(token.name)):
            self._told.count("RESOURCE_EXHAUSTED", details.method)
            return refusal_handler(lambda: _too_many(_steps(wait_s)))
        return continuation(details)


class AddressRateInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Counts calls by the caller's address, where there are no tokens. Behind a proxy all callers are one."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or details.method.startswith(HEALTH):
            return handler
        inner = handler.unary_unary

        def counted(request: Any, context: grpc.ServicerContext) -> Any:
            if wait_s := self._limit.wait_s(context.peer().rpartition(":")[0]):
                raise _too_many_calls(_steps(wait_s))
            return inner(request, context)

        return grpc.unary_unary_rpc_method_handler(counted, handler.request_deserializer, handler.response_serializer)


class _Told:
    """Says in the log how many calls were refused, and for what: not once a call, or refusing would not be cheap."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._say_at = 0.0
        self._lock = threading.Lock()

    def count(self, code: str, method: str) -> None:
        with self._lock:
            self._counts[code] = self._counts.get(code, 0) + 1
            if time.monotonic() < self._say_at:
                return
            self._say_at = time.monotonic() + _SAY_EVERY_S
            counts, self._counts = self._counts, {}
        log.warning("calls refused", extra={"counts": counts, "last_method": method[:200]})


def _fixed(error: TandemError) -> Any:
    status = to_status(error)
    answer = (status, status.SerializeToString())
    return refusal_handler(lambda: answer)


_UNAUTHENTICATED = _fixed(Unauthenticated('send a valid token as metadata: "authorization: Bearer TOKEN"'))
_FORBIDDEN = _fixed(Forbidden("this token's scopes do not allow this call"))


def _steps(wait_s: float) -> int:
    """Return a wait in ms, rounded up to steps so that few different answers have to be made."""
    return min(_LONGEST_MS, _STEP_MS * (1 + int(1000 * wait_s / _STEP_MS)))


def _too_many_calls(delay_ms: int) -> Overloaded:
    return Overloaded("more calls than this caller may make; come back after the delay", delay_ms / 1000)


@lru_cache(maxsize=1000)
def _too_many(delay_ms: int) -> tuple[status_pb2.Status, bytes]:
    status = to_status(_too_many_calls(delay_ms))
    return status, status.SerializeToString()
