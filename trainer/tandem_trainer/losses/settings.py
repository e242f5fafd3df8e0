"""Which loss trains the towers; what contradicts a rule of two-tower training is refused."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from tandem_core.settings import Settings
from tandem_trainer.losses.full_softmax import CHUNK
from tandem_trainer.losses.hard import HardNegativeSettings

LossName: TypeAlias = Literal["full_softmax", "sampled_softmax", "in_batch", "mixed", "bce", "gbce", "bpr", "triplet"]

SMALLEST_BATCH = 512  # below it there are too few negatives for in-batch softmax

# Which loss reads which setting; one set for a loss that does not read it is a misunderstanding.
_READ_BY: dict[str, tuple[LossName, ...]] = {
    "temperature": ("full_softmax", "sampled_softmax", "in_batch", "mixed", "bce", "gbce", "bpr"),
    "chunk": ("full_softmax",),
    "negatives": ("sampled_softmax", "mixed", "bce", "gbce", "bpr", "triplet"),
    "alpha": ("sampled_softmax", "bce", "gbce", "bpr", "triplet"),
    "log_q": ("sampled_softmax", "in_batch", "mixed"),
    "t": ("gbce",),
    "margin": ("triplet",),
    "hard": ("sampled_softmax", "in_batch", "mixed", "bce", "gbce", "bpr", "triplet"),
}
_NEGATIVES: dict[LossName, int] = {"sampled_softmax": 512, "mixed": 512, "gbce": 256}


class LossSettings(Settings):
    """The loss by name, and what of its own it reads."""

    name: LossName = "full_softmax"
    temperature: float = Field(default=0.07, gt=0)  # scores are divided by it
    chunk: int = Field(default=CHUNK, ge=1)  # rows whose logits are held at a time
    negatives: int | None = Field(default=None, ge=1)  # shared by the batch (softmax) or of each row; None: by loss
    alpha: float = Field(default=0.0, ge=0, le=2)  # negatives are drawn with P ~ popularity^alpha; 0: uniformly
    log_q: bool = True
    t: float = Field(default=0.75, ge=0, le=1)  # gBCE: 0 is BCE, 1 calibrated; the paper's choice
    margin: float = Field(default=0.2, gt=0, le=2)  # of cosines
    hard: HardNegativeSettings = HardNegativeSettings()

    @property
    def count(self) -> int:
        """How many negatives: of the batch (sampled_softmax, mixed) or of each row (bce, gbce, bpr, triplet)."""
        return self.negatives if self.negatives is not None else _NEGATIVES.get(self.name, 1)

    @property
    def smallest_batch(self) -> int:
        """Fewest rows of a step that the loss makes sense with."""
        return SMALLEST_BATCH if self.name in {"in_batch", "mixed"} else 1

    @model_validator(mode="after")
    def _rules(self) -> LossSettings:
        for key, readers in _READ_BY.items():
            # Against the default, since a configuration read back from a manifest names every key.
            if self.name not in readers and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} is not read by the loss {self.name}, only by {', '.join(readers)}; leave it out"
                )
        if not self.log_q:
            raise ValueError("log_q must be on: without it sampled negatives push popular items down")
        return self
