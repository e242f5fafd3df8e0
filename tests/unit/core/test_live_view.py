from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.features import resolve_user
from tandem_core.filters import AllOf, Eligibility, Exists, InRange, InSet, NotOf
from tandem_core.live.growing import ROOM, Growing, with_room
from tandem_core.live.serving import MOST_AT_ONCE, LiveServing
from tandem_core.live.view import REUSED_AFTER_S, LiveView
from tandem_core.query import Fill, Query, Seen, SourcePlan, UserEvents
from tandem_core.ranker_events import event_names
from tandem_core.ranker_features import ranker_features
from tandem_core.ranker_tables import RankerTables
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import Held
from tandem_core.sources.live import LIVE
from tandem_core.sparse_rows import SparseRows
from tandem_core.stores.base import StoreUnavailable
from tandem_core.stores.live import Added, Changes, Cursor, Encoding, LiveItem
from tandem_core.stores.live_sqlite import SqliteLiveStore

MakeBundle = Callable[..., Bundle]
MakeQuery = Callable[..., Query]
MakeEvents = Callable[..., UserEvents]
N = 12


def encoding(item_id: str, version: int = 0) -> Encoding:
    """Vectors that differ by item and version."""
    rng = np.random.default_rng([version, *item_id.encode()])
    vectors = [rng.normal(size=n).astype(np.float32) for n in (8, 4)]
    return Encoding(*(vector / np.float32(np.linalg.norm(vector)) for vector in vectors))


def item(item_id: str, title: str = "New", category: str = "Drama", price: float = 5.0) -> LiveItem:
    return LiveItem(item_id, title, "", {"categories": [category]}, {"price": price})


def added(*items: LiveItem, start: int = 1) -> Changes:
    return Changes(
        [],
        [Added(start + i, each, encoding(each.item_id, start + i)) for i, each in enumerate(items)],
        Cursor(),
        more=False,
    )


def deleted(*item_ids: str) -> Changes:
    return Changes(item_ids, [], Cursor(), more=False)


@pytest.fixture
def view(make_bundle: MakeBundle) -> LiveView:
    return LiveView(make_bundle())


def ids_of(bundle: Bundle, rows: np.ndarray) -> list[str]:
    return [bundle.catalog.item_ids[row] for row in rows.tolist()]


def everything(bundle: Bundle) -> set[str]:
    return set(ids_of(bundle, Eligibility(bundle.catalog, np.empty(0, np.int32), None).matching_rows()))


