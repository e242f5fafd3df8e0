"""From items and users on the wire to what is stored: every check of every field is here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tandem.catalog.v1 import catalog_pb2
from tandem.common.v1 import attribute_pb2
from tandem_core.catalog import Catalog
from tandem_core.errors import FieldViolation, InvalidRequest
from tandem_core.grpc_parse import LONGEST_ID, LONGEST_TEXT, MOST_ATTRIBUTES, Checks, parse_attributes
from tandem_core.stores.live import LiveItem

MOST_WRITTEN = 500
LONGEST_TITLE = 1000
LONGEST_DESCRIPTION = 20_000
MOST_CATEGORIES = 64
_OWN_FIELDS = ("categories", "creator", "created_at", "price")  # columns that are fields of an item, not attributes


def check_count(values: Sequence[object], field: str) -> None:
    """Raise InvalidRequest where a request has nothing, or too much, to write."""
    if not 0 < len(values) <= MOST_WRITTEN:
        raise InvalidRequest(FieldViolation(field, f"has {len(values)} entries, 1 to {MOST_WRITTEN} are allowed"))


def parse_item(message: catalog_pb2.Item, catalog: Catalog, field: str) -> LiveItem:
    """Return an item with the columns that a catalogue declares; raises InvalidRequest with every violation."""
    checks = Checks()
    _id(checks, message.item_id, f"{field}.item_id")
    checks.text(message.title, LONGEST_TITLE, f"{field}.title")
    checks.text(message.text, LONGEST_DESCRIPTION, f"{field}.text")
    checks.ids(message.categories, MOST_CATEGORIES, f"{field}.categories")
    checks.text(message.creator, LONGEST_ID, f"{field}.creator")
    codes: dict[str, list[str]] = {}
    numbers: dict[str, float] = {}
    if message.categories:
        codes["categories"] = list(message.categories)
    if message.creator:
        codes["creator"] = [message.creator]
    if message.HasField("price"):
        fits = 0 <= message.price < math.inf
        if checks.that(fits, f"{field}.price", "is not a finite number of 0 or more"):
            numbers["price"] = message.price
    if message.HasField("created"):
        try:
            numbers["created_at"] = message.created.ToMilliseconds() / 1000
        except ValueError:
            checks.that(False, f"{field}.created", "is no time between the years 1 and 9999")
    checks.at_most(message.attributes, MOST_ATTRIBUTES, f"{field}.attributes")
    for i, attribute in enumerate(message.attributes):
        at, name = f"{field}.attributes[{i}]", attribute.name
        if name in codes or name in numbers:
            checks.that(False, f"{at}.name", f"names {name!r} twice")
        elif name in _OWN_FIELDS:
            checks.that(False, f"{at}.name", f"{name!r} is a field of the item: set it there")
        elif name in catalog.numbers:
            numbers |= _number(checks, attribute, at)
        elif name in catalog.codes:
            codes |= _texts(checks, attribute, catalog.codes[name].codes.shape[1], at)
        else:
            known = ", ".join(name for name in (*catalog.codes, *catalog.numbers) if name not in _OWN_FIELDS)
            checks.that(False, f"{at}.name", f"no column {name!r} is declared; there are {known or 'none'}")
    checks.done()
    return LiveItem(message.item_id, message.title, message.text, codes, numbers)


def parse_user(message: catalog_pb2.User, field: str) -> tuple[str, dict[str, str]]:
    """Return a user's id and attributes; raises InvalidRequest with every violation."""
    checks = Checks()
    _id(checks, message.user_id, f"{field}.user_id")
    attributes = parse_attributes(checks, message.attributes, f"{field}.attributes")
    checks.done()
    return message.user_id, attributes


def parse_id(item_id: str, field: str) -> str:
    """Return an item's id; raises InvalidRequest."""
    checks = Checks()
    _id(checks, item_id, field)
    checks.done()
    return item_id


def _id(checks: Checks, text: str, field: str) -> None:
    checks.that(0 < len(text) <= LONGEST_ID, field, f"is required, at most {LONGEST_ID} characters")


def _number(checks: Checks, attribute: attribute_pb2.Attribute, field: str) -> dict[str, float]:
    if attribute.WhichOneof("value") != "number_value" or not math.isfinite(attribute.number_value):
        checks.that(False, f"{field}.number_value", f"is required: {attribute.name!r} is a column of finite numbers")
        return {}
    return {attribute.name: attribute.number_value}


def _texts(checks: Checks, attribute: attribute_pb2.Attribute, most: int, field: str) -> dict[str, list[str]]:
    kind = attribute.WhichOneof("value")
    if kind == "string_value":
        values = [attribute.string_value]
    elif kind == "bool_value":
        values = ["true" if attribute.bool_value else "false"]
    elif kind == "strings_value":
        values = list(attribute.strings_value.values)
    else:
        checks.that(False, f"{field}.value", f"is required: {attribute.name!r} is a column of texts")
        return {}
    checks.at_most(values, most, f"{field}.{kind}")
    for text in values:
        checks.that(0 < len(text) <= LONGEST_TEXT, f"{field}.{kind}", f"has 1 to {LONGEST_TEXT} characters")
    return {attribute.name: values}
