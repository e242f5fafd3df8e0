"""python -m tandem_retrieval --config FILE: run the retrieval service until SIGTERM."""

from __future__ import annotations

import os

# Before numpy and its libraries are imported: their threads fight over the cores that serve other requests.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from tandem_core.grpc_service import ServiceParts, run_service
from tandem_retrieval.config import RetrievalSettings


def _parts(settings: RetrievalSettings) -> ServiceParts:
    from tandem_retrieval.parts import parts  # noqa: PLC0415  (numpy and gRPC: not in the supervisor)

    return parts(settings)


def main() -> None:
    run_service("tandem_retrieval", RetrievalSettings, _parts)


if __name__ == "__main__":
    main()