def test_without_a_change_the_bundle_is_the_very_same(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    view = LiveView(bundle)
    view.apply(Changes([], [], Cursor(), more=False))
    assert view.bundle is bundle


def test_a_live_item_has_a_row_in_every_column(view: LiveView) -> None:
    view.apply(added(item("new", "Brand New", "Opera", 7.5)))
    catalog = view.bundle.catalog
    row = catalog.row_of["new"]
    assert (row, len(catalog), catalog.bundle_size) == (N, N + 1, N)
    assert (catalog.item_ids[row], catalog.titles[row]) == ("new", "Brand New")
    assert catalog.codes["categories"].values(row) == ["Opera"]
    assert catalog.codes["creator"].values(row) == []
    assert catalog.numbers["price"][row] == 7.5
    assert np.isnan(catalog.numbers["created_at"][row])
    assert catalog.event_counts[row] == 0
    assert view.bundle.popularity_level[row] == 0
    np.testing.assert_array_equal(view.bundle.item_vectors[row], encoding("new", 1).item_vector)
    np.testing.assert_array_equal(view.bundle.content_vectors[row], encoding("new", 1).content_vector)


def test_the_ranker_reads_a_live_item_as_one_that_nobody_has_chosen_yet(
    make_bundle: MakeBundle, make_query: MakeQuery, events_of: MakeEvents
) -> None:
    after = SparseRows(np.arange(N + 1), np.roll(np.arange(N, dtype=np.int32), -1), np.ones(N, np.float32), N)
    tables = RankerTables(("global", "events:like"), np.ones((N, 2), np.float32), after)
    view = LiveView(replace(make_bundle(), ranker_tables=tables))
    view.apply(added(item("new")))
    user = resolve_user(view.bundle.schema, view.bundle.catalog, make_query(events=events_of("new", "i3")))
    batch = CandidateBatch(np.array([4, N], np.int32), np.ones(2, np.float32))
    names = ["level:global", "level:events:like", *event_names(2)]
    columns = dict(zip(names, ranker_features(names, batch, user, view.bundle, 0).T.tolist(), strict=True))
    assert columns["level:global"] == columns["level:events:like"] == [1, 0]
    assert columns["event_next:0"] == [1, 0]  # i4 follows i3, the newest event
    assert columns["event_next:1"] == [0, 0]  # and nothing is known to follow the live one


def test_the_bundle_itself_and_versions_given_out_stay_as_they_are(make_bundle: MakeBundle) -> None:
    base = make_bundle()
    view = LiveView(base)
    view.apply(added(item("a")))
    first = view.bundle
    view.apply(added(item("b", category="Opera"), start=2))
    assert len(base.catalog) == N
    assert "Opera" not in base.catalog.codes["categories"].vocabulary
    assert len(first.catalog) == N + 1
    assert "b" not in first.catalog.row_of
    assert first.catalog.find(["b", "a"]).tolist() == [-1, N]
    assert "Opera" not in first.catalog.codes["categories"].vocabulary
    assert InSet("categories", frozenset({"Opera"})).mask(first.catalog, first.catalog.all_rows).sum() == 0


def test_filters_see_live_items_like_others(view: LiveView) -> None:
    view.apply(added(item("opera", category="Opera", price=3), item("drama", price=200)))

    def matching(condition: Any) -> set[str]:
        catalog = view.bundle.catalog
        return set(ids_of(view.bundle, Eligibility(catalog, np.empty(0, np.int32), condition).matching_rows()))

    assert matching(InSet("categories", frozenset({"Opera"}))) == {"opera"}
    assert matching(InSet("item_id", frozenset({"opera", "i3"}))) == {"opera", "i3"}
    assert matching(InRange("price", low=105)) == {"drama"}
    assert matching(AllOf([InRange("price", high=5), NotOf(InSet("item_id", frozenset({"i0"})))])) == {"opera"}
    assert not {"opera", "drama"} & matching(Exists("creator"))


def test_an_upserted_item_of_the_bundle_gives_way_to_its_live_version(view: LiveView) -> None:
    view.apply(added(item("i3", "Third", price=99)))
    catalog = view.bundle.catalog
    assert catalog.row_of["i3"] == N
    assert catalog.gone is not None
    assert np.flatnonzero(catalog.gone).tolist() == [3]
    assert everything(view.bundle) == {f"i{row}" for row in range(N)}


def test_a_deleted_item_is_nowhere_but_in_histories(
    view: LiveView, events_of: MakeEvents, make_query: MakeQuery
) -> None:
    view.apply(added(item("new")))
    view.apply(deleted("i2", "new", "never-heard-of"))
    catalog = view.bundle.catalog
    assert everything(view.bundle) == {f"i{row}" for row in range(N)} - {"i2"}
    for item_id in ("i2", "new", "never-heard-of"):
        assert item_id not in catalog.row_of
        assert catalog.row_of.get(item_id, -1) == -1
    # What the user chose says what the user likes, whether or not it can be had any more.
    user = resolve_user(view.bundle.schema, catalog, make_query(events=events_of("i2", "i5")))
    assert ids_of(view.bundle, user.history.rows) == ["i5", "i2"]
    retrieved = RetrievalPipeline(view.bundle).retrieve(make_query(max_results=50), Budget())
    assert "i2" not in ids_of(view.bundle, retrieved.candidates.rows)
    assert len(retrieved.candidates) == N - 1


def test_an_item_deleted_and_added_again_is_back(view: LiveView) -> None:
    view.apply(deleted("i4"))
    view.apply(added(item("i4", "Again")))
    assert everything(view.bundle) == {f"i{row}" for row in range(N)}
    assert view.bundle.catalog.titles[view.bundle.catalog.row_of["i4"]] == "Again"


def test_events_on_live_items_count_in_the_history_and_make_them_seen(
    view: LiveView, events_of: MakeEvents, make_query: MakeQuery
) -> None:
    view.apply(added(item("new")))
    query = make_query(events=events_of("i1", "new", types=["buy", "buy"]), max_results=50)
    user = resolve_user(view.bundle.schema, view.bundle.catalog, query)
    assert user.history.rows.tolist() == [N, 1]
    rows = RetrievalPipeline(view.bundle).retrieve(query, Budget()).candidates.rows
    assert not {"new", "i1"} & set(ids_of(view.bundle, rows))
    allowed = make_query(events=events_of("new"), max_results=50, interacted=Seen.ALLOW)
    assert "new" in ids_of(view.bundle, RetrievalPipeline(view.bundle).retrieve(allowed, Budget()).candidates.rows)


def test_live_items_are_candidates_newest_first_for_a_user_of_whom_nothing_is_known(
    view: LiveView, make_query: MakeQuery
) -> None:
    view.apply(added(item("older"), item("newer")))
    plans = [SourcePlan(LIVE, 10), SourcePlan("popularity", 3, weight=0.1)]
    batch = RetrievalPipeline(view.bundle).retrieve(make_query(plans=plans, fill=Fill.STRICT), Budget()).candidates
    assert ids_of(view.bundle, batch.rows) == ["newer", "older", "i0", "i1", "i2"]
    assert batch.columns["rank:live"].tolist() == [1, 2, 0, 0, 0]


def test_a_list_is_filled_with_live_items_when_nothing_else_matches(view: LiveView, make_query: MakeQuery) -> None:
    view.apply(added(item("opera", category="Opera")))
    query = make_query(condition=InSet("categories", frozenset({"Opera"})), plans=[SourcePlan("popularity", 5)])
    batch = RetrievalPipeline(view.bundle).retrieve(query, Budget()).candidates
    assert ids_of(view.bundle, batch.rows) == ["opera"]


def test_live_rows_travel_as_numbers_that_another_process_understands(make_bundle: MakeBundle) -> None:
    one, other = LiveView(make_bundle()), LiveView(make_bundle())
    one.apply(added(item("a"), item("b"), item("c"), start=5))
    other.apply(added(item("c"), start=7))  # started later, and reads them in another order
    other.apply(added(item("a"), start=5))
    rows = one.bundle.catalog.find(["i3", "a", "c", "b"])
    wire = one.bundle.catalog.wire_rows(rows)
    assert wire.tolist() == [3, -6, -8, -7]
    there = other.bundle.catalog.rows_of_wire(wire)
    assert there[3] == -1  # it has not heard of b
    assert ids_of(other.bundle, there[:3]) == ["i3", "a", "c"]
    other.apply(deleted("i3", "a"))
    assert other.bundle.catalog.rows_of_wire(wire).tolist() == [-1, -1, N, -1]
    assert make_bundle().catalog.rows_of_wire(wire).tolist() == [3, -1, -1, -1]


def test_places_are_used_again_only_when_no_request_can_read_them_any_more(make_bundle: MakeBundle) -> None:
    now = [0.0]
    view = LiveView(make_bundle(), clock=lambda: now[0])
    for i in range(3):
        view.apply(added(item("x", f"version {i}"), start=10 + i))
    assert len(view.bundle.catalog) == N + 3
    now[0] += REUSED_AFTER_S + 1
    for i in range(2):
        view.apply(added(item("x", f"later {i}"), start=20 + i))
    assert len(view.bundle.catalog) == N + 3
    assert view.bundle.catalog.titles[view.bundle.catalog.row_of["x"]] == "later 1"
    assert everything(view.bundle) == {f"i{row}" for row in range(N)} | {"x"}


def test_vectors_of_another_length_are_left_out(view: LiveView) -> None:
    wrong = Added(1, item("wrong"), Encoding(np.ones(3, np.float32), np.ones(4, np.float32)))
    view.apply(Changes([], [wrong], Cursor(), more=False))
    assert "wrong" not in view.bundle.catalog.row_of


def test_growing_arrays_copy_only_when_their_room_is_used_up() -> None:
    base = with_room(np.arange(6, dtype=np.float32).reshape(3, 2))
    growing = Growing(base)
    growing.put(np.array([3], np.int32), np.ones((1, 2), np.float32))
    assert growing.first(4).base is base.base
    np.testing.assert_array_equal(growing.first(4)[:3], base)
    before = growing.first(4)
    far = np.array([4, ROOM + 10], np.int32)
    growing.put(far, np.full((2, 2), 7, np.float32))
    assert growing.first(5).base is not base.base
    np.testing.assert_array_equal(growing.first(5), [[0, 1], [2, 3], [4, 5], [1, 1], [7, 7]])
    np.testing.assert_array_equal(before[3], [1, 1])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["upsert", "delete", "wait"]),
        st.lists(st.sampled_from([*(f"i{row}" for row in range(4)), *"abcd"]), min_size=1, max_size=3),
    ),
    max_size=12,
)


