"""What the check of one sample has shown, and what a dataset is called in messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from maskwright.data.dataset import Dataset
from maskwright.data.manifest import NAME
from maskwright.data.raster import Extent
from maskwright.data.stats import Measure


@dataclass
class Finding:
    """What the check of one sample's files has shown.

    Attributes:
        measure: its labels, counted.
        problems: and warnings, in the order in which they were found.
        pixels: a hash of the picture's pixels; None where they were not decoded.
        extent: of the numbers in its picture; None where they have 8 bits, or were not decoded.
        written: how its semantic mask writes the object: ``empty``, ``0/1``, ``0/255``, or ``ids`` for all else.
    """

    measure: Measure
    problems: list[str] = field(default_factory=list)
    pixels: bytes | None = None
    written: str = ""
    extent: Extent | None = None


def source_of(dataset: Dataset) -> str:
    """The file or folder that a dataset was read from, for messages."""
    return dataset.source or str(dataset.root / NAME)


def name_of(dataset: Dataset) -> str:
    """A dataset as it is named in a command: its folder, or the JSON file where that is not the folder's only one."""
    source = Path(source_of(dataset))
    return str(source.parent) if source.name in (NAME, "splits.json") else str(source)
