"""A second opinion: a judge reads three items that a user had and three recommended ones, and says from 1 to 10 how
well they go together."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.features import resolve_user
from tandem_core.policy import load_policies
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.progress import Progress
from tandem_trainer.split import Split

SHOWN = 3  # items of each kind
LOWEST, HIGHEST = 1, 10


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """What a judge learns of an item. title: its id where it has none."""

    title: str
    categories: tuple[str, ...]


Items = tuple[JudgedItem, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One user. had: the newest three different items that count for the user, newest first. recommended: the best
    three, best first, as the services answer by default."""

    user_id: str
    had: Items
    recommended: Items


@dataclass(frozen=True, slots=True)
class Verdict:
    """score: 1 (nothing for this user) to 10; None where the judge gave none that can be used, the reason says why."""

    score: int | None
    reason: str

    def __post_init__(self) -> None:
        if self.score is not None and not LOWEST <= self.score <= HIGHEST:
            raise ValueError(f"score is {self.score}: a verdict is a whole number from {LOWEST} to {HIGHEST}")


class Judge(Protocol):
    """Whom to ask. It learns nothing of the user but the items."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def judge(self, had: Items, recommended: Items) -> Verdict:
        """Return the verdict on one user's items."""
        ...


@dataclass(frozen=True, slots=True)
class ProxyJudge:
    """Asks nobody. score = 1 + 9 x overlap, rounded, halves up; overlap: of each recommended item the largest Jaccard
    index of its categories with those of an item the user had (0 without categories), and the mean over the items.

    It likes more of the same: no opinion of a person or a language model, but a number that needs no network.
    """

    name: str = "proxy: overlap of categories"

    def judge(self, had: Items, recommended: Items) -> Verdict:
        if not any(item.categories for item in had) or not any(item.categories for item in recommended):
            return Verdict(None, "no categories to compare")
        overlaps = [max(_jaccard(item, other) for other in had) for item in recommended]
        overlap = sum(overlaps) / len(overlaps)
        score = LOWEST + math.floor((HIGHEST - LOWEST) * overlap + 0.5)
        return Verdict(score, f"category overlap {overlap:.2f} ({', '.join(f'{each:.2f}' for each in overlaps)})")


def _jaccard(one: JudgedItem, other: JudgedItem) -> float:
    mine, theirs = set(one.categories), set(other.categories)
    return len(mine & theirs) / max(len(mine | theirs), 1)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said. rows: none missing, in the order they were judged."""

    judge: str
    bundle_id: str
    data: str
    seed: int
    rows: tuple[tuple[Case, Verdict], ...]

    @property
    def scores(self) -> list[int]:
        """The usable ones."""
        return [verdict.score for _, verdict in self.rows if verdict.score is not None]

    @property
    def mean(self) -> float:
        """Of the usable scores, at least one."""
        return sum(self.scores) / len(self.scores)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "judge": self.judge,
            "bundle_id": self.bundle_id,
            "data": self.data,
            "seed": self.seed,
            "mean": self.mean,
            "usable": len(self.scores),
            "rows": [asdict(case) | asdict(verdict) for case, verdict in self.rows],
        }


def make_cases(bundle: Bundle, dataset: Dataset, split: Split, users: int, seed: int) -> list[Case]:
    """Return a seeded sample of users with test events, before these; fewer where too few had three items.

    Raises ValueError where none had.
    """
    offline = queries_of_test(bundle, dataset, split, most_users=None, seed=seed)
    retrieval, ranking = RetrievalPipeline(bundle), RankingPipeline(bundle, load_policies(None))
    cases: list[Case] = []
    for i in np.random.default_rng(seed).permutation(len(offline)):
        query = replace(offline.queries[i], max_results=SHOWN)
        history = resolve_user(bundle.schema, bundle.catalog, query).history.rows
        had = list(dict.fromkeys(history.tolist()))[:SHOWN]
        shown = ranking.recommend(query, Budget(), retrieval.retrieve).items.rows.tolist()
        if len(had) == len(shown) == SHOWN:
            cases.append(Case(query.user_id, _items(bundle, had), _items(bundle, shown)))
        if len(cases) == users:
            break
    if not cases:
        raise ValueError(f"no user of the test events had {SHOWN} items before and can be recommended {SHOWN} more")
    return cases


def _items(bundle: Bundle, rows: list[int]) -> Items:
    catalog, column = bundle.catalog, bundle.catalog.codes.get("categories")
    return tuple(
        JudgedItem(catalog.titles[row] or catalog.item_ids[row], tuple(column.values(row)) if column else ())
        for row in rows
    )


def study_judge(
    bundle: Bundle,
    dataset: Dataset,
    split: Split,
    judge: Judge,
    users: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> Judgement:
    """Ask the judge about a sample of users.

    Raises ValueError where not one verdict can be used, and whatever the judge raises.
    """
    cases = make_cases(bundle, dataset, split, users, seed)
    rows = []
    for done, case in enumerate(cases):
        (progress or Progress()).advance(done, len(cases), "judging")
        rows.append((case, judge.judge(case.had, case.recommended)))
    judgement = Judgement(judge.name, bundle.id, dataset.name, seed, tuple(rows))
    if not judgement.scores:
        raise ValueError(f"none of {len(rows)} verdicts can be used; the first: {rows[0][1].reason}")
    return judgement
