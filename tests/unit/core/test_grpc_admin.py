from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem_core.grpc_admin import BundleServicer
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.registry import Registry
from tandem_testing import serve


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ListBundles", bundle_pb2.ListBundlesRequest()),
        ("ActivateBundle", bundle_pb2.ActivateBundleRequest(bundle_id="b1")),
        ("RollbackBundle", bundle_pb2.RollbackBundleRequest()),
    ],
)
def test_a_registry_out_of_reach_is_unavailable_and_named(tmp_path: Path, method: str, request_: Any) -> None:
    (tmp_path / "bundles").write_text("no folder")
    pointed: list[str] = []
    servicer = BundleServicer(Registry(tmp_path / "bundles"), lambda: pointed.append(method))
    with serve(servicer, interceptors=[ErrorInterceptor()]) as running, pytest.raises(grpc.RpcError) as refused:
        getattr(bundle_pb2_grpc.BundleServiceStub(running.channel), method)(request_, timeout=20)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "the registry cannot be reached" in refused.value.details()
    assert not pointed
