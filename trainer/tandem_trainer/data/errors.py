"""The one error that reading data raises."""

from __future__ import annotations


class DataError(ValueError):
    """Data cannot be used at all: the text names the file, the column and the row, and what to do.

    Single bad rows never raise it: they are dropped and counted in the `ValidationReport`.
    """
