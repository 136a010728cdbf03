"""Datasets: check, mend, count, weaken, convert."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from maskwright.api.progress import Progress, progress_of
from maskwright.data.choices import Crowd
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName, WrittenName
from maskwright.errors import DataError
from maskwright.problems import Problem

if TYPE_CHECKING:
    from maskwright.data.dataset import Dataset
    from maskwright.data.fix import Fixed
    from maskwright.data.stats import Stats


@dataclass(frozen=True)
class CheckResult:
    """What :func:`check` found out about a dataset.

    Attributes:
        problems: for which it is refused, each with file, place and remedy; as a text it is one line. Empty if there is none.
        warnings: what is read, but may not be meant so; of the same form.
        images: how many; 0 where the dataset cannot be read at all.
        splits: images of each.
        categories: names by id, ``background`` first.
        format: how it is stored, in words; empty where it cannot be read.
        stats: images and objects by split and kind of label, categories, ignored pixels; None where it cannot be read.
        understood: all of this in a few lines of text.
        data: the dataset as it was named.
    """

    problems: list[Problem]
    warnings: list[Problem] = field(default_factory=list)
    images: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    format: str = ""
    stats: Stats | None = None
    understood: tuple[str, ...] = ()
    data: str = ""

    def lines(self, severity: str = "problem", most: int | None = 3) -> list[str]:
        """Problems or warnings as lines of text: of each kind the first ``most`` and a count, and what mends them.

        Args:
            severity: ``problem`` or ``warning``.
            most: None for all.
        """
        from maskwright.data.understood import findings_text

        return findings_text(self.problems if severity == "problem" else self.warnings, self.data, most)


def as_dataset(
    data: str | Path | Dataset, format: ReadName | None = None, image_reading: ImageReading = PLAIN
) -> Dataset:
    """A dataset that may be named by its path, and its format by ``format``. Raises DataError, see ``Dataset.load``.

    What ``image_reading`` says of its image files comes before what the dataset says itself.
    """
    from maskwright.data.dataset import Dataset

    if isinstance(data, str | Path):
        return Dataset.load(data, format=format, image_reading=image_reading)
    return data.with_image_reading(image_reading.over(data.image_reading))


def require_data(data: str | Path | Dataset) -> None:
    """Raise DataError where a path is not there; told at once, before what takes seconds to load."""
    from maskwright.data.files import require_there

    if isinstance(data, str | Path):
        require_there(data)


def use_cache(folder: str | Path | None) -> None:
    """Keep masks that are made of other labels in this folder from now on; None leaves it as it is.

    Else they are kept in the dataset's folder, or in the user's cache where that cannot be written. The environment variable
    ``MASKWRIGHT_CACHE`` does the same.
    """
    if folder is not None:
        from maskwright.data.cache import use

        use(folder)


def check(
    data: str | Path | Dataset,
    *,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    training: bool = True,
    progress: Progress = False,
) -> CheckResult:
    """Say how a dataset is understood, and find every problem before hours are spent on it. Nothing is mended.

    Args:
        data: a folder, a JSON, XML or YAML file, or a ``Dataset``.
        format: what it is read as, where several fit: one of ``maskwright.api.FORMATS``. Left out: what is there decides.
        image_reading: which page, channels and range of intensity of the image files count, such as
            ``ImageReading(channels=(2, 0, 1))``. Left out: what the files say.
        training: also require a split ``train`` with labels.
        progress: True shows a bar; or what to call as ``progress(done, total)`` after each image.

    Returns:
        The problems, those included for which the dataset cannot be read; and what is in it.

    >>> maskwright.check("polyps").problems
    ['polyps/masks/a.png: unknown category ids 7 (120 pixels); known are 0..1 and 255 for ignore; ...']
    """
    from maskwright.data.check import examine
    from maskwright.data.findings import name_of
    from maskwright.data.understood import understood

    try:
        dataset = as_dataset(data, format, image_reading)
    except DataError as error:
        return CheckResult([_in_file(problem, error.where) for problem in error.problems], data=str(data))
    with progress_of(progress, "checking") as call:
        report = examine(dataset, progress=call, training=training)
    problems, warnings = (_as_read(found, format, image_reading) for found in (report.problems, report.warnings))
    return CheckResult(
        problems,
        warnings,
        len(dataset),
        {name: split.images for name, split in report.stats.splits.items()},
        dataset.categories,
        dataset.format,
        report.stats,
        tuple(understood(report)),
        name_of(dataset) if dataset is data else str(data),
    )


def _as_read(problems: list[Problem], format: ReadName | None, reading: ImageReading) -> list[Problem]:
    """Problems whose commands read the dataset as it was read here: in that format, and that page of its images."""
    said = [f"--format {format}"] if format is not None else []
    said += [f"--page {reading.page}"] if reading.page is not None else []
    if not said:
        return problems
    return [
        problem if problem.fix is None else problem.replaced(fix=" ".join([*said, problem.fix]).strip())
        for problem in problems
    ]


def _in_file(problem: Problem, where: str) -> Problem:
    """A reader's problem with the dataset's name before its place, unless it has a file of its own."""
    if not where or problem.file or problem.startswith(where):
        return problem
    return problem.replaced(file=where)


def fix(
    data: str | Path,
    out: str | Path,
    *,
    format: ReadName | None = None,
    crowd: Crowd | None = None,
    root: str | Path | None = None,
    threshold: float = 0.5,
    instances: bool = False,
    semantic: bool = False,
    image_reading: ImageReading = PLAIN,
    progress: Progress = False,
) -> Fixed:
    """Write a mended copy of a dataset into a new folder, with ``fixed.json``, a list of all that was changed.

    Mended is what has one meaning: masks with grey edges or in several conventions, boxes and outlines that reach over the
    border, outlines without area, paths and names as other systems write them, numbers written as text, image files that
    are damaged around their pixels. The copy has a ``manifest.json``, and the check finds no problem in it.

    Args:
        data: a folder, or a JSON, XML or YAML file; it stays as it is.
        out: new folder; it is there when everything is in it, or not at all.
        format: what it is read as, where several fit: one of ``maskwright.api.FORMATS``. Left out: what is there decides.
        crowd: what becomes of COCO annotations with ``iscrowd``: ``"objects"`` takes each as an object, ``"ignore"`` leaves
            them out. Left out: as objects where all annotations of a category are crowds.
        root: where files are that are named by a path outside the dataset: a folder of the dataset.
        threshold: share of white, 0..1, from which a grey pixel of a mask is the object's.
        instances: make instance masks of semantic ones: each connected part of a category is an object.
        semantic: make semantic masks of instance masks.
        image_reading: which page, channels and range of intensity of the image files count. Of files with several pages that
            one is written as PNG, where it can be; the files stay as they are else.
        progress: True shows a bar; or what to call as ``progress(done, total)``.

    Returns:
        The new folder, and what was changed.

    Raises:
        DataError: problems that cannot be mended without a guess, all of them; or a folder that cannot be written, or is
            not new. Nothing is written then.

    >>> maskwright.fix("polyps", "polyps-fixed").counts
    {'grey-mask': 12, 'box-outside': 3}
    """
    from maskwright.data.fix import Mending
    from maskwright.data.fix import fix as write_fixed

    folder = Path(root) if root is not None else None
    mending = Mending(crowd, folder, threshold, instances, semantic, image_reading, format)
    with progress_of(progress, "mending") as call:
        return write_fixed(data, out, mending, progress=call)


def stats(data: str | Path | Dataset, *, format: ReadName | None = None, image_reading: ImageReading = PLAIN) -> Stats:
    """What is in a dataset: images and objects by split and kind of label, categories, sizes, ignored pixels.

    Args:
        data: a folder, a JSON, XML or YAML file, or a ``Dataset``.
        format: what it is read as, where several fit: one of ``maskwright.api.FORMATS``. Left out: what is there decides.
        image_reading: which page, channels and range of intensity of the image files count. Left out: what the files say.

    Raises:
        DataError: files that cannot be read, or category ids without a name; all at once.

    >>> maskwright.stats("polyps").splits["train"].kinds
    {'mask': 40, 'box': 200, 'none': 560}
    """
    from maskwright.data.stats import stats as counts

    return counts(as_dataset(data, format, image_reading))


def weaken(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    mask: float = 0.0,
    scribble: float = 0.0,
    box: float = 0.0,
    point: float = 0.0,
    tag: float = 0.0,
    none: float | None = None,
    seed: int = 0,
    split: str = "train",
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
) -> Dataset:
    """Turn masks into weaker labels, for studies; every image of the split keeps exactly one kind.

    Args:
        data: with masks in ``split``; it stays as it is.
        out: new folder; images are hard-linked or copied into it.
        mask: share 0..1 of the images with a mask that keep it.
        scribble, box, point, tag: shares that get these instead.
        none: share that loses all labels; left out, what remains to 1.
        seed: decides which image gets which kind.
        split: whose masks are weakened; other splits stay as they are.
        format: what it is read as, where several fit: one of ``maskwright.api.FORMATS``. Left out: what is there decides.
        image_reading: which page, channels and range of intensity of the image files count. Left out: what the files say.

    Returns:
        The new dataset.

    Raises:
        DataError: shares that do not sum up to 1, no masks, or files that cannot be read or written.

    >>> maskwright.api.weaken("polyps", "polyps-weak", mask=0.05, box=0.5)
    """
    from maskwright.data.labels import Kind
    from maskwright.data.weaken import weaken as write_weakened

    shares = {Kind.MASK: mask, Kind.SCRIBBLE: scribble, Kind.BOX: box, Kind.POINT: point, Kind.TAG: tag}
    rest = max(0.0, 1 - sum(shares.values())) if none is None else none
    return write_weakened(as_dataset(data, format, image_reading), out, shares | {Kind.NONE: rest}, seed, split)


def convert(
    data: str | Path | Dataset,
    out: str | Path,
    to: WrittenName,
    *,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    allow_loss: bool = False,
) -> Path:
    """Write a dataset in another format; images are linked or copied, masks stay as they are to the bit.

    Args:
        data: what to write; it stays as it is.
        out: new folder.
        to: one of ``maskwright.api.WRITTEN``; ``"manifest"`` holds everything, of the others the page on data says what they hold.
        format: what it is read as, where several fit: one of ``maskwright.api.FORMATS``. Left out: what is there decides.
        image_reading: which page, channels and range of intensity of the image files count, such as
            ``ImageReading(channels=(2, 0, 1))``. Left out: what the files say.
        allow_loss: write even if the format cannot hold all labels.

    Returns:
        What ``Dataset.load`` takes to read it again.

    Raises:
        DataError: labels that the format cannot hold (all are named; nothing is written), a folder that is not empty, or
            files that are missing or cannot be written.

    >>> maskwright.convert("polyps", "polyps-coco", "coco")
    PosixPath('polyps-coco')
    """
    from maskwright.data.formats import convert as write_converted

    return write_converted(as_dataset(data, format, image_reading), out, to, allow_loss=allow_loss)
