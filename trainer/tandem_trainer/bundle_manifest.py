"""What a trained bundle says of itself: the manifest, from the settings of the run and what its steps found."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem_core.features import FeatureSchema
from tandem_core.manifest import (
    FORMAT,
    AlsInfo,
    DataInfo,
    FileEntry,
    FreshInfo,
    HalfLife,
    Manifest,
    PlanEntry,
    SearchInfo,
    SplitInfo,
    sha256_of,
)
from tandem_trainer.config import TrainConfig


def new_manifest(
    bundle_id: str,
    files: Mapping[str, FileEntry],
    config: TrainConfig,
    data: DataInfo,
    split: SplitInfo,
    schema: FeatureSchema,
    entries: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Manifest:
    """Return a manifest of now. entries: the manifest's fields that the steps of a run found, by name."""
    return Manifest(
        format=FORMAT,
        bundle_id=bundle_id,
        created_ms=time.time_ns() // 1_000_000,
        data=data,
        split=split,
        config=config.model_dump(mode="json"),
        schema_digest=schema.digest(),
        features=schema,
        als=AlsInfo(
            alpha=config.als.alpha,
            regularization=config.als.regularization,
            half_life=config.features.als_half_life,
        ),
        item_to_item=HalfLife(half_life=config.item_to_item.serving_half_life),
        content_neighbours=HalfLife(half_life=config.features.content_half_life),
        fresh=FreshInfo(max_age_days=config.features.fresh_days),
        search=SearchInfo(**config.search.model_dump()),
        plans=_plan_entries(config),
        metrics=dict(metrics),
        files=dict(files),
        **entries,
    )


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Return size and hash of each file of a bundle that has no manifest yet, by name."""
    return {path.name: FileEntry(size=path.stat().st_size, sha256=sha256_of(path)) for path in sorted(folder.iterdir())}


def new_bundle_id(files: Mapping[str, FileEntry]) -> str:
    """Return an id of the time and the contents."""
    content = hashlib.sha256("".join(entry.sha256 for entry in files.values()).encode()).hexdigest()
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{content[:8]}"


def _plan_entries(config: TrainConfig) -> dict[str, list[PlanEntry]]:
    return {
        regime: [
            PlanEntry(source=source, limit=limit, weight=weight, quota=sum(quota))
            for source, (limit, weight, *quota) in plan.items()
        ]
        for regime, plan in config.plans.by_regime().items()
    }
