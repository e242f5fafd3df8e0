"""How we call a server that asks for TLS or a token: ranking calls retrieval so, and so does the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tandem_core.certificates import CertificateFiles
from tandem_core.settings import ConfigError
from tandem_core.tokens import read_secret
from tandem_core.watched_files import WatchedFiles

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Access:
    """Files alone, all optional. files.authority: who signed the server's certificate; without it, plaintext.

    server_name: the name in that certificate, where it is not the one in the address.
    """

    files: CertificateFiles = field(default_factory=CertificateFiles)
    token_file: Path | None = None
    server_name: str = ""

    def check(self) -> None:
        """Read all files once; raises ConfigError naming what is wrong."""
        self.read_credentials()
        self.read_metadata()

    def read_credentials(self) -> grpc.ChannelCredentials | None:
        """Return credentials of the files as they are now, None for plaintext; raises ConfigError."""
        if not self.files.paths:
            return None
        if self.files.authority is None:
            raise ConfigError("a client's TLS certificate is of no use without the authority of the server's (tls_ca)")
        certificate, key, authority = self.files.read()
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def read_metadata(self) -> Metadata:
        """Return what each call must carry; raises ConfigError."""
        if self.token_file is None:
            return ()
        return (("authorization", f"Bearer {read_secret(self.token_file)}"),)

    def open(
        self,
        target: str,
        options: Sequence[tuple[str, Any]] = (),
        credentials: grpc.ChannelCredentials | None = None,
    ) -> grpc.Channel:
        """Open a channel. credentials: as `read_credentials` returned them, None: reads them, raises ConfigError."""
        credentials = credentials or self.read_credentials()
        if credentials is None:
            return grpc.insecure_channel(target, options=options)
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return grpc.secure_channel(target, credentials, options=[*options, *named])

    def watch_credentials(self) -> WatchedFiles[grpc.ChannelCredentials | None]:
        """Return the credentials, made again when the files change; raises ConfigError."""
        return WatchedFiles(self.files.paths, self.read_credentials)

    def watch_metadata(self) -> WatchedFiles[Metadata]:
        """As `watch_credentials`, of what each call must carry."""
        return WatchedFiles([] if self.token_file is None else [self.token_file], self.read_metadata)


class Authorized:
    """A stub's unary method that carries metadata with each call, beside what the caller gives."""

    def __init__(self, method: Any, metadata: Metadata) -> None:
        self._method = method
        self._metadata = metadata

    def __call__(self, request: Any, *, metadata: Metadata = (), **options: Any) -> Any:
        return self._method(request, metadata=(*metadata, *self._metadata), **options)

    def future(self, request: Any, *, metadata: Metadata = (), **options: Any) -> Any:
        return self._method.future(request, metadata=(*metadata, *self._metadata), **options)
