"""Settings of the ranking service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from tandem_core.service_settings import ServiceSettings


class RankingSettings(ServiceSettings):
    """Environment: TANDEM_RANKING_PORT and so on."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="TANDEM_RANKING_")

    port: int = Field(default=50052, ge=0, le=65535)
    # Ranking threads mostly wait for retrieval: more of them than cores keep the service answering meanwhile.
    threads: int = Field(default=4, ge=1, le=256)
    retrieval_target: str = "ipv4:127.0.0.1:50051"
    retrieval_timeout_ms: float = Field(default=200.0, gt=0)  # a hung retrieval costs this, then popular items
    retrieval_hedging: bool = True  # where the target names several addresses: a second call when the first is late
    decisions: Path | None = None  # folder for decision records; None: none are kept
    decisions_sample: float = Field(default=0.01, ge=0, le=1)  # share kept with all candidates, which can be replayed
    decisions_keep_hours: float = Field(default=168.0, gt=0)
    policy_file: Path | None = None  # [placements.<name>] tables; see tandem_core.policy
