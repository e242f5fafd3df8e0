import numpy as np
import pandas as pd
import pytest

from tandem_core.catalog import Catalog
from tandem_core.features import EventType, FeatureSchema, resolve_user, user_tower_inputs
from tandem_core.query import Query, UserEvents
from tandem_trainer.examples import make_examples
from tandem_trainer.prepare import event_weights

N_ITEMS = 12
CATALOG = Catalog([f"i{n}" for n in range(N_ITEMS)], [""] * N_ITEMS, {}, {}, np.ones(N_ITEMS, np.int32))
SCHEMA = FeatureSchema(
    event_types=(EventType(name="view", weight=0.5, half_life_days=30), EventType(name="buy", weight=3),
                 EventType(name="dislike", weight=-2)),
    user_attributes={"age": ("18", "25"), "gender": ("F", "M")},
    segments=(), item_codes=(), item_numbers=(), history_length=4, vector_dim=3,
)  # fmt: skip
# As SCHEMA, and views weigh by the share that was watched.
WATCHED = FeatureSchema.model_validate(
    SCHEMA.model_dump()
    | {"event_types": [SCHEMA.event_types[0].model_copy(update={"full_value": 0.9}), *SCHEMA.event_types[1:]]}
)
SEASONAL = SCHEMA.model_copy(update={"season": True})
ON_DEVICES = SEASONAL.model_copy(update={"request_context": {"device": ("tv", "phone")}})
USERS = pd.DataFrame({"user_id": ["u0", "u1", "u2"], "age": ["18", "99", None], "gender": ["M", None, "F"]})


def some_events(n: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    hours = np.sort(rng.integers(0, 90, n))  # with ties
    return pd.DataFrame(
        {
            "user_id": rng.choice(["u0", "u1", "u2", "stranger"], n),
            "item_id": [f"i{k}" for k in rng.integers(0, N_ITEMS + 2, n)],  # the last two are not in the catalogue
            "timestamp": 1_700_000_000_000 + hours * 3_600_000,
            "event_type": rng.choice(["view", "buy", "dislike", "novel"], n),
            "value": np.full(n, np.nan, np.float32),
        }
    )


def watched_events() -> pd.DataFrame:
    """The same with a share watched for most; a fourth of those is 0."""
    events = some_events()
    shares = np.random.default_rng(3).choice(np.array([np.nan, 0, 0.3, 0.9, 1], np.float32), len(events))
    return events.assign(value=shares)


def events_on_devices() -> pd.DataFrame:
    """The same, some of them on a device, now and then one that nobody declared."""
    devices = np.random.default_rng(4).choice(np.array(["phone", "tv", "fridge", None], object), 120)
    return some_events().assign(device=devices)


def is_positive(events: pd.DataFrame) -> pd.Series:
    return (events["event_type"] != "dislike") & events["item_id"].isin(CATALOG.item_ids)


@pytest.mark.parametrize(
    ("schema", "events"),
    [
        (SCHEMA, some_events()),
        (WATCHED, watched_events()),
        (SEASONAL, some_events()),
        (ON_DEVICES, events_on_devices()),
        (ON_DEVICES, some_events()),
    ],
)
def test_training_inputs_equal_what_serving_computes_for_the_same_user_at_that_moment(
    schema: FeatureSchema, events: pd.DataFrame
) -> None:
    examples = make_examples(events, CATALOG, schema, USERS)
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, 3)).astype(np.float32)
    attributes = {
        row["user_id"]: {name: row[name] for name in ("age", "gender") if isinstance(row[name], str)}
        for row in USERS.to_dict("records")
    }
    users, targets = [], []
    for user_id, own in events.groupby("user_id"):
        worthless = (own["value"] == 0) & (own["event_type"] == "view") & (schema is WATCHED)
        for i in np.flatnonzero(is_positive(own) & ~worthless):
            past = own.iloc[:i]
            before = UserEvents(
                list(past["item_id"]), past["timestamp"].to_numpy(), list(past["event_type"]), past["value"].to_numpy()
            )
            now = int(own["timestamp"].iloc[i])
            device = own["device"].iloc[i] if "device" in own else None
            query = Query(
                request_id="r",
                now_ms=now,
                max_results=1,
                events=before,
                attributes=attributes.get(user_id, {}),
                context={} if device is None else {"device": device},
            )
            users.append(resolve_user(schema, CATALOG, query))
            targets.append(CATALOG.row_of[own["item_id"].iloc[i]])
    served = user_tower_inputs(schema, users, vectors)
    batch = examples.batch(np.arange(len(examples)))
    np.testing.assert_array_equal(batch.target_rows, targets)
    np.testing.assert_array_equal(vectors[batch.history_rows] * batch.history_mask[:, :, None],
                                  served["history_vectors"])  # fmt: skip
    for name in ("history_mask", "history_types", "history_ages", "user_attributes", "context"):
        found = getattr(batch, name)
        assert found.dtype == served[name].dtype, name
        np.testing.assert_array_equal(found, served[name], err_msg=name)


