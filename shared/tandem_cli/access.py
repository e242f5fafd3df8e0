"""How commands that ask a service reach it: TLS and token options, the same for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from tandem_cli.console import fail

if TYPE_CHECKING:
    from tandem_core.grpc_access import Access

_OPTIONS: dict[str, Any] = {
    "tls_ca": Annotated[
        Path | None,
        typer.Option(envvar="TANDEM_TLS_CA", help="PEM of who signed the server's certificate; turns TLS on."),
    ],
    "tls_cert": Annotated[
        Path | None, typer.Option(envvar="TANDEM_TLS_CERT", help="PEM of our own certificate, where one is asked for.")
    ],
    "tls_key": Annotated[Path | None, typer.Option(envvar="TANDEM_TLS_KEY", help="PEM of its key.")],
    "token_file": Annotated[Path | None, typer.Option(envvar="TANDEM_TOKEN_FILE", help="File that holds our token.")],
}
_given: ContextVar[dict[str, Path | None] | None] = ContextVar("access", default=None)


def with_access(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with the options of access added; what it asks through `tandem_cli.client` goes by them."""

    @wraps(command)
    def run(**given: Any) -> Any:
        before = _given.set({name: given.pop(name) for name in _OPTIONS})
        try:
            return command(**given)
        finally:
            _given.reset(before)

    hints = get_type_hints(command, include_extras=True)
    plain = inspect.signature(command)
    own = [each.replace(annotation=hints[name]) for name, each in plain.parameters.items()]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    run.__annotations__ = {**hints, **_OPTIONS}
    run.__signature__ = plain.replace(parameters=[*own, *added])  # type: ignore[attr-defined]  # typer reads it
    return run


def access_of_command() -> Access:
    """Return how the running command reaches services; ends it with one clear line where its files are wrong."""
    from tandem_core.certificates import CertificateFiles  # noqa: PLC0415
    from tandem_core.grpc_access import Access  # noqa: PLC0415
    from tandem_core.settings import ConfigError  # noqa: PLC0415

    given = _given.get() or {}
    files = CertificateFiles(given.get("tls_cert"), given.get("tls_key"), given.get("tls_ca"))
    access = Access(files, given.get("token_file"))
    try:
        access.check()
    except ConfigError as error:
        fail(str(error))
    return access
