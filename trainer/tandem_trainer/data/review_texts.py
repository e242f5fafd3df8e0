"""What users wrote of an item, as words of the item."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from tandem_trainer.data.schema import EVENT_TEXT
from tandem_trainer.data.tables import Dataset


def with_review_texts(dataset: Dataset, events: pd.DataFrame, most_chars: int) -> Dataset:
    """Add to each item's text what `events` say of it, the newest first, at most `most_chars` characters (0: nothing).

    events: those of the training part alone, since a held-out review would tell of the event that is to be found.
    """
    if not (most_chars and dataset.schema.event_text):
        return dataset
    newest_first = events.iloc[::-1]
    written: dict[str, str] = {}
    for item, text in zip(newest_first["item_id"].tolist(), newest_first[EVENT_TEXT].tolist(), strict=True):
        before = written.get(item, "")
        if text and len(before) < most_chars:
            written[item] = f"{before}\n{text}"[:most_chars] if before else text[:most_chars]
    items = dataset.items
    texts = [
        f"{own}\n{written.get(item, '')}".strip() for item, own in zip(items["item_id"], items["text"], strict=True)
    ]
    return replace(dataset, items=items.assign(text=pd.Series(texts, index=items.index, dtype="str")))
