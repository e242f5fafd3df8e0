"""Settings that both services share: no gRPC and no numpy here, so that a supervisor can read them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from tandem_core.security_settings import SecuritySettings


class ServiceSettings(SecuritySettings):
    """What both services are configured by: defaults here, then the TOML file, then TANDEM_<SERVICE>_<NAME>."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)  # of the first worker, the next ones follow; 0: any free ones
    ports: tuple[int, ...] = ()  # of all workers, where they do not follow one another
    workers: int = Field(default=1, ge=1, le=64)  # processes, each on a port of its own
    threads: int = Field(default=2, ge=1, le=256)  # work is done inline: more threads than cores only queue
    max_concurrent_rpcs: int = Field(default=64, ge=1)  # at work or waiting; more are refused with RESOURCE_EXHAUSTED
    max_queue_ms: float = Field(default=50.0, gt=0)  # so long may calls wait for a thread, but for bursts
    registry: Path = Path("bundles")  # or s3://bucket/prefix
    registry_cache: Path = Path(".cache/registry")  # where a registry on S3 is copied to, as far as it is served
    store: str = Field(default="sqlite:///store.db", repr=False)  # may hold a password
    bundle_poll_s: float = Field(default=2.0, gt=0)
    admin_port: int | None = Field(default=None, ge=0, le=65535)  # BundleService; none without it, 0: any free one
    drain_s: float = Field(default=0.5, ge=0)  # between saying NOT_SERVING and stopping: clients must see it
    grace_s: float = Field(default=10.0, ge=0)  # for calls in flight when stopping
    max_connection_age_s: float = Field(default=10.0, gt=0)  # so long do old workers outlive the start of new ones
    hung_after_s: float = Field(default=10.0, gt=0)  # a worker that was not heard of for so long is replaced
    longest_load_s: float = Field(default=600.0, gt=0)  # a process that reads a bundle for longer is taken to hang
    reflection: bool = True
    metrics_port: int | None = Field(default=None, ge=0, le=65535)  # HTTP: /metrics, /healthz; no metrics without it
    audit_s: float = Field(default=60.0, gt=0)  # between looks at the indexes' recall, window of the items shown
    # Of a collector, such as http://collector:4318/v1/traces; "": no traces. It may hold a password.
    otlp_endpoint: str = Field(default="", repr=False)
    trace_ratio: float = Field(default=0.01, ge=0, le=1)  # of calls whose callers have not decided
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @model_validator(mode="after")
    def _as_many_ports_as_workers(self) -> ServiceSettings:
        if self.ports and len(self.ports) != self.workers:
            raise ValueError(f"ports has {len(self.ports)} entries, workers is {self.workers}")
        return self

    def local_registry(self) -> Path:
        """Return the folder that bundles are served from."""
        return self.registry_cache if str(self.registry).startswith("s3:/") else self.registry

    def wanted_ports(self) -> tuple[int, ...]:
        """Return the port of each worker; 0 for any free one."""
        return self.ports or tuple(self.port + k if self.port else 0 for k in range(self.workers))
