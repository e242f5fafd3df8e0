"""The feature schema of a bundle, and the one place where a request becomes model inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from tandem_core.catalog import Catalog
from tandem_core.query import Query, Regime, UserEvents

MS_PER_HOUR = 3_600_000


class EventType(BaseModel):
    """What an event of one type is worth: weight in training and history; negative for negative feedback."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weight: float = 1.0
    half_life_days: float | None = Field(default=None, gt=0)  # None: never fades
    full_value: float | None = Field(default=None, gt=0)  # smaller values weigh a share; None: all alike

    @model_serializer(mode="wrap")
    def _without_an_unset_full_value(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Schemas from before there was such a key keep their digest.
        fields: dict[str, Any] = serialize(self)
        return {name: each for name, each in fields.items() if name != "full_value" or each is not None}


class FeatureSchema(BaseModel):
    """What the towers and the ranker expect; travels in the bundle and is hashed in its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_types: tuple[EventType, ...]
    user_attributes: dict[str, tuple[str, ...]]  # name -> vocabulary; code 0 is "unknown", texts count from 1
    season: bool = False  # the month of a request is an input: where training events could tell season from trend
    request_context: dict[str, tuple[str, ...]] = {}  # facts of a request, such as device: name -> vocabulary, as above
    segments: tuple[tuple[str, ...], ...]  # attribute names, most specific first
    item_codes: tuple[str, ...]  # catalogue columns the item tower embeds
    item_numbers: tuple[str, ...]  # catalogue columns the towers and the ranker read as numbers
    history_length: int = Field(ge=1, le=1000)  # newest events the user tower sees
    vector_dim: int = Field(ge=1)
    cold_user_events: int = Field(default=5, ge=0)  # fewer events than this: the user is cold
    cold_item_events: int = Field(default=5, ge=0)  # fewer training events than this: the item is cold

    @model_serializer(mode="wrap")
    def _without_unset_inputs(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As for `full_value`: a schema that has no such input is the same as before there was one.
        fields: dict[str, Any] = serialize(self)
        return {name: each for name, each in fields.items() if name not in ("season", "request_context") or each}

    @cached_property
    def type_code(self) -> dict[str, int]:
        """Event type -> code; 0 is "unknown"."""
        return {event_type.name: code for code, event_type in enumerate(self.event_types, start=1)}

    @cached_property
    def type_weights(self) -> NDArray[np.float32]:
        """float32 [types + 1]: weight by code; unknown types weigh 1."""
        return np.array([1.0, *(event_type.weight for event_type in self.event_types)], np.float32)

    @cached_property
    def type_full_values(self) -> NDArray[np.float64]:
        """float64 [types + 1]: the value of the whole weight by code, NaN where values do not matter."""
        return np.array([np.nan, *(np.nan if t.full_value is None else t.full_value for t in self.event_types)])

    @cached_property
    def type_half_lives_ms(self) -> NDArray[np.float64]:
        """float64 [types + 1]: half-life by code in milliseconds, infinite where the type never fades."""
        days = [t.half_life_days for t in self.event_types]
        return np.array([np.inf, *(np.inf if d is None else d * 24 * MS_PER_HOUR for d in days)])

    @cached_property
    def _attribute_codes(self) -> _Codes:
        return _codes_of(self.user_attributes)

    @cached_property
    def _context_codes(self) -> _Codes:
        return _codes_of(self.request_context)

    def event_weights(self, types: NDArray[np.integer], values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return float32 [n], what each event is worth: its type's weight, or of it the share value / full value.

        The one function for training and serving. types: int [n], codes. values: float [n], NaN where an event has
        none; shares are clipped to [0, 1], so that a value of 0 or less is worth nothing. An event without a value, and
        one of a type without a full value, has the whole weight.
        """
        shares = np.clip(values / self.type_full_values[types], 0, 1)
        return np.asarray(self.type_weights[types] * np.where(np.isnan(shares), 1, shares), np.float32)

    def encode_attributes(self, attributes: Mapping[str, str]) -> NDArray[np.int64]:
        """Return int64 [A], a code per declared attribute in the schema's order; 0 where unknown."""
        return _encoded(self._attribute_codes, attributes)

    @property
    def context_sizes(self) -> tuple[int, ...]:
        """How many codes each column of `encode_context` has, 0 ("unknown") left out."""
        return (24, 7, *([12] if self.season else []), *(len(texts) for texts in self.request_context.values()))

    def encode_context(self, now_ms: int, context: Mapping[str, str]) -> NDArray[np.int64]:
        """Return int64 [C], a request's circumstances: `encode_moments`, then a code per declared fact, 0 if unknown.

        context: what the request says of itself; facts that are not declared are not read.
        """
        moment = self.encode_moments(np.array(now_ms, np.int64))
        return np.concatenate([moment, _encoded(self._context_codes, context)]) if self.request_context else moment

    def encode_moments(self, now_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64 [..., 2 or 3]: hour of day 1..24, day of week 1..7 (Thursday is 1) and, where the season is an
        input, month of the year 1..12; all UTC.
        """
        hours = now_ms // MS_PER_HOUR
        codes = [hours % 24 + 1, hours // 24 % 7 + 1]
        return np.stack([*codes, months(now_ms)] if self.season else codes, axis=-1)

    def known_attributes(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return those attributes whose value the model was trained on."""
        return {name: attributes[name] for name, codes in self._attribute_codes if attributes.get(name) in codes}

    def segment_keys(self, attributes: Mapping[str, str]) -> list[str]:
        """Return the segments the user belongs to, most specific first, such as "age=25,gender=F"."""
        return [segment_key(names, attributes) for names in self.segments if all(attributes.get(n) for n in names)]

    def digest(self) -> str:
        """Return sha256 hex of the schema: two models with equal digests take equal inputs."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


_Codes = list[tuple[str, dict[str, int]]]  # name, and code by text


def _codes_of(vocabularies: Mapping[str, Sequence[str]]) -> _Codes:
    return [(name, {text: code for code, text in enumerate(texts, start=1)}) for name, texts in vocabularies.items()]


def _encoded(codes: _Codes, texts: Mapping[str, str]) -> NDArray[np.int64]:
    return np.array([code_of.get(texts.get(name, ""), 0) for name, code_of in codes], np.int64)


def segment_key(names: Sequence[str], attributes: Mapping[str, str]) -> str:
    """Return the key of a user segment, such as "age=25,gender=F"."""
    return ",".join(f"{name}={attributes[name]}" for name in names)


def months(times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64, the month of the year 1..12 of each time, UTC."""
    return times_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64) % 12 + 1


@dataclass(frozen=True, slots=True)
class History:
    """What a user chose, newest first: positive events on catalogue items.

    rows: int32 [h]. types: int32 [h], event type codes. timestamps: int64 [h], milliseconds. weights: float32 [h],
    above 0: as of `FeatureSchema.event_weights`, faded by the type's half-life (not by position: see `decayed`).
    """

    rows: NDArray[np.int32]
    types: NDArray[np.int32]
    timestamps: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def newest(self, n: int) -> History:
        return History(self.rows[:n], self.types[:n], self.timestamps[:n], self.weights[:n])

    def decayed(self, half_life: float) -> NDArray[np.float32]:
        """Return float32 [h]: weights halved every `half_life` events back in time."""
        return (self.weights * np.exp2(-np.arange(len(self)) / half_life)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class User:
    """A request's user in terms of one bundle.

    interacted: int32 rows of everything the user had to do with, disliked things too. segment_keys: most specific
    first. attribute_codes: int64 [A]. context_codes: int64 [C]. now_ms: the moment of the request. query_text: what
    the user typed in a search box, "" where nothing. memo: what sources computed of this user for each other.
    """

    regime: Regime
    history: History
    interacted: NDArray[np.int32]
    attributes: Mapping[str, str]
    attribute_codes: NDArray[np.int64]
    context_codes: NDArray[np.int64]
    segment_keys: Sequence[str]
    now_ms: int
    query_text: str = ""
    memo: dict[str, NDArray[np.float32]] = field(default_factory=dict, compare=False, repr=False)


def resolve_user(schema: FeatureSchema, catalog: Catalog, query: Query) -> User:
    """Return the user of a request as the bundle's models see it; unknown items and texts are left out."""
    history, interacted = _resolve_history(schema, catalog, query.events, query.now_ms)
    if len(query.seed_item_ids):
        history = _with_seeds(history, catalog.rows(query.seed_item_ids), query.now_ms)
    known = schema.known_attributes(query.attributes)
    if len(history) >= max(schema.cold_user_events, 1):
        regime = Regime.WARM
    elif len(history):
        regime = Regime.FEW_EVENTS
    else:
        regime = Regime.PROFILE_ONLY if known else Regime.UNKNOWN
    return User(
        regime=regime,
        history=history,
        interacted=interacted,
        attributes=known,
        attribute_codes=schema.encode_attributes(known),
        context_codes=schema.encode_context(query.now_ms, query.context),
        segment_keys=schema.segment_keys(known),
        now_ms=query.now_ms,
        query_text=query.query_text,
    )


def _resolve_history(
    schema: FeatureSchema, catalog: Catalog, events: UserEvents, now_ms: int
) -> tuple[History, NDArray[np.int32]]:
    type_code = schema.type_code
    rows = catalog.find(events.item_ids)[::-1]
    types = np.array([type_code.get(name, 0) for name in events.event_types], np.int32)[::-1]
    timestamps = events.timestamps[::-1]
    ages = np.maximum(now_ms - timestamps, 0)
    weights = schema.event_weights(types, events.values[::-1])
    # However old, an event stays in the history, as it does in training.
    faded = np.maximum(weights * np.exp2(-ages / schema.type_half_lives_ms[types]), np.finfo(np.float32).tiny)
    chosen = (rows >= 0) & (weights > 0)
    history = History(rows[chosen], types[chosen], timestamps[chosen], faded[chosen].astype(np.float32))
    return history, rows[rows >= 0]


def _with_seeds(history: History, seeds: NDArray[np.int32], now_ms: int) -> History:
    """Return the history with onboarding answers as its oldest events, of unknown type and weight 1."""
    oldest = history.timestamps[-1] if len(history) else now_ms
    return History(
        np.concatenate([history.rows, seeds]),
        np.concatenate([history.types, np.zeros(len(seeds), np.int32)]),
        np.concatenate([history.timestamps, np.full(len(seeds), oldest, np.int64)]),
        np.concatenate([history.weights, np.ones(len(seeds), np.float32)]),
    )


def user_tower_inputs(
    schema: FeatureSchema, users: Sequence[User], item_vectors: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """Return the user tower's inputs for B users, padded to the longest history among them (at least 1).

    history_vectors float32 [B, H, D], history_mask float32 [B, H] (1 for events), history_types int64 [B, H],
    history_ages int64 [B, H], user_attributes int64 [B, A], context int64 [B, C]. Histories are newest first; ages are
    milliseconds before the request, 0 for events after it: what follows at once is not what a returning user wants.
    """
    histories = [user.history.newest(schema.history_length) for user in users]
    length = max(1, *(len(history) for history in histories)) if histories else 1
    shape = (len(users), length)
    vectors = np.zeros((*shape, item_vectors.shape[1]), np.float32)
    mask, types, ages = np.zeros(shape, np.float32), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, (user, history) in enumerate(zip(users, histories, strict=True)):
        if h := len(history):
            vectors[i, :h] = item_vectors[history.rows]
            mask[i, :h] = 1
            types[i, :h] = history.types
            ages[i, :h] = np.maximum(user.now_ms - history.timestamps, 0)
    return {
        "history_vectors": vectors,
        "history_mask": mask,
        "history_types": types,
        "history_ages": ages,
        "user_attributes": np.stack([user.attribute_codes for user in users]),
        "context": np.stack([user.context_codes for user in users]),
    }


def item_tower_inputs(
    schema: FeatureSchema, catalog: Catalog, content_vectors: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """Return the item tower's inputs for the N items of a catalogue.

    item_index int64 [N] (row + 1; 0 stands for an item the tower was not trained on), content float32 [N, T],
    numbers float32 [N, M] (NaN where unknown), and per embedded column `codes_<name>` int64 [N, C] (code + 1; 0 pads).
    """
    n = len(catalog)
    numbers = [catalog.numbers[name] for name in schema.item_numbers]
    inputs: dict[str, NDArray[Any]] = {
        "item_index": np.arange(1, n + 1, dtype=np.int64),
        "content": content_vectors,
        "numbers": np.stack(numbers, axis=1).astype(np.float32) if numbers else np.empty((n, 0), np.float32),
    }
    return inputs | {f"codes_{name}": catalog.codes[name].codes.astype(np.int64) + 1 for name in schema.item_codes}
