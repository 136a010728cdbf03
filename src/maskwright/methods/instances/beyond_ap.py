"""What COCO's AP does not tell: the most that it could be, AP of all detections, and the F1 that microscopists report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.geometry import Size
from maskwright.methods.instances.coco import Detection, average_precision

MATCHED = 0.5
"""IoU from which a detection is a true object's."""


def scores(
    truths: Sequence[Sequence[Detection]],
    detections: Sequence[Sequence[Detection]],
    sizes: Sequence[Size],
    categories: Sequence[str],
    threshold: float,
) -> dict[str, Any]:
    """Scores of a split beside those of :func:`maskwright.methods.instances.coco.scores`, with the same arguments.

    Args:
        threshold: score from which a detection counts for F1.

    Returns:
        ``ceiling``: the AP that the truth itself would get, below 1 where images hold more objects than COCO counts detections;
        ``ap_all``: AP of all detections instead of the best 100; ``f1``: of objects found at an IoU of .5, 2 TP / (2 TP + FP + FN)
        over all images, the mean over categories that have objects; and ``per_category``: the same of each. None where there is no
        object.
    """
    most = max([1, *(len(of_image) for of_image in detections)])
    parts = {
        "ceiling": average_precision(truths, truths, sizes, categories),
        "ap_all": average_precision(truths, detections, sizes, categories, most=most),
        "f1": _f1(truths, detections, sizes, categories, threshold),
    }
    per_category: Mapping[str, Any] = {
        name: {key: values[k] for key, values in parts.items()} for k, name in enumerate(categories[1:])
    }
    return {**{key: _mean(values) for key, values in parts.items()}, "per_category": per_category}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _f1(
    truths: Sequence[Sequence[Detection]],
    detections: Sequence[Sequence[Detection]],
    sizes: Sequence[Size],
    categories: Sequence[str],
    threshold: float,
) -> list[float | None]:
    """F1 of each category but the background."""
    found, shown, matched = (np.zeros(len(categories), np.int64) for _ in range(3))
    for true, all_found, size in zip(truths, detections, sizes, strict=True):
        sure = sorted((one for one in all_found if one.score >= threshold), key=lambda one: -one.score)
        for category in range(1, len(categories)):
            mine, theirs = ([one for one in of if one.category == category] for of in (sure, true))
            found[category] += len(mine)
            shown[category] += len(theirs)
            matched[category] += _matches(mine, theirs, size)
    return [float(2 * matched[k] / (found[k] + shown[k])) if shown[k] else None for k in range(1, len(categories))]


def _matches(detections: Sequence[Detection], truths: Sequence[Detection], size: Size) -> int:
    """How many detections, the surest first, meet a true object that none before them has met; true objects do not overlap."""
    if not detections or not truths:
        return 0
    ids = np.zeros((size[1], size[0]), np.int32)
    for number, one in enumerate(truths, start=1):
        x0, y0, x1, y1 = one.box
        ids[y0:y1, x0:x1][one.mask] = number
    areas = np.bincount(ids.reshape(-1), minlength=len(truths) + 1)
    free = np.ones(len(truths) + 1, bool)
    free[0] = False
    count = 0
    for one in detections:
        x0, y0, x1, y1 = one.box
        common: NDArray[np.int64] = np.bincount(ids[y0:y1, x0:x1][one.mask], minlength=len(truths) + 1)
        iou = np.where(free, common / (areas + one.area - common), 0)
        best = int(iou.argmax())
        if iou[best] >= MATCHED:
            free[best] = False
            count += 1
    return count
