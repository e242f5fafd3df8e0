"""Arrays that rows are appended to while others read them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOM = 65_536  # rows; pages that nothing was written to cost no memory
_GROWTH = 1.25

Array = NDArray[Any]


def with_room(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy [N, ...] at the beginning of a longer array, so that a `Growing` over it needs no copy."""
    return _copied(array, ROOM)[: len(array)]


class Growing:
    """An array [N, ...] with rows put behind it. What `first` returned stays as it is, except for rows put anew.

    Putting n rows costs O(n): the array is copied only when its room is used up, a quarter more each time.
    """

    def __init__(self, array: Array) -> None:
        whole = array.base
        if isinstance(whole, np.ndarray) and _begins(array, whole) and len(whole) >= len(array) + ROOM:
            self._buffer: Array = whole
        else:
            self._buffer = _copied(array, ROOM)

    def put(self, rows: NDArray[np.int32], values: Array | np.float32) -> None:
        """Write int32 [n] rows: an array [n, ...], or one number everywhere."""
        needed = int(rows.max(initial=-1)) + 1
        if needed > len(self._buffer):
            self._buffer = _copied(self._buffer, int(needed * _GROWTH) + ROOM - len(self._buffer))
        self._buffer[rows] = values

    def first(self, n: int) -> Array:
        """Return the first n rows, all of which must have been put."""
        return self._buffer[:n]


def _begins(array: Array, whole: Array) -> bool:
    same = (whole.shape[1:], whole.dtype, whole.ctypes.data) == (array.shape[1:], array.dtype, array.ctypes.data)
    return same and whole.flags.c_contiguous and whole.flags.writeable


def _copied(array: Array, room: int) -> Array:
    buffer = np.empty((len(array) + room, *array.shape[1:]), array.dtype)
    buffer[: len(array)] = array
    return buffer
