"""How a trained model is scored on a split, and how the scores are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskwright.data.check import require_clean
from maskwright.data.formats.folders import semantic_of
from maskwright.data.images import read_mask
from maskwright.data.labels import Dataset, Sample
from maskwright.engine.metrics import SegmentationMetrics
from maskwright.errors import DataError

if TYPE_CHECKING:
    from maskwright.engine.predictor import Predictor


@dataclass(frozen=True)
class ScoreTable:
    """Scores to be printed: numbers are 0..1 (float) or counts (int), None is not defined."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


def semantic_scores(
    predictor: Predictor,
    dataset: Dataset,
    split: str,
    *,
    batch: int,
    progress: Callable[[int, int], None] | None,
    **options: Any,
) -> dict[str, Any]:
    """Score semantic masks on one split, at the images' own resolution.

    Instance masks count by their categories. 255 counts nowhere.

    Args:
        predictor: gives category ids.
        dataset: with the same categories as the model, in any order; every image of the split has a mask.
        split: its name.
        batch, options: see ``Predictor.predict``.
        progress: called as ``progress(done, total)`` after each image.

    Returns:
        What :meth:`maskwright.engine.metrics.SegmentationMetrics.compute` gives, and ``model`` (its signature),
        ``dataset`` and ``split``.

    Raises:
        DataError: no such split, images without a mask, other categories, or files that cannot be read; all at once.
    """
    refuse_unsuited(predictor, dataset, split)
    part = dataset.split(split)
    require_clean(part, training=False)
    # Ids of the model's categories as the dataset counts them.
    order = np.array([dataset.categories.index(name) for name in predictor.categories], np.uint8)
    metrics = SegmentationMetrics(dataset.categories)
    predictions = predictor.predict((dataset.image_path(sample) for sample in part), batch=batch, **options)
    for number, (sample, prediction) in enumerate(zip(part, predictions, strict=True), start=1):
        metrics.update(order[prediction.mask], true_mask(dataset, sample), sample.id)
        if progress:
            progress(number, len(part))
    return scored(predictor, dataset, split) | metrics.compute()


def scored(predictor: Predictor, dataset: Dataset, split: str) -> dict[str, Any]:
    """What was scored, for the head of the scores."""
    return {"model": predictor.signature, "dataset": dataset.source or str(dataset.root), "split": split}


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


def refuse_unsuited(predictor: Predictor, dataset: Dataset, split: str) -> None:
    """Raise one DataError with all that keeps the split from being scored."""
    problems = []
    lacking = [name for name in predictor.categories if name not in dataset.categories]
    unknown = [name for name in dataset.categories if name not in predictor.categories]
    if lacking or unknown:
        parts = [f"the model has {_names(lacking)}, the dataset does not"] if lacking else []
        parts += [f"the dataset has {_names(unknown)}, the model does not"] if unknown else []
        problems.append(f"categories differ: {' and '.join(parts)}; rename or merge them in the dataset")
    if problems := problems + split_problems(dataset, split):
        raise DataError(problems, dataset.source or str(dataset.root))


def split_problems(dataset: Dataset, split: str) -> list[str]:
    """What keeps a split from being scored against its masks, whatever the model."""
    problems, part = [], dataset.split(split)
    if not len(part):
        splits = _names(sorted({sample.split for sample in dataset})) or "none"
        problems.append(f"split {split!r} is empty (splits: {splits}); name another with --split")
    problems += [
        f"sample {sample.id!r} ({sample.image}) has no mask to score against; give it one or move it to another split"
        for sample in part
        if sample.labels.mask is None
    ]
    return problems


def true_mask(dataset: Dataset, sample: Sample) -> NDArray[np.uint8]:
    """Category ids ``(H, W)`` of a sample's mask; 255 = ignore."""
    mask, path = sample.labels.mask, dataset.mask_path(sample)
    if mask is None or path is None:
        raise ValueError(f"sample {sample.id!r} has no mask")
    values = read_mask(path)
    return semantic_of(values, mask) if mask.kind == "instance" else values


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _shown(score: float | None) -> str:
    return "not defined" if score is None else f"{score:.3f}"