@given(steps=STEPS)
@settings(max_examples=20)
def test_any_sequence_of_changes_leaves_what_a_dictionary_would_hold(make_bundle: MakeBundle, steps: list[Any]) -> None:
    """Through the store, followed by two readers: one looks after every step, one only at the end."""
    now = [0.0]
    model = {f"i{row}": f"Title {row}" if row else "" for row in range(N)}
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteLiveStore(Path(folder) / "store.db")
        views = [LiveView(make_bundle(), clock=lambda: now[0]) for _ in range(2)]
        cursor = Cursor()
        for number, (kind, item_ids) in enumerate(steps):
            if kind == "upsert":
                items = [item(item_id, f"{item_id} at {number}") for item_id in item_ids]
                store.upsert(items, {"b1": [encoding(each.item_id, number) for each in items]})
                model |= {each.item_id: each.title for each in items}
            elif kind == "delete":
                store.delete(item_ids)
                model = {item_id: title for item_id, title in model.items() if item_id not in item_ids}
            else:
                now[0] += REUSED_AFTER_S + 1
            changes = store.changes("b1", cursor, None)
            views[0].apply(changes)
            cursor = changes.cursor
        views[1].apply(store.changes("b1", Cursor(), None))
        store.close()
    for bundle in (each.bundle for each in views):
        catalog = bundle.catalog
        assert everything(bundle) == set(model)
        assert {item_id: catalog.titles[catalog.row_of[item_id]] for item_id in model} == model
        assert len(catalog.row_of) == len(model)
        wire = catalog.wire_rows(catalog.find(sorted(model)))
        assert ids_of(views[0].bundle, views[0].bundle.catalog.rows_of_wire(wire)) == sorted(model)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteLiveStore]:
    store = SqliteLiveStore(tmp_path / "store.db")
    yield store
    store.close()


