"""A mended copy of a dataset, in a new folder, with a list of all that was changed.

Mended is what has one meaning; where a guess would be needed, all of it is refused and nothing is written. What is wrong
in the structure (paths, numbers written as text, outlines without area) is mended while reading; what is wrong in the
files, here: masks (``masks``), boxes, and image files that are damaged around their pixels.

The copy holds ``manifest.json``, ``images/``, ``masks/`` and ``fixed.json``. It is made aside, checked like any dataset,
and gets its name last, so that a copy that was killed half-way is never taken for a whole one. Nothing in the dataset's
folder is touched: files that stay as they are become hard links or copies, others new files.
"""

from __future__ import annotations

import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from maskwright.data import manifest
from maskwright.data.check import Report, examine
from maskwright.data.choices import Crowd
from maskwright.data.dataset import Dataset
from maskwright.data.files import place_file, write_atomic
from maskwright.data.findings import name_of, source_of
from maskwright.data.fix.masks import Change, MaskMender
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import page_as_image, page_count
from maskwright.data.labels import Box, Labels, Sample
from maskwright.data.lookahead import ahead
from maskwright.data.mask_files import write_mask
from maskwright.data.new_folder import new_folder
from maskwright.data.registry import ReadName
from maskwright.data.salvage import salvaged
from maskwright.errors import DataError
from maskwright.problems import Problem
from maskwright.version import __version__

LIST = "fixed.json"
"""The list of changes in the copy's folder."""


@dataclass(frozen=True)
class Mending:
    """What is to be mended in which way; see ``maskwright.fix``."""

    crowd: Crowd | None = None
    root: Path | None = None
    threshold: float = 0.5
    instances: bool = False
    semantic: bool = False
    image_reading: ImageReading = PLAIN
    format: ReadName | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise DataError([f"--threshold {self.threshold}: must lie between 0 and 1; 0.5 is half way to white"])
        if self.instances and self.semantic:
            raise DataError(["--instances and --semantic exclude each other; give one of them"])

    def as_dict(self) -> dict[str, Any]:
        """Those that differ from their defaults, ready for JSON."""
        given = {key: value for key, value in vars(self).items() if value != getattr(Mending, key)}
        given |= given.pop("image_reading", PLAIN).as_dict()
        return {key: os.fspath(value) if isinstance(value, Path) else value for key, value in given.items()}


