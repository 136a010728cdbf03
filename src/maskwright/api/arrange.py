"""Datasets: deal into splits, merge, keep a share of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskwright.api.data import as_dataset
from maskwright.api.progress import Progress, progress_of
from maskwright.data.choices import KindName, Twins
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.registry import ReadName

if TYPE_CHECKING:
    from maskwright.data.dataset import Dataset
    from maskwright.data.merge import MergeResult
    from maskwright.data.sample import SampleResult
    from maskwright.data.split import SplitResult


def split(
    data: str | Path | Dataset,
    out: str | Path,
    shares: Mapping[str, float],
    *,
    of: Sequence[str] = ("train",),
    group: str | None = None,
    table: str | Path | None = None,
    column: str | None = None,
    seed: int = 0,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    progress: Progress = False,
) -> SplitResult:
    """Write a copy of a dataset whose images are dealt into splits that are alike.

    Each split gets its share of the images, of those that show each category, and of each kind of label, as near as whole
    groups allow (Sechidis et al., 2011). Images that hold the same picture, by its pixels, always stay together. Images
    without a mask cannot be scored: where there are masks, the others go to ``train``, unless their group goes elsewhere.

    Args:
        data: a folder, a JSON, XML or YAML file, or a ``Dataset``; it stays as it is.
        out: new folder; images and masks are hard-linked or copied into it. It is there whole or not at all.
        shares: of the images with a mask (without masks: of all), 0..1 by split; the rest is ``train``.
        of: splits whose images are dealt; others stay as they are. ``("all",)`` deals every image.
        group: a regular expression that is sought in each image's path; its groups ``(...)``, or else what it found, name the
            group of the image. Images of one group come into one split.
        table, column: instead a CSV file, with a row for each image, and its column that names the group.
        seed: same seed, same splits.
        format: what it is read as, where several fit: one of ``maskwright.api.FORMATS``. Left out: what is there decides.
        image_reading: which page, channels and range of intensity of the image files count. Left out: what the files say.
        progress: True shows a bar; or what to call as ``progress(done, total)`` after each image.

    Returns:
        The new dataset, its groups by split, and warnings: of categories that a split does not show.

    Raises:
        DataError: shares that leave nothing, images without a group, too few groups, files that cannot be read or written.

    >>> maskwright.api.split("scans", "scans-split", {"val": 0.15, "test": 0.15}, group=r"patient(\\d+)").groups
    {'train': 35, 'val': 7, 'test': 8}
    """
    from maskwright.data.groups import Grouping
    from maskwright.data.split import split as write_split

    dataset = as_dataset(data, format, image_reading)
    dealt = tuple(dict.fromkeys(sample.split for sample in dataset)) if tuple(of) == ("all",) else tuple(of)
    grouping = Grouping(group, table, column)
    with progress_of(progress, "reading images") as call:
        return write_split(dataset, out, shares, of=dealt, grouping=grouping, seed=seed, progress=call)


def merge(
    data: Sequence[str | Path | Dataset],
    out: str | Path,
    *,
    twins: Twins = "refuse",
    image_reading: ImageReading = PLAIN,
    progress: Progress = False,
) -> MergeResult:
    """Write several datasets into one. Categories are the same where their names are; splits stay.

    Args:
        data: folders, files or ``Dataset``; they stay as they are.
        out: new folder; images and masks are hard-linked or copied into it. It is there whole or not at all.
        twins: of a picture that several of them hold, by its pixels: ``"refuse"`` raises, ``"first"`` takes it from the
            dataset that is named first, ``"keep"`` takes all.
        image_reading: which page, channels and range of intensity of the image files count. Left out: what the files say.
        progress: True shows a bar; or what to call as ``progress(done, total)`` after each image.

    Returns:
        The new dataset, and what was renamed, rewritten and left out; warnings of labels that say less than they seem to:
        what a dataset does not name counts as background in its masks.

    Raises:
        DataError: pictures in several datasets, files that cannot be read or written; all at once.

    >>> maskwright.api.merge(["clinic-a", "clinic-b"], "both").images
    (812, 430)
    """
    from maskwright.data.merge import merge as write_merged

    with progress_of(progress, "reading images") as call:
        return write_merged([as_dataset(each, None, image_reading) for each in data], out, twins=twins, progress=call)


def sample(
    data: str | Path | Dataset,
    out: str | Path,
    *,
    shares: Sequence[float] = (),
    counts: Sequence[int] = (),
    split: str = "train",
    kind: KindName | None = None,
    group: str | None = None,
    table: str | Path | None = None,
    column: str | None = None,
    seed: int = 0,
    format: ReadName | None = None,
    image_reading: ImageReading = PLAIN,
    progress: Progress = False,
) -> SampleResult:
    """Write a copy of a dataset in which only a share of the images keep their labels; a manifest for each share.

    For studies of how many labels it takes. Every smaller share is part of every larger one; each is stratified by the
    categories and kinds of label that the images hold.

    Args:
        data: a folder, a JSON, XML or YAML file, or a ``Dataset``; it stays as it is.
        out: new folder, there whole or not at all. ``labels-5-percent.json`` and so on are the shares, ``manifest.json`` has
            all labels; all name the same images.
        shares: of the labelled images, above 0 and up to 1.
        counts: numbers of labelled images, beside or instead of these.
        split: whose labels are taken away; other splits stay as they are.
        kind: only of images whose finest label is of this kind; the others stay as they are.
        group, table, column: what names the groups of which all images keep their labels, or none; see :func:`split`.
        seed: same seed, same order of the images.
        format: what it is read as, where several fit: one of ``maskwright.api.FORMATS``. Left out: what is there decides.
        image_reading: which page, channels and range of intensity of the image files count. Left out: what the files say.
        progress: True shows a bar; or what to call as ``progress(done, total)`` after each image.

    Returns:
        The shares, from small to large.

    Raises:
        DataError: shares or counts out of bounds, no labels, files that cannot be read or written.

    >>> [s.labelled for s in maskwright.api.sample("polyps", "polyps-shares", shares=[0.01, 0.05, 0.1]).samples]
    [8, 40, 80]
    """
    from maskwright.data.groups import Grouping
    from maskwright.data.labels import Kind
    from maskwright.data.sample import sample as write_sample

    grouping = Grouping(group, table, column)
    with progress_of(progress, "reading images") as call:
        return write_sample(
            as_dataset(data, format, image_reading),
            out,
            shares,
            counts,
            split=split,
            kind=Kind[kind.upper()] if kind is not None else None,
            grouping=grouping,
            seed=seed,
            progress=call,
        )
