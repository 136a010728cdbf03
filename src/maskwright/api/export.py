"""Trained models and SAM, written for use without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from maskwright.api.models import load
from maskwright.errors import MaskwrightError, require
from maskwright.export.exported import NAME, Exported
from maskwright.sam.sources import require_source

Target: TypeAlias = Literal["onnx"]


def export_model(run: str | Path, to: Target = "onnx", out: str | Path | None = None) -> Exported:
    """Write a trained model as one file in ONNX, which :func:`maskwright.predict` takes like a run, and
    :func:`maskwright.api.load_onnx` loads.

    What comes before and after the network is inside, as far as ONNX can hold it; see ``docs/onnx.md``. The answers of the file are
    compared with PyTorch's before it gets its name.

    Args:
        run: a run directory, or the model folder in it.
        to: ``onnx``.
        out: a file whose name ends in ``.onnx``; left out, ``model.onnx`` in the run directory.

    Returns:
        ``path``, ``opset``, ``bytes`` and ``differences``: the largest of each output from PyTorch's answers.

    Raises:
        MissingPackageError: the extra ``onnx`` is not installed.
        MaskwrightError: a kind of model that cannot be exported, answers that differ by more than 1e-3, or a file that cannot be
            written.
        WeightsError: see :func:`maskwright.load`.

    >>> maskwright.export_model("runs/polyps").differences
    {'categories': 0.0, 'probability': 4.2e-06}
    """
    _require_onnx(to)
    path = Path(run, NAME) if out is None else Path(out)
    if out is None and (
        Path(run).is_file() or (Path(run, "config.json").is_file() and not Path(run, "model").is_dir())
    ):
        raise MaskwrightError(f"{run}: is no run directory; say where the file shall be with --out FILE.onnx")
    require({f"--out {path}: must end in .onnx": path.suffix == ".onnx"})
    from maskwright.engine.model_folder import find_model

    find_model(run)
    from maskwright.export.onnx_models import export_predictor

    return export_predictor(load(run, device="cpu"), path)


def sam_export(sam: str | Path, out: str | Path, to: Target = "onnx", *, size: int | None = None) -> list[Exported]:
    """Write a SAM's encoder and decoder as two files in ONNX, ``encoder.onnx`` and ``decoder.onnx``.

    Args:
        sam: see :func:`maskwright.sam_info`.
        out: a new folder.
        to: ``onnx``.
        size: side of the canvas in pixels, other than the checkpoint's; a multiple of 32.

    Returns:
        As of :func:`export_model`, for each file.

    Raises:
        DataError: the folder is there already, or cannot be written.
        MissingPackageError: the extra ``onnx`` is not installed.
        MaskwrightError: answers that differ by more than 1e-3.
        WeightsError: the weights cannot be loaded.
    """
    _require_onnx(to)
    require_source(sam)
    from maskwright.export.onnx_models import export_sam
    from maskwright.sam.sam import Sam

    return export_sam(Sam.load(sam, size=size), Path(out))


def _require_onnx(to: str) -> None:
    require({f"--to {to}: models are exported to onnx; give --to onnx": to == "onnx"})
