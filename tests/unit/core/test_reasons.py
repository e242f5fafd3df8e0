from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tandem_core.bundle import OF_RETRIEVAL, Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.features import User
from tandem_core.reasons import MOST_REASONS, Reason, ReasonKind, reasons_for

UserOf = Callable[..., User]


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    """Items point along the axes, so that none is like another, but i1 is i0's twin."""
    vectors = np.eye(12, dtype=np.float32)
    vectors[1] = vectors[0] * 0.8 + vectors[1] * 0.6
    built: Bundle = make_bundle(item_vectors=vectors)
    return built


def slate(*rows: int, **ranks: list[int]) -> CandidateBatch:
    n = len(rows)
    columns = {f"rank:{source}": np.array(values, np.int32) for source, values in ranks.items()}
    columns |= {f"score:{source}": np.zeros(n, np.float32) for source in ranks}
    return CandidateBatch(np.array(rows, np.int32), np.linspace(1, 0, n, dtype=np.float32), columns)


def test_sources_are_given_by_the_rank_they_gave_the_best_first(bundle: Bundle, user_of: UserOf) -> None:
    found = slate(4, 5, 6, two_tower=[3, 0, 1], als=[1, 2, 0], popularity=[2, 1, 0], backfill=[0, 0, 1])
    got = reasons_for(found, user_of(), bundle)
    assert [[reason.kind.name for reason in each] for each in got] == [
        ["SIMILAR_USERS", "POPULAR", "MATCHES_TASTE"],
        ["POPULAR", "SIMILAR_USERS"],
        ["MATCHES_TASTE", "BACKFILL"],
    ]


def test_an_item_like_one_of_the_history_names_it(bundle: Bundle, user_of: UserOf) -> None:
    got = reasons_for(slate(1, 2), user_of("i7", "i0"), bundle)
    assert got == ((Reason(ReasonKind.BECAUSE_OF_ITEM, "i0"),), ())


def test_an_item_is_no_reason_for_itself(bundle: Bundle, user_of: UserOf) -> None:
    got = reasons_for(slate(0, 1), user_of("i0", "i1"), bundle)  # seen items are shown where the placement allows it
    assert [each[0].parameter for each in got] == ["i1", "i0"]
    assert reasons_for(slate(5), user_of("i5"), bundle) == ((),)


def test_a_segment_and_a_category_are_named(bundle: Bundle, user_of: UserOf) -> None:
    found = slate(4, 5, popularity_segment=[1, 2], popularity_category=[2, 1])
    user = user_of("i8", "i9", attributes={"age": "25", "gender": "F"})
    segment = Reason(ReasonKind.POPULAR_IN_SEGMENT, "age=25,gender=F")
    # i9 is Comedy and newer than i8, which is Drama and News: Comedy is one favourite, Drama the other.
    assert reasons_for(found, user, bundle) == (
        (segment, Reason(ReasonKind.POPULAR_IN_CATEGORY, "Drama")),
        (Reason(ReasonKind.POPULAR_IN_CATEGORY, "Comedy"), segment),
    )


def test_every_source_of_a_bundle_is_a_reason_but_for_the_users_own_words(bundle: Bundle, user_of: UserOf) -> None:
    without = {
        source
        for source in OF_RETRIEVAL | {"cold_items"}
        if not reasons_for(slate(4, **{source: [1]}), user_of(), bundle)[0]
    }
    assert without == {"search"}


def test_a_source_of_the_callers_own_is_no_reason(bundle: Bundle, user_of: UserOf) -> None:
    assert reasons_for(slate(4, homemade=[1]), user_of(), bundle) == ((),)


def test_a_cold_item_is_new(bundle: Bundle, user_of: UserOf) -> None:
    got = reasons_for(slate(9, 10), user_of(), bundle)  # 10 events and none, where fewer than 5 are cold
    assert got == ((), (Reason(ReasonKind.NEW_ITEM),))


def test_there_are_never_more_than_four_reasons(bundle: Bundle, user_of: UserOf) -> None:
    names = ("two_tower", "als", "popularity", "popularity_segment", "popularity_category")
    found = slate(1, **{name: [i + 1] for i, name in enumerate(names)})
    (got,) = reasons_for(found, user_of("i0"), bundle)
    assert len(got) == MOST_REASONS
    assert got[0].kind is ReasonKind.BECAUSE_OF_ITEM
    assert got[1].kind is ReasonKind.MATCHES_TASTE


def test_a_reason_that_several_sources_give_is_given_once(bundle: Bundle, user_of: UserOf) -> None:
    found = slate(10, popularity=[3], popularity_14d=[1], trending=[2], fresh=[4], item_to_item=[5], search=[1])
    (got,) = reasons_for(found, user_of(), bundle)
    assert [reason.kind.name for reason in got] == ["POPULAR", "NEW_ITEM", "SIMILAR_USERS"]


def test_an_empty_list_has_no_reasons(bundle: Bundle, user_of: UserOf) -> None:
    assert reasons_for(slate(), user_of("i0"), bundle) == ()


def test_a_catalogue_without_categories_is_no_trouble(bundle: Bundle, user_of: UserOf) -> None:
    codes = {name: column for name, column in bundle.catalog.codes.items() if name != "categories"}
    plain = replace(bundle, catalog=replace(bundle.catalog, codes=codes))
    assert reasons_for(slate(4, two_tower=[1]), user_of("i8"), plain) == ((Reason(ReasonKind.MATCHES_TASTE),),)
