"""Instances in COCO's terms: results as JSON, and mask AP, AP50, AP75 and box AP by COCO's protocol (100 detections per
image)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.formats import rle

if TYPE_CHECKING:
    from maskwright.data.geometry import Size

MOST = 100
"""Detections of an image that are scored."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One object of an image; its mask is cropped to its extent.

    Attributes:
        category: id, 1..C-1.
        score: 0..1.
        left, top: pixel of the image at which ``mask`` begins.
        mask: ``(h, w)`` bool; its first and last row and column have a pixel that is set.
    """

    category: int
    score: float
    left: int
    top: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """``x0 y0 x1 y1``, half-open."""
        return self.left, self.top, self.left + self.mask.shape[1], self.top + self.mask.shape[0]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.mask.sum())

    def segmentation(self, size: Size) -> dict[str, Any]:
        """COCO's compressed run lengths on an image of ``size`` (width, height)."""
        width, height = size
        columns = np.zeros((height, self.mask.shape[1]), bool)
        columns[self.top : self.top + self.mask.shape[0]] = self.mask
        counts = rle.encode(columns)
        counts[0] += self.left * height
        after = (width - self.left - self.mask.shape[1]) * height
        if len(counts) % 2:  # the last run is one of zeros
            counts[-1] += after
        elif after:
            counts.append(after)
        return {"size": [height, width], "counts": rle.compress(counts)}

    def as_json(self, size: Size) -> dict[str, Any]:
        """An entry of a COCO results file, but for its ``image_id``."""
        x0, y0, x1, y1 = self.box
        return {
            "category_id": self.category,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": self.area,
            "score": round(self.score, 5),
            "segmentation": self.segmentation(size),
        }


def cut(mask: NDArray[np.bool_], category: int, score: float, left: int = 0, top: int = 0) -> Detection | None:
    """A detection of a mask ``(h, w)`` that begins at a place of the image; None where nothing is set."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Detection(category, score, left + int(columns[0]), top + int(rows[0]), part)


def of_ids(
    ids: NDArray[np.integer],
    categories: Sequence[int] | NDArray[np.integer],
    scores: Sequence[float] | NDArray[np.floating] | None = None,
) -> list[Detection]:
    """The objects of an instance mask: ids 1..n ``(H, W)``, the category and the score of each; left out, their score is 1."""
    from scipy import ndimage

    detections = []
    for number, place in enumerate(ndimage.find_objects(ids.astype(np.int32, copy=False)), start=1):
        if place is not None:
            part = np.asarray(ids[place] == number)
            score = 1.0 if scores is None else float(scores[number - 1])
            detections.append(cut(part, int(categories[number - 1]), score, place[1].start, place[0].start))
    return detections


def scores(
    truths: Sequence[Sequence[Detection]],
    detections: Sequence[Sequence[Detection]],
    sizes: Sequence[Size],
    categories: Sequence[str],
) -> dict[str, Any]:
    """COCO's scores of a split, computed by faster-coco-eval.

    Args:
        truths: the objects of each image; their scores do not matter.
        detections: of each image; the best 100 count.
        sizes: (width, height) of each image.
        categories: names by id, the first ``background``.

    Returns:
        ``ap``, ``ap50``, ``ap75`` (masks), ``box_ap``, ``images``, ``objects``, and ``per_category``: the same of each. AP is the
        mean over categories that have objects, and over IoU thresholds .50 to .95; None where there is no object at all.
    """
    truth = _document(truths, sizes, categories)
    results = _results(detections, sizes)
    masks, boxes = _precision(truth, results, "segm"), _precision(truth, results, "bbox")
    counts = np.bincount([d.category for image in truths for d in image], minlength=len(categories))
    per_category = {
        name: {**_means(masks[..., k : k + 1], boxes[..., k : k + 1]), "objects": int(counts[k + 1])}
        for k, name in enumerate(categories[1:])
    }
    return {
        **_means(masks, boxes),
        "images": len(sizes),
        "objects": int(counts.sum()),
        "per_category": per_category,
    }


def average_precision(
    truths: Sequence[Sequence[Detection]],
    detections: Sequence[Sequence[Detection]],
    sizes: Sequence[Size],
    categories: Sequence[str],
    most: int = MOST,
) -> list[float | None]:
    """Mask AP of each category but the background, as of :func:`scores`; None for one without objects.

    Args:
        most: detections of an image that count.
    """
    results = _results(detections, sizes)
    precision = _precision(_document(truths, sizes, categories), results, "segm", most)
    return [_mean(precision[..., k]) for k in range(precision.shape[-1])]


def _results(detections: Sequence[Sequence[Detection]], sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return [
        {"image_id": number, **detection.as_json(size)}
        for number, (of_image, size) in enumerate(zip(detections, sizes, strict=True), start=1)
        for detection in of_image
    ]


def _document(
    truths: Sequence[Sequence[Detection]], sizes: Sequence[Size], categories: Sequence[str]
) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (objects, size) in enumerate(zip(truths, sizes, strict=True), start=1):
        images.append({"id": number, "width": size[0], "height": size[1]})
        for thing in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, **thing.as_json(size)})
    names = [{"id": id, "name": name} for id, name in enumerate(categories) if id]
    return {"info": {}, "images": images, "annotations": annotations, "categories": names}


def _precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str, most: int = MOST
) -> NDArray[np.float64]:
    """(T, R, K): precision at 10 IoU thresholds and 101 recalls for each category; -1 where it has no object."""
    from faster_coco_eval import COCO, COCOeval_faster  # a quarter of a second, and only scoring needs it

    none = np.full((10, 101, len(truth["categories"])), -1.0)
    if not truth["annotations"]:
        return none
    if not results:
        has_object = np.isin([c["id"] for c in truth["categories"]], [a["category_id"] for a in truth["annotations"]])
        return np.where(has_object, 0.0, none)
    dataset = COCO(dict(truth))
    evaluation: Any = COCOeval_faster(dataset, dataset.loadRes([dict(row) for row in results]), kind)  # type: ignore[arg-type]
    evaluation.params.maxDets = [1, 10, most]
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]


def _means(masks: NDArray[np.float64], boxes: NDArray[np.float64]) -> dict[str, float | None]:
    return {
        "ap": _mean(masks),
        "ap50": _mean(masks[:1]),
        "ap75": _mean(masks[5:6]),
        "box_ap": _mean(boxes),
    }


def _mean(precision: NDArray[np.float64]) -> float | None:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None
