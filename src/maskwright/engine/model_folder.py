"""Where a trained model lies. Nothing here imports PyTorch, so a wrong path is told at once."""

from __future__ import annotations

from pathlib import Path

from maskwright.errors import WeightsError


def find_model(path: str | Path) -> Path:
    """The model folder that a run directory, or a model folder itself, names. Raises WeightsError where there is none."""
    path = Path(path)
    if not path.exists():
        raise WeightsError(
            f"{path}: there is no such folder; give a run directory, the model folder in it, or hf://OWNER/NAME"
        )
    if path.suffix == ".onnx" and path.is_file():
        raise WeightsError(
            f"{path}: is a file in ONNX, which `maskwright predict` runs, and `maskwright.api.load_onnx` loads; give the run directory for "
            "everything else"
        )
    if not path.is_dir():
        raise WeightsError(f"{path}: is a file; give the run directory, or the model folder in it")
    folder = path / "model" if (path / "model").is_dir() else path
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if (path / "last").is_dir() and folder == path:
        raise WeightsError(f"{path}: this run has no model yet; continue it with --resume until it ends")
    if missing:
        remedy = "give a run directory, or restore its model folder"
        raise WeightsError(f"{folder}: {' and '.join(missing)} missing, so this is no model folder; {remedy}")
    return folder
