"""`maskwright export` and `maskwright sam export`: models for use without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from maskwright.api import Exported, Target
from maskwright.cli.shared import OPTIONAL, RunFolder, Source, canvas_size, print_written


@dataclass
class Export:
    """Write a trained model as one file that runs without PyTorch: semantic segmenters, and dense segmenters of instances.

    Decoded images of any size go in, masks of their own size come out. The file is compared with PyTorch before it is kept. SAM itself
    is exported by `maskwright sam export`.
    """

    run: RunFolder
    """Run directory, or the model folder in it."""
    to: Target = "onnx"
    """What is written; ONNX runs with onnxruntime in many languages, in browsers and on phones."""
    out: Annotated[Path | None, OPTIONAL] = None
    """File whose name ends in .onnx; left out, RUN/model.onnx, which `maskwright predict RUN --engine onnx` takes."""

    def __call__(self) -> None:
        from maskwright.api import busy, export_model

        with busy("exporting and comparing with PyTorch"):
            exported = export_model(self.run, self.to, self.out)
        print_exported(exported)


@dataclass
class SamExport:
    """Write a SAM's encoder and decoder as two files that run without PyTorch: encoder.onnx and decoder.onnx."""

    sam: Source
    """nano (bundled), a Hugging Face id, a folder, or an official .pt file."""
    out: Path
    """New folder."""
    to: Target = "onnx"
    """What is written; ONNX runs with onnxruntime in many languages, in browsers and on phones."""
    size: Annotated[int | None, OPTIONAL] = None
    """Canvas size in pixels other than the checkpoint's."""

    def __call__(self) -> None:
        canvas_size(self.size)
        from maskwright.api import busy, sam_export

        with busy("exporting and comparing with PyTorch"):
            exported = sam_export(self.sam, self.out, self.to, size=self.size)
        print_exported(*exported)


def print_exported(*exported: Exported) -> None:
    """Say which files were written, and how near their answers are to PyTorch's."""
    for one in exported:
        print_written(one.path)
        differences = ", ".join(_told(name, value) for name, value in one.differences.items())
        print(f"  {one.bytes / 2**20:.1f} MiB, opset {one.opset}; largest difference from PyTorch: {differences}")


def _told(name: str, difference: float) -> str:
    return f"{name} in {difference:.3%} of the pixels" if name == "categories" else f"{name} {difference:.1e}"