@dataclass(frozen=True)
class Fixed:
    """A mended copy.

    Attributes:
        folder: the copy; what ``Dataset.load`` takes.
        data: the dataset that it was made of.
        changes: all that was changed, in the order of the samples.
        warnings: what the check of the copy has to say.
        options: that were given.
    """

    folder: Path
    data: str
    changes: tuple[Change, ...]
    warnings: tuple[Problem, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many changes of each kind there are."""
        return dict(Counter(change.kind for change in self.changes))

    @property
    def pixels(self) -> dict[str, int]:
        """How many pixels of masks the changes of each kind have moved to another value that was not meant so."""
        moved = Counter[str]()
        for change in self.changes:
            moved[change.kind] += change.pixels
        return dict(moved)

    def as_dict(self) -> dict[str, Any]:
        """What ``fixed.json`` holds."""
        return {
            "maskwright": __version__,
            "data": self.data,
            "options": self.options,
            "counts": self.counts,
            "pixels": self.pixels,
            "changes": [asdict(change) for change in self.changes],
            "warnings": list(self.warnings),
        }


def fix(
    data: str | Path,
    out: str | Path,
    mending: Mending = Mending(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Fixed:
    """Write a mended copy of a dataset; see ``maskwright.fix``.

    Raises:
        DataError: problems that cannot be mended without a guess, all of them; or a folder that cannot be written, is not
            new, or lies in the dataset. Nothing is written then.
    """
    root = _folder_in(data, mending.root)
    source = _mended_structure(data, mending, root)
    with new_folder(out, source.root) as aside:
        copy = _Copy(source, aside, mending)
        report = copy.made(progress)
        fixed = Fixed(Path(out), str(data), tuple(copy.changes), tuple(report.warnings), mending.as_dict())
        write_atomic(aside / LIST, json.dumps(fixed.as_dict(), ensure_ascii=False, indent=1) + "\n")
    return fixed


class _Copy:
    """The copy under way: its folder, its samples, what was changed, and which file comes from which."""

    def __init__(self, source: Dataset, folder: Path, mending: Mending) -> None:
        self.source, self.folder, self.reading = source, folder, mending.image_reading
        self.masks = MaskMender(source, mending.threshold, mending.instances, mending.semantic)
        # What a reader understood with a reservation, or left out, the copy says plainly, or does not have.
        self.changes = [Change.of(warning) for warning in source.warnings]
        self.origins: dict[str, str] = {str(folder / manifest.NAME): source_of(source)}

    def made(self, progress: Callable[[int, int], None] | None) -> Report:
        """Write the copy and check it. Raises DataError with all that cannot be mended."""
        try:
            self._write(progress)
            return self._check(progress)
        except DataError as error:
            raise _not_mended(error, source_of(self.source)) from None

    def _write(self, progress: Callable[[int, int], None] | None) -> None:
        """Write images, masks and manifest. Raises DataError with all that cannot be mended."""
        self.masks.plan()
        samples, problems = [], []
        for done, (sample, changes, errors) in enumerate(ahead(self._sample, self._named()), start=1):
            samples.append(sample)
            self.changes += changes
            problems += errors
            if progress:
                progress(done, 2 * len(self.source))
        if problems:
            raise DataError(problems, source_of(self.source))
        manifest.write(
            replace(self.source, root=self.folder, samples=tuple(samples), source=str(self.folder / manifest.NAME))
        )

    def _check(self, progress: Callable[[int, int], None] | None) -> Report:
        """Check the copy like any dataset. Images that are damaged around their pixels are written anew."""
        total = len(self.source)
        later = (lambda done, _: progress(total + done, 2 * total)) if progress else None
        report = examine(self._written(), training=False, progress=later)
        if self._write_anew([p.file for p in report.problems if p.kind == "damaged-but-whole"]):
            report = examine(self._written(), training=False)
        if report.problems:
            raise DataError([self._of_source(problem) for problem in report.problems], source_of(self.source))
        return replace(report, warnings=[self._of_source(warning) for warning in report.warnings])

    def _written(self) -> Dataset:
        return Dataset.load(self.folder, image_reading=self.reading)

    def _named(self) -> Iterator[tuple[Sample, str]]:
        """The samples with their ids in one Unicode form, where that makes no two of them the same."""
        names = [unicodedata.normalize("NFC", sample.id) for sample in self.source]
        unique = len(set(names)) == len(names)
        for sample, name in zip(self.source, names):
            if unique and name != sample.id:
                what = f"id {sample.id!r} written in the composed Unicode form"
                self.changes.append(Change("unicode-form", source_of(self.source), f"sample {name!r}", what))
            yield sample, name if unique else sample.id

    def _sample(self, named: tuple[Sample, str]) -> tuple[Sample, list[Change], list[Problem]]:
        """One sample with its files written and its labels mended; the changes; and what could not be read."""
        sample, name = named
        changes: list[Change] = []
        try:
            image = self._image(sample, name, changes)
            labels = self._boxes(sample, changes)
            if labels.mask is not None:
                target = f"masks/{name}.png"
                mended, mask = self.masks.mended(sample, changes)
                origin = self.source.root / labels.mask.path
                self.origins[str(self.folder / target)] = str(origin)
                if mended is None:
                    place_file(origin, self.folder / target)
                else:
                    write_mask(self.folder / target, mended)
                labels = replace(labels, mask=replace(mask, path=target))
        except DataError as error:
            return sample, [], error.problems
        return replace(sample, id=name, image=image, labels=labels), changes, []

    def _image(self, sample: Sample, name: str, changes: list[Change]) -> str:
        """Place a sample's image, or the page of it that was asked for, where that can be a PNG. Returns its path in the copy."""
        source = self.source.image_path(sample)
        image = f"images/{name}{source.suffix}"
        page = self.reading.page
        if page is not None and page_count(source) > 1 and (picture := page_as_image(source, page)):
            image, content = f"images/{name}.png", io.BytesIO()
            picture.save(content, "PNG")
            write_atomic(self.folder / image, content.getvalue())
            changes.append(Change("page", str(source), f"sample {sample.id!r}", f"page {page} written as PNG"))
        else:
            place_file(source, self.folder / image)
        self.origins[str(self.folder / image)] = str(source)
        return image

    def _boxes(self, sample: Sample, changes: list[Change]) -> Labels:
        """The labels with boxes cut off at the image's border; one that is wholly outside stays, to be refused."""
        boxes = sample.labels.boxes
        if not boxes:
            return sample.labels
        width, height = sample.size or self.source.size_of(sample)
        mended: list[Box] = []
        for i, box in enumerate(boxes):
            x0, y0, x1, y1 = (min(max(v, 0.0), float(m)) for v, m in zip(box.xyxy, (width, height, width, height)))
            if (x0, y0, x1, y1) != box.xyxy and x0 < x1 and y0 < y1:
                old, new = (" ".join(f"{v:g}" for v in corners) for corners in (box.xyxy, (x0, y0, x1, y1)))
                place = f"sample {sample.id!r}, boxes[{i}]"
                what = f"{old} cut off at the border of {width} x {height}: {new}"
                changes.append(Change("box-outside", source_of(self.source), place, what))
                box = Box(x0, y0, x1, y1, box.category)
            mended.append(box)
        return replace(sample.labels, boxes=tuple(mended))

    def _write_anew(self, files: list[str]) -> bool:
        """Write image files of the copy anew, with the same pixels. Returns whether there was any."""
        for file in files:
            content = salvaged(file)
            if content is None:
                return False
            write_atomic(file, content)
            what = "damaged around its pixels, which are all there: written anew with the same pixels"
            self.changes.append(Change("damaged-but-whole", self.origins.get(file, file), "", what))
        return bool(files)

    def _of_source(self, problem: Problem) -> Problem:
        """A problem of the copy as one of the dataset that it comes from; what is left now cannot be mended."""
        here, there = str(self.folder), name_of(self.source)
        return Problem(
            problem.message.replace(here, there),
            kind=problem.kind,
            severity=problem.severity,
            file=self.origins.get(problem.file, problem.file.replace(here, there)),
            place=problem.place,
            remedy="" if problem.fix is not None else problem.remedy.replace(here, there),
        )


def _mended_structure(data: str | Path, mending: Mending, root: Path | None) -> Dataset:
    """The dataset with all that readers can mend."""
    try:
        return Dataset.load(
            data, format=mending.format, crowd=mending.crowd, root=root, mend=True, image_reading=mending.image_reading
        )
    except DataError as error:
        raise (_not_mended(error, str(data)) if Path(data).exists() else error) from None


def _not_mended(error: DataError, name: str) -> DataError:
    return DataError(error.problems, f"{name} (nothing is written, as these cannot be mended without a guess)")


def _folder_in(data: str | Path, root: Path | None) -> Path | None:
    """``--root`` relative to the dataset's folder; it may be given so, or as a path from here."""
    if root is None:
        return None
    base = Path(data) if Path(data).is_dir() else Path(data).parent
    base = base.parent if not Path(data).is_dir() and base.name == "annotations" else base
    for candidate in (base / root, root):
        if candidate.is_dir() and Path(os.path.realpath(candidate)).is_relative_to(os.path.realpath(base)):
            return Path(os.path.relpath(os.path.realpath(candidate), os.path.realpath(base)))
    raise DataError([f"--root {root}: is no folder in {base}; name the one of the dataset in which the files are"])
