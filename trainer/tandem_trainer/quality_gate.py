"""Whether a new bundle is good enough to be served in place of the current one."""

from __future__ import annotations

from tandem_core.errors import BundleRefused
from tandem_core.manifest import Manifest
from tandem_core.registry import Registry

FIGURE = "merge_warm_ndcg@10"  # of the fused list, on validation requests of users with a history


def held_back(new: Manifest, registry: Registry, largest_drop: float) -> str:
    """Return why a new bundle is not to be activated, "" where it is.

    largest_drop: share of the current bundle's figure that may be lost, 0..1; 1 activates anything. The validation
    events of two runs are not the same ones: a threshold near 0 would hold back good bundles.
    """
    try:
        current = registry.current()
        before = None if current is None else registry.manifest(current.bundle_id)
    except (BundleRefused, OSError):
        return ""  # what is current is damaged or gone: anything whole is better
    if before is None or FIGURE not in before.metrics or FIGURE not in new.metrics:
        return ""
    was, now = before.metrics[FIGURE], new.metrics[FIGURE]
    if now >= (1 - largest_drop) * was:
        return ""
    return (
        f"{FIGURE} is {now:.4f}, and {was:.4f} of the current bundle {before.bundle_id}: more than {largest_drop:.0%} "
        f"would be lost (largest_drop). To serve it all the same: tandem bundles activate {new.bundle_id}"
    )
