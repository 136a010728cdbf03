"""The types of labels (masks, scribbles, boxes, points and tags) and the samples of a dataset that carry them.

Coordinates are pixels of the original image: x to the right, y down, the centre of the first pixel at (0.5, 0.5).
Boxes are ``x0 y0 x1 y1``, half-open. Category 0 is background; a point or scribble of category 0 says "not an object".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import image_size, read_image
from maskwright.data.large.opening import needs_windows, open_large
from maskwright.problems import Problem

IGNORE = 255
"""Value of a semantic mask where the category is unknown."""

MaskKind = Literal["semantic", "instance"]


class Kind(IntEnum):
    """Kinds of label from coarse to fine; a larger value is a finer label (SAMIX: a query learns from finer references)."""

    NONE = 0
    TAG = 1
    POINT = 2
    BOX = 3
    SCRIBBLE = 4
    MASK = 5

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Mask:
    """A dense label in a PNG file.

    Attributes:
        path: the PNG, relative to the dataset's folder (posix separators).
        kind: ``semantic``: pixel values are category ids, 255 = ignore. ``instance``: values are instance ids, 0 = background.
        categories: for instance masks the category of each instance id; an id that is not named here has category 1.
    """

    path: str
    kind: MaskKind = "semantic"
    categories: dict[int, int] = field(default_factory=dict)

    def category_of(self, value: int) -> int:
        """The category of a pixel value that is not ignore."""
        return self.categories.get(value, 1) if self.kind == "instance" and value else value


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box ``x0 <= x < x1``, ``y0 <= y < y1`` around one object.

    Attributes:
        cut: ``x``, ``y`` or ``xy``: a crop cut the object along these axes. Of an object that was cut along x every column of the box
            still shows some, but not every row does: what reached the box's top may have been cut off. Likewise for y.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    category: int
    cut: str = ""

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.x0, self.y0, self.x1, self.y1


@dataclass(frozen=True, slots=True)
class Scribble:
    """A polyline of at least one vertex ``(x, y)`` lying on one category (0 = background)."""

    points: tuple[tuple[float, float], ...]
    category: int


@dataclass(frozen=True, slots=True)
class Point:
    """A click on one category (0 = background)."""

    x: float
    y: float
    category: int


@dataclass(frozen=True, slots=True)
class Tag:
    """An image-level label: this category is in the image. The tags of an image are complete: all other categories are absent."""

    category: int


@dataclass(frozen=True, slots=True)
class Labels:
    """All labels of one image; any combination, or none at all."""

    mask: Mask | None = None
    scribbles: tuple[Scribble, ...] = ()
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    tags: tuple[Tag, ...] = ()

    @property
    def kind(self) -> Kind:
        """The finest kind present."""
        if self.mask is not None:
            return Kind.MASK
        for kind, labels in (
            (Kind.SCRIBBLE, self.scribbles),
            (Kind.BOX, self.boxes),
            (Kind.POINT, self.points),
            (Kind.TAG, self.tags),
        ):
            if labels:
                return kind
        return Kind.NONE

    def only(self, kind: Kind) -> Labels:
        """The same image with only its labels of one kind (none of the others)."""
        return Labels(
            mask=self.mask if kind == Kind.MASK else None,
            scribbles=self.scribbles if kind == Kind.SCRIBBLE else (),
            boxes=self.boxes if kind == Kind.BOX else (),
            points=self.points if kind == Kind.POINT else (),
            tags=self.tags if kind == Kind.TAG else (),
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its labels.

    Attributes:
        id: unique in the dataset; names the files that are made for this sample.
        image: path relative to the dataset's folder (posix separators).
        split: ``train``, ``val``, ``test`` or any other name.
        size: ``(width, height)`` of the image as it is displayed (EXIF rotation applied), or None where not yet known.
    """

    id: str
    image: str
    split: str = "train"
    labels: Labels = Labels()
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Samples:
    """Images with their labels under one folder, as formats read and write them. Immutable; every change gives a new object.

    Two are equal where their folder, categories and samples are. A :class:`maskwright.Dataset` is the same with ``load``
    and ``save``, which know all formats.

    Attributes:
        root: the folder that all paths are relative to.
        categories: names; index = category id, the first is ``background``.
        samples: in a fixed order.
        source: the file or folder it was read from, for messages.
        format: how it was stored, in words: "COCO", "folders images/ and masks/", ...; empty where it was not read.
        image_reading: which page, channels and range of intensity of the image files count.
        warnings: what the reader understood with a reservation, or left out: records of severity ``warning``.
    """

    root: Path
    categories: tuple[str, ...]
    samples: tuple[Sample, ...]
    source: str = ""
    format: str = ""
    warnings: tuple[Problem, ...] = ()
    image_reading: ImageReading = PLAIN

    def split(self, *names: str) -> Self:
        """The samples of the named splits, in the same order."""
        return self.with_samples([s for s in self.samples if s.split in names])

    def with_samples(self, samples: Sequence[Sample]) -> Self:
        """Other samples under the same folder, of the same categories."""
        return replace(self, samples=tuple(samples))

    def with_warning(self, warning: Problem) -> Self:
        """The same, with one more warning, the first."""
        return replace(self, warnings=(warning, *self.warnings))

    def with_image_reading(self, reading: ImageReading) -> Self:
        """The same with its image files read in another way."""
        return replace(self, image_reading=reading)

    def pixels(self, sample: Sample) -> NDArray[np.uint8]:
        """A sample's image as ``(H, W, 3)`` uint8 RGB, see :func:`maskwright.data.images.read_image`. Raises DataError."""
        return read_image(self.image_path(sample), self.image_reading)

    def size_of(self, sample: Sample) -> tuple[int, int]:
        """(width, height) of a sample's image as it is displayed, from the file's header alone. Raises DataError."""
        if needs_windows(self.image_path(sample)):
            with open_large(self.image_path(sample), self.image_reading) as image:
                return image.size
        return image_size(self.image_path(sample), self.image_reading.page)

    def image_path(self, sample: Sample) -> Path:
        return self.root / sample.image

    def mask_path(self, sample: Sample) -> Path | None:
        return self.root / sample.labels.mask.path if sample.labels.mask else None

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Samples):
            return NotImplemented
        return (self.root, self.categories, self.samples) == (other.root, other.categories, other.samples)
