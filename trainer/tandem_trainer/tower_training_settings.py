"""How the two towers are trained: the settings of all pairs, and what sets one pair apart."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tandem_trainer.losses import LossSettings
from tandem_trainer.towers import TowerSettings
from tandem_trainer.towers.settings import Encoder


class PairSettings(BaseModel):
    """What sets one of several pairs of towers apart; None: as for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: Encoder | None = None
    # What the user of an event chose before and after it is no wrong answer to it: taste instead of the next step. Read
    # by the full softmax alone: losses with negatives of each row spare what is known anyway.
    spare_known: bool = False
    epochs: float | None = Field(default=None, gt=0)
    # Share of its loss that is to say what all pairs before it say together; the rest is to find the event. It learns
    # more from as many events, each of twice the cost. By the full softmax alone.
    taught: float = Field(default=0.0, ge=0, le=1)
    serves: bool = True  # False: it teaches those after it, and is not exported


class TowerTrainingSettings(BaseModel):
    """How the towers are trained; what breaks a rule of two-tower training is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    towers: TowerSettings = TowerSettings()
    loss: LossSettings | None = None  # None: full softmax up to 20,000 items, mixed negatives above
    # Events predicted in one step: on CPUs many small steps learn more per second than few large ones.
    batch_size: int = Field(default=1000, ge=1)
    epochs: float = Field(default=8.0, gt=0)  # passes over the events
    most_examples: int = Field(default=2_000_000, ge=1)  # over all epochs: what bounds the time on large data
    validations: int = Field(default=5, ge=1)  # at equal distances; the best state of them is kept
    patience: int = Field(default=3, ge=1)  # validations without a better one before stopping
    learning_rate: float = Field(default=8e-3, gt=0)  # after a short rise it falls to nearly 0
    weight_decay: float = Field(default=1e-2, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)  # of the gradient
    validation_examples: int = Field(default=3_000, ge=1)  # drawn from those given
    warm_start: bool = True  # id embeddings begin as ALS factors: the towers learn in half the time (measured)
    pairs: tuple[PairSettings, ...] = Field(default=(PairSettings(),), min_length=1, max_length=8)  # joined to one

    @property
    def joint_dim(self) -> int:
        """Size of the vectors that are served: those of all pairs that serve, side by side."""
        return self.towers.vector_dim * sum(pair.serves for pair in self.pairs)

    @property
    def most_validations(self) -> int:
        """Of all pairs together."""
        return self.validations * len(self.pairs)

    def of_pair(self, i: int) -> TowerTrainingSettings:
        """Return the settings to train pair i by."""
        pair = self.pairs[i]
        towers = self.towers.model_copy(update={"encoder": pair.encoder or self.towers.encoder})
        own = {"towers": towers, "epochs": pair.epochs or self.epochs, "pairs": (pair,)}
        return self.model_copy(update=own)

    @model_validator(mode="after")
    def _rules(self) -> TowerTrainingSettings:
        if not self.towers.l2_normalise:
            raise ValueError("l2_normalise must be on: temperature and the index assume unit vectors")
        if self.loss is not None and self.batch_size < self.loss.smallest_batch:
            raise ValueError(
                f"batch_size is {self.batch_size}, must be at least {self.loss.smallest_batch} for the loss "
                f"{self.loss.name}: the batch is the negatives"
            )
        if self.loss is not None and self.loss.name != "full_softmax" and any(pair.spare_known for pair in self.pairs):
            raise ValueError(
                f"spare_known is read by the loss full_softmax alone, not by {self.loss.name}; leave it out"
            )
        self._check_teaching()
        return self

    def _check_teaching(self) -> None:
        taught = [i for i, pair in enumerate(self.pairs) if pair.taught]
        if taught and self.loss is not None and self.loss.name != "full_softmax":
            raise ValueError(f"taught is read by the loss full_softmax alone, not by {self.loss.name}; leave it out")
        if 0 in taught:
            raise ValueError("the first of the pairs can not be taught: no pair before it; set its taught to 0")
        for i, pair in enumerate(self.pairs):
            if not pair.serves and i >= max(taught, default=0):
                raise ValueError(f"pairs[{i}] neither serves nor teaches: set `taught` of a later pair, or `serves`")

    def ending_at(self, share: float) -> TowerTrainingSettings:
        """Return settings of a training that ends after this share of what it would do, 0..1, as if it were all."""
        pairs = [pair.model_copy(update={"epochs": pair.epochs and pair.epochs * share}) for pair in self.pairs]
        shorter = {"epochs": self.epochs * share, "most_examples": round(self.most_examples * share)}
        return self.model_copy(update=shorter | {"pairs": tuple(pairs)})