def test_every_positive_event_is_a_target_also_a_users_first() -> None:
    events = some_events()
    examples = make_examples(events, CATALOG, SCHEMA, USERS)
    assert len(examples) == is_positive(events).sum()
    empty = examples.batch(np.arange(len(examples))).history_mask.sum(1) == 0
    assert empty.sum() == events[is_positive(events)]["user_id"].nunique()


def test_weights_are_those_of_the_event_type() -> None:
    events = pd.DataFrame(
        {"user_id": "u0", "item_id": ["i1", "i2", "i3", "i4"], "timestamp": [1, 2, 3, 4],
         "event_type": ["view", "buy", "dislike", "novel"]}
    )  # fmt: skip
    batch = make_examples(events, CATALOG, SCHEMA, USERS).batch(np.arange(3))
    np.testing.assert_array_equal(batch.weights, np.array([0.5, 3, 1], np.float32))
    np.testing.assert_array_equal(batch.target_rows, [1, 2, 4])


def test_a_training_event_weighs_by_its_value_what_it_weighs_in_a_served_history() -> None:
    events = watched_events()
    weights = event_weights(WATCHED, events)
    examples = make_examples(events, CATALOG, WATCHED, USERS)
    for user_id, place in zip(("stranger", "u0", "u1", "u2"), np.unique(examples.starts), strict=True):
        own = (events["user_id"] == user_id).to_numpy()
        known = UserEvents(
            list(events["item_id"][own]), np.full(own.sum(), 5), list(events["event_type"][own]),
            events["value"].to_numpy()[own],
        )  # fmt: skip
        asked = Query(request_id="r", now_ms=5, max_results=1, events=known)  # now: nothing has faded
        history = resolve_user(WATCHED, CATALOG, asked).history
        trained = examples.weights[place : place + len(history)]
        np.testing.assert_array_equal(trained[::-1], history.weights)
        counted = weights[own & events["item_id"].isin(CATALOG.item_ids).to_numpy()]
        np.testing.assert_array_equal(counted[counted > 0], trained)
    # A third of a view and a whole one, a type that nobody declared, a purchase.
    np.testing.assert_allclose(np.unique(examples.weights), [0.5 / 3, 0.5, 1, 3], rtol=1e-6)
    np.testing.assert_array_equal(examples.batch(np.arange(len(examples))).weights, examples.weights)
    whole = examples.sequences(examples.stretches(np.random.default_rng(0)))
    np.testing.assert_allclose(np.sort(whole.weights[whole.weights > 0]), np.sort(examples.weights))


def test_marked_targets_keep_earlier_events_as_history() -> None:
    events = some_events()
    last = np.arange(len(events)) >= 100
    examples = make_examples(events, CATALOG, SCHEMA, USERS, is_target=last)
    assert len(examples) == (is_positive(events) & last).sum()
    assert (examples.batch(np.arange(len(examples))).history_mask.sum(1) == 4).all()


def test_any_selection_of_examples_gives_the_same_rows_as_the_whole() -> None:
    examples = make_examples(some_events(), CATALOG, SCHEMA, USERS)
    longest = int(np.argmax(examples.targets - examples.starts[examples.targets]))  # so that both are as wide
    whole, chosen = examples.batch(np.arange(len(examples))), np.array([longest, 3, 3])
    part = examples.batch(chosen)
    np.testing.assert_array_equal(part.history_rows, whole.history_rows[chosen])
    np.testing.assert_array_equal(part.history_ages, whole.history_ages[chosen])


