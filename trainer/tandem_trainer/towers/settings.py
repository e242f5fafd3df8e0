"""The shape of both towers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Encoder = Literal["mean_pool", "attention_pool", "sasrec", "ligr"]


class TowerSettings(BaseModel):
    """Sizes, the encoder of the history, and what is dropped in training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vector_dim: int = Field(default=64, ge=1)
    id_dim: int = Field(default=64, ge=1)
    code_dim: int = Field(default=32, ge=1)  # per embedded catalogue column
    hidden: int = Field(default=128, ge=1)  # of the item tower
    half_lives: tuple[float, ...] = (1.5, 5.0, 20.0)  # in events, of the means of the history; each above 0
    encoder: Encoder = "attention_pool"
    blocks: int = Field(default=2, ge=1)  # of the transformers
    heads: int = Field(default=8, ge=1)  # of every attention
    widening: int = Field(default=4, ge=1)  # of the encoders' feed-forward layers
    time_bias: bool = True  # attention sees how much time lies between two events, not only how many events
    dropout: float = Field(default=0.1, ge=0, lt=1)
    id_dropout: float = Field(default=0.05, ge=0, lt=1)  # share of items a step sees without id: cold items must work
    attribute_dropout: float = Field(default=0.2, ge=0, lt=1)  # most callers do not know their users' attributes
    l2_normalise: bool = True  # checked by the trainer: served vectors have unit length

    @model_validator(mode="after")
    def _divisible(self) -> TowerSettings:
        if self.vector_dim % self.heads:
            raise ValueError(f"vector_dim is {self.vector_dim}, must be a multiple of heads ({self.heads})")
        return self
