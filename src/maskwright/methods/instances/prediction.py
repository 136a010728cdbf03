"""What a model of instances says of an image, and of a whole folder: objects, masks of their ids, COCO results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.files import write_atomic
from maskwright.data.pictures import overlay_instances
from maskwright.engine.base_predictor import Canvas
from maskwright.engine.prediction import Prediction
from maskwright.engine.values import strict_json
from maskwright.methods.instances.coco import Detection

if TYPE_CHECKING:
    from maskwright.data.geometry import Size

RESULTS = "coco.json"
"""The COCO results of a folder of predictions."""


@dataclass(frozen=True)
class InstancePrediction(Prediction):
    """The objects of one image.

    Attributes:
        mask: ``(H, W)`` uint16 instance ids: k are the visible pixels of ``objects[k - 1]``; the surer object lies in front.
        scores: the best score of each category with an object.
        objects: those with a score of at least the threshold, the surest first.
        detections: the best 100, which COCO scores; of an image in tiles also all others with a score of at least .05, of a dense
            segmenter all.
    """

    objects: tuple[Detection, ...] = field(default=(), repr=False)
    detections: tuple[Detection, ...] = field(default=(), repr=False)

    @property
    def shares(self) -> dict[str, float]:
        """The share 0..1 of the image that each category's objects cover."""
        category_of = np.array([0, *(one.category for one in self.objects)])
        counts = np.bincount(category_of[self.mask].reshape(-1), minlength=len(self.categories))
        return {name: float(n) / self.mask.size for name, n in zip(self.categories, counts) if n}

    def record(self) -> dict[str, Any]:
        """Also the objects, as an entry of COCO results each but for its ``image_id``; ``ids`` are those of the mask."""
        height, width = self.mask.shape
        rows = [one.as_json((width, height)) for one in self.detections]
        return {**super().record(), "ids": len(self.objects), "objects": rows}

    def paint(
        self, pixels: NDArray[np.uint8], mask: NDArray[np.integer], alpha: float, outline: bool
    ) -> NDArray[np.uint8]:
        return overlay_instances(pixels, mask, alpha=alpha, outline=outline)


def prediction_of(
    canvas: Canvas, detections: Sequence[Detection], threshold: float, categories: tuple[str, ...]
) -> InstancePrediction:
    """The prediction of an image with these detections, the surest first; ``threshold`` is the score from which one is drawn."""
    objects = tuple(one for one in detections if one.score >= threshold)
    best: dict[str, float] = {}
    for one in objects:
        best.setdefault(categories[one.category], one.score)
    mask = draw_ids(objects, canvas.size)
    return InstancePrediction(canvas.id, canvas.image, mask, categories, best, objects, tuple(detections))


def draw_ids(objects: Sequence[Detection], size: Size) -> NDArray[np.uint16]:
    """Ids ``(H, W)`` of objects from 1, the first in front, for an image of ``size`` (width, height)."""
    mask = np.zeros((size[1], size[0]), np.uint16)
    for number in range(len(objects), 0, -1):
        x0, y0, x1, y1 = objects[number - 1].box
        mask[y0:y1, x0:x1][objects[number - 1].mask] = number
    return mask


def write_results(folder: Path, rows: Mapping[str, Mapping[str, Any]], categories: Sequence[str]) -> Path:
    """Write ``coco.json``: images, categories and, as annotations with a score, the results of a folder's index ``rows``."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(sorted(rows), start=1):
        row = rows[name]
        # Relative to the folder, so that it can be moved together with its images.
        file = row.get("image") or Path(os.path.relpath(row["file"], folder)).as_posix()
        images.append({"id": number, "file_name": file, "width": row["size"][0], "height": row["size"][1]})
        for entry in row["objects"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, **entry})
    names = [{"id": id, "name": name} for id, name in enumerate(categories) if id]
    document = {"images": images, "annotations": annotations, "categories": names}
    return write_atomic(folder / RESULTS, strict_json(document, RESULTS))
