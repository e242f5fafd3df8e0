from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.features import EventType, FeatureSchema, item_tower_inputs
from tandem_trainer.examples import Examples, make_examples
from tandem_trainer.losses import make_loss
from tandem_trainer.tower_training_settings import PairSettings, TowerTrainingSettings
from tandem_trainer.tower_validation import Metrics, user_vectors
from tandem_trainer.towers import TowerSettings
from tandem_trainer.train_towers import FittedTowers, fit_towers

N_ITEMS, COLD = 220, 219  # item 219 has no events
TASTES = 2
CATALOG = Catalog(
    [f"i{n}" for n in range(N_ITEMS)],
    [""] * N_ITEMS,
    {"categories": CodeColumn((np.arange(N_ITEMS) % TASTES).astype(np.int32)[:, None], ["even", "odd"])},
    {"price": np.linspace(1, 9, N_ITEMS)},
    np.array([1] * COLD + [0], np.int32),
)
SCHEMA = FeatureSchema(
    event_types=(EventType(name="like"),), user_attributes={"age": ("18", "25")}, segments=(),
    item_codes=("categories",), item_numbers=("price",), history_length=6, vector_dim=8,
)  # fmt: skip
SETTINGS = TowerTrainingSettings(
    towers=TowerSettings(vector_dim=8, id_dim=8, code_dim=4, hidden=16, id_dropout=0.3),
    batch_size=256, epochs=8, validations=4, learning_rate=0.02,
)  # fmt: skip


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    """Users who stay with even or with odd items, 12 events each."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(150), 12)
    items = rng.integers(0, COLD // TASTES, len(users)) * TASTES + users % TASTES
    columns = {"user_id": [f"u{u}" for u in users], "item_id": [f"i{i}" for i in items], "event_type": "like"}
    return pd.DataFrame(columns | {"timestamp": rng.integers(0, 10**9, len(users))}).sort_values(
        "timestamp", kind="stable", ignore_index=True
    )


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    content = np.eye(TASTES, dtype=np.float32)[np.arange(N_ITEMS) % TASTES]
    return item_tower_inputs(SCHEMA, CATALOG, content)


@pytest.fixture(scope="module")
def parts(events: pd.DataFrame) -> tuple[Examples, Examples]:
    users = pd.DataFrame({"user_id": ["u0"], "age": ["18"]})
    last = ~events["user_id"].duplicated(keep="last").to_numpy()
    training = make_examples(events[~last], CATALOG, SCHEMA, users)
    return training, make_examples(events, CATALOG, SCHEMA, users, is_target=last)


@pytest.fixture(scope="module")
def fitted(parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray]) -> FittedTowers:
    return fit_towers(parts[0], inputs, SETTINGS, seed=1, validation=parts[1])


def test_towers_learn_what_users_like(fitted: FittedTowers) -> None:
    # 110 of 220 items have the right taste: knowing it nearly doubles what chance finds among 100.
    assert fitted.history[fitted.best]["recall@100"] > 0.8
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]


def test_item_vectors_are_the_item_towers_and_have_unit_length(
    fitted: FittedTowers, inputs: dict[str, np.ndarray]
) -> None:
    assert fitted.item_vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(fitted.item_vectors, axis=1), 1, atol=1e-5)
    columns = [fitted.item_index, inputs["content"], inputs["numbers"], inputs["codes_categories"]]
    with torch.no_grad():
        found = fitted.item_tower(*(torch.from_numpy(column) for column in columns)).numpy()
    np.testing.assert_allclose(found, fitted.item_vectors, atol=1e-6)


def test_an_item_without_events_lies_near_items_of_like_content(fitted: FittedTowers) -> None:
    assert fitted.item_index[COLD] == 0
    likeness = fitted.item_vectors[:COLD] @ fitted.item_vectors[COLD]
    siblings = np.arange(COLD) % TASTES == COLD % TASTES
    assert likeness[siblings].mean() > likeness[~siblings].mean() + 0.1


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], fitted: FittedTowers
) -> None:
    again = fit_towers(parts[0], inputs, SETTINGS, seed=1, validation=parts[1])
    np.testing.assert_array_equal(again.item_vectors, fitted.item_vectors)
    assert again.history == fitted.history
    for one, other in zip(again.user_tower.parameters(), fitted.user_tower.parameters(), strict=True):
        assert torch.equal(one, other)
    other_seed = fit_towers(parts[0], inputs, SETTINGS.model_copy(update={"epochs": 1.0}), seed=2)
    assert not np.array_equal(other_seed.item_vectors, fitted.item_vectors)


def test_the_best_state_is_kept_and_not_the_last(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9, 0.2, 0.1, 0.0])
    seen: list[Any] = []

    def worse_after_the_second(towers: Any, *_: object) -> Metrics:
        seen.append({name: value.clone() for name, value in towers.user.state_dict().items()})
        return {"recall@100": next(scores), "hr@10": 0.0}

    monkeypatch.setattr("tandem_trainer.tower_run._evaluate", worse_after_the_second)
    settings = SETTINGS.model_copy(update={"validations": 5, "patience": 2})
    fitted = fit_towers(parts[0], inputs, settings, seed=1, validation=parts[1])
    assert (fitted.best, len(fitted.history)) == (1, 4)
    for name, value in fitted.user_tower.state_dict().items():
        assert torch.equal(value, seen[1][name])


def test_training_leaves_the_callers_random_state_alone(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray]
) -> None:
    before = torch.random.get_rng_state()
    fit_towers(parts[0], inputs, SETTINGS.model_copy(update={"epochs": 1.0}), seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_data_smaller_than_a_batch_trains_on_all_of_it(events: pd.DataFrame, inputs: dict[str, np.ndarray]) -> None:
    few = make_examples(events.iloc[:30], CATALOG, SCHEMA, pd.DataFrame({"user_id": []}))
    assert np.isfinite(fit_towers(few, inputs, SETTINGS, seed=0).item_vectors).all()


def test_progress_hears_of_every_validation(parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray]) -> None:
    heard: list[int] = []
    fit_towers(
        parts[0], inputs, SETTINGS.model_copy(update={"validations": 2}), 0, progress=lambda part, _: heard.append(part)
    )
    assert heard == [0, 1]


def test_validation_asks_only_for_items_the_user_had_not_chosen(inputs: dict[str, np.ndarray]) -> None:
    again = pd.DataFrame({"user_id": "u0", "item_id": ["i1", "i2", "i1"], "timestamp": 1, "event_type": "like"})
    examples = make_examples(again, CATALOG, SCHEMA, pd.DataFrame({"user_id": []}))
    only_repeat = make_examples(
        again, CATALOG, SCHEMA, pd.DataFrame({"user_id": []}), is_target=np.array([False, False, True])
    )
    fitted = fit_towers(examples, inputs, SETTINGS, seed=0, validation=only_repeat)
    assert all("recall@100" not in metrics for metrics in fitted.history)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"towers": {"l2_normalise": False}}, "unit vectors"),
        ({"loss": {"name": "mixed", "log_q": False}}, "popular items"),
        ({"loss": {"name": "in_batch"}, "batch_size": 256}, "at least 512"),
        ({"batchsize": 512}, "batchsize"),
        ({"pairs": []}, "pairs"),
        ({"pairs": [{"encoder": "rnn"}]}, "encoder"),
        ({"pairs": [{}, {"spare_known": True}], "loss": {"name": "mixed"}}, "spare_known is read by"),
        ({"pairs": [{}, {"taught": 0.5}], "loss": {"name": "mixed"}}, "taught is read by"),
        ({"pairs": [{"taught": 0.5}]}, "no pair before it"),
        ({"pairs": [{}, {"taught": 0.5}, {"serves": False}]}, r"pairs\[2\] neither serves nor teaches"),
        ({"pairs": [{"serves": False}]}, r"pairs\[0\] neither serves nor teaches"),
    ],
)
def test_settings_that_break_a_rule_of_two_tower_training_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TowerTrainingSettings.model_validate(changes)


def test_nothing_to_train_on_is_an_error(inputs: dict[str, np.ndarray], events: pd.DataFrame) -> None:
    nothing = make_examples(events.iloc[:0], CATALOG, SCHEMA, pd.DataFrame({"user_id": []}))
    with pytest.raises(ValueError, match="no positive events"):
        fit_towers(nothing, inputs, SETTINGS, seed=0)


@pytest.mark.parametrize(
    "name", ["full_softmax", "sampled_softmax", "in_batch", "mixed", "bce", "gbce", "bpr", "triplet"]
)
def test_every_loss_teaches_the_towers_what_users_like(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], name: str
) -> None:
    loss: dict[str, Any] = {"name": name}
    if name != "full_softmax":
        loss["hard"] = {"share": 0.05}
    if name == "gbce":
        loss["negatives"] = 32
    settings = TowerTrainingSettings.model_validate(
        SETTINGS.model_dump() | {"loss": loss, "batch_size": 512, "epochs": 20}
    )
    fitted = fit_towers(parts[0], inputs, settings, seed=1, validation=parts[1])
    assert fitted.history[fitted.best]["recall@100"] > 0.7  # by chance 0.45


@pytest.mark.parametrize("encoder", ["mean_pool", "attention_pool", "sasrec", "ligr"])
def test_every_encoder_learns_what_users_like(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], encoder: str
) -> None:
    settings = SETTINGS.model_copy(update={"towers": SETTINGS.towers.model_copy(update={"encoder": encoder})})
    fitted = fit_towers(parts[0], inputs, settings, seed=1, validation=parts[1])
    assert fitted.history[fitted.best]["recall@100"] > 0.7


def test_a_warm_start_learns_sooner_what_the_factors_know(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray]
) -> None:
    training, validation = parts
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(N_ITEMS, 4)).astype(np.float32) * 0.1
    factors[:, 0] += np.where(np.arange(N_ITEMS) % TASTES, 1, -1)
    blind = inputs | {"content": np.zeros_like(inputs["content"]), "codes_categories": inputs["codes_categories"] * 0}
    short = SETTINGS.model_copy(update={"epochs": 0.5, "validations": 1})
    cold = short.model_copy(update={"warm_start": False})
    found, unknown, refused = (
        fit_towers(training, blind, settings, 1, validation, None, given).history[0]
        for settings, given in ((short, factors), (short, None), (cold, factors))
    )
    assert found["recall@100"] > unknown["recall@100"] + 0.1
    assert refused == unknown


def test_large_catalogues_are_trained_on_sampled_negatives(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_trainer.tower_run.FULL_SOFTMAX_ITEMS", 10)
    seen: list[str] = []
    monkeypatch.setattr(
        "tandem_trainer.tower_run.make_loss", lambda s, *rest: seen.append(s.name) or make_loss(s, *rest)
    )
    fit_towers(parts[0], inputs, SETTINGS.model_copy(update={"epochs": 1.0}), seed=1)
    assert seen == ["mixed"]


def test_pairs_are_trained_apart_and_joined_to_one(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], fitted: FittedTowers
) -> None:
    pairs = (PairSettings(), PairSettings(encoder="mean_pool", spare_known=True))
    settings = SETTINGS.model_copy(update={"pairs": pairs})
    wide = SCHEMA.model_copy(update={"vector_dim": settings.joint_dim})
    training, validation = (replace(part, schema=wide) for part in parts)
    heard: list[int] = []
    joined = fit_towers(training, inputs, settings, 1, validation, lambda part, _: heard.append(part))
    assert joined.item_vectors.shape == (N_ITEMS, 16)
    np.testing.assert_allclose(np.linalg.norm(joined.item_vectors, axis=1), 1, atol=1e-5)
    # The first of them is what it would be alone.
    np.testing.assert_allclose(joined.item_vectors[:, :8] * 2**0.5, fitted.item_vectors, atol=1e-6)
    columns = [joined.item_index, inputs["content"], inputs["numbers"], inputs["codes_categories"]]
    with torch.no_grad():
        found = joined.item_tower(*(torch.from_numpy(column) for column in columns)).numpy()
    np.testing.assert_allclose(found, joined.item_vectors, atol=1e-6)
    assert joined.history[joined.best]["recall@100"] > 0.8
    assert joined.best == len(joined.history) - 1 == len(heard)
    assert heard == sorted(set(heard))
    assert 0 < joined.best_after <= 1


def test_a_pair_that_spares_what_users_chose_learns_their_taste(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], fitted: FittedTowers
) -> None:
    settings = SETTINGS.model_copy(update={"pairs": (PairSettings(spare_known=True),)})
    spared = fit_towers(parts[0], inputs, settings, seed=1, validation=parts[1])
    assert spared.history[spared.best]["recall@100"] > 0.8
    assert spared.history[-1]["loss"] < fitted.history[-1]["loss"]  # fewer answers are wrong


def test_a_taught_pair_says_what_its_teacher_says_and_may_serve_alone(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], fitted: FittedTowers
) -> None:
    alone = fit_towers(parts[0], inputs, SETTINGS, seed=2)  # that of the second pair below
    pairs = (PairSettings(serves=False), PairSettings(taught=1.0))
    taught = fit_towers(parts[0], inputs, SETTINGS.model_copy(update={"pairs": pairs}), 1, parts[1])

    def says(towers: FittedTowers) -> np.ndarray:
        """What it says of the items of one taste, which differ by chance alone."""
        items = torch.from_numpy(towers.item_vectors)
        with torch.no_grad():
            users = user_vectors(towers.user_tower, parts[1].batch(np.arange(100)), items)
        scores = (users @ items[::TASTES].T).numpy()
        return (scores - scores.mean(axis=1, keepdims=True)).ravel()

    likeness = [np.corrcoef(says(fitted), says(towers))[0, 1] for towers in (taught, alone)]
    assert likeness[0] > likeness[1] + 0.15
    assert taught.item_vectors.shape == (N_ITEMS, 8)  # its teacher is not served
    assert len(taught.history) > len(fitted.history)
    assert taught.history[: len(fitted.history)] == fitted.history
    assert taught.history[taught.best]["recall@100"] > 0.8


def test_a_pair_can_not_be_taught_by_a_loss_with_drawn_negatives(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_trainer.tower_run.FULL_SOFTMAX_ITEMS", 10)
    pairs = (PairSettings(serves=False, epochs=0.1), PairSettings(taught=0.5))
    settings = SETTINGS.model_copy(update={"pairs": pairs, "batch_size": 1800})
    with pytest.raises(ValueError, match="for 220 items mixed was chosen"):
        fit_towers(parts[0], inputs, settings, seed=1)


def test_a_schema_for_other_vectors_is_an_error(
    parts: tuple[Examples, Examples], inputs: dict[str, np.ndarray]
) -> None:
    settings = SETTINGS.model_copy(update={"pairs": (PairSettings(), PairSettings())})
    with pytest.raises(ValueError, match="is 16 for all pairs together, of the schema 8"):
        fit_towers(parts[0], inputs, settings, seed=0)
