from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tandem_core.policy import PlacementPolicy, load_policies
from tandem_core.query import Regime, Seen, SourcePlan
from tandem_core.settings import ConfigError


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
    assert home.source_plans(Regime.WARM) == (SourcePlan("als", 20, 2.5), SourcePlan("two_tower", 300, 1.0))
    assert home.source_plans(Regime.UNKNOWN) == ()
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
        ("[placement.home]", r"unknown tables \['placement'\]"),
        ("[placements.home", "is not TOML"),
    ],
)
def test_whatever_is_wrong_is_named(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load_policies(written(tmp_path, text))
    assert "policies.toml" in str(caught.value)


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
