"""What the models of a row read: content vectors, and the questions as the users the service would see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import User, resolve_user
from tandem_core.query import Query, UserEvents
from tandem_trainer.config import TrainConfig
from tandem_trainer.content import content_vectors
from tandem_trainer.quality.log import Queries
from tandem_trainer.text_encoder import encoder_sha256

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

LONGEST = 500  # candidates asked of today's retrieval


def content_of(fitting: Fitting) -> NDArray[np.float32]:
    """Return content vectors as a training run makes them."""
    features, counts = fitting.config.features, fitting.catalog.event_counts
    return content_vectors(fitting.dataset, counts, features.content_dims, fitting.config.seed, features.text_encoder)


def feature_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of features for a fit's key: of a text encoder what it holds counts, not where it lies."""
    features = config.features
    return {**features.model_dump(mode="json"), "text_encoder": encoder_sha256(features.text_encoder)}


def queries_of(fitting: Fitting, queries: Queries) -> list[Query]:
    """Return the questions as requests that the service would get."""
    item_ids = np.asarray(fitting.catalog.item_ids, object)
    known = fitting.schema.user_attributes
    table = fitting.dataset.users.set_index("user_id").reindex(queries.user_ids)[list(known)]
    found = []
    for place, profile in enumerate(table.itertuples(index=False)):
        span = slice(queries.indptr[place], queries.indptr[place + 1])
        events = UserEvents(
            item_ids[queries.rows[span]].tolist(),
            queries.times[span],
            queries.types[span].tolist(),
            queries.values[span],
        )
        query = Query(
            request_id=f"quality-{queries.user_ids[place]}",
            user_id=str(queries.user_ids[place]),
            now_ms=int(queries.now_ms[place]),
            max_results=LONGEST,
            events=events,
            attributes={name: v for name, v in zip(known, profile, strict=True) if isinstance(v, str)},
        )
        found.append(query)
    return found


def users_of(fitting: Fitting, queries: Queries) -> list[User]:
    """Return the questions as the models see their users."""
    return [resolve_user(fitting.schema, fitting.catalog, query) for query in queries_of(fitting, queries)]
