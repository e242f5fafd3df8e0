"""The learned merge of other rows, as the service merges its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.blend import BlendWeights, blend
from tandem_core.index.base import top_k
from tandem_core.metrics import Relevant
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
KINDS = ("warm", "few_events", "no_events")  # of users: each has weights of its own, as the service's regimes have


class BlendRow(Row):
    """Weighted sums of other rows' standardised scores over the best 500 of each, items of the history left out.

    Weights are learned on the validation part with rows fitted on the training part, and used with rows fitted on
    what the protocol's test allows. Users with enough events to be warm, with fewer and with none have weights of their
    own; kinds with fewer than `blend.fewest_requests` questions have those that all questions together give. pool: the
    list is put in order by the weights of the pool from its first item on; else its first `blend.head` by those of the
    top, as the service does. repeats: items of the history are listed, and right where they come again.
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
        return [self._of, config.blend.model_dump(), config.features.cold_user_events]

    def fit(self, fitting: Fitting) -> Fit:
        held_out, fewest = fitting.validation, fitting.config.blend.fewest_requests
        relevant = held_out.relevant(len(fitting.catalog), repeats=self._repeats)
        answered = np.flatnonzero(np.diff(relevant.indptr))
        kinds = _kinds(held_out.queries.sizes[answered], fitting.config)
        scores = {name: fitting.fitted(name, "train").scores(held_out.queries) for name in self._of}
        of_kind = [answered[kinds == kind] for kind in range(len(KINDS))]
        learned = [self._learn(fitting, scores, relevant, own) if len(own) >= fewest else None for own in of_kind]
        if None in learned:
            of_all = self._learn(fitting, scores, relevant, answered)
            learned = [of_all if weights is None else weights for weights in learned]
        found = [weights for weights in learned if weights is not None]
        arrays = {aim: np.array([self._array(getattr(w, aim)) for w in found]) for aim in ("top", "pool")}
        notes = {f"{aim}:{name}": float(w) for aim, a in arrays.items() for name, w in zip(self._of, a[0], strict=True)}
        return Fit(arrays, notes)

    def _learn(
        self, fitting: Fitting, scores: Mapping[str, Scores], relevant: Relevant, chosen: NDArray[np.int64]
    ) -> BlendWeights:
        """Return weights for the questions `chosen`, or as many of them as the settings allow."""
        settings, queries = fitting.config.blend, fitting.validation.queries
        if len(chosen) > settings.most_requests:
            rng = np.random.default_rng(fitting.config.seed)
            chosen = np.sort(rng.choice(chosen, settings.most_requests, replace=False))
        found = [self._found(scores, int(i), queries.history(int(i))) for i in chosen]
        right = [relevant.rows[relevant.indptr[i] : relevant.indptr[i + 1]] for i in chosen]
        return fit_blend(make_examples(found, right, self._of), settings.head)

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        rows = {name: fitting.fitted(name) for name in self._of}
        weights = [self._weights(fit, kind, fitting.config.blend.head) for kind in range(len(KINDS))]

        def scores(queries: Queries) -> Scores:
            parts = {name: row.scorer(queries) for name, row in rows.items()}
            merged = np.full(next(iter(parts.values())).shape, -np.inf, np.float32)
            for i, kind in enumerate(_kinds(queries.sizes, fitting.config)):
                candidates = blend(self._found(parts, i, queries.history(i)), weights[kind])
                merged[i, candidates.rows] = candidates.scores
            return merged

        return scores

    def _weights(self, fit: Fit, kind: int, head: int) -> BlendWeights:
        top, pool = (dict(zip(self._of, fit.arrays[aim][kind].tolist(), strict=True)) for aim in ("top", "pool"))
        return BlendWeights(pool, pool, 0) if self._pool else BlendWeights(top, pool, head)

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


def _kinds(known: NDArray[np.int64], config: TrainConfig) -> NDArray[np.int64]:
    """Return the place in KINDS of users with so many known events each."""
    few, none = known < max(config.features.cold_user_events, 1), known == 0
    kinds: NDArray[np.int64] = few.astype(np.int64) + none
    return kinds
