"""How a dataset is to be read where its files leave a choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskwright.data.choices import Crowd
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName


@dataclass(frozen=True)
class Reading:
    """What every reader of ``maskwright.data.formats`` is given.

    Attributes:
        crowd: COCO annotations with ``iscrowd``: ``objects`` takes each as an object, ``ignore`` leaves them out. None:
            as objects where all annotations of a category are crowds, else left out; a warning says so.
        root: a folder in the dataset in which files are looked for by their last name where their path leaves the dataset.
        mend: what `maskwright data fix` can mend in the structure (paths, numbers written as text, boxes and polygons far
            outside, polygons without a part of three vertices, ...) is mended instead of refused: the record comes
            with the dataset, as a warning that says what was changed. Pixels of masks are not touched here.
        format: the name of the format, where several fit; None: what is there decides.
        image: which page, channels and range of intensity of the image files count.
    """

    crowd: Crowd | None = None
    root: Path | None = None
    mend: bool = False
    format: ReadName | None = None
    image: ImageReading = PLAIN


STRICT = Reading()
"""Nothing is mended, and the data decides."""
