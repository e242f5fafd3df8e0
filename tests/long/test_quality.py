"""How good the models must be, at the least, on data that take minutes to train on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tandem_core.bundle import load_bundle
from tandem_core.registry import Registry
from tandem_trainer.config import DataSettings, TrainConfig
from tandem_trainer.evaluate import evaluate
from tandem_trainer.inputs import load_data
from tandem_trainer.progress import Progress
from tandem_trainer.train import train

pytestmark = pytest.mark.long
DATA = os.environ.get("TANDEM_DATA_DIR")

SETS = {
    "synthetic": DataSettings(adapter="synthetic"),
    "ml-100k": DataSettings(adapter="ml-100k"),
    "ml-1m": DataSettings(adapter="ml-1m", min_item_events=5),
    "online-retail": DataSettings(adapter="online-retail"),
}


@pytest.mark.parametrize("name", SETS)
def test_merged_retrieval_beats_popularity_and_plain_als_beyond_chance(name: str, tmp_path: Path) -> None:
    if name != "synthetic" and not DATA:
        pytest.skip("needs the real data sets: set TANDEM_DATA_DIR to their folder")
    config = TrainConfig(data=SETS[name])
    dataset = load_data(config, Path(DATA) / name if name != "synthetic" and DATA else None)
    registry = Registry(tmp_path)
    trained = train(config, dataset, registry, Progress())
    evaluation = evaluate(load_bundle(registry.path_of(trained.bundle_id)), dataset, trained.split)
    judged = {(c.better, c.than, c.metric): c.difference for c in evaluation.compared}
    for than in ("popularity", "als_plain"):
        for metric in ("hit_rate@10", "ndcg@10", "recall@100"):
            assert judged["retrieval", than, metric].low > 0, (than, metric)
