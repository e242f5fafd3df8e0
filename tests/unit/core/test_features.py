from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tandem_core.bundle import Bundle
from tandem_core.catalog import Catalog
from tandem_core.features import (
    EventType,
    FeatureSchema,
    History,
    User,
    item_tower_inputs,
    resolve_user,
    user_tower_inputs,
)
from tandem_core.query import Query, Regime, UserEvents

MINUTE = 60_000
DAY = 86_400_000

MakeEvents = Callable[..., UserEvents]
MakeQuery = Callable[..., Query]


def test_context_is_hour_and_weekday_in_utc_counted_from_1(schema: FeatureSchema, now_ms: int) -> None:
    thursday_midnight = 0  # 1 January 1970
    got = schema.encode_moments(np.array([thursday_midnight, now_ms, DAY - 1, 6 * DAY], np.int64))
    # 14 November 2023, 22:13 was a Tuesday: the sixth day from Thursday.
    assert got.tolist() == [[1, 1], [23, 6], [24, 1], [1, 7]]
    assert schema.context_sizes == (24, 7)


def test_where_the_season_is_an_input_the_month_in_utc_stands_beside_hour_and_weekday(
    schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery, now_ms: int
) -> None:
    seasonal = schema.model_copy(update={"season": True})
    leap_day = 1_709_251_199_999  # the last moment of 29 February 2024, a Thursday
    got = seasonal.encode_moments(np.array([[0, now_ms], [leap_day, leap_day + 1]], np.int64))
    assert got.tolist() == [[[1, 1, 1], [23, 6, 11]], [[24, 1, 2], [1, 2, 3]]]
    assert seasonal.context_sizes == (24, 7, 12)
    assert resolve_user(seasonal, catalog, make_query()).context_codes.tolist() == [23, 6, 11]


def test_declared_facts_of_a_request_stand_behind_its_moment_and_0_is_unknown(
    schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery, item_vectors: np.ndarray
) -> None:
    facts = schema.model_copy(update={"request_context": {"device": ("phone", "tv"), "app": ("web",)}})
    asked: list[dict[str, str]] = [
        {"device": "tv", "app": "web", "weather": "rain"}, {"device": "phone"}, {"device": "fridge"}, {}
    ]  # fmt: skip
    users = [resolve_user(facts, catalog, make_query(context=context)) for context in asked]
    codes = user_tower_inputs(facts, users, item_vectors)["context"]
    assert codes.tolist() == [[23, 6, 2, 1], [23, 6, 1, 0], [23, 6, 0, 0], [23, 6, 0, 0]]
    assert facts.context_sizes == (24, 7, 2, 1)
    # What is said of the user is not said of the request.
    assert resolve_user(facts, catalog, make_query(attributes={"device": "tv"})).context_codes.tolist() == [23, 6, 0, 0]


@pytest.mark.parametrize("changes", [{"season": True}, {"request_context": {"device": ("phone",)}}])
def test_a_schema_without_an_input_is_written_as_before_there_was_such_a_one(
    schema: FeatureSchema, changes: dict[str, Any]
) -> None:
    (name,) = changes
    assert name not in schema.model_dump_json()
    with_it = schema.model_copy(update=changes)
    assert with_it.digest() != schema.digest()
    assert FeatureSchema.model_validate_json(with_it.model_dump_json()) == with_it


def test_attributes_are_coded_by_the_vocabulary_and_0_is_unknown(schema: FeatureSchema) -> None:
    assert schema.encode_attributes({"gender": "M", "age": "18", "shoe": "43"}).tolist() == [1, 2]
    assert schema.encode_attributes({"age": "99"}).tolist() == [0, 0]


def test_segments_stand_most_specific_first_and_need_all_their_attributes(schema: FeatureSchema) -> None:
    assert schema.segment_keys({"age": "25", "gender": "F"}) == ["age=25,gender=F", "age=25"]
    assert schema.segment_keys({"age": "25"}) == ["age=25"]
    assert schema.segment_keys({"gender": "F"}) == []


def test_the_digest_changes_with_whatever_the_models_see(schema: FeatureSchema) -> None:
    assert schema.digest() == FeatureSchema.model_validate_json(schema.model_dump_json()).digest()
    other = {"history_length": 5, "item_numbers": (), "user_attributes": {"age": ("25", "18")}}
    changed = [schema.model_copy(update={name: value}).digest() for name, value in other.items()]
    assert len({schema.digest(), *changed}) == 4


