"""A BundleService over bundles that exist in name only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import grpc
from google.protobuf import timestamp_pb2

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem_testing import limits
from tandem_testing.refusal import Refusal
from tandem_testing.script import Script, ScriptedStub
from tandem_testing.seeded import BUNDLE_ID

_FIRST_CREATED_S = 1_735_689_600  # 2025-01-01: answers repeat
_DEFAULT_PAGE = 20


class StubBundles(
    ScriptedStub[
        bundle_pb2.ListBundlesRequest | bundle_pb2.ActivateBundleRequest | bundle_pb2.RollbackBundleRequest,
        bundle_pb2.ListBundlesResponse | bundle_pb2.ActivateBundleResponse | bundle_pb2.RollbackBundleResponse,
    ],
    bundle_pb2_grpc.BundleServiceServicer,
):
    """Plays every call of BundleService. What it activates does not change what the other stubs answer with."""

    def __init__(self, bundle_ids: Sequence[str] = (BUNDLE_ID, "stub-bundle-before")) -> None:
        """bundle_ids: newest first; the first is current, the second the one before it."""
        super().__init__()
        self._bundle_ids = tuple(bundle_ids)
        self._first = (self._bundle_ids[0] if bundle_ids else "", self._bundle_ids[1] if len(bundle_ids) > 1 else "")
        self._current, self._previous = self._first

    @property
    def current(self) -> str:
        """The bundle that is current; empty when none is."""
        with self._lock:
            return self._current

    def reset(self) -> None:
        super().reset()
        with self._lock:
            self._current, self._previous = self._first

    def ListBundles(
        self, request: bundle_pb2.ListBundlesRequest, context: grpc.ServicerContext
    ) -> bundle_pb2.ListBundlesResponse:
        return self._reply(
            context, [request], partial(self._follow, request, bundle_pb2.ListBundlesResponse, self._list)
        )

    def ActivateBundle(
        self, request: bundle_pb2.ActivateBundleRequest, context: grpc.ServicerContext
    ) -> bundle_pb2.ActivateBundleResponse:
        return self._reply(
            context, [request], partial(self._follow, request, bundle_pb2.ActivateBundleResponse, self._activate)
        )

    def RollbackBundle(
        self, request: bundle_pb2.RollbackBundleRequest, context: grpc.ServicerContext
    ) -> bundle_pb2.RollbackBundleResponse:
        return self._reply(
            context, [request], partial(self._follow, request, bundle_pb2.RollbackBundleResponse, self._roll_back)
        )

    def _list(self, request: bundle_pb2.ListBundlesRequest, script: Script) -> bundle_pb2.ListBundlesResponse:
        limits.refuse_if(limits.count("page_size", request.page_size, _DEFAULT_PAGE, limits.MOST_BUNDLES_LISTED))
        begin = 0
        if request.page_token:
            if request.page_token not in self._bundle_ids:
                limits.refuse_if([("page_token", "is none that a page before gave")])
            begin = self._bundle_ids.index(request.page_token)
        end = begin + (request.page_size or _DEFAULT_PAGE)
        newest_s = _FIRST_CREATED_S + len(self._bundle_ids)
        return bundle_pb2.ListBundlesResponse(
            bundles=[
                bundle_pb2.Bundle(
                    bundle_id=bundle_id,
                    created=timestamp_pb2.Timestamp(seconds=newest_s - begin - i),
                    current=bundle_id == self.current,
                    size_bytes=1_000_000,
                )
                for i, bundle_id in enumerate(self._bundle_ids[begin:end])
            ],
            next_page_token=self._bundle_ids[end] if end < len(self._bundle_ids) else "",
        )

    def _activate(self, request: bundle_pb2.ActivateBundleRequest, script: Script) -> bundle_pb2.ActivateBundleResponse:
        limits.refuse_if([] if request.bundle_id else [("bundle_id", "is required")])
        if request.bundle_id not in self._bundle_ids:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no bundle {request.bundle_id!r}")
        with self._lock:
            before = self._current
            if before != request.bundle_id:
                self._current, self._previous = request.bundle_id, before
        return bundle_pb2.ActivateBundleResponse(previous_bundle_id=before)

    def _roll_back(
        self, request: bundle_pb2.RollbackBundleRequest, script: Script
    ) -> bundle_pb2.RollbackBundleResponse:
        with self._lock:
            if not self._previous:
                raise Refusal(grpc.StatusCode.NOT_FOUND, "there is no bundle to go back to")
            self._current, self._previous = self._previous, self._current
            return bundle_pb2.RollbackBundleResponse(bundle_id=self._current)
