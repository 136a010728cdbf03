"""Images that belong together, such as the frames of one patient: by their file names, by a table, or by their pixels."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from maskwright.data.dataset import Dataset
from maskwright.data.files import reason_of
from maskwright.data.findings import source_of
from maskwright.data.image_files import turn
from maskwright.data.images import decode
from maskwright.data.labels import Sample
from maskwright.data.lookahead import ahead_readable
from maskwright.errors import DataError
from maskwright.problems import Problem

IMAGE_COLUMNS = ("image", "id", "file", "filename", "file_name", "image_id", "name", "path")
"""Names under which a table's column is looked for that says which image a row is about."""


@dataclass(frozen=True)
class Grouping:
    """What says which images belong together; without any of it each image is a group of its own.

    Attributes:
        pattern: a regular expression that is sought in each image's path: its groups ``(...)``, or else what it found, name
            the image's group.
        table: a CSV file, with one row for each image.
        column: of the table, which names the image's group.
    """

    pattern: str | None = None
    table: str | Path | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        if self.pattern is not None and self.table is not None:
            raise DataError(["--group and --table exclude each other; give one of them"])
        if (self.table is None) != (self.column is None):
            raise DataError(["--table and --column go together: the file, and the column that names the group"])

    def names(self, dataset: Dataset) -> list[str]:
        """The group of each sample, by name.

        Raises:
            DataError: a pattern that is none, a table that cannot be read, or images without a group; all of these at once.
        """
        if self.pattern is not None:
            return _by_pattern(dataset, self.pattern)
        if self.table is not None and self.column is not None:
            return _by_table(dataset, Path(self.table), self.column)
        return [sample.id for sample in dataset]

    def units(self, dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> NDArray[np.int64]:
        """The number of each sample's group, ``(N,)`` from 0 in the order in which they first occur.

        Groups that hold one and the same picture, by its pixels, are one group: else it could come into two splits.

        Raises:
            DataError: as :meth:`names`, and images that cannot be read.
        """
        _, group = np.unique(self.names(dataset), return_inverse=True)
        _, picture = np.unique(pictures([dataset], progress), return_inverse=True)
        groups, count = int(group.max(initial=-1)) + 1, len(dataset)
        edges = (np.ones(count, bool), (group, groups + picture))
        size = groups + int(picture.max(initial=-1)) + 1
        _, joined = connected_components(coo_array(edges, shape=(size, size)), directed=False)
        _, first, unit = np.unique(joined[group], return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[unit]


ALONE = Grouping()
"""Each image is a group of its own."""


def _by_pattern(dataset: Dataset, pattern: str) -> list[str]:
    try:
        sought = re.compile(pattern)
    except re.error as error:
        raise DataError([f"--group '{pattern}': is no regular expression ({error})"]) from None
    found = [sought.search(sample.image) for sample in dataset]
    missed = [
        Problem(
            f"--group '{pattern}' finds nothing in this path",
            kind="no-group",
            file=sample.image,
            remedy="give a pattern that names the group of every image, such as 'patient(\\d+)'",
        )
        for sample, match in zip(dataset, found, strict=True)
        if match is None or not any(match.groups() or match.group())
    ]
    if missed:
        raise DataError(missed, source_of(dataset))
    return ["|".join(part or "" for part in (match.groups() or (match.group(),))) for match in found if match]


def _by_table(dataset: Dataset, table: Path, column: str) -> list[str]:
    header, rows = _read_table(table)
    lowered = [name.strip().lower() for name in header]
    if column not in header:
        raise DataError([f"{table}: has no column {column!r}; its columns are {', '.join(header)}"])
    key = next((lowered.index(name) for name in IMAGE_COLUMNS if name in lowered), None)
    if key is None or key == header.index(column):
        known = ", ".join(IMAGE_COLUMNS)
        raise DataError([f"{table}: has no column that names the image; call it one of {known}"])
    value, problems = header.index(column), []
    groups: dict[str, tuple[str, int]] = {}
    for line, row in rows:
        cells = [*(cell.strip() for cell in row), *[""] * (len(header) - len(row))]
        image, group = cells[key].replace("\\", "/"), cells[value]
        if image in groups and groups[image][0] != group:
            what = f"{image!r} is in {group!r} here and in {groups[image][0]!r} in line {groups[image][1]}"
            problems.append(
                Problem(what, kind="two-groups", file=table, place=f"line {line}", remedy="keep one of them")
            )
        if image and not group:
            what = f"{image!r} has no {column!r}"
            problems.append(Problem(what, kind="no-group", file=table, place=f"line {line}", remedy="write its group"))
        groups.setdefault(image, (group, line))
    found = [_row_of(sample, groups, names) for names in [_name_counts(dataset)] for sample in dataset]
    problems += [
        Problem("the table has no row for this image", kind="no-row", file=sample.image, remedy=f"add it to {table}")
        for sample, group in zip(dataset, found, strict=True)
        if group is None
    ]
    if problems:
        raise DataError(problems, str(table))
    return [group for group in found if group is not None]


def _read_table(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the rows that are not empty with their lines."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError([f"{table}: cannot be read ({reason_of(error)}); check the path"]) from None
    except UnicodeDecodeError:
        raise DataError([f"{table}: is no text in UTF-8; save it as CSV in UTF-8"]) from None
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    try:
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except csv.Error as error:
        raise DataError([f"{table}: line {reader.line_num}: is no CSV ({error}); save it as CSV in UTF-8"]) from None
    if not rows:
        raise DataError([f"{table}: has no rows; it needs a header and a row for each image"])
    return header, rows


def _name_counts(dataset: Dataset) -> Counter[str]:
    """How many images have a name without their folder, and how many one without their suffix too."""
    return Counter(
        name for sample in dataset for name in {PurePosixPath(sample.image).name, PurePosixPath(sample.image).stem}
    )


def _row_of(sample: Sample, groups: dict[str, tuple[str, int]], counts: Counter[str]) -> str | None:
    """By path, by id, or by the file's name with or without its suffix, where no other image has that name."""
    path = PurePosixPath(sample.image)
    for name in (sample.image, sample.id, *(name for name in (path.name, path.stem) if counts[name] == 1)):
        if name in groups:
            return groups[name][0]
    return None


def pictures(datasets: Sequence[Dataset], progress: Callable[[int, int], None] | None = None) -> list[bytes]:
    """A hash of the pixels of each image of some datasets, in order. Raises DataError with all images that cannot be read."""

    def digest(image: tuple[Dataset, Sample]) -> bytes:
        dataset, sample = image
        with turn(dataset.size_of(sample)):
            return decode(dataset.image_path(sample), dataset.image_reading).digest()

    images = [(dataset, sample) for dataset in datasets for sample in dataset]
    digests: list[bytes] = []
    problems: list[str] = []
    for found in ahead_readable(digest, images, None, None, problems):
        digests.append(found)
        if progress:
            progress(len(digests), len(images))
    if problems:
        raise DataError(problems, ", ".join(map(source_of, datasets)))
    return digests