@pytest.mark.parametrize(
    ("items", "types", "attributes", "regime"),
    [
        ((), None, {}, Regime.UNKNOWN),
        ((), None, {"age": "99", "shoe": "43"}, Regime.UNKNOWN),
        ((), None, {"age": "25"}, Regime.PROFILE_ONLY),
        (("nothing known",), None, {}, Regime.UNKNOWN),
        (("i1",), ["dislike"], {"gender": "F"}, Regime.PROFILE_ONLY),
        (("i1",), None, {}, Regime.FEW_EVENTS),
        (("i1", "i2"), None, {"age": "25"}, Regime.FEW_EVENTS),
        (("i1", "i2", "i1"), None, {}, Regime.WARM),
        (("i1", "i2", "i3"), ["view", "view", "dislike"], {}, Regime.FEW_EVENTS),
    ],
)
def test_the_regime_says_what_is_known_of_the_user(
    items: tuple[str, ...],
    types: list[str] | None,
    attributes: dict[str, str],
    regime: Regime,
    schema: FeatureSchema,
    catalog: Catalog,
    make_query: MakeQuery,
    events_of: MakeEvents,
) -> None:
    query = make_query(events=events_of(*items, types=types), attributes=attributes)
    assert resolve_user(schema, catalog, query).regime is regime


def test_history_is_newest_first_and_dislikes_are_interacted_alone(
    schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery, events_of: MakeEvents
) -> None:
    events = events_of("i1", "gone", "i2", "i3", "i4", types=["buy", "buy", "dislike", "brand new type", "view"])
    user = resolve_user(schema, catalog, make_query(events=events))
    assert user.history.rows.tolist() == [4, 3, 1]
    assert user.history.types.tolist() == [1, 0, 2]
    assert user.history.weights.tolist() == [0.5, 1, 4]
    assert np.all(np.diff(user.history.timestamps) < 0)
    assert user.interacted.tolist() == [4, 3, 2, 1]


def test_a_type_with_a_half_life_fades_and_the_others_do_not(
    schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery, now_ms: int
) -> None:
    times = now_ms - DAY * np.array([3, 2, 1, 0, -1], np.int64)
    events = UserEvents(
        [f"i{i}" for i in range(5)], times, ["fad", "buy", "fad", "fad", "fad"], np.zeros(5, np.float32)
    )
    weights = resolve_user(schema, catalog, make_query(events=events)).history.weights
    assert weights.tolist() == [1, 1, 0.5, 4, 0.125]  # newest first; an event of tomorrow counts as one of now


def test_an_event_stays_in_the_history_however_old_it_is(
    schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery, now_ms: int
) -> None:
    times = now_ms - DAY * np.array([5000, 200], np.int64)  # half-lives of a day: less than a float32 can hold
    events = UserEvents(["i1", "i2"], times, ["fad"] * 2, np.zeros(2, np.float32))
    user = resolve_user(schema, catalog, make_query(events=events))
    assert user.history.rows.tolist() == [2, 1]
    assert np.all((user.history.weights > 0) & (user.history.weights < 1e-30))
    assert user.regime is Regime.FEW_EVENTS


def watched(schema: FeatureSchema) -> FeatureSchema:
    """Views weigh by the share watched, dislikes by their strength; the other types as before."""
    types = (
        EventType(name="view", weight=0.5, full_value=0.9),
        EventType(name="buy", weight=4.0),
        EventType(name="fad", weight=1.0, half_life_days=1.0, full_value=8.0),
        EventType(name="dislike", weight=-2.0, full_value=4.0),
    )
    return FeatureSchema.model_validate(schema.model_dump() | {"event_types": types})


@pytest.mark.parametrize(
    ("kind", "value", "weight"),
    [
        ("view", 0.45, 0.25), ("view", 0.9, 0.5), ("view", 7.0, 0.5), ("view", 0.0, 0.0), ("view", -1.0, 0.0),
        ("view", np.nan, 0.5), ("buy", 0.1, 4.0), ("buy", -3.0, 4.0), ("brand new type", 0.1, 1.0),
        ("dislike", 1.0, -0.5), ("dislike", np.nan, -2.0),
    ],
)  # fmt: skip
def test_an_event_weighs_the_share_of_its_types_weight_that_its_value_is_of_the_full_one(
    kind: str, value: float, weight: float, schema: FeatureSchema
) -> None:
    by_value = watched(schema)
    codes = np.array([by_value.type_code.get(kind, 0)])
    got = by_value.event_weights(codes, np.array([value], np.float32))
    assert got.dtype == np.float32
    assert got.tolist() == pytest.approx([weight], rel=1e-6, abs=0)


def test_a_served_history_weighs_by_value_and_leaves_out_what_is_worth_nothing(
    schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery, now_ms: int
) -> None:
    times = now_ms - DAY * np.array([4, 3, 2, 1, 0], np.int64)
    values = np.array([0.45, 0.0, np.nan, 2.0, 1e-30], np.float32)
    events = UserEvents([f"i{i}" for i in range(5)], times, ["view", "view", "view", "fad", "fad"], values)
    user = resolve_user(watched(schema), catalog, make_query(events=events))
    assert user.history.rows.tolist() == [4, 3, 2, 0]
    assert user.history.weights[1:].tolist() == [0.125, 0.5, 0.25]  # of the fad a quarter, faded by half
    assert user.history.weights[0] > 0
    assert user.interacted.tolist() == [4, 3, 2, 1, 0]
    unweighted = resolve_user(schema, catalog, make_query(events=events))
    assert unweighted.history.weights.tolist() == [1, 0.5, 0.5, 0.5, 0.5]


