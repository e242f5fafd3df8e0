from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from tandem_core.policy import PlacementPolicy, load_policies
from tandem_core.query import Regime, Seen, SourcePlan
from tandem_core.rule_settings import PromotionSettings, SlotsSettings
from tandem_core.settings import ConfigError

SHIPPED = Path(__file__).parents[3] / "deploy" / "config" / "policy.toml"


def written(folder: Path, text: str) -> Path:
    path = folder / "policies.toml"
    path.write_text(text)
    return path


def test_without_a_file_there_is_the_default_placement_alone() -> None:
    policies = load_policies(None)
    assert list(policies) == ["default"]
    assert policies["default"].interacted is Seen.EXCLUDE


def test_a_file_adds_placements_and_may_override_the_default(tmp_path: Path) -> None:
    policies = load_policies(
        written(
            tmp_path,
            """
            [placements.default]
            candidates = 50
            [placements.home]
            interacted = "discount"
            seen_factor = 0.25
            use_ranker = false
            caps = [{ column = "categories", limit = 2 }]
            popularity_blend = { unknown = 0.5 }
            [placements.home.plans.warm]
            als = { limit = 20, weight = 2.5 }
            two_tower = {}
            """,
        )
    )
    assert policies["default"].candidates == 50
    home = policies["home"]
    assert home.interacted is Seen.DISCOUNT
    assert home.source_plans(Regime.WARM, {"als", "two_tower"}) == (
        SourcePlan("als", 20, 2.5),
        SourcePlan("two_tower", 300, 1.0),
    )
    assert home.source_plans(Regime.WARM, {"als"}) == (SourcePlan("als", 20, 2.5),)
    assert home.source_plans(Regime.UNKNOWN, {"als"}) == ()
    assert home.popularity_blend.of(Regime.UNKNOWN) == 0.5
    assert home.popularity_blend.of(Regime.FEW_EVENTS) == 0.2
    assert [(cap.column, cap.limit) for cap in home.caps] == [("categories", 2)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[placements.home]\ncandidatez = 3", r"placements\.home: candidatez: Extra inputs"),
        ("[placements.home.mmr]\nlambda = 1", r"placements\.home: mmr\.lambda: Extra inputs"),
        ("[placements.home.mmr]\nlambda_relevance = 1.5", r"mmr\.lambda_relevance: .*less than or equal to 1"),
        ("[placements.home.plans.warm.als]\nlimit = 0", r"plans\.warm\.als\.limit: .*greater than or equal to 1"),
        ("[placements.home.plans.warm.als]\nweight = nan", r"plans\.warm\.als\.weight"),
        ("[placements.home.plans.hot.als]\nlimit = 1", r"placements\.home\.plans: no regimes \['hot'\]"),
        ('[placements.home]\ninteracted = "hide"', r"interacted: .*'hide' is none of exclude, discount, allow"),
        ("[placements.home]\ninteracted = 7", r"placements\.home: interacted"),
        ("[[placements.home.caps]]\nlimit = 1", r"placements\.home: caps\.0\.column: Field required"),
        ("[placements]\nhome = 3", r"placements\.home: "),
        ("[placements.home.dpp]", "mmr and dpp are both on.*mmr = false"),
        ("[placements.home.calibrated]\n[placements.home.dpp]", "mmr and dpp and calibrated are both on"),
        (
            "[placements.home]\npins = [{ item_id = 'a', position = 2 }, { item_id = 'b', position = 2 }]",
            "pins of 'a' and 'b' collide at position 2",
        ),
        (
            "[placements.home]\npins = [{ item_id = 'a', position = 2 }, { item_id = 'a', position = 3 }]",
            "'a' is pinned to positions 2 and 3 at once",
        ),
        ('[[placements.home.pins]]\nitem_id = "a"\nposition = 501', r"pins\.0\.position: .*less than or equal to 500"),
        ('[[placements.home.pins]]\nitem_id = "a"\nposition = 0', r"pins\.0\.position"),
        (
            '[placements.home]\nblocked_item_ids = ["a"]\n[[placements.home.pins]]\nitem_id = "a"\nposition = 1',
            r"\['a'\] are pinned and blocked",
        ),
        ('[[placements.home.caps]]\ncolumn = "x"\nlimit = 3\nwindow = 3', "3 in a window of 3 forbids nothing"),
        ('[[placements.home.promotions]]\nname = "p"\nshare = 1.5\nitem_ids = ["a"]', r"promotions\.0\.share"),
        ('[[placements.home.promotions]]\nname = "p"\nshare = 0.5', "give items .* item_ids, or both"),
        ('[[placements.home.promotions]]\nname = "p"\nitem_ids = ["a"]', "give either share or every"),
        (
            "[placements.home]\npromotions = [{ name = 'p', item_ids = ['a'], share = 0.7 }, "
            "{ name = 'q', item_ids = ['a'], every = 2 }]",
            r"promotions want 1\.20 of the slots together",
        ),
        (
            "[[placements.home.filters]]\nname = 'f'\nitems = { column = 'price', min = 1, exists = true }",
            "exactly one of",
        ),
        ("[[placements.home.filters]]\nname = 'f'\nitems = { min = 1 }", "need a column"),
        ("[[placements.home.filters]]\nname = 'f'\nitems = { all = [] }", "at least one condition"),
        ("[[placements.home.filters]]\nname = 'f'\nitems = { column = 'x', in = [] }", r"items\.in"),
        (
            "[placements.home]\nfilters = [{ name = 'f', items = { any = ["
            + "{ column = 'x', exists = true }, " * 20
            + "] } }]",
            "21 conditions, at most 20",
        ),
        ("[[placements.home.boosts]]\nname = 'b'\nitems = { column = 'x', fact = 'country' }", "only filters may"),
        (
            "[placements.home]\nboosts = [{ name = 'b', items = { column = 'x', in = 'y' } }, "
            "{ name = 'b', items = { column = 'x', in = 'z' } }]",
            r"two rules of one kind are called \['b'\]",
        ),
        (
            "[[placements.home.boosts]]\nname = 'b'\nitems = { column = 'x', in = 'y' }\n"
            "when = { start = 2025-01-02, end = 2025-01-01 }",
            "end is not after start",
        ),
        ("[placements.home.value_weights]\nclick = nan", r"value_weights\.click"),
        ("[placement.home]", r"unknown tables \['placement'\]"),
        ("[placements.home", "is not TOML"),
    ],
)
def test_whatever_is_wrong_is_named(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load_policies(written(tmp_path, text))
    assert "policies.toml" in str(caught.value)


def test_pins_of_the_same_place_may_take_turns(tmp_path: Path) -> None:
    pins = """
        [[placements.home.pins]]
        item_id = "a"
        position = 1
        when = { end = 2025-01-01T00:00:00Z }
        [[placements.home.pins]]
        item_id = "b"
        position = 1
        when = { start = 2025-01-01T00:00:00Z, facts = { device = "phone" } }
        [[placements.home.pins]]
        item_id = "c"
        position = 1
        when = { start = 2025-01-01T00:00:00Z, facts = { device = ["tablet", "desktop"] } }
    """
    assert len(load_policies(written(tmp_path, pins))["home"].pins) == 3


def test_a_rule_is_turned_off_by_false(tmp_path: Path) -> None:
    home = load_policies(written(tmp_path, "[placements.home]\nmmr = false\nrecency = false\ndpp = {}"))["home"]
    assert (home.mmr, home.recency) == (None, None)
    assert home.dpp is not None


def test_the_policy_that_is_shipped_shows_every_rule_and_its_examples_are_right(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    assert {"default", "discover", "varied", "everything"} == set(load_policies(SHIPPED))
    uncommented = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    assert uncommented != text
    whole = load_policies(written(tmp_path, uncommented))
    rules = set(PlacementPolicy.model_fields) - {"use_ranker", "ranker_needs_s", "diversity_needs_s"}
    assert rules <= set().union(*(policy.model_fields_set for policy in whole.values()))


def test_shares_are_spread_evenly_and_slots_stand_at_regular_distances() -> None:
    promotion = PromotionSettings(name="p", item_ids=("a",), share=0.3)
    assert sorted(promotion.slots())[:4] == [3, 6, 9, 13]  # the places where 1, 2, 3, 4 items are promised
    assert sum(slot < 100 for slot in promotion.slots()) == 30
    assert sorted(PromotionSettings(name="p", item_ids=("a",), every=3).slots())[:3] == [2, 5, 8]
    assert sorted(SlotsSettings(every=10, first=2, most=2).slots()) == [1, 11]
    assert sorted(SlotsSettings(every=10).slots())[:2] == [9, 19]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        load_policies(tmp_path / "none.toml")


def test_a_policy_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PlacementPolicy().candidates = 3


def test_every_regime_has_its_share_of_popularity() -> None:
    blend = PlacementPolicy().popularity_blend
    shares = [blend.of(regime) for regime in (Regime.WARM, Regime.FEW_EVENTS, Regime.PROFILE_ONLY, Regime.UNKNOWN)]
    assert shares == sorted(shares)
