"""How category masks are scored on a split, and how the scores are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskwright.data.dataset import Dataset
from maskwright.engine.metrics import SegmentationMetrics
from maskwright.engine.predictor import Predictor
from maskwright.engine.scoring import ScoreTable, true_mask


def semantic_scores(
    predictor: Predictor,
    part: Dataset,
    *,
    batch: int,
    progress: Callable[[int, int], None] | None,
    **options: Any,
) -> dict[str, Any]:
    """Score category masks of images at the images' own resolution.

    Instance masks count by their categories. 255 counts nowhere.

    Args:
        predictor: gives category ids.
        part: images with masks, and with the same categories as the model, in any order.
        batch, options: see ``Predictor.predict``.
        progress: called as ``progress(done, total)`` after each image.

    Returns:
        What :meth:`maskwright.engine.metrics.SegmentationMetrics.compute` gives.

    Raises:
        DataError: a file cannot be read.
    """
    # Ids of the model's categories as the dataset counts them.
    order = np.array([part.categories.index(name) for name in predictor.categories], np.uint8)
    metrics = SegmentationMetrics(part.categories)
    predictions = predictor.predict((part.image_path(sample) for sample in part), batch=batch, **options)
    for number, (sample, prediction) in enumerate(zip(part, predictions, strict=True), start=1):
        metrics.update(order[prediction.mask], true_mask(part, sample), sample.id)
        if progress:
            progress(number, len(part))
    return metrics.compute()


def semantic_table(scores: Mapping[str, Any]) -> ScoreTable:
    """The table of :func:`semantic_scores`: a row for each category, and their mean."""
    rows = [
        [name, c["dice"], c["iou"], c["pooled_dice"], c["pooled_iou"], c["images"]]
        for name, c in scores["per_category"].items()
    ]
    pooled = scores["pooled"]
    rows.append(
        ["mean without background", scores["dice"], scores["iou"], pooled["dice"], pooled["iou"], scores["images"]]
    )
    columns = ["category", "Dice", "IoU", "Dice, pooled", "IoU, pooled", "images"]
    note = "Dice and IoU are means over images, pooled ones are over all pixels together. "
    note += (
        f"mIoU with background, pooled: {_shown(pooled['miou'])}; pixel accuracy: {_shown(pooled['pixel_accuracy'])}"
    )
    return ScoreTable(columns, rows, note)


def _shown(score: float | None) -> str:
    return "not defined" if score is None else f"{score:.3f}"
