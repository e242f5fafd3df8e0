from __future__ import annotations

from pathlib import Path

import pytest

from tandem_core.bundle import Bundle
from tandem_trainer.config import TrainConfig
from tandem_trainer.inputs import load_data
from tandem_trainer.progress import Progress
from tandem_trainer.studies.diversity import CHOSEN, KEPT, STRENGTHS, arms, study_diversity
from tandem_trainer.studies.plots import draw_diversity
from tandem_trainer.train import Trained


def test_the_sweep_has_every_rule_and_more_diversity_with_less_relevance(
    bundle: Bundle, trained: Trained, tmp_path: Path
) -> None:
    config = TrainConfig.model_validate(bundle.manifest.config)
    dataset = load_data(config, None)
    report = study_diversity(bundle, dataset, trained.split, config, most_users=40, progress=Progress())
    (table,) = report.tables
    assert len(table.rows) == 1 + 5 * len(KEPT) * len(STRENGTHS)
    assert table.rows[0][0] == "none"
    assert table.rows[0][table.columns.index("gain %")] == pytest.approx(0)
    distance = dict(zip((row[:4] for row in table.rows), table.column("distance"), strict=True))
    for rule in ("mmr", "dpp"):
        strong, weak = (distance[rule, "categories", 0, strength] for strength in (0.7, 0.97))
        assert strong > weak - 1e-9  # type: ignore[operator]
        assert strong > distance["none", "", 0, 1.0]  # type: ignore[operator]
        assert strong >= distance[rule, "categories", 5, 0.7]  # type: ignore[operator]
    assert CHOSEN in arms()
    assert "met by mmr categories" in report.notes[0] or "missed by mmr categories" in report.notes[0]
    assert [path.name for path in draw_diversity(report, tmp_path)] == ["diversity.png"]
