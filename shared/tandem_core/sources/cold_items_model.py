"""What the trainer learned of cold items: plain arrays, so that serving them needs one matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.text_blob import pack_strings, unpack_strings


@dataclass(frozen=True, slots=True, eq=False)
class ColdItemModel:
    """n cold items, scored against a history over m warm items (the anchors).

    anchor_rows: int32 [m], rising, catalogue rows. anchor_vectors: float32 [m, D]; the mean over a history is the
    user's taste. item_rows: int32 [n], rising. item_vectors: float32 [n, D], item quality included; taste times item
    vector is the score. prior: float32 [n], expected logarithm of 1 + training events, for users without a history.
    segments: keys of user segments. affinity: float32 [S, C], how much more a segment likes a category than everybody
    does, as a difference of logarithms. half_life: in events, of the weights of a history.
    Raises ValueError where the shapes disagree or a number is not finite.
    """

    anchor_rows: NDArray[np.int32]
    anchor_vectors: NDArray[np.float32]
    item_rows: NDArray[np.int32]
    item_vectors: NDArray[np.float32]
    prior: NDArray[np.float32]
    segments: Sequence[str]
    affinity: NDArray[np.float32]
    half_life: float

    def __post_init__(self) -> None:
        m, n, dims = len(self.anchor_rows), len(self.item_rows), self.item_vectors.shape[-1]
        shapes = {
            "anchor_vectors": (self.anchor_vectors.shape, (m, dims)),
            "item_vectors": (self.item_vectors.shape, (n, dims)),
            "prior": (self.prior.shape, (n,)),
            "affinity": (self.affinity.shape, (len(self.segments), self.affinity.shape[-1])),
        }
        if wrong := {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}:
            raise ValueError(f"a model of {n} cold items and {m} anchors has arrays of wrong shapes: {wrong}")
        for name in ("anchor_vectors", "item_vectors", "prior", "affinity"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} of the cold items holds numbers that are not finite")
        for name in ("anchor_rows", "item_rows"):
            rows = getattr(self, name)
            if len(rows) and (rows[0] < 0 or (np.diff(rows) <= 0).any()):
                raise ValueError(f"{name} of the cold items must rise from 0 or more, none twice")
        if not self.half_life > 0:
            raise ValueError(f"half_life of the cold items is {self.half_life}: a number of events above 0")

    def save(self, path: Path) -> None:
        """Write as npz without pickle."""
        np.savez(
            path,
            allow_pickle=False,
            anchor_rows=self.anchor_rows,
            anchor_vectors=self.anchor_vectors,
            item_rows=self.item_rows,
            item_vectors=self.item_vectors,
            prior=self.prior,
            affinity=self.affinity,
            half_life=np.float64(self.half_life),
            **pack_strings("segments", self.segments),
        )

    @classmethod
    def load(cls, path: Path) -> ColdItemModel:
        """Read what `save` wrote; raises ValueError where it does not hold together."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                anchor_rows=arrays["anchor_rows"],
                anchor_vectors=arrays["anchor_vectors"],
                item_rows=arrays["item_rows"],
                item_vectors=arrays["item_vectors"],
                prior=arrays["prior"],
                segments=unpack_strings(arrays, "segments"),
                affinity=arrays["affinity"],
                half_life=float(arrays["half_life"]),
            )
