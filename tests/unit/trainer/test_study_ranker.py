"""tandem bench ranker on the small trained bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tandem_core.bundle import Bundle
from tandem_core.metrics import Interval
from tandem_trainer.config import DataSettings, TrainConfig
from tandem_trainer.progress import Progress
from tandem_trainer.ranker_examples import RankerData
from tandem_trainer.studies.plots import draw_calibration
from tandem_trainer.studies.ranker import FUSED, RANKED, TREES, RankerStudy, config_for, study_ranker
from tandem_trainer.train import Trained


@pytest.fixture(scope="module")
def study(trained: Trained, bundle: Bundle) -> RankerStudy:
    config = TrainConfig(
        data=DataSettings(adapter="synthetic", synthetic_users=400, synthetic_items=300),
        ranker_data=RankerData(most_requests=100, moments=1),
    )
    return study_ranker(bundle, trained.dataset, trained.split, config, Progress(), most_users=60, with_trees=True)


def test_every_order_is_measured_on_the_same_users_and_compared_with_the_fused_one(study: RankerStudy) -> None:
    orders = study.report.tables[0]
    assert orders.column("order") == [FUSED, RANKED, TREES]
    assert orders.rows[0][2] is None
    for _, ndcg, gain, _, _ in orders.rows[1:]:
        assert isinstance(ndcg, Interval)
        assert isinstance(gain, Interval)
        assert gain.low <= gain.mean <= gain.high
        assert gain.n == ndcg.n
    fused, ranked = (row[1] for row in orders.rows[:2])
    assert isinstance(fused, Interval)
    assert isinstance(ranked, Interval)
    gain = orders.rows[1][2]
    assert isinstance(gain, Interval)
    assert gain.mean == pytest.approx(100 * (ranked.mean / fused.mean - 1))


def test_probabilities_importance_and_curves_are_there(study: RankerStudy, tmp_path: Path) -> None:
    _, probabilities, importance = study.report.tables
    assert probabilities.rows
    assert list(study.curves) == probabilities.column("head")
    for curve in study.curves.values():
        assert curve.share.sum() == pytest.approx(1)
        assert (np.diff(curve.predicted) >= 0).all()
    assert 0 < len(importance.rows) <= 20
    drawn = draw_calibration(study.curves, tmp_path)
    assert [path.name for path in drawn] == [f"calibration_{name}.png" for name in study.curves]
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_a_bundle_without_base_rates_is_named(trained: Trained, bundle: Bundle) -> None:
    config = TrainConfig.model_validate(trained.manifest.config)
    older = replace(bundle, manifest=bundle.manifest.model_copy(update={"metrics": {}}))
    with pytest.raises(ValueError, match="noted no base rates"):
        study_ranker(older, trained.dataset, trained.split, config, Progress())


def test_protocols_cut_as_the_quality_bench_does() -> None:
    loo, time = (config_for(TrainConfig(), protocol) for protocol in ("loo", "time"))
    assert (loo.split.protocol, loo.data.min_item_events) == ("leave_last_out", 5)
    assert (time.split.protocol, time.data.min_item_events) == ("global_time", 0)
