"""YOLO as Ultralytics, Roboflow and CVAT write it: a text file of rows beside each image, and ``data.yaml`` with the names.

The rows of ``images/train/a.jpg`` are in ``labels/train/a.txt``: the last folder ``images`` becomes ``labels``; without
such a folder they are beside the image. How rows become labels, all numbers being shares of the image's sides:

- ``class x y x y x y ...`` is an object with its outline, drawn as COCO's polygons are. An outline that walks a line
  there and back, as Ultralytics joins parts, encloses nothing on it.
- ``class x y w h`` is a Box, by its centre. A last number more, as predictions have it, is a score or track, and left out.
- Where ``data.yaml`` has ``kpt_shape``, key-points after the box are left out, with a warning that counts them.
- A file without rows says that there is no object; an image without a file is unlabelled.

``data.yaml`` names images by ``train``, ``val`` and ``test``: folders, lists of paths in a text file, or several of them,
below its own folder or ``path`` in it. Without it the folders decide: ``images/<split>/``, ``<split>/images/``, else all is
``train``; names are read from ``classes.txt``, else classes are called ``class_0`` and so on. Class 0 is category 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from maskwright.data.fields import leaves_folder, shown
from maskwright.data.formats.objects import Entry, Outlined, box_inside, samples_of
from maskwright.data.formats.safe_yaml import MAX_BYTES, read_yaml
from maskwright.data.formats.segmentations import clean, draw
from maskwright.data.formats.yolo_settings import Named, Settings
from maskwright.data.formats.yolo_writer import in_pixels, loss, write
from maskwright.data.images import image_size
from maskwright.data.labels import Box, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.reading import STRICT, Reading
from maskwright.errors import DataError

__all__ = ["LAYOUT", "detect", "loss", "read", "write"]

LAYOUT = "YOLO: a folder with images/, labels/ (a text file for each image) and data.yaml, or that YAML file"
_MOST_BYTES = 100_000_000  # Of one text file.
_FARTHEST = 2  # Shares beyond this are pixels that somebody wrote.
_LOOKED_AT = 3
_NAMES = ("classes.txt", "labels/classes.txt", "obj.names")


def detect(path: Path, document: Any) -> bool:
    """Whether a folder holds ``data.yaml`` or text files of rows, or a file is a ``data.yaml``."""
    if not path.is_dir():
        return path.suffix.lower() in (".yaml", ".yml") and _names_classes(path)
    if any(map(_names_classes, _settings_in(path))):
        return True
    files = chain(path.glob("labels/*.txt"), path.glob("labels/*/*.txt"), path.glob("*/labels/*.txt"))
    looks = list(islice((_is_rows(file) for file in files if file.name != "classes.txt"), _LOOKED_AT))
    return bool(looks) and all(looks)


def read(path: str | Path, reading: Reading = STRICT) -> Samples:
    """Read YOLO (see the module's docstring).

    Args:
        path: the folder, or the YAML file in it.

    Raises:
        DataError: every structural problem at once, with file and line; several YAML files of which none is named.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    files = [file for file in _settings_in(path) if _names_classes(file)] if path.is_dir() else [path]
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError([f"{path}: holds several descriptions ({names}); name one of them, such as {files[0]}"])
    parse = _Parse(root, reading, path)
    if files:
        named = parse.described(files[0].name, read_yaml(files[0]))
    else:
        named = parse.found(next((name for name in _NAMES if (root / name).is_file()), None))
    entries = parse.entries(named)
    samples = samples_of(parse, root, entries)
    if parse.problems:
        raise DataError(parse.problems, str(path))
    parse.tell()
    return Samples(root, parse.categories(), samples, str(path), "YOLO", tuple(parse.warnings))


def _settings_in(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def _names_classes(file: Path) -> bool:
    """Whether a YAML file has names, and says where images are."""
    try:
        if file.stat().st_size > MAX_BYTES:
            return False
        document = read_yaml(file)
    except (DataError, OSError):  # Some YAML beside images, which may be anything.
        return False
    return isinstance(document, dict) and "names" in document and bool({"train", "val", "test"} & document.keys())


def _is_rows(path: Path) -> bool:
    """Whether the first line of a text file is a class and at least four shares of the image's sides."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            line = file.readline(10_000).split()
        return not line or (len(line) >= 5 and line[0].isdecimal() and all(-1 <= float(v) <= 2 for v in line[1:5]))
    except (OSError, ValueError):
        return False


def label_file(image: str) -> str:
    """Where the rows of an image are, by its path."""
    head, folder, tail = f"/{image}".rpartition("/images/")
    path = f"{head}/labels/{tail}" if folder else f"/{image}"
    return PurePosixPath(path).with_suffix(".txt").as_posix()[1:]


class _Parse(Settings):
    """Reads rows; what is described around them is read by :class:`Settings`."""

    def entries(self, named: list[Named]) -> list[Entry]:
        """An entry for each image, with its rows."""
        entries: list[Entry] = []
        used: set[str] = set()
        for one, size in zip(named, ahead(self._size, [one.path for one in named]), strict=True):
            if size is None:
                continue
            entry = Entry(one.place, one.path, one.path, one.split, size)
            file = label_file(one.path)
            used.add(file)
            if self.files.is_file(file):
                self.rows(file, entry)
            entries.append(entry)
        for folder in {PurePosixPath(file).parts[0] for file in used if "labels" in PurePosixPath(file).parts}:
            for file in self.below(folder, {".txt"}):
                if file not in used and "labels" in file.split("/")[:-1] and not file.endswith("/classes.txt"):
                    self.leave_out("label files without an image", file)
        return entries

    def _size(self, path: str) -> tuple[int, int] | None:
        try:
            return image_size(self.root / path, self.reading.image.page)
        except DataError as error:
            self.problems += error.problems
            return None

    def rows(self, file: str, entry: Entry) -> None:
        text = self.text(file)
        if text is None:
            return
        lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        entry.labelled = not lines
        for number, words in lines:
            self.row(words, f"{file}: line {number}", entry)

    def row(self, words: list[str], place: str, entry: Entry) -> None:
        numbers = _numbers(words)
        if numbers is None or not numbers[0].is_integer() or numbers[0] < 0:
            what = f"must be a class and shares of the image's sides, found {shown(' '.join(words[:6]))}"
            self.note(place, f"{what}; correct it", "row")
            return
        number, shares = int(numbers[0]), numbers[1:]
        category = self.category(number, place)
        if self.keypoints and len(shares) == 4 + self.keypoints:
            self.leave_out("rows with key-points are read as boxes, their points", place)
            shares = shares[:4]
        if len(shares) == 5 or (len(shares) > 6 and len(shares) % 2):
            self.leave_out("scores or tracks at the end of a row", place)
            shares = shares[:-1]
        if len(shares) < 4 or len(shares) == 5:
            what = (
                f"has {len(shares)} numbers after its class; a box has 4, an outline x and y of at least three points"
            )
            self.note(place, f"{what}; correct it", "row")
            return
        if (farthest := max(shares, key=abs)) and abs(farthest) > _FARTHEST:
            what = f"holds {farthest:g}, which is no share of the image's side (0 to 1)"
            self.note(place, f"{what}; divide by its width and height in pixels", "outline-outside")
        elif category is None:
            return
        elif len(shares) == 4:
            self.box(shares, place, category, entry)
        else:
            parts = clean(self, [in_pixels(shares, entry.size)], place, entry.size)
            if parts is not None:
                entry.outlined.append(Outlined(place, category, parts, draw))

    def box(self, shares: list[float], place: str, category: int, entry: Entry) -> None:
        x, y, width, height = shares
        corners = in_pixels([x - width / 2, y - height / 2, x + width / 2, y + height / 2], entry.size)
        inside = box_inside(self, (corners[0], corners[1], corners[2], corners[3]), place, entry.size)
        if inside is not None:
            entry.boxes.append(Box(*inside, category=category))

    def text(self, file: str) -> str | None:
        """The content of a text file, or None where it cannot be read (noted)."""
        if (reason := leaves_folder(self.root, file)) is not None:
            self.note(file, reason)
            return None
        try:
            if os.path.getsize(self.root / file) > _MOST_BYTES:
                self.note(file, f"has more than the {_MOST_BYTES:,} bytes that are read; correct it")
                return None
            return (self.root / file).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.note(file, f"cannot be read as text ({error}); correct it")
            return None


def _numbers(words: Iterable[str]) -> list[float] | None:
    """Finite numbers, or None."""
    try:
        numbers = [math.nan if "_" in word else float(word) for word in words]
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None
