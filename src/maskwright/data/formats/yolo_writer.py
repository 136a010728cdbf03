"""Writing YOLO's rows and ``data.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from maskwright.data.files import place_file, write_atomic
from maskwright.data.formats.contents import cuts, mask_kinds, weak_labels
from maskwright.data.formats.objects import objects_of
from maskwright.data.formats.outlines import polygon_of
from maskwright.data.formats.rle import Part, polygon_part
from maskwright.data.labels import IGNORE, Sample, Samples
from maskwright.errors import DataError
from maskwright.problems import Problem

_SPLITS = ("train", "val", "test")


def loss(dataset: Samples) -> list[str]:
    """What of a dataset YOLO cannot hold, one line each."""
    lost = weak_labels(dataset, ("scribbles", "points", "tags")) + cuts(dataset)
    if count := mask_kinds(dataset)["semantic"]:
        lost.append(f"{count} semantic masks (each category of an image becomes one object, {IGNORE} is dropped)")
    if count := sum(len(sample.labels.boxes) for sample in dataset if sample.labels.mask):
        lost.append(f"{count} boxes of images that have masks too")
    if others := sorted({sample.split for sample in dataset} - set(_SPLITS)):
        lost.append(f"the splits {', '.join(others)} (they become train)")
    return lost


def write(dataset: Samples, folder: str | Path) -> Path:
    """Write ``data.yaml``, ``images/<split>/`` and ``labels/<split>/`` into a new folder; what :func:`loss` names is left out.

    The outline of an object runs along the edges of its pixels, holes and parts included, so that it is read here as the
    same pixels; this is verified for each before anything is written. Other programs that draw it by another rule may
    differ by a pixel at borders.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, a file is missing or unreadable, or an object whose outline cannot be drawn (all
            of them).
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError([f"{folder}: is not empty; choose a new folder"])
    problems: list[Problem] = []
    texts = [_text(dataset, sample, problems) for sample in dataset]
    if problems:
        raise DataError(problems, dataset.source)
    splits: dict[str, str] = {}
    for sample, text in zip(dataset, texts, strict=True):
        split = sample.split if sample.split in _SPLITS else "train"
        splits[split] = f"images/{split}"
        place_file(dataset.image_path(sample), folder / "images" / split / f"{sample.id}{Path(sample.image).suffix}")
        if text is not None:
            write_atomic(folder / "labels" / split / f"{sample.id}.txt", text)
    settings = {key: splits[key] for key in _SPLITS if key in splits}
    names = dict(enumerate(dataset.categories[1:]))
    content = yaml.safe_dump(settings | {"names": names}, allow_unicode=True, sort_keys=False, width=1000)
    write_atomic(folder / "data.yaml", content)
    return folder


def in_pixels(shares: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Coordinates x, y, x, y, ... in pixels of shares of the sides (width, height), to a millionth of a pixel."""
    return [round(value * size[number % 2], 6) for number, value in enumerate(shares)]


def _text(dataset: Samples, sample: Sample, problems: list[Problem]) -> str | None:
    """The rows of an image; None where it has no labels."""
    labels = sample.labels
    if labels.mask is None and not labels.boxes:
        return None
    width, height = dataset.size_of(sample)
    sides = np.array([width, height])
    rows = []
    for found in objects_of(dataset, sample, (height, width)):
        shares = (polygon_of(found.part) / sides).ravel().tolist()
        text = " ".join(f"{value:.12g}" for value in shares)
        if not _is_same(text, found.part, (height, width)):
            what = f"object {found.id} is too fragmented for one outline, which is all that YOLO has"
            remedy = "convert to coco or manifest, which hold it"
            problems.append(Problem(what, file=str(dataset.mask_path(sample)), kind="outline", remedy=remedy))
        rows.append(f"{found.category - 1} {text}\n")
    for box in () if labels.mask else labels.boxes:
        centre = (box.x0 + box.x1) / 2 / width, (box.y0 + box.y1) / 2 / height
        numbers = (*centre, (box.x1 - box.x0) / width, (box.y1 - box.y0) / height)
        rows.append(" ".join([str(box.category - 1), *(f"{value:.12g}" for value in numbers)]) + "\n")
    return "".join(rows)


def _is_same(text: str, part: Part, size: tuple[int, int]) -> bool:
    """Whether an outline as it is written fills the pixels that it was made of."""
    vertices = in_pixels([float(word) for word in text.split()], (size[1], size[0]))
    try:
        drawn = polygon_part(vertices, size)
    except ValueError:  # an outline that is longer than any in an image
        return False
    if drawn.area != part.area:
        return False
    return bool((Part.union([drawn, part]).mask.sum()) == part.area)