def test_a_stretch_holds_what_each_of_its_events_sees_alone() -> None:
    examples = make_examples(events_on_devices(), CATALOG, ON_DEVICES, USERS)
    stretches = examples.stretches(np.random.default_rng(0))
    whole = examples.sequences(stretches)
    assert (whole.weights > 0).sum() == len(examples)
    for i, (oldest, end) in enumerate(stretches):
        n = end - oldest
        alone = examples.batch(np.arange(oldest, end)[::-1])  # newest first, as in the stretch
        np.testing.assert_array_equal(whole.target_rows[i, :n], alone.target_rows)
        np.testing.assert_array_equal(whole.weights[i, :n], alone.weights)
        np.testing.assert_array_equal(whole.context[i, :n], alone.context)
        np.testing.assert_array_equal(whole.user_attributes[i], alone.user_attributes[0])
        assert (whole.target_rows[i, n:] == -1).all()
        assert not whole.weights[i, n:].any()
        for place in range(n):  # what this place may look at is the history of the event alone, cut at the stretch
            inside = slice(place, n)
            for name in ("history_rows", "history_mask", "history_types"):
                own = getattr(alone, name)[place, : n - place]
                own = np.pad(own, (0, n - place - len(own)))  # a stretch has a place before the first event
                np.testing.assert_array_equal(getattr(whole, name)[i, inside], own, err_msg=name)
            if whole.history_mask[i, place]:
                known = whole.history_mask[i, inside] > 0
                moment = whole.history_ages[i, place - 1] if place else 0  # of the next event
                ages = whole.history_ages[i, inside] - moment
                np.testing.assert_array_equal(ages[known], alone.history_ages[place, : known.sum()])


def test_stretches_cover_every_event_once_and_are_cut_elsewhere_each_time() -> None:
    examples = make_examples(some_events(), CATALOG, SCHEMA, USERS)
    rng = np.random.default_rng(1)
    cuts = [examples.stretches(rng) for _ in range(5)]
    for stretches in cuts:
        np.testing.assert_array_equal(np.concatenate([np.arange(a, b) for a, b in stretches]), np.arange(len(examples)))
        assert (stretches[:, 1] - stretches[:, 0] <= SCHEMA.history_length).all()
        np.testing.assert_array_equal(examples.users[stretches[:, 0]], examples.users[stretches[:, 1] - 1])
    assert len({stretches.tobytes() for stretches in cuts}) > 1


def test_stretches_of_marked_targets_are_refused() -> None:
    examples = make_examples(some_events(), CATALOG, SCHEMA, USERS, is_target=np.arange(120) >= 100)
    with pytest.raises(ValueError, match="stretches need all"):
        examples.stretches(np.random.default_rng(0))


def test_seen_pairs_are_all_earlier_choices_however_long_ago() -> None:
    examples = make_examples(some_events(), CATALOG, SCHEMA, USERS)
    chosen = np.array([0, 30, 7])
    of, rows = examples.seen_pairs(chosen)
    for i, place in enumerate(examples.targets[chosen]):
        np.testing.assert_array_equal(rows[of == i], examples.rows[examples.starts[place] : place])


def test_target_counts_are_by_catalogue_row() -> None:
    events = some_events()
    counts = make_examples(events, CATALOG, SCHEMA, USERS).target_counts()
    expected = events[is_positive(events)]["item_id"].value_counts()
    assert {f"i{n}": c for n, c in enumerate(counts) if c} == expected.to_dict()


def test_events_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="not sorted"):
        make_examples(some_events().iloc[::-1], CATALOG, SCHEMA, USERS)


def test_no_events_give_no_examples_and_an_empty_batch() -> None:
    examples = make_examples(some_events().iloc[:0], CATALOG, SCHEMA, USERS)
    assert len(examples) == 0
    assert examples.batch(np.arange(0)).history_mask.shape == (0, 1)
