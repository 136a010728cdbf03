"""Mending masks: one convention for the object, no greys, objects out of connected parts; and the record of a change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from maskwright.data.conventions import Convention, convention_of, ignores_and_marks, to_object
from maskwright.data.dataset import Dataset
from maskwright.data.image_files import turn
from maskwright.data.images import image_size, open_verified
from maskwright.data.labels import IGNORE, Mask, Sample
from maskwright.data.lookahead import ahead
from maskwright.data.mask_files import read_mask
from maskwright.data.masks import semantic_of
from maskwright.errors import DataError
from maskwright.problems import Problem

_MOST_IDS = 65535
_COLOUR_NOISE = 24  # JPEG leaves this much colour in what was grey.


@dataclass(frozen=True)
class Change:
    """One thing that was changed.

    Attributes:
        kind: a short name, as of the problem that it mends.
        file: of the dataset.
        place: where in the file; may be empty.
        what: the change in words.
        pixels: of a mask, that had a value which is neither background nor the object's, and have one of these now.
    """

    kind: str
    file: str
    place: str
    what: str
    pixels: int = 0

    @classmethod
    def of(cls, warning: Problem) -> Change:
        """What a reader mended."""
        return cls(warning.kind, warning.file, warning.place, warning.message)


@dataclass(frozen=True)
class _Look:
    """What the first look at a mask has shown."""

    convention: Convention
    ignores: bool = False
    lossy: bool = False


class MaskMender:
    """Decides from all masks of a dataset how each is to be mended, and mends them one by one."""

    def __init__(self, dataset: Dataset, threshold: float, instances: bool, semantic: bool) -> None:
        self.dataset, self.threshold = dataset, threshold
        self.instances, self.semantic = instances, semantic
        self._looks: dict[str, _Look] = {}
        self._rewrite = False

    def plan(self) -> None:
        """Look at all semantic masks.

        Raises:
            DataError: masks that cannot be mended without a guess, all of them.
        """
        samples = [s for s in self.dataset if s.labels.mask and s.labels.mask.kind == "semantic"]
        problems: list[Problem] = []
        for sample, look in zip(samples, ahead(self._look, samples)):
            if isinstance(look, DataError):
                problems += look.problems
            else:
                self._looks[sample.id] = look
        names = Counter(look.convention.name for look in self._looks.values())
        others = names.keys() - {"empty", "0/1", "ids"}
        lossy = any(look.lossy for look in self._looks.values())
        # Where some masks hold 255 beside their ids, it means "ignore", and masks of nothing else say just that.
        ignored = any(look.ignores for look in self._looks.values()) and others <= {f"0/{IGNORE}"} and not lossy
        if len(self.dataset.categories) <= 2 and (others or lossy) and not ignored:
            self._rewrite = True
            problems += [
                _not_told(self.dataset, sample, self._looks[sample.id].convention, sorted(others))
                for sample in samples
                if sample.id in self._looks and not self._looks[sample.id].convention.two_levels
            ]
        if problems:
            raise DataError(problems, self.dataset.source)

    def mended(self, sample: Sample, changes: list[Change]) -> tuple[NDArray[Any] | None, Mask]:
        """A sample's mask.

        Args:
            sample: with a mask.
            changes: what is done is added here.

        Returns:
            The pixels ``(H, W)`` to be written, or None where the file stays as it is; and what they mean.

        Raises:
            DataError: the file cannot be read.
        """
        mask = sample.labels.mask
        assert mask is not None
        file, place = str(self.dataset.root / mask.path), f"sample {sample.id!r}"
        values = self._in_one_convention(sample, mask, file, place, changes) if mask.kind == "semantic" else None
        if self.instances and mask.kind == "semantic":
            values = read_mask(file) if values is None else values
            values, mask = _parts(values, mask, file, place, changes)
        elif self.semantic and mask.kind == "instance":
            ids = read_mask(file)
            count = len(np.unique(ids[ids > 0]))
            values, mask = semantic_of(ids, mask), replace(mask, kind="semantic", categories={})
            changes.append(Change("made-semantic", file, place, f"{count} object ids replaced by their categories"))
        elif values is None and not _is_plain(file):
            values = read_mask(file)
            changes.append(Change("mask-file", file, place, "written as a PNG with one channel, values unchanged"))
        return values, mask

    def _look(self, sample: Sample) -> _Look | DataError:
        assert sample.labels.mask is not None
        file = str(self.dataset.root / sample.labels.mask.path)
        try:
            with turn(image_size(file)):
                values, lossy = self._read(file)
                if len(self.dataset.categories) > 2:
                    return _Look(Convention("ids"))
                return _Look(convention_of(values), ignores_and_marks(values), lossy)
        except DataError as error:
            return error

    def _read(self, file: str) -> tuple[NDArray[Any], bool]:
        """A mask's pixels, and whether its format may have changed them."""
        try:
            return read_mask(file), False
        except DataError as error:
            if not any(problem.kind == "lossy-mask" for problem in error.problems):
                raise
            if len(self.dataset.categories) > 2:
                what = "its format changes values, and those of several categories cannot be told apart any more"
                remedy = "export the masks anew as PNG"
                raise DataError([Problem(what, kind="lossy-mask", file=file, remedy=remedy)]) from None
        picture = np.asarray(open_verified(file))
        if picture.ndim == 3:
            colours = picture[..., :3].astype(np.int16)
            if np.ptp(colours, axis=2).max(initial=0) > _COLOUR_NOISE:
                what, remedy = "has colours, whose meaning is not known", "replace every colour by its category id"
                raise DataError([Problem(what, kind="coloured-mask", file=file, remedy=remedy)])
            picture = np.rint(colours.mean(axis=2)).astype(np.uint8)
        return picture, True

    def _in_one_convention(
        self, sample: Sample, mask: Mask, file: str, place: str, changes: list[Change]
    ) -> NDArray[Any] | None:
        look = self._looks[sample.id]
        if not self._rewrite or (look.convention.name in ("0/1", "empty") and not look.lossy):
            return None
        values, moved = to_object(self._read(file)[0], look.convention, self.threshold)
        if look.convention.name == "grey":
            share = f"at {self.threshold:g} of white ({look.convention.white})"
            changes.append(Change("grey-mask", file, place, f"{moved:,} grey pixels made 0 or 1 {share}", moved))
        else:
            changes.append(Change("mask-convention", file, place, f"{look.convention.name} written as 0/1"))
        return values


