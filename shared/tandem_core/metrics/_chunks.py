"""Walking over users a block at a time, so that temporary arrays stay small whatever the number of users."""

from __future__ import annotations

from collections.abc import Iterator

CELLS = 1 << 20  # entries of one temporary array: 8 MB as int64, which measured faster than whole arrays


def blocks(n: int, width: int, cells: int = CELLS) -> Iterator[slice]:
    """Yield slices that cover range(n) in order, each of at most `cells` entries in rows of `width`."""
    step = max(1, cells // max(1, width))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
