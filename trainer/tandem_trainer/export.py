"""Torch modules as single ONNX files, and the proof that both give the same numbers."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tandem_core.onnx_session import open_session

Inputs = Mapping[str, NDArray[Any]]


class ParityError(AssertionError):
    """An ONNX file does not compute what its module computes."""


def to_onnx(
    module: nn.Module,
    inputs: Inputs,
    output_name: str,
    path: Path,
    dynamic: Mapping[str, Mapping[int, str]],
) -> None:
    """Write `module` in evaluation mode as one ONNX file.

    inputs: an example by input name, in the order of the module's arguments. dynamic: input -> axis -> name of an axis
    whose size may change; it must be 2 or more in the example, since the exporter fixes axes of size 1. An input that
    the module does not use is not in the file.
    """
    for name, axes in dynamic.items():
        if fixed := [axis for axis in axes if inputs[name].shape[axis] < 2]:
            raise ValueError(f"axes {fixed} of example input {name!r} must have size 2 or more to be dynamic")
    dims = {label: torch.export.Dim(label) for axes in dynamic.values() for label in axes.values()}
    shapes = [{axis: dims[label] for axis, label in dynamic.get(name, {}).items()} for name in inputs]
    was_training = module.training
    with _quiet():
        torch.onnx.export(
            module.eval(),
            tuple(torch.from_numpy(value) for value in inputs.values()),
            path,
            input_names=list(inputs),
            output_names=[output_name],
            dynamic_shapes=_nested_like_arguments(module, shapes),
            dynamo=True,
            external_data=False,  # a bundle hashes files one by one: a model must be one
            verbose=False,
        )
    module.train(was_training)


def check_parity(module: nn.Module, path: Path, list_of_inputs: Sequence[Inputs], tolerance: float = 1e-4) -> float:
    """Return the largest absolute difference between module and file over all inputs.

    Raises ParityError where it exceeds `tolerance` or a number is not finite.
    """
    session = open_session(path)
    names = {node.name for node in session.get_inputs()}
    was_training = module.training
    module.eval()
    worst = 0.0
    for inputs in list_of_inputs:
        with torch.no_grad():
            expected = module(*(torch.from_numpy(value) for value in inputs.values())).numpy()
        (found,) = session.run(None, {name: value for name, value in inputs.items() if name in names})
        shapes = {name: value.shape for name, value in inputs.items()}
        if found.shape != expected.shape:
            raise ParityError(f"{path.name} gives shape {found.shape} and torch {expected.shape} for inputs {shapes}")
        difference = float(np.abs(found - expected).max(initial=0))
        if not difference <= tolerance:  # also where it is NaN
            raise ParityError(
                f"{path.name} differs from its module by {difference:.2g} (allowed: {tolerance:g}) for inputs {shapes}"
            )
        worst = max(worst, difference)
    module.train(was_training)
    return worst


def _nested_like_arguments(module: nn.Module, shapes: list[Any]) -> tuple[Any, ...]:
    """Return shapes per parameter of `forward`; those of `*args` are one nested tuple."""
    parameters = inspect.signature(module.forward).parameters.values()
    named = sum(parameter.kind is not inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    if len(shapes) <= named:
        return tuple(shapes)
    return (*shapes[:named], tuple(shapes[named:]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter prints, warns and logs about itself; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