def _not_told(dataset: Dataset, sample: Sample, convention: Convention, others: list[str]) -> Problem:
    mask = sample.labels.mask
    what = convention.why or "holds several values"
    beside = f"; other masks are {', '.join(others)}" if others else ""
    message = f"{what}, so that what is object and what is background would be a guess{beside}"
    remedy = "name the categories and write their ids, or correct this mask"
    return Problem(
        message, kind="mask-values", file=dataset.root / (mask.path if mask else sample.image), remedy=remedy
    )


def _parts(
    values: NDArray[Any], mask: Mask, file: str, place: str, changes: list[Change]
) -> tuple[NDArray[np.uint16], Mask]:
    """Connected parts of each category (8 neighbours) as objects, numbered from 1 in the order of the categories."""
    ids = np.zeros(values.shape, np.uint16)
    categories: dict[int, int] = {}
    count = 0
    for category in (int(value) for value in np.unique(values) if value not in (0, IGNORE)):
        parts = np.zeros(values.shape, np.int32)
        found = int(ndimage.label(values == category, np.ones((3, 3), bool), output=parts))  # type: ignore[arg-type]
        if count + found > _MOST_IDS:
            raise DataError([f"{file}: has more than {_MOST_IDS} connected parts; leave out --instances"])
        ids[parts > 0] = (parts[parts > 0] + count).astype(np.uint16)
        categories |= dict.fromkeys(range(count + 1, count + found + 1), category) if category != 1 else {}
        count += found
    changes.append(Change("made-instances", file, place, f"{count} connected parts made objects"))
    if ignored := int(np.count_nonzero(values == IGNORE)):
        what = f"{ignored:,} ignored pixels (255) became background: instance masks have no value for them"
        changes.append(Change("ignored-lost", file, place, what, ignored))
    return ids, Mask(mask.path, "instance", categories)


def _is_plain(file: str) -> bool:
    """Whether a file is a PNG with one channel, as masks are written here; by its header."""
    try:
        with Image.open(file) as picture:
            return picture.format == "PNG" and picture.mode in ("1", "L", "P", "I", "I;16")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
