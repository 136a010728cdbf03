"""Writing a file in ONNX: traced, kept aside, compared with PyTorch, and given its name only if both agree."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskwright.data.files import reason_of
from maskwright.engine.values import plain
from maskwright.errors import MaskwrightError, MissingPackageError
from maskwright.export.exported import Exported
from maskwright.export.onnx_file import FORMAT, KEY, VERSION, OnnxFile
from maskwright.version import __version__

OPSET = 20
"""Version of ONNX's operators; onnxruntime 1.17 and newer run it, and so does onnxruntime-web."""

MOST_DIFFERENCE = 1e-3
"""Of a number in a file's answers from PyTorch's; a file that differs more is not kept."""

MOST_PIXELS = 5e-3
"""Share of the pixels that may be of another category: where two are as likely, and where the canvas differs by a level of brightness."""

MOST_AXIS = 1 << 15
"""Pixels along a side, images, objects or prompts, which a graph's open axes allow for."""


CATEGORIES = "categories"
"""Name of an output that holds ids, which are the same or not."""


@dataclass(frozen=True)
class Graph:
    """What becomes a file.

    Attributes:
        kind: see :class:`maskwright.export.onnx_file.OnnxFile`.
        module: of tensors alone.
        example: its inputs by name, in the order of its arguments; no open axis may have the length 1.
        axes: the open axes of each input, by name of the input: number of the axis → its name.
        outputs: their names.
        facts: more of what the file says of itself.
        steps: what the lengths of an open axis are multiples of, by its name; left out, 1.
    """

    kind: str
    module: nn.Module
    example: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    outputs: Sequence[str]
    facts: Mapping[str, Any]
    steps: Mapping[str, int] = field(default_factory=dict)

    def open_axis(self, name: str) -> Any:
        """An axis of a length that is not fixed, as the exporter takes it."""
        step = self.steps.get(name, 1)
        return step * torch.export.Dim(name, min=1, max=MOST_AXIS // step)


@dataclass(frozen=True)
class Case:
    """Inputs, and what PyTorch answers; the answers are what users get there, not those of the graph's own module."""

    inputs: Mapping[str, NDArray[Any]]
    expected: Mapping[str, NDArray[Any]]


def write(graph: Graph, path: Path, cases: Sequence[Case]) -> Exported:
    """Write a file, unless its answers differ from PyTorch's.

    Raises:
        MissingPackageError: ``onnx``, ``onnxscript`` or ``onnxruntime`` is not installed.
        MaskwrightError: an answer differs by more than ``MOST_DIFFERENCE``, or the file cannot be written.
    """
    program = _traced(graph)
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "maskwright": __version__,
        "kind": graph.kind,
        "opset": OPSET,
        **graph.facts,
    }
    aside = path.with_name(f".{path.name}-{uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(program, aside, facts, {})
        differences = differences_of(OnnxFile.open(aside, (graph.kind,)), cases)
        _require_equal(path, differences)
        _save(program, aside, facts, differences)
        size = aside.stat().st_size
        os.replace(aside, path)
    except OSError as error:
        raise MaskwrightError(
            f"{path}: cannot be written ({reason_of(error)}); choose another place with --out"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return Exported(path, OPSET, differences, size)


def differences_of(file: OnnxFile, cases: Sequence[Case]) -> dict[str, float]:
    """The largest difference of each output from what was expected; of categories the share of pixels that differ."""
    largest: dict[str, float] = {}
    names = [output.name for output in file.session.get_outputs()]
    for case in cases:
        for name, found in zip(names, file.run(case.inputs), strict=True):
            if name not in case.expected:
                continue
            expected = case.expected[name]
            if found.shape != expected.shape:
                raise MaskwrightError(
                    f"{name}: has shape {found.shape} in ONNX, {expected.shape} in PyTorch; nothing was written"
                )
            difference = float(
                (found != expected).mean() if name == CATEGORIES else np.abs(found - expected).max(initial=0)
            )
            largest[name] = max(largest.get(name, 0.0), difference)
    return largest


def _require_equal(path: Path, differences: Mapping[str, float]) -> None:
    limits = {name: MOST_PIXELS if name == CATEGORIES else MOST_DIFFERENCE for name in differences}
    if far := {name: value for name, value in differences.items() if value > limits[name]}:
        listed = ", ".join(f"{name} by {value:.2g}" for name, value in far.items())
        raise MaskwrightError(
            f"{path}: not written, as ONNX Runtime's answers differ from PyTorch's by more than {MOST_DIFFERENCE:g} "
            f"(categories in more than {MOST_PIXELS:.1%} of the pixels): {listed}; "
            "update onnxruntime and onnxscript, and report it if that does not help"
        )


def _traced(graph: Graph) -> torch.onnx.ONNXProgram:
    try:
        import onnx  # noqa: F401 (told apart from other errors here)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("exporting to ONNX needs onnx and onnxscript", "onnx", error) from error

    shapes = {
        name: {axis: graph.open_axis(given) for axis, given in graph.axes.get(name, {}).items()}
        for name in graph.example
    }
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.module,
            tuple(graph.example.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.example),
            output_names=list(graph.outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    return program


def _save(
    program: torch.onnx.ONNXProgram, path: Path, facts: Mapping[str, Any], differences: Mapping[str, float]
) -> None:
    told = plain({**facts, "differences": differences}, "facts")
    program.model.metadata_props[KEY] = json.dumps(told, allow_nan=False)
    with _quiet():
        program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks: that torchvision is missing, which nothing here uses, and on names of axes that inputs share."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
