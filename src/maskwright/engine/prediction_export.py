"""Predictions for annotation tools: a folder of them, written once more in a format that such a tool reads."""

from __future__ import annotations

from pathlib import Path

from maskwright.data import formats
from maskwright.data.dataset import Dataset
from maskwright.data.formats import predictions
from maskwright.data.registry import FORMATS, TOOLS, ToolName
from maskwright.errors import MaskwrightError


def require_target(folder: str | Path, to: str) -> None:
    """Raise MaskwrightError where predictions in a folder cannot be written in another format too."""
    if to not in TOOLS:
        raise MaskwrightError(
            f"--to {to}: is no format that predictions are written in; choose one of {', '.join(TOOLS)}"
        )
    if (target := Path(folder, to)).exists():
        what = "is there already, perhaps with corrections of yours"
        raise MaskwrightError(f"{target}: {what}; move it away, or name another folder with --out")


def export(folder: str | Path, to: ToolName) -> tuple[Path, list[str]]:
    """Write the predictions of a folder into ``folder/<to>``, with their images; a kill leaves nothing half done under that name.

    Scores are written where the format has a place for them (COCO, Label Studio).

    Returns:
        What was written, and what the format cannot hold of it, one line each.

    Raises:
        DataError: the folder cannot be read as a dataset, or a file cannot be written.
        MaskwrightError: it is there already.
    """
    require_target(folder, to)
    dataset = Dataset.load(folder)
    target = Path(folder, to)
    scores = predictions.scores_of(folder) if FORMATS[to].scores else None
    return formats.convert(dataset, target, to, allow_loss=True, scores=scores), formats.loss(dataset, to)
