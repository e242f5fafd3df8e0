"""Exit 0 if a gRPC server on this host answers SERVING: healthcheck.py PORT SERVICE [--tls-name NAME --ca FILE ...]."""

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("port")
    parser.add_argument("service", help="name in grpc.health.v1")
    parser.add_argument("--tls-name", default="", help="a name in the server's certificate; without it plaintext")
    for name, what in (("ca", "who signed it"), ("cert", "ours, where callers need one"), ("key", "of ours")):
        parser.add_argument(f"--{name}", type=Path, help=f"PEM file: {what}")
    given = parser.parse_args(arguments)
    with _channel(given) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=given.service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)
        except grpc.RpcError as error:
            sys.stderr.write(f"{given.service} on port {given.port}: {error.code().name}\n")
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        sys.stderr.write(f"{given.service} on port {given.port}: {name}\n")
        return 1
    return 0


def _channel(given: argparse.Namespace) -> grpc.Channel:
    target = f"127.0.0.1:{given.port}"
    if not given.tls_name:
        return grpc.insecure_channel(target)
    ca, key, cert = (path and path.read_bytes() for path in (given.ca, given.key, given.cert))
    options = [("grpc.ssl_target_name_override", given.tls_name)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert), options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
