"""Settings of the retrieval service."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tandem_core.service_settings import ServiceSettings


class RetrievalSettings(ServiceSettings):
    """Environment: TANDEM_RETRIEVAL_PORT and so on."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="TANDEM_RETRIEVAL_")

    port: int = Field(default=50051, ge=0, le=65535)
