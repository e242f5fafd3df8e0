"""The learned merge of other rows, as the service merges its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.blend import BlendWeights, blend
from tandem_core.index.base import top_k
from tandem_core.sources.base import Found
from tandem_trainer.config import TrainConfig
from tandem_trainer.fit_blend import fit_blend, make_examples
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import Part
from tandem_trainer.quality.rows.base import Need, Row, Scorer, Scores

if TYPE_CHECKING:
    from tandem_trainer.quality.context import Fitting

LONGEST = 500  # items of each row that take part


class BlendRow(Row):
    """Weighted sums of other rows' standardised scores over the best 500 of each, items of the history left out.

    Weights are learned on the validation part with rows fitted on the training part, and used with rows fitted on
    what the protocol's test allows. pool: the list is put in order by the weights of the pool from its first item on;
    else its first `blend.head` by those of the top, as the service does. repeats: items of the history are listed, and
    right where they come again.
    """

    single = False
    code = ("tandem_core.blend", "tandem_trainer.fit_blend")

    def __init__(self, name: str, of: Sequence[str], *, pool: bool = False, repeats: bool = False) -> None:
        super().__init__(name)
        self._of = tuple(of)
        self._pool = pool
        self._repeats = repeats

    def needs(self, part: Part) -> Sequence[Need]:
        return tuple(dict.fromkeys((name, each) for name in self._of for each in ("train", part)))

    def settings(self, config: TrainConfig) -> Any:
        return [self._of, config.blend.model_dump()]

    def fit(self, fitting: Fitting) -> Fit:
        held_out, settings = fitting.validation, fitting.config.blend
        relevant = held_out.relevant(len(fitting.catalog), repeats=self._repeats)
        chosen = np.flatnonzero(np.diff(relevant.indptr))
        if len(chosen) > settings.most_requests:
            rng = np.random.default_rng(fitting.config.seed)
            chosen = np.sort(rng.choice(chosen, settings.most_requests, replace=False))
        scores = {name: fitting.fitted(name, "train").scores(held_out.queries) for name in self._of}
        found = [self._found(scores, int(i), held_out.queries.history(int(i))) for i in chosen]
        right = [relevant.rows[relevant.indptr[i] : relevant.indptr[i + 1]] for i in chosen]
        weights = fit_blend(make_examples(found, right, self._of), settings.head)
        arrays = {"top": self._array(weights.top), "pool": self._array(weights.pool)}
        notes = {f"{aim}:{name}": float(w) for aim, a in arrays.items() for name, w in zip(self._of, a, strict=True)}
        return Fit(arrays, notes)

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        rows = {name: fitting.fitted(name) for name in self._of}
        top, pool = (dict(zip(self._of, fit.arrays[kind].tolist(), strict=True)) for kind in ("top", "pool"))
        weights = BlendWeights(pool, pool, 0) if self._pool else BlendWeights(top, pool, fitting.config.blend.head)

        def scores(queries: Queries) -> Scores:
            parts = {name: row.scorer(queries) for name, row in rows.items()}
            merged = np.full(next(iter(parts.values())).shape, -np.inf, np.float32)
            for i in range(len(queries)):
                candidates = blend(self._found(parts, i, queries.history(i)), weights)
                merged[i, candidates.rows] = candidates.scores
            return merged

        return scores

    def _array(self, named: Mapping[str, float]) -> NDArray[np.float64]:
        return np.array([named[name] for name in self._of])

    def _found(self, scores: Mapping[str, Scores], i: int, history: NDArray[np.int32]) -> dict[str, Found]:
        """Return what each row finds for question i, as a source would."""
        found: dict[str, Found] = {}
        for name in self._of:
            own = scores[name][i]
            listed = np.isfinite(own)
            if not listed.any():
                found[name] = Found()
                continue
            own = np.where(listed, own, own[listed].min()).astype(np.float32)
            if not self._repeats:
                listed[history] = False
            rows = np.flatnonzero(listed).astype(np.int32)
            found[name] = Found(*top_k(own[rows], rows, LONGEST), own.__getitem__)
        return found