def upsert(store: SqliteLiveStore, *item_ids: str, bundle_id: str = "b1") -> None:
    items = [item(item_id) for item_id in item_ids]
    store.upsert(items, {bundle_id: [encoding(item_id) for item_id in item_ids]})


class Holding:
    """Holds bundles as a serving process does; they can be replaced."""

    def __init__(self, *bundles: Bundle) -> None:
        self.held: Held[Bundle] = Held()
        self.hold(*bundles)

    def hold(self, *bundles: Bundle) -> None:
        self.held = Held(bundles[0].id, "", tuple((bundle.id, bundle) for bundle in bundles), "", "")


class Flaky:
    """A store that does not answer while it is `down`."""

    def __init__(self, store: SqliteLiveStore) -> None:
        self._store = store
        self.down = False

    def __getattr__(self, name: str) -> Any:
        if self.down:
            raise StoreUnavailable("down")
        return getattr(self._store, name)


def serving(store: Any, bundles: Holding) -> LiveServing[Bundle]:
    return LiveServing(bundles, store, lambda bundle: bundle, lambda bundle: bundle, wait_s=0)


def test_a_change_is_seen_by_the_next_look_and_none_makes_nothing_new(
    store: SqliteLiveStore, make_bundle: MakeBundle
) -> None:
    live = serving(store, Holding(make_bundle()))
    first = live.held
    assert len(first.choose().catalog) == N
    assert live.held is first
    writer = SqliteLiveStore(store._path)
    upsert(writer, "new")
    changed = live.held
    assert "new" in changed.choose().catalog.row_of
    assert live.held is changed
    writer.delete(["new", "i1"])
    assert not {"new", "i1"} & set(live.held.choose().catalog.row_of)
    writer.close()


def test_what_was_there_before_is_there_when_a_bundle_is_loaded(
    store: SqliteLiveStore, make_bundle: MakeBundle
) -> None:
    upsert(store, *(f"n{i}" for i in range(MOST_AT_ONCE + 1)))
    store.delete(["i0"])
    live = serving(store, Holding(make_bundle()))
    assert len(live.held.choose().catalog.row_of) == N - 1 + MOST_AT_ONCE + 1


def test_one_look_takes_in_all_deletions_but_only_so_many_additions(
    store: SqliteLiveStore, make_bundle: MakeBundle
) -> None:
    live = serving(store, Holding(make_bundle()))
    assert len(live.held.choose().catalog) == N
    writer = SqliteLiveStore(store._path)
    upsert(writer, *(f"n{i}" for i in range(MOST_AT_ONCE + 5)))
    writer.delete([f"i{row}" for row in range(N)])
    assert live.lag_s == 0
    assert len(live.held.choose().catalog.row_of) == MOST_AT_ONCE
    assert live.lag_s > 0
    assert len(live.held.choose().catalog.row_of) == MOST_AT_ONCE + 5
    assert live.lag_s == 0
    writer.close()


def test_two_bundles_follow_the_changes_each_with_its_own_vectors(
    store: SqliteLiveStore, make_bundle: MakeBundle
) -> None:
    live = serving(store, Holding(*(make_bundle(bundle_id=name) for name in ("b2", "b1"))))
    store.upsert([item("new")], {"b1": [encoding("new", 1)], "b2": [encoding("new", 2)]})
    for version, bundle_id in ((1, "b1"), (2, "b2")):
        bundle = live.held.choose([bundle_id])
        vector = bundle.item_vectors[bundle.catalog.row_of["new"]]
        np.testing.assert_array_equal(vector, encoding("new", version).item_vector)


