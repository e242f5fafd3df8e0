"""Text vectors by any ONNX encoder that takes strings: it brings its own tokenizer as operators of the file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tandem_core.manifest import sha256_of
from tandem_core.onnx_session import open_session

log = logging.getLogger(__name__)

BATCH = 64
EXPECTED = "an encoder has one input, strings [N], and one output, float32 [N, T]"


class BadEncoder(ValueError):  # noqa: N818
    """The file that features.text_encoder names cannot be used."""


def encoder_sha256(path: Path | None) -> str | None:
    """Return the sha256 of the configured encoder in hex, None where none is; raises BadEncoder where it is missing."""
    if path is None:
        return None
    if not path.is_file():
        raise BadEncoder(f"features.text_encoder: {path} is not a file; {EXPECTED}")
    return sha256_of(path)


def encode_texts(path: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return float32 [N, T] as the encoder gives them, zero for a blank text, of which there is nothing to say.

    Raises BadEncoder when the file is missing, is no ONNX that onnxruntime runs, has other inputs or outputs than one
    of strings [N] and one of float32 [N, T], or gives another shape or a number that is not finite.
    """
    sha256 = encoder_sha256(path)
    session = _open(path)
    known = [place for place, text in enumerate(texts) if text.strip()]
    parts = [
        _encode(path, session, np.array([texts[place] for place in known[start : start + BATCH]], object))
        for start in range(0, len(known), BATCH)
    ]
    if len(widths := {part.shape[1] for part in parts}) > 1:
        raise BadEncoder(f"{path} gives vectors of {sorted(widths)} numbers in different batches; {EXPECTED}")
    found = np.zeros((len(texts), parts[0].shape[1] if parts else 1), np.float32)
    if parts:
        found[known] = np.concatenate(parts)
    log.info("texts encoded", extra={"encoder": str(path), "sha256": sha256, "texts": len(known)})
    return found


def _open(path: Path) -> onnxruntime.InferenceSession:
    try:
        session = open_session(path)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise BadEncoder(f"{path} is no ONNX file that onnxruntime can run: {error}") from error
    sides = [[(node.type, node.shape) for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())]
    inputs, outputs = sides
    takes_strings = len(inputs) == 1 and inputs[0][0] == "tensor(string)" and len(inputs[0][1]) == 1
    gives_vectors = len(outputs) == 1 and outputs[0][0] == "tensor(float)"
    if not takes_strings or not gives_vectors or isinstance(inputs[0][1][0], int):  # an int: made for that many texts
        raise BadEncoder(f"{path} has inputs {_shown(inputs)} and outputs {_shown(outputs)}; {EXPECTED}, N of any size")
    return session


def _shown(side: Sequence[tuple[str, Sequence[int | str | None]]]) -> str:
    return ", ".join(f"{kind} {list(shape)}" for kind, shape in side) or "none"


def _encode(path: Path, session: onnxruntime.InferenceSession, texts: NDArray[np.object_]) -> NDArray[np.float32]:
    try:
        (found,) = session.run(None, {session.get_inputs()[0].name: texts})
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise BadEncoder(f"{path} fails on {len(texts)} texts, of which the first is {texts[0]!r}: {error}") from error
    vectors = np.asarray(found, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
        raise BadEncoder(f"{path} gives shape {vectors.shape} for {len(texts)} texts; {EXPECTED}")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise BadEncoder(
            f"{path} gives NaN or infinity for {len(broken)} of {len(texts)} texts, first {texts[broken[0]]!r}; "
            "finite numbers are needed"
        )
    return vectors
