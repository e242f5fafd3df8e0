"""onnxruntime sessions as the services use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a model for the CPU with one thread: more of them fight over the cores that serve other requests."""
    # Not before: importing it starts a thread, and a process that has one cannot be forked safely.
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; its warnings speak of hardware we do not use
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
