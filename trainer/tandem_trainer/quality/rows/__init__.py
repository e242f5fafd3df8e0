"""The rows of the table by name. To add one: register(AnyRow("name")), and name it in DEFAULT if it belongs there."""

from __future__ import annotations

from tandem_trainer.quality.rows.als import AlsFoldInRow, AlsRow
from tandem_trainer.quality.rows.base import Row
from tandem_trainer.quality.rows.blend import BlendRow
from tandem_trainer.quality.rows.cold import CategoryProfileRow, ContentNeighboursRow, ContentTowerRow
from tandem_trainer.quality.rows.linear import EaseDecayedRow, EaseRow, ItemKnnRow, SlistRow
from tandem_trainer.quality.rows.popularity import LeakedPopularityRow, PopularityRow, RandomRow, WindowPopularityRow
from tandem_trainer.quality.rows.retrieval import RetrievalRow
from tandem_trainer.quality.rows.towers import TwoTowerRow, longer

ROWS: dict[str, Row] = {}
DEFAULT = (
    "popularity",
    "popularity_7d",
    "popularity_30d",
    "item_knn",
    "als",
    "als_fold_in",
    "ease",
    "ease_decayed",
    "slist",
    "two_tower_short",
    "two_tower",
    "retrieval",
    "fused",
    "pool",
)
MERGED = ("two_tower", "slist", "als_fold_in", "popularity_7d", "popularity_30d")
DEFAULT_COLD = ("random", "genre_profile", "tfidf_neighbours", "content_tower", "popularity_true")


def register(row: Row) -> Row:
    """Add a row; raises ValueError where its name is taken."""
    if row.name in ROWS:
        raise ValueError(f"there is a row {row.name!r} already: choose another name")
    ROWS[row.name] = row
    return row


def default_rows(protocol: str) -> tuple[str, ...]:
    """Return the names that a run without --only compares."""
    return DEFAULT_COLD if protocol == "cold-item" else DEFAULT


register(PopularityRow("popularity"))
register(WindowPopularityRow("popularity_7d", days=7))
register(WindowPopularityRow("popularity_30d", days=30))
register(AlsRow("als"))
register(AlsFoldInRow("als_fold_in"))
register(ItemKnnRow("item_knn"))
register(EaseRow("ease"))
register(EaseDecayedRow("ease_decayed"))
register(SlistRow("slist"))
register(TwoTowerRow("two_tower", longer))
register(TwoTowerRow("two_tower_short"))
register(RetrievalRow("retrieval"))
register(BlendRow("fused", MERGED))
register(BlendRow("pool", MERGED, pool=True))
register(BlendRow("fused_repeats", MERGED, repeats=True))
register(RandomRow("random"))
register(CategoryProfileRow("genre_profile"))
register(ContentNeighboursRow("tfidf_neighbours"))
register(ContentTowerRow("content_tower"))
register(LeakedPopularityRow("popularity_true"))
