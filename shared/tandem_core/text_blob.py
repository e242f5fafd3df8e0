"""Lists of strings as two plain arrays, so that npz files need no pickle and no padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_strings(name: str, strings: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return `<name>.utf8` (uint8, all texts end to end) and `<name>.ends` (int64 [n])."""
    encoded = [text.encode() for text in strings]
    return {
        f"{name}.utf8": np.frombuffer(b"".join(encoded), np.uint8),
        f"{name}.ends": np.cumsum([len(text) for text in encoded], dtype=np.int64),
    }


def unpack_strings(arrays: Mapping[str, NDArray[Any]], name: str) -> list[str]:
    """Return the strings that `pack_strings` wrote under `name`."""
    blob = arrays[f"{name}.utf8"].tobytes()
    ends = arrays[f"{name}.ends"].tolist()
    return [blob[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
