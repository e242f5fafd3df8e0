"""Settings of the writer process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tandem_core.service_settings import ServiceSettings


class WriterSettings(ServiceSettings):
    """Environment: TANDEM_WRITER_PORT and so on."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="TANDEM_WRITER_")

    port: int = Field(default=50053, ge=0, le=65535)
    # Calls wait for the disk, not for a core: all that wait together share one commit.
    threads: int = Field(default=16, ge=1, le=256)
    max_queue_ms: float = Field(default=1000.0, gt=0)  # what is refused is not kept: a slow disk must not lose events
    decisions: Path | None = None  # folder of decision records, as ranking has it: users are forgotten there too
