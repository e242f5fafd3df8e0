"""What callers of Tandem test with: stub servers on real sockets, fault scripts, and the contract's promises as checks.

Needs the base install and the extra `testing`; never a model. The pytest fixtures are in `tandem_testing.plugin`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem_testing.golden import golden_slates
    from tandem_testing.refusal import Refusal
    from tandem_testing.running import RunningServer, serve
    from tandem_testing.script import Script, Step
    from tandem_testing.script_file import StubSet, load_script, stub_set
    from tandem_testing.seeded import readable_ids
    from tandem_testing.slates import (
        assert_valid_candidates,
        assert_valid_embeddings,
        assert_valid_similar_items,
        assert_valid_slate,
    )
    from tandem_testing.stub_bundles import StubBundles
    from tandem_testing.stub_catalog import StubCatalog
    from tandem_testing.stub_events import StubEvents
    from tandem_testing.stub_ranking import StubRanking
    from tandem_testing.stub_retrieval import StubRetrieval

__all__ = [
    "Refusal",
    "RunningServer",
    "Script",
    "Step",
    "StubBundles",
    "StubCatalog",
    "StubEvents",
    "StubRanking",
    "StubRetrieval",
    "StubSet",
    "assert_valid_candidates",
    "assert_valid_embeddings",
    "assert_valid_similar_items",
    "assert_valid_slate",
    "golden_slates",
    "load_script",
    "readable_ids",
    "serve",
    "stub_set",
]

_HOMES = {
    "Script": "script",
    "Step": "script",
    "StubBundles": "stub_bundles",
    "StubCatalog": "stub_catalog",
    "StubEvents": "stub_events",
    "StubSet": "script_file",
    "golden_slates": "golden",
    "load_script": "script_file",
    "stub_set": "script_file",
    "Refusal": "refusal",
    "RunningServer": "running",
    "StubRanking": "stub_ranking",
    "StubRetrieval": "stub_retrieval",
    "assert_valid_candidates": "slates",
    "assert_valid_embeddings": "slates",
    "assert_valid_similar_items": "slates",
    "assert_valid_slate": "slates",
    "readable_ids": "seeded",
    "serve": "running",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used.

    pytest loads our plugin, and so this package, wherever the base install is: without the extra that must not fail.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'tandem-recommender[testing]'", name=error.name) from error
