"""tandem judge on the small trained bundle, with judges that ask nobody."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.policy import load_policies
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.studies.judge import Items, JudgedItem, ProxyJudge, Verdict, make_cases, study_judge
from tandem_trainer.train import Trained

run = CliRunner().invoke


def items(*categories: str) -> Items:
    """An item for each text: a letter is a category."""
    return tuple(JudgedItem(f"t{i}", tuple(each)) for i, each in enumerate(categories))


@pytest.mark.parametrize(
    ("had", "recommended", "score", "overlap"),
    [
        (("a", "b", "c"), ("a", "b", "c"), 10, "1.00"),
        (("a", "b", "c"), ("d", "e", "f"), 1, "0.00"),
        (("ab", "c", "c"), ("a", "c", "d"), 6, "0.50"),  # .5, 1 and 0: 1 + 9 x .5 is 5.5
        (("abc", "abc", "abc"), ("ab", "cd", "abc"), 7, "0.64"),  # 2/3, 1/4 and 1: 1 + 9 x .639 is 6.75
        (("a", "", ""), ("a", "", "a"), 7, "0.67"),  # without categories an item is like nothing
    ],
)
def test_the_proxy_maps_the_mean_of_the_best_jaccard_indexes_to_1_to_10(
    had: tuple[str, ...], recommended: tuple[str, ...], score: int, overlap: str
) -> None:
    verdict = ProxyJudge().judge(items(*had), items(*recommended))
    assert verdict.score == score
    assert f"overlap {overlap} (" in verdict.reason


def test_without_categories_the_proxy_has_nothing_to_say() -> None:
    for had, recommended in ((items("", "", ""), items("a", "a", "a")), (items("a"), items(""))):
        assert ProxyJudge().judge(had, recommended) == Verdict(None, "no categories to compare")


@pytest.mark.parametrize("score", [0, 11])
def test_a_verdict_outside_1_to_10_is_refused(score: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 10"):
        Verdict(score, "")


def test_cases_show_the_users_newest_items_and_what_is_served_by_default(bundle: Bundle, trained: Trained) -> None:
    cases = make_cases(bundle, trained.dataset, trained.split, 4, seed=3)
    assert len(cases) == len({case.user_id for case in cases}) == 4
    offline = queries_of_test(bundle, trained.dataset, trained.split, most_users=None, seed=0)
    query = replace(next(each for each in offline.queries if each.user_id == cases[0].user_id), max_results=3)
    slate = RankingPipeline(bundle, load_policies(None)).recommend(query, Budget(), RetrievalPipeline(bundle).retrieve)
    titles = bundle.catalog.titles
    assert [item.title for item in cases[0].recommended] == [titles[row] for row in slate.items.rows.tolist()]
    events = trained.dataset.events[trained.dataset.events["user_id"] == cases[0].user_id]
    past = set(events["item_id"]) - set(trained.split.test[trained.split.test["user_id"] == query.user_id]["item_id"])
    for item in cases[0].had:
        assert bundle.catalog.item_ids[list(titles).index(item.title)] in past
    assert not {item.title for item in cases[0].had} & {item.title for item in cases[0].recommended}
    again = make_cases(bundle, trained.dataset, trained.split, 4, seed=3)
    assert again == cases
    assert make_cases(bundle, trained.dataset, trained.split, 4, seed=4) != cases


@dataclass
class Fickle:
    """Has something to say of every second user."""

    name: str = "fickle"
    asked: int = 0

    def judge(self, had: Items, recommended: Items) -> Verdict:
        assert len(had) == len(recommended) == 3
        self.asked += 1
        return Verdict(self.asked, "so it is") if self.asked % 2 else Verdict(None, "no idea")


def test_the_mean_is_of_the_usable_verdicts_and_no_row_is_left_out(bundle: Bundle, trained: Trained) -> None:
    told = study_judge(bundle, trained.dataset, trained.split, Fickle(), users=4)
    assert [verdict.score for _, verdict in told.rows] == [1, None, 3, None]
    assert told.mean == 2
    written = told.to_json()
    assert (written["mean"], written["usable"], len(written["rows"])) == (2, 2, 4)
    assert written["rows"][1]["reason"] == "no idea"


def test_a_judge_that_never_says_anything_usable_is_an_error(bundle: Bundle, trained: Trained) -> None:
    with pytest.raises(ValueError, match="none of 1 verdicts can be used; the first: no idea"):
        study_judge(bundle, trained.dataset, trained.split, Fickle(asked=1), users=1)


def test_the_command_prints_rows_and_mean_and_writes_json(trained: Trained, registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "new" / "judged.json"
    result = run(app, ["judge", "--registry", str(registry.root), "--json", str(path)])
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    assert (written["bundle_id"], len(written["rows"]), written["judge"]) == (
        trained.bundle_id,
        10,
        "proxy: overlap of categories",
    )
    assert written["mean"] == sum(row["score"] for row in written["rows"]) / 10
    assert f"mean {written['mean']:.2f} of 10, all users" in result.output
    for row in written["rows"]:
        assert 1 <= row["score"] <= 10
        assert row["user_id"] in result.output
        assert [len(row["had"]), len(row["recommended"])] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "http://127.0.0.1:1/v1"], "are of --judge http"),
        (["--judge", "http", "--model", "m"], "needs --endpoint and --model"),
        (["--judge", "http", "--endpoint", "http://127.0.0.1:1/v1"], "needs --endpoint and --model"),
        (["--judge", "http", "--endpoint", "ftp://h/v1", "--model", "m"], "must be http://HOST/PATH"),
        (
            ["--judge", "http", "--endpoint", "https://h.example/v1", "--model", "m", "--key-env", "NO_SUCH_KEY"],
            "NO_SUCH_KEY is not set",
        ),
    ],
)
def test_options_that_do_not_fit_are_named(arguments: list[str], said: str) -> None:
    result = run(app, ["judge", *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
