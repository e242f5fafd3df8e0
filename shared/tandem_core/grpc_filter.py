"""From conditions to filter messages: what ranking adds to a request on its way to retrieval."""

from __future__ import annotations

import math

from tandem.common.v1 import filter_pb2
from tandem_core.filters import AllOf, AnyOf, Condition, Exists, InRange, InSet, NotOf


def filter_message(condition: Condition) -> filter_pb2.Filter:
    """Return the message that `grpc_parse.parse_filter` reads as the condition; raises TypeError for other kinds."""
    message = filter_pb2.Filter()
    match condition:
        case AllOf(parts):
            message.all_of.filters.extend(filter_message(part) for part in parts)
        case AnyOf(parts):
            message.any_of.filters.extend(filter_message(part) for part in parts)
        case NotOf(part):
            message.not_of.CopyFrom(filter_message(part))
        case InSet(column, values):
            message.in_set.column = column
            message.in_set.values.values.extend(sorted(values))
        case InRange(column, low, high) if not (math.isinf(low) and math.isinf(high)):
            message.in_range.column = column
            if not math.isinf(low):
                message.in_range.min = low
            if not math.isinf(high):
                message.in_range.max = high
        case Exists(column) | InRange(column):  # a range without bounds is no message: it means that there is a number
            message.exists.column = column
        case _:
            raise TypeError(f"no message for {condition!r}")
    return message
