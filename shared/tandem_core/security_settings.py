"""Settings of who may call: for everything that serves a port. No gRPC here, so that a supervisor can check them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from tandem_core.certificates import CertificateFiles
from tandem_core.tokens import read_tokens


class SecuritySettings(BaseSettings):
    """Paths alone, no secret: files may be replaced while we serve, and are read again."""

    tls_cert: Path | None = None  # PEM, with intermediates; without it the port speaks plaintext
    tls_key: Path | None = None  # PEM, without password
    tls_client_ca: Path | None = None  # PEM; callers must then show a certificate that it signed (mTLS)
    tokens_file: Path | None = None  # TOML of [[tokens]]; then every call but health needs a token
    rate_per_s: float | None = Field(default=None, gt=0)  # calls of each caller, on each worker; None: no limit
    rate_burst: int = Field(default=100, ge=1)  # calls of a caller at once, after a pause
    max_connections: int | None = Field(default=None, ge=1)  # to each worker; None: no limit
    max_connection_streams: int = Field(default=1000, ge=1)  # calls at once over one connection; more of them wait
    admin_host: str = "127.0.0.1"  # of the admin port alone: who reaches it can change what is served

    @model_validator(mode="after")
    def _tls_is_whole(self) -> SecuritySettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are given together, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca asks for the certificates of callers, which needs tls_cert and tls_key")
        return self

    def server_certificates(self) -> CertificateFiles:
        """Return the files of our side of TLS; none of them is there for plaintext."""
        return CertificateFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    def check_files(self) -> None:
        """Read all files once; raises ConfigError naming what is wrong."""
        self.server_certificates().read()
        if self.tokens_file is not None:
            read_tokens(self.tokens_file)