def test_a_schema_without_full_values_is_written_as_before_there_were_any(schema: FeatureSchema) -> None:
    assert "full_value" not in schema.model_dump_json()
    by_value = watched(schema)
    assert by_value.digest() != schema.digest()
    assert FeatureSchema.model_validate_json(by_value.model_dump_json()) == by_value


def test_seeds_are_the_oldest_events_of_weight_1_and_not_interacted(
    schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery, events_of: MakeEvents
) -> None:
    query = make_query(events=events_of("i1", types=["buy"]), seed_item_ids=["i7", "unknown", "i5"])
    user = resolve_user(schema, catalog, query)
    assert user.history.rows.tolist() == [1, 7, 5]
    assert user.history.weights.tolist() == [4, 1, 1]
    assert user.history.types.tolist() == [2, 0, 0]
    assert len(set(user.history.timestamps.tolist())) == 1
    assert user.interacted.tolist() == [1]
    assert user.regime is Regime.WARM
    alone = resolve_user(schema, catalog, make_query(seed_item_ids=["i7"]))
    assert alone.regime is Regime.FEW_EVENTS


def test_unknown_attributes_are_left_out_of_the_user(
    schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery
) -> None:
    user = resolve_user(schema, catalog, make_query(attributes={"age": "25", "gender": "X", "shoe": "43"}))
    assert user.attributes == {"age": "25"}
    assert user.attribute_codes.tolist() == [2, 0]
    assert user.segment_keys == ["age=25"]


def test_weights_halve_every_so_many_events_back() -> None:
    n = 4
    history = History(np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int64), np.full(n, 2, np.float32))
    assert history.decayed(1.0).tolist() == [2, 1, 0.5, 0.25]
    assert history.newest(2).decayed(2.0).tolist() == pytest.approx([2, 2 / np.sqrt(2)])


def test_tower_inputs_are_padded_to_the_longest_history_and_cut_to_the_newest_events(
    schema: FeatureSchema,
    catalog: Catalog,
    make_query: MakeQuery,
    events_of: MakeEvents,
    item_vectors: np.ndarray,
) -> None:
    queries = [make_query(events=events_of(*(f"i{i}" for i in range(n)))) for n in (6, 0, 1)]
    users = [resolve_user(schema, catalog, query) for query in queries]
    inputs = user_tower_inputs(schema, users, item_vectors)
    assert inputs["history_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]]  # history_length is 4
    np.testing.assert_array_equal(inputs["history_vectors"][0], item_vectors[[5, 4, 3, 2]])
    assert not inputs["history_vectors"][1].any()
    assert inputs["history_types"].tolist() == [[1, 1, 1, 1], [0] * 4, [1, 0, 0, 0]]
    minute = 60_000  # they are so far apart; ages count from the request
    assert inputs["history_ages"].tolist() == [[minute, 2 * minute, 3 * minute, 4 * minute], [0] * 4, [minute, 0, 0, 0]]
    assert inputs["user_attributes"].shape == (3, 2)
    assert inputs["context"].tolist() == [[23, 6]] * 3
    assert user_tower_inputs(schema, users[1:2], item_vectors)["history_mask"].shape == (1, 1)


def test_item_inputs_count_from_1_so_that_0_can_mean_unknown(
    schema: FeatureSchema, catalog: Catalog, item_vectors: np.ndarray
) -> None:
    inputs = item_tower_inputs(schema, catalog, item_vectors)
    assert inputs["item_index"].tolist() == list(range(1, 13))
    assert inputs["codes_categories"][[0, 1, 11]].tolist() == [[1, 3], [2, 0], [0, 0]]
    assert inputs["codes_creator"].ravel().tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0]
    assert inputs["numbers"][:, 0].tolist()[:3] == [0, 10, 20]
    assert np.isnan(inputs["numbers"][5, 0])


def test_users_encoded_together_get_the_vectors_they_get_alone(bundle: Bundle, make_query: MakeQuery) -> None:
    tower, rng = bundle.user_tower, np.random.default_rng(0)
    assert tower is not None
    users: list[User] = []
    for n in (0, 1, 3, 20, 60):
        ids = [bundle.catalog.item_ids[row] for row in rng.integers(0, len(bundle.catalog), n)]
        times = np.sort(rng.integers(1_600_000_000_000, 1_700_000_000_000, n))
        events = UserEvents(ids, times, rng.choice(["view", "like", "purchase"], n).tolist(), np.zeros(n, np.float32))
        query = make_query(events=events, attributes={"gender": "female"} if n % 2 else {})
        users.append(resolve_user(bundle.schema, bundle.catalog, query))
    together = tower.encode(users)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([tower.encode([user]) for user in users])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(alone[2:] - alone[0]).max() > 1e-3  # a history matters
