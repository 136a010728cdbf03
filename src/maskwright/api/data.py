"""Datasets: check, count, weaken, convert."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskwright.api.progress import Progress, progress_of
from maskwright.errors import DataError

if TYPE_CHECKING:
    from maskwright.data.dataset import Dataset
    from maskwright.data.formats import Format


@dataclass(frozen=True)
class CheckResult:
    """What :func:`check` found out about a dataset.

    Attributes:
        problems: one line each, naming file, place and remedy; empty if there is none.
        images: how many; 0 where the dataset cannot be read at all.
        splits: images of each.
        categories: names by id, ``background`` first.
    """

    problems: list[str]
    images: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    categories: tuple[str, ...] = ()


def as_dataset(data: str | Path | Dataset) -> Dataset:
    """A dataset that may be named by its path. Raises DataError, see ``Dataset.load``."""
    from maskwright.data.dataset import Dataset

    return Dataset.load(data) if isinstance(data, str | Path) else data


def check(data: str | Path | Dataset, *, training: bool = True, progress: Progress = False) -> CheckResult:
    """Find every problem of a dataset before hours are spent on it: files, labels, splits. Nothing is mended.

    Args:
        data: a folder, a JSON file, or a ``Dataset``.
        training: also require a split ``train`` with labels.
        progress: True shows a bar; or what to call as ``progress(done, total)`` after each image.

    Returns:
        The problems, those included for which the dataset cannot be read; and what is in it.

    >>> maskwright.check("polyps").problems
    ['polyps/masks/a.png: unknown category ids 7 (120 pixels); known are 0..1 and 255 for ignore; ...']
    """
    from maskwright.data import check as files

    try:
        dataset = as_dataset(data)
    except DataError as error:
        return CheckResult([str(error)] if len(error.problems) == 1 else error.problems)
    with progress_of(progress, "checking") as call:
        problems = files.check(dataset, progress=call, training=training)
    splits = dict(Counter(sample.split for sample in dataset))
    return CheckResult(problems, len(dataset), splits, dataset.categories)


def stats(data: str | Path | Dataset) -> dict[str, Any]:
    """What is in a dataset: images by split and finest label, categories, sizes; see :func:`maskwright.data.stats.stats`.

    Raises:
        DataError: files that cannot be read, or category ids without a name; all at once.

    >>> maskwright.api.stats("polyps")["splits"]["train"]
    {'images': 800, 'kinds': {'mask': 40, 'box': 200, 'none': 560}}
    """
    from maskwright.data.stats import stats as counts

    return counts(as_dataset(data))


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
    return write_weakened(as_dataset(data), out, shares | {Kind.NONE: rest}, seed, split)


def convert(data: str | Path | Dataset, out: str | Path, to: Format, *, allow_loss: bool = False) -> Path:
    """Write a dataset in another format; images are linked or copied, masks stay as they are to the bit.

    Args:
        data: what to write; it stays as it is.
        out: new folder.
        to: ``"manifest"`` holds everything, ``"coco"`` instances and boxes, ``"folders"`` masks.
        allow_loss: write even if the format cannot hold all labels.

    Returns:
        What ``Dataset.load`` takes to read it again.

    Raises:
        DataError: labels that the format cannot hold (all are named; nothing is written), a folder that is not empty, or
            files that are missing or cannot be written.

    >>> maskwright.api.convert("polyps", "polyps-coco", "coco")
    PosixPath('polyps-coco')
    """
    from maskwright.data.formats import convert as write_converted

    return write_converted(as_dataset(data), out, to, allow_loss=allow_loss)
