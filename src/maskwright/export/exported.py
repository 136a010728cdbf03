"""What is said of a file that was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAME = "model.onnx"
"""Of a run's model in ONNX, in the run directory."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: of the file.
        opset: version of ONNX's operators.
        differences: the largest of each output from PyTorch's answers, by name; of categories, the share of pixels that differ.
        bytes: of the file.
    """

    path: Path
    opset: int
    differences: dict[str, float]
    bytes: int
