"""BundleService: which bundle is served, on the admin port alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem.common.v1 import serving_state_pb2
from tandem_core.errors import (
    BundleRefused,
    CheckFailed,
    FieldViolation,
    InvalidRequest,
    NotFound,
    UpstreamUnavailable,
)
from tandem_core.registry import Registry, is_bundle_id

LARGEST_PAGE = 200


@contextmanager
def _registry_named() -> Iterator[None]:
    """Tell operators what is wrong with the registry; raises CheckFailed, UpstreamUnavailable."""
    try:
        yield
    except BundleRefused as error:
        raise CheckFailed(str(error)) from error
    except OSError as error:
        raise UpstreamUnavailable(f"the registry cannot be reached: {error}") from error


class BundleServicer(bundle_pb2_grpc.BundleServiceServicer):
    """Answers from a registry. pointed: called after the pointer was moved."""

    def __init__(self, registry: Registry, pointed: Callable[[], None]) -> None:
        self._registry = registry
        self._pointed = pointed

    def ListBundles(  # noqa: N802
        self, request: bundle_pb2.ListBundlesRequest, context: grpc.ServicerContext
    ) -> bundle_pb2.ListBundlesResponse:
        if not 0 <= request.page_size <= LARGEST_PAGE:
            raise InvalidRequest(
                FieldViolation("page_size", f"is {request.page_size}, 0 to {LARGEST_PAGE} are allowed")
            )
        if request.page_token and not is_bundle_id(request.page_token):
            raise InvalidRequest(FieldViolation("page_token", "is none that a page before gave"))
        with _registry_named():
            ids = [each for each in self._registry.bundle_ids() if not request.page_token or each < request.page_token]
            page = ids[: request.page_size or 20]
            current = self._current_id()
            bundles = [self._bundle(bundle_id, current) for bundle_id in page]
        return bundle_pb2.ListBundlesResponse(bundles=bundles, next_page_token=page[-1] if len(page) < len(ids) else "")

    def ActivateBundle(  # noqa: N802
        self, request: bundle_pb2.ActivateBundleRequest, context: grpc.ServicerContext
    ) -> bundle_pb2.ActivateBundleResponse:
        if not request.bundle_id:
            raise InvalidRequest(FieldViolation("bundle_id", "is required"))
        with _registry_named():
            before = self._current_id()
            self._registry.activate(request.bundle_id)
        self._pointed()
        return bundle_pb2.ActivateBundleResponse(previous_bundle_id=before)

    def RollbackBundle(  # noqa: N802
        self, request: bundle_pb2.RollbackBundleRequest, context: grpc.ServicerContext
    ) -> bundle_pb2.RollbackBundleResponse:
        with _registry_named():
            current = self._registry.rollback()
        self._pointed()
        return bundle_pb2.RollbackBundleResponse(bundle_id=current.bundle_id)

    def _current_id(self) -> str:
        try:
            current = self._registry.current()
        except BundleRefused:
            return ""  # a damaged pointer is what activating mends
        return current.bundle_id if current is not None else ""

    def _bundle(self, bundle_id: str, current: str) -> bundle_pb2.Bundle:
        """Return a bundle's line; of one whose manifest cannot be read the id alone."""
        bundle = bundle_pb2.Bundle(bundle_id=bundle_id, current=bundle_id == current)
        try:
            manifest = self._registry.manifest(bundle_id)
        except (BundleRefused, NotFound):  # damaged, or retention took it meanwhile
            return bundle
        bundle.created.FromMilliseconds(manifest.created_ms)
        bundle.size_bytes = sum(entry.size for entry in manifest.files.values())
        figures = sorted(manifest.metrics.items())
        bundle.metrics.extend(serving_state_pb2.Metric(name=name, value=value) for name, value in figures)
        return bundle
