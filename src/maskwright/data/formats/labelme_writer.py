"""Writing LabelMe's files."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.fields import names_a_file
from maskwright.data.files import place_file, write_atomic
from maskwright.data.formats.contents import cuts, mask_kinds
from maskwright.data.formats.objects import objects_of
from maskwright.data.labels import IGNORE, Sample, Samples
from maskwright.errors import DataError

NAMES = "labels.txt"
"""The names of the categories, one in a line, as LabelMe takes them with ``--labels``."""
IGNORED, BACKGROUND = "__ignore__", "_background_"
_VERSION = "5.4.1"  # The first digits of LabelMe's files that have shapes of type mask.


def loss(dataset: Samples) -> list[str]:
    """What of a dataset LabelMe cannot hold, one line each."""
    lost = cuts(dataset)
    if count := mask_kinds(dataset)["semantic"]:
        lost.append(f"{count} semantic masks (each category of an image becomes one object, {IGNORE} is dropped)")
    if count := sum(len(line.points) == 1 for sample in dataset for line in sample.labels.scribbles):
        lost.append(f"{count} scribbles of a single point (they become points)")
    if others := sorted({sample.split for sample in dataset} - {"train", "val", "test"}):
        lost.append(f"the splits {', '.join(others)} (they become train)")
    return lost


def write(dataset: Samples, folder: str | Path) -> Path:
    """Write a JSON file beside each image that has labels, and ``labels.txt``, into a new folder.

    The objects of masks are shapes of type ``mask``, bit for bit. Where there are other splits than ``train``, each has a
    folder. Open it with ``labelme FOLDER --labels FOLDER/labels.txt --nodata``.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, a file is missing or unreadable, or a split's name is no file name.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError([f"{folder}: is not empty; choose a new folder"])
    splits = {sample.split for sample in dataset}
    if bad := [split for split in splits if not names_a_file(split)]:
        raise DataError([f"split {bad[0]!r} cannot be a file name; rename it"])
    for sample in dataset:
        place = folder / sample.split if splits != {"train"} else folder
        image = f"{sample.id}{Path(sample.image).suffix}"
        place_file(dataset.image_path(sample), place / image)
        document = _document(dataset, sample, image)
        if document["shapes"] or document["flags"] or sample.labels.mask:
            write_atomic(place / f"{sample.id}.json", json.dumps(document, ensure_ascii=False, indent=1))
    write_atomic(folder / NAMES, "\n".join([IGNORED, BACKGROUND, *dataset.categories[1:]]) + "\n")
    return folder


def _document(dataset: Samples, sample: Sample, image: str) -> dict[str, Any]:
    width, height = dataset.size_of(sample)
    names, labels = (BACKGROUND, *dataset.categories[1:]), sample.labels
    shapes = []

    def add(kind: str, category: int, points: list[list[float]], mask: str | None = None) -> None:
        head = {"label": names[category], "points": points, "group_id": None, "description": ""}
        shapes.append({**head, "shape_type": kind, "flags": {}, "mask": mask})

    for found in objects_of(dataset, sample, (height, width)):
        rows, columns = found.part.window()
        corners = [[columns.start, rows.start], [columns.stop - 1, rows.stop - 1]]
        add("mask", found.category, corners, _as_text(found.part.mask))
    for box in labels.boxes:
        add("rectangle", box.category, [[box.x0, box.y0], [box.x1, box.y1]])
    for line in labels.scribbles:
        add("linestrip" if len(line.points) > 1 else "point", line.category, [[x, y] for x, y in line.points])
    for point in labels.points:
        add("point", point.category, [[point.x, point.y]])
    head = {"version": _VERSION, "flags": {names[tag.category]: True for tag in labels.tags}, "shapes": shapes}
    return {**head, "imagePath": image, "imageData": None, "imageHeight": height, "imageWidth": width}


def _as_text(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
