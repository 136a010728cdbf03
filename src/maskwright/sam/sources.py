"""What may name a SAM. Nothing here imports PyTorch, so a name that cannot be one is told at once."""

from __future__ import annotations

from pathlib import Path

from maskwright.errors import WeightsError

NANO = Path(__file__).parent / "nano"
"""The folder of the weights that are bundled and loaded where no others are named."""

BUNDLED = {"nano": NANO}
"""Folders of all bundled weights, by name."""

CHOICES = "Give 'nano', a Hugging Face id of a SAM 2 video model, a folder with config.json and model.safetensors, or an official .pt file"


def require_source(source: str | Path) -> None:
    """Raise WeightsError for what ``Sam.load`` cannot take: a file or folder that is not there, or no Hugging Face id."""
    name, path = str(source), Path(source).expanduser()
    if name in BUNDLED:
        return
    if path.suffix == ".pt":
        if not path.is_file():
            raise WeightsError(f"{path}: no such file")
    elif path.is_dir() or path.is_absolute() or name.startswith((".", "~")):
        if not (path / "config.json").is_file():
            raise WeightsError(
                f"{path}: no config.json here; expected a folder in Hugging Face format (see `maskwright sam convert`)"
            )
    elif name.count("/") != 1:
        raise WeightsError(f"{name}: there is no such folder, and Hugging Face ids are OWNER/NAME. {CHOICES}")