def test_an_item_that_is_not_encoded_for_a_bundle_yet_appears_when_it_is(
    store: SqliteLiveStore, make_bundle: MakeBundle
) -> None:
    live = serving(store, Holding(make_bundle(bundle_id="b2")))
    upsert(store, "new", "i1", bundle_id="b1")
    assert "new" not in live.held.choose().catalog.row_of
    assert live.held.choose().catalog.row_of["i1"] == 1  # better the old version than none
    ((number, missing, _), (held, _, _)) = store.not_encoded("b2", 10)
    store.add_encodings("b2", [(number, missing.item_id, encoding("new")), (held, "i1", None)])
    assert "new" in live.held.choose().catalog.row_of
    assert live.held.choose().catalog.row_of["i1"] == 1  # the bundle holds this very version
    assert not store.not_encoded("b2", 10)


def test_a_store_that_does_not_answer_leaves_what_is_known(store: SqliteLiveStore, make_bundle: MakeBundle) -> None:
    flaky = Flaky(store)
    upsert(store, "new")
    holding = Holding(make_bundle())
    live = serving(flaky, holding)
    assert "new" in live.held.choose().catalog.row_of
    flaky.down = True
    assert "new" in live.held.choose().catalog.row_of
    assert live.lag_s > 0
    flaky.down = False
    assert live.held  # nothing has changed meanwhile
    assert live.lag_s == 0
    flaky.down = True
    holding.hold(make_bundle(bundle_id="b2"), make_bundle())
    assert "new" not in live.held.choose(["b2"]).catalog.row_of
    assert "new" in live.held.choose(["b1"]).catalog.row_of
    assert live.lag_s > 0
    flaky.down = False
    assert live.held
    assert live.lag_s == 0
    upsert(store, "newer")
    assert {"new", "newer"} <= set(live.held.choose(["b1"]).catalog.row_of)


def test_an_item_that_cannot_be_read_costs_the_changes_and_not_the_answers(
    store: SqliteLiveStore, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    upsert(store, "new")
    live = serving(store, Holding(make_bundle()))
    assert "new" in live.held.choose().catalog.row_of
    upsert(store, "newer")
    connection = store._connection()
    good = connection.execute("SELECT document FROM live_items WHERE item_id = 'newer'").fetchone()
    connection.execute("""UPDATE live_items SET document = '["of", "another", "format"]' WHERE item_id = 'newer'""")
    for _ in range(3):
        assert "new" in live.held.choose().catalog.row_of
    assert "newer" not in live.held.choose().catalog.row_of
    assert [record.message for record in caplog.records] == ["live items are not followed"]
    connection.execute("UPDATE live_items SET document = ? WHERE item_id = 'newer'", good)
    assert "newer" in live.held.choose().catalog.row_of


def test_a_bundle_that_came_during_an_outage_has_the_changes_of_before_once_the_store_is_back(
    store: SqliteLiveStore, make_bundle: MakeBundle
) -> None:
    flaky, holding = Flaky(store), Holding(make_bundle())
    store.delete(["i1"])
    live = serving(flaky, holding)
    assert "i1" not in live.held.choose().catalog.row_of
    flaky.down = True
    holding.hold(make_bundle(bundle_id="b2"))
    assert "i1" in live.held.choose().catalog.row_of
    flaky.down = False
    assert "i1" not in live.held.choose().catalog.row_of


def test_requests_and_changes_at_the_same_time_never_meet_half_an_item(
    store: SqliteLiveStore, make_bundle: MakeBundle, make_query: MakeQuery
) -> None:
    live = serving(store, Holding(make_bundle()))
    done = threading.Event()

    def ask() -> None:
        query = make_query(max_results=100, condition=InSet("categories", frozenset({"Drama", "c7", "c19"})))
        while not done.is_set():
            bundle = live.held.choose()
            rows = RetrievalPipeline(bundle).retrieve(query, Budget()).candidates.rows
            assert all(bundle.catalog.codes["categories"].values(row) for row in rows.tolist())

    pool = ThreadPoolExecutor(2)
    asking = [pool.submit(ask) for _ in range(2)]
    for i in range(60):
        items = [item(f"n{(i + j) % 40}", category=f"c{i % 20}") for j in range(5)]
        store.upsert(items, {"b1": [encoding(each.item_id) for each in items]})
        store.delete([f"n{i % 7}"])
    done.set()
    for each in asking:
        each.result(30)
    pool.shutdown()
