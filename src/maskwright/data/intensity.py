"""One range of intensity for all images of a dataset, so that equal numbers look equal in training and in prediction.

Images of more than 8 bits, and of floats, hold numbers of which nothing says what is black and what is white. Scaled each by
itself, a dim image would look like a bright one. The range is the user's, or it is measured once over the training split,
by the rule of :func:`maskwright.data.raster.intensity_of`; a model keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from maskwright.data.image_files import turn
from maskwright.data.images import decode, has_depth
from maskwright.data.labels import Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.raster import Extent, intensity_of, together
from maskwright.errors import DataError
from maskwright.problems import Problem

AnySamples = TypeVar("AnySamples", bound=Samples)


@dataclass(frozen=True)
class Intensity:
    """What becomes of the numbers in images of more than 8 bits.

    Attributes:
        range: those that become black and white; None where there are no such images and none was given.
        deep: how many such images there are.
        given: whether the user said so.
    """

    range: tuple[float, ...] | None = None
    deep: int = 0
    given: bool = False


def decide(dataset: Samples, extents: Sequence[Extent | None]) -> Intensity:
    """The range that was given; or that of the training split, and where that has no images of more than 8 bits, of all.

    Args:
        dataset: says what was given.
        extents: of its samples, in their order; None for images of 8 bits.

    Returns:
        The range; none where integers and floats come together, which no rule fits: each image is scaled by itself then.
    """
    deep = [(sample, extent) for sample, extent in zip(dataset, extents, strict=True) if extent is not None]
    given = dataset.image_reading.intensity
    if given is not None or not deep:
        return Intensity(given, len(deep), given is not None)
    learnt = [(sample, extent) for sample, extent in deep if sample.split == "train"] or deep
    if len({extent.floats for _, extent in learnt}) > 1:
        return Intensity(None, len(deep))
    whole = together(extent for _, extent in learnt)
    return Intensity(intensity_of(whole) if whole else None, len(deep))


def doubts(dataset: Samples, extents: Sequence[Extent | None], intensity: Intensity) -> list[Problem]:
    """Warnings: of integers and floats together, and of each image with numbers beyond the range, which are cut off."""
    if intensity.range is None:
        kinds = {extent.floats: sample.image for sample, extent in zip(dataset, extents) if extent is not None}
        if not kinds:
            return []
        what = f"some images hold integers of more than 8 bits ({kinds.get(False)}) and some floats ({kinds.get(True)})"
        remedy = "each is scaled by itself; say what is black and white in all of them with --intensity LOW,HIGH"
        return [Problem(what, kind="intensity", severity="warning", file=dataset.source, remedy=remedy)]
    low, high = intensity.range
    return [
        Problem(
            f"holds {extent.low:.10g}..{extent.high:.10g}, and what is beyond {low:.10g}..{high:.10g} is cut off",
            kind="intensity",
            severity="warning",
            file=dataset.image_path(sample),
            remedy="if it matters, set another range with --intensity LOW,HIGH",
        )
        for sample, extent in zip(dataset, extents, strict=True)
        if extent is not None and (extent.low < low or extent.high > high)
    ]


def settled(dataset: AnySamples) -> AnySamples:
    """The dataset with its range of intensity in its ``image_reading``. Decodes its images of more than 8 bits for that.

    Images that cannot be read are left to those who read them next, and report them.
    """
    reading = dataset.image_reading
    if reading.intensity is not None:
        return dataset

    def extent(sample: Sample) -> Extent | None:
        path = dataset.image_path(sample)
        try:
            if not has_depth(path, reading.page):
                return None
            with turn(dataset.size_of(sample)):
                return decode(path, reading).extent
        except DataError:
            return None

    learnt = dataset.split("train") if any(sample.split == "train" for sample in dataset) else dataset
    intensity = decide(learnt, list(ahead(extent, learnt)))
    if not intensity.deep and len(learnt) < len(dataset):
        intensity = decide(dataset, list(ahead(extent, dataset)))
    return dataset.with_image_reading(replace(reading, intensity=intensity.range))
