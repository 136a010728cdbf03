"""Writing COCO instance annotations."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskwright.data.fields import names_a_file
from maskwright.data.files import write_atomic
from maskwright.data.formats import rle
from maskwright.data.formats.contents import cuts, mask_kinds, weak_labels
from maskwright.data.formats.objects import Scores, objects_of
from maskwright.data.labels import IGNORE, Sample, Samples
from maskwright.data.manifest import copy_files
from maskwright.errors import DataError


def loss(dataset: Samples) -> list[str]:
    """What of a dataset COCO cannot hold, one line each."""
    lost = weak_labels(dataset, ("scribbles", "points", "tags")) + cuts(dataset)
    if count := mask_kinds(dataset)["semantic"]:
        lost.append(f"{count} semantic masks (each category of an image becomes one object, {IGNORE} is dropped)")
    return lost


def write(dataset: Samples, folder: str | Path, scores: Scores | None = None) -> Path:
    """Write ``images/`` and ``annotations/<split>.json`` into a new folder; what :func:`loss` names is left out.

    Instances are compressed run lengths with their pixel count as ``area`` and their tight ``bbox``; boxes have an
    empty ``segmentation``; ``iscrowd`` is 0 throughout. Category ids are those of the dataset.

    Args:
        scores: where given, the ``score`` of annotations, as COCO results have it.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, a file is missing or unreadable, or a split's name is no file name.
    """
    folder = Path(folder)
    splits: dict[str, list[Sample]] = defaultdict(list)
    for sample in dataset:
        splits[sample.split].append(sample)
    if bad := [split for split in splits if not names_a_file(split)]:
        raise DataError([f"split {bad[0]!r} cannot be a file name; rename it"])
    copied = copy_files(dataset, folder, masks=False)
    files = {sample.id: sample.image for sample in copied}
    categories = [{"id": id, "name": name} for id, name in enumerate(dataset.categories) if id]
    for split, samples in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, sample in enumerate(samples, start=1):
            width, height = dataset.size_of(sample)
            entry = {"id": number, "file_name": Path(files[sample.id]).name, "width": width, "height": height}
            images.append({**entry, "labelled": sample.labels.mask is not None})
            for row in _annotations(dataset, sample, (height, width), (scores or {}).get(sample.id, {})):
                annotations.append({"id": len(annotations) + 1, "image_id": number, **row, "iscrowd": 0})
        document = {"info": {"split": split}, "images": images, "annotations": annotations, "categories": categories}
        write_atomic(folder / "annotations" / f"{split}.json", json.dumps(document, ensure_ascii=False))
    return folder


def _annotations(
    dataset: Samples, sample: Sample, size: tuple[int, int], scores: Mapping[int, float]
) -> Iterator[dict[str, Any]]:
    for found in objects_of(dataset, sample, size):
        code = {"size": list(size), "counts": rle.compress(rle.encode(found.part.whole(size)))}
        height, width = found.part.mask.shape
        box = [found.part.left, found.part.top, width, height]
        score = {"score": scores[found.id]} if found.id in scores else {}
        yield {"category_id": found.category, "segmentation": code, "area": found.part.area, "bbox": box, **score}
    for box in sample.labels.boxes:
        across, down = box.x1 - box.x0, box.y1 - box.y0
        row = {"category_id": box.category, "segmentation": [], "area": across * down}
        yield {**row, "bbox": [box.x0, box.y0, across, down]}
