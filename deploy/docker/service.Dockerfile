# syntax=docker/dockerfile:1
# The image of both services and the writer. From the repository's root, with BuildKit (Docker 23 and later):
#   docker build -f deploy/docker/service.Dockerfile -t tandem-service:0.1.0 .
# What was checked without a Docker engine: deploy/docker/README.md.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS builder
# hnswlib ships source only. Its version follows the base image.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends --yes g++ && rm -rf /var/lib/apt/lists/*
# Without this hnswlib is compiled for the builder's CPU, and dies of SIGILL on an older one.
ENV HNSWLIB_NO_NATIVE=1
# Extra arguments for pip, such as --index-url of a mirror.
ARG PIP_ARGS=""
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY shared shared
COPY services services
COPY trainer trainer
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel ${PIP_ARGS} --constraint constraints.txt --wheel-dir /wheels ".[serving,redis,s3,tracing]"

FROM ${PYTHON_IMAGE}
# The versions are those of the wheels built above.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=builder,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "tandem-recommender[serving,redis,s3,tracing]"
# The ids are those of podSecurityContext in the chart. The folders exist here so that a fresh named volume
# mounted on them takes over their owner.
RUN groupadd --gid 10001 tandem \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tandem \
    && install -d -o 10001 -g 10001 /bundles /var/lib/tandem /var/lib/tandem-decisions /var/cache/tandem
COPY deploy/docker/healthcheck.py /opt/tandem/healthcheck.py
# One thread per library: more of them turn small products into milliseconds on shared cores.
ENV OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    MKL_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 50051 50052 50053
# Which service runs is said by who starts the container: python -m MODULE --config FILE, of
# tandem_retrieval, tandem_ranking and tandem_ranking.writer.
CMD ["python", "-m", "tandem_retrieval", "--config", "/etc/tandem/retrieval.toml"]
