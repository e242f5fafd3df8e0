"""Exit 0 if a gRPC server on this host answers SERVING: healthcheck.py PORT SERVICE."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(port: str, service: str) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=2
            )
        except grpc.RpcError as error:
            sys.stderr.write(f"{service} on port {port}: {error.code().name}\n")
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        sys.stderr.write(f"{service} on port {port}: {name}\n")
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: healthcheck.py PORT SERVICE")
    sys.exit(main(sys.argv[1], sys.argv[2]))
