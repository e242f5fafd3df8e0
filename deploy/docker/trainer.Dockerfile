# syntax=docker/dockerfile:1
# The image of the trainer. From the repository's root, with BuildKit (Docker 23 and later):
#   docker build -f deploy/docker/trainer.Dockerfile -t tandem-trainer:0.1.0 \
#     --build-arg PIP_ARGS="--extra-index-url URL-OF-AN-INDEX-WITH-CPU-BUILDS-OF-TORCH" .
# Without that argument pip takes torch from the public index, which brings gigabytes of CUDA with it.
# What was checked without a Docker engine: deploy/docker/README.md.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS builder
# hnswlib ships source only. Its version follows the base image.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends --yes g++ && rm -rf /var/lib/apt/lists/*
# Without this hnswlib is compiled for the builder's CPU, and dies of SIGILL on an older one.
ENV HNSWLIB_NO_NATIVE=1
# Extra arguments for pip, such as an index with CPU builds of torch.
ARG PIP_ARGS=""
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY shared shared
COPY services services
COPY trainer trainer
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel ${PIP_ARGS} --constraint constraints.txt --wheel-dir /wheels ".[training,redis,s3]"

FROM ${PYTHON_IMAGE}
# implicit's wheel links against the system's OpenMP runtime, which the slim image lacks.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends --yes libgomp1 && rm -rf /var/lib/apt/lists/*
# The versions are those of the wheels built above.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=builder,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "tandem-recommender[training,redis,s3]"
# The ids are those of podSecurityContext in the chart. The folder exists here so that a fresh named volume
# mounted on it takes over its owner.
RUN groupadd --gid 10001 tandem \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tandem \
    && install -d -o 10001 -g 10001 /bundles
# OMP_NUM_THREADS is left to who starts the container: it is the number of torch's threads.
ENV OPENBLAS_NUM_THREADS=1 \
    MKL_NUM_THREADS=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
CMD ["tandem", "train", "--config", "/etc/tandem/train.toml", "--data", "/data", "--registry", "/bundles"]
