"""`[experiments.<name>]` of a policy file: what they say, and all that can be wrong with them."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tandem_core.experiment_hash import HashVersion
from tandem_core.policy import DEFAULT_PLACEMENT
from tandem_core.settings import Settings

INTERLEAVED = "interleaved"  # the variant of requests whose list is mixed from both
LONGEST_NAME = 128  # of an assignment on the wire
WEIGHTS_OFF_BY = 0.01  # so that three times 0.333 is a whole; GrowthBook's own tolerance


class VariantSettings(Settings):
    """One variant. policy: keys of `[placements.<name>]` that differ; empty is the placement as it is."""

    weight: float | None = Field(default=None, ge=0, le=1)
    policy: dict[str, Any] = Field(default_factory=dict)


class NamespaceSettings(Settings):
    """A part of all units: experiments of one namespace whose ranges do not meet never share a unit."""

    name: str = Field(min_length=1)
    range: tuple[float, float]

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not 0 <= self.range[0] < self.range[1] <= 1:
            raise ValueError(f"range is {list(self.range)}: two numbers from 0 to 1, the first smaller")
        return self


class ExperimentSettings(Settings):
    """One experiment.

    kind: "ab" shows a unit the list of one variant; "interleaving" mixes the lists of two (see interleaving).
    hash_by: what makes a unit, the first that the request has; a request with none is not in the experiment. With
    "request_id" nothing is sticky. seed: what is hashed with the unit; "" is the experiment's name.
    coverage: share of the units (of the namespace, where there is one) that take part.
    variants: name -> settings; their order is GrowthBook's, which decides who is in which. Weights: all or none, none
    means equal; together 1.
    """

    placement: str = DEFAULT_PLACEMENT
    kind: Literal["ab", "interleaving"] = "ab"
    status: Literal["running", "stopped"] = "running"
    hash_by: tuple[Literal["user_id", "session_id", "request_id"], ...] = Field(
        default=("user_id", "session_id"), min_length=1
    )
    seed: str = ""
    hash_version: HashVersion = 2
    coverage: float = Field(default=1.0, ge=0, le=1)
    namespace: NamespaceSettings | None = None
    variants: dict[str, VariantSettings]

    @model_validator(mode="after")
    def _variants_fit(self) -> Self:
        if len(self.variants) < 2 or (self.kind == "interleaving" and len(self.variants) > 2):
            wanted = "two variants" if self.kind == "interleaving" else "two variants or more"
            raise ValueError(f"has {len(self.variants)} variants; {self.kind} needs {wanted}")
        if long := [name for name in self.variants if not 0 < len(name) <= LONGEST_NAME]:
            raise ValueError(f"variant names {long}: 1 to {LONGEST_NAME} characters")
        given = [variant.weight for variant in self.variants.values() if variant.weight is not None]
        if self.kind == "interleaving" and (given or INTERLEAVED in self.variants):
            raise ValueError(f'interleaving has no weights, and no variant may be called "{INTERLEAVED}"')
        if given and len(given) < len(self.variants):
            raise ValueError("some variants have a weight and others have not: give all or none")
        if given and abs(sum(given) - 1) > WEIGHTS_OFF_BY:
            raise ValueError(f"the weights of the variants add up to {sum(given):g}, not to 1")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Share of each variant among the units that take part; INTERLEAVED alone where lists are mixed."""
        if self.kind == "interleaving":
            return {INTERLEAVED: 1.0}
        equal = 1 / len(self.variants)
        return {name: equal if v.weight is None else v.weight for name, v in self.variants.items()}
