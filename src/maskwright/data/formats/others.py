"""Layouts of other tools that are not read: recognised, so that a message can name them and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

_LOOKED_AT = 50  # Files of a kind; their layout is the same in all of them.


def recognised(folder: Path) -> str | None:
    """What a folder looks like and what to do, as ``what; remedy``; None where it is none of these."""
    for test, what, remedy in _LAYOUTS:
        if test(folder):
            return f"looks like {what}, which is not read; {remedy}"
    return None


def _yolo(folder: Path) -> bool:
    labels = [path for path in _some(folder.glob("labels/**/*.txt")) if path.stem != "classes"]
    return bool(labels) and all(map(_is_yolo, labels[:3]))


def _is_yolo(path: Path) -> bool:
    """Whether the first line of a text file is a class and at least four shares of the image's sides."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(10_000).split()
        return not line or (len(line) >= 5 and line[0].isdecimal() and all(-1 <= float(v) <= 2 for v in line[1:]))
    except (OSError, ValueError):
        return False


def _voc(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and any((folder / n).is_dir() for n in ("SegmentationClass", "Annotations"))


def _some(paths: Iterable[Path]) -> list[Path]:
    return list(islice(paths, _LOOKED_AT))


_RENAME = "rename {} to images/ and {} to masks/, so that an image and its mask have the same name, and name the categories in splits.json"
_LAYOUTS: tuple[tuple[Callable[[Path], bool], str, str], ...] = (
    (_voc, "Pascal VOC (JPEGImages/ and SegmentationClass/)", _RENAME.format("JPEGImages/", "SegmentationClass/")),
    (_yolo, "YOLO (labels/ with text files)", "convert it to COCO (instances, with outlines)"),
)
