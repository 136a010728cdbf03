"""Segmentation metrics: Dice and IoU as a mean over images and pooled over pixels, those of binary tasks, and intervals for differences.

Conventions
    - Pixels with the target 255 (``IGNORE``) count nowhere. Category 0 is background.
    - A category that is absent from both prediction and target of an image has no score there and is skipped.
    - An image's score is the mean over its foreground categories that have one. Where none has (no foreground in target and
      prediction) it is 1. An image without a labelled pixel has no score.
    - The headline (``dice``, ``iou``) is the mean of the images' scores; for one foreground category this is mDice and
      mIoU as polyp and saliency papers give them. ``pooled.miou`` over all categories, background included, is mIoU as
      VOC and Cityscapes papers give it.
    - Binary tasks (one foreground, predicted as probabilities) have more: see ``BinaryMetrics``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from maskwright.data.labels import IGNORE
from maskwright.engine.saliency import (
    LEVELS,
    adaptive_threshold,
    binary_inputs,
    counts_at,
    counts_of_levels,
    e_measure,
    f_measure,
    s_measure,
)
from maskwright.errors import DataError

_OF_IMAGE = ("iou", "mae", "f", "f_adaptive", "e", "e_adaptive", "s")
"""The scores of one image in ``BinaryMetrics``; the mean of "iou" is called mIoU."""


def confusion_matrix(pred: NDArray[Any], target: NDArray[Any], categories: int) -> NDArray[np.int64]:
    """Count pixels by target (rows) and prediction (columns).

    Args:
        pred: (H,W) integer category ids.
        target: the same shape, category ids or 255.
        categories: their number C, background included.

    Returns:
        (C,C) int64.

    Raises:
        ValueError: other shapes, or ids outside 0..C−1; both sides are named at once.
    """
    if pred.shape != target.shape:
        raise ValueError(f"prediction {pred.shape} and target {target.shape} differ in size")
    labelled = target != IGNORE
    truth, guess = target[labelled].astype(np.int64), pred[labelled].astype(np.int64)
    problems = [
        f"the {side} holds {sorted(set(np.unique(ids[(ids < 0) | (ids >= categories)]).tolist()))}"
        for side, ids in (("target", truth), ("prediction", guess))
        if ids.size and (ids.min() < 0 or ids.max() >= categories)
    ]
    if problems:
        raise ValueError(f"{' and '.join(problems)}, outside of the category ids 0..{categories - 1}")
    return np.bincount(truth * categories + guess, minlength=categories**2).reshape(categories, categories)


def dice_from_confusion(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """``2·TP / (2·TP + FP + FN)`` per category: (..., C, C) → (..., C), NaN where it is absent on both sides."""
    hits, both = _hits(confusion)
    return np.divide(2.0 * hits, both, out=np.full(hits.shape, np.nan), where=both > 0)


def iou_from_confusion(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """``TP / (TP + FP + FN)`` per category: (..., C, C) → (..., C), NaN where it is absent on both sides."""
    hits, both = _hits(confusion)
    return np.divide(1.0 * hits, both - hits, out=np.full(hits.shape, np.nan), where=both > 0)


class SegmentationMetrics:
    """Collects images one by one.

    >>> metrics = SegmentationMetrics(("background", "polyp"))
    >>> metrics.update(pred, target, "case-7")
    >>> metrics.compute()["dice"]
    """

    def __init__(self, categories: Sequence[str]) -> None:
        if len(categories) < 2:
            raise ValueError("categories need the background and at least one more")
        self.categories = tuple(categories)
        self._ids: list[str] = []
        self._confusions: list[NDArray[np.int64]] = []

    def update(self, pred: NDArray[Any], target: NDArray[Any], id: str) -> None:
        """Add one image: ``pred`` (H,W) category ids, ``target`` the same or 255. Raises DataError naming ``id``."""
        try:
            confusion = confusion_matrix(pred, target, len(self.categories))
        except ValueError as error:
            raise DataError([str(error)], where=id) from error
        self._ids.append(id)
        self._confusions.append(confusion)

    def compute(self) -> dict[str, Any]:
        """All numbers, JSON-able, None where there is nothing to measure.

        Returns::

            {"dice", "iou": headline,
             "images": number of images with a score,
             "pooled": {"dice", "iou": mean over foreground categories, "miou": mean over all, "pixel_accuracy"},
             "per_category": {name: {"dice", "iou", "images": those that have it, "pooled_dice", "pooled_iou"}},
             "per_image": [{"id", "dice", "iou", "per_category": {name: {"dice", "iou"}}}]}
        """
        count = len(self.categories)
        stack = np.stack(self._confusions) if self._confusions else np.zeros((0, count, count), np.int64)
        pooled = stack.sum(0)
        dice, iou = dice_from_confusion(stack), iou_from_confusion(stack)
        image_dice, image_iou = _image_scores(stack, dice), _image_scores(stack, iou)
        pooled_dice, pooled_iou = dice_from_confusion(pooled), iou_from_confusion(pooled)
        accuracy = np.trace(pooled) / pooled.sum() if pooled.sum() else np.nan
        return {
            "dice": _mean(image_dice),
            "iou": _mean(image_iou),
            "images": int(np.isfinite(image_dice).sum()),
            "pooled": {
                "dice": _mean(pooled_dice[1:]),
                "iou": _mean(pooled_iou[1:]),
                "miou": _mean(pooled_iou),
                "pixel_accuracy": _mean(np.array([accuracy])),
            },
            "per_category": {
                name: {
                    "dice": _mean(dice[:, c]),
                    "iou": _mean(iou[:, c]),
                    "images": int(np.isfinite(dice[:, c]).sum()),
                    "pooled_dice": _mean(pooled_dice[c : c + 1]),
                    "pooled_iou": _mean(pooled_iou[c : c + 1]),
                }
                for c, name in enumerate(self.categories)
            },
            "per_image": [
                {
                    "id": id,
                    "dice": _mean(image_dice[i : i + 1]),
                    "iou": _mean(image_iou[i : i + 1]),
                    "per_category": {
                        name: {"dice": float(dice[i, c]), "iou": float(iou[i, c])}
                        for c, name in enumerate(self.categories)
                        if np.isfinite(dice[i, c])
                    },
                }
                for i, id in enumerate(self._ids)
            ],
        }


def soft_dice(a: Tensor, b: Tensor, counted: Tensor | None = None) -> Tensor:
    """Dice of masks that may be soft: 2 Σ min(a, b) / Σ (a + b).

    Args:
        a, b: (..., h, w) bool or in 0..1.
        counted: (..., h, w) in 0..1, the weight of each pixel; None: all weigh 1.

    Returns:
        (...) in 0..1; 1 where both are empty.
    """
    a, b = a.float(), b.float()
    overlap, total = torch.minimum(a, b), a + b
    if counted is not None:
        overlap, total = overlap * counted, total * counted
    return (2 * overlap.sum((-2, -1)) + 1e-3) / (total.sum((-2, -1)) + 1e-3)


class BinaryMetrics:
    """Collects maps of probabilities for one foreground, image by image; keeps a few numbers of each.

    mIoU, fixed F and fixed E are of the mask ``probability >= 0.5``.

    >>> metrics = BinaryMetrics()
    >>> metrics.update(probability, target, "case-7", places=on_foreground)
    >>> metrics.compute()["f_max"]
    """

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._f_curve, self._f_images = np.zeros(LEVELS), 0
        self._e_curve = np.zeros(LEVELS)
        self._confusion = np.zeros((2, 2), np.int64)
        self._places = np.zeros(2, np.int64)
        self._presence: dict[bool, list[float]] = {True: [], False: []}

    def update(
        self,
        probability: ArrayLike,
        target: ArrayLike,
        id: str,
        places: ArrayLike | None = None,
        presence: float | None = None,
    ) -> None:
        """Add one image.

        Args:
            probability: (H,W) in 0..1.
            target: (H,W) with 1 = foreground, 0 = background, 255 = unknown. An image without a labelled pixel has no
                score.
            id: for messages and the list of images.
            places: for each place that was chosen (clicked) in this image, whether it lies on the foreground.
            presence: how sure the model is that the image shows any foreground; more is surer.

        Raises:
            DataError: other shapes or values; names ``id``.
        """
        try:
            values, truth, labelled = binary_inputs(probability, target, IGNORE)
        except ValueError as error:
            raise DataError([str(error)], where=id) from error
        if places is not None:
            on_foreground = np.asarray(places, bool)
            self._places += [int(on_foreground.sum()), on_foreground.size]
        if not labelled.any():
            self._images.append({"id": id, "present": None} | dict.fromkeys(_OF_IMAGE))
            return
        flat, mask = values[labelled], truth[labelled]
        confusion = confusion_matrix((flat >= 0.5).astype(np.int64), mask.astype(np.int64), 2)
        fixed, adaptive = counts_at(flat, mask, 0.5), counts_at(flat, mask, adaptive_threshold(flat))
        levels = counts_of_levels(flat, mask)
        self._confusion += confusion
        if presence is not None:
            self._presence[bool(mask.any())].append(presence)
        self._e_curve += e_measure(levels)
        if mask.any():
            self._f_curve += f_measure(levels)
            self._f_images += 1
        self._images.append(
            {
                "id": id,
                "present": bool(mask.any()),
                "iou": _mean(_image_scores(confusion[None], iou_from_confusion(confusion)[None])),
                "mae": float(np.abs(flat - mask).mean()),
                "f": _mean(f_measure(fixed)),
                "f_adaptive": _mean(f_measure(adaptive)),
                "e": _mean(e_measure(fixed)),
                "e_adaptive": _mean(e_measure(adaptive)),
                "s": s_measure(values, truth, labelled),
            }
        )

    def compute(self) -> dict[str, Any]:
        """All numbers, JSON-able, None where there is nothing to measure.

        Returns::

            {"miou", "mae", "s": mean over images,
             "miou_present": the same over images that have foreground, "iou_pooled": IoU of the pixels of all images together,
             "presence": AUROC of the model's certainty that an image has foreground, where images of both kinds were told of it,
             "f", "f_adaptive": mean over images that have foreground; "f_max": highest point of their mean curve,
             "e", "e_adaptive": mean over images; "e_mean", "e_max": mean and highest point of their mean curve,
             "ber": balanced error rate in percent, pooled over all pixels,
             "fr": share of all chosen places that lie on foreground,
             "images": number of images with a score,
             "per_image": [{"id", "present": whether it has foreground, "iou", "mae", "f", "f_adaptive", "e", "e_adaptive", "s"}]}
        """

        scored = sum(entry["mae"] is not None for entry in self._images)
        means = {
            "miou" if name == "iou" else name: _mean(np.array([entry[name] for entry in self._images], np.float64))
            for name in _OF_IMAGE
        }
        on_foreground, places = self._places.tolist()
        hits, pixels = np.diagonal(self._confusion), self._confusion.sum(1)
        union = self._confusion.sum() - self._confusion[0, 0]
        present = [entry["iou"] for entry in self._images if entry["present"]]
        return {
            **means,
            "miou_present": _mean(np.array(present, np.float64)),
            "iou_pooled": float(self._confusion[1, 1] / union) if union else None,
            "presence": auroc(self._presence[True], self._presence[False]) if all(self._presence.values()) else None,
            "f_max": float(self._f_curve.max() / self._f_images) if self._f_images else None,
            "e_max": float(self._e_curve.max() / scored) if scored else None,
            "e_mean": float(self._e_curve.mean() / scored) if scored else None,
            "ber": float(100 * (1 - (hits / pixels).mean())) if pixels.all() else None,
            "fr": on_foreground / places if places else None,
            "images": scored,
            "per_image": [dict(entry) for entry in self._images],
        }


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half (Mann & Whitney, 1947).

    Args:
        positive, negative: scores, at least one of each.
    """
    positive, negative = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    ranks = scipy.stats.rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, n: int = 10_000, seed: int = 0, *, images: ArrayLike | None = None
) -> tuple[float, float, float]:
    """The mean of ``a − b`` and its 95 % percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    What does not vary independently is resampled together: targets of one image by ``images``, and the trainings that
    scores come from by a first dimension of ``a`` and ``b``.

    Args:
        a, b: scores of the same N targets in the same order, finite, at least one: (N,), or (S, N) from S trainings with
            different seeds, which are resampled as well.
        n: resamples.
        seed: the same seed gives the same interval.
        images: (N,) names or numbers of the images that the targets lie in; left out: each has its own.

    Returns:
        (mean difference, low, high). An interval that excludes 0 says that ``a`` and ``b`` differ.

    Raises:
        ValueError: other lengths, no target, or a score that is not finite.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim not in (1, 2) or not first.size:
        raise ValueError(f"paired scores must be two equally long lists, not {first.shape} and {second.shape}")
    difference = np.atleast_2d(first - second)
    if not np.isfinite(difference).all():
        raise ValueError("scores must be finite: leave out the images without a score, in both lists")
    sums, counts = _by_image(difference, images)
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    trainings, groups = sums.shape
    rows = max(1, 1_000_000 // groups)  # keeps the table of indices at 8 MB
    for start in range(0, n, rows):
        size = min(rows, n - start)
        index = rng.integers(groups, size=(size, groups))
        total = sums.mean(0)[index]
        if trainings > 1:
            weights = rng.multinomial(trainings, np.full(trainings, 1 / trainings), size) / trainings
            total = np.take_along_axis(weights @ sums, index, 1)
        means[start : start + size] = total.sum(1) / counts[index].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def _by_image(difference: NDArray[np.float64], images: ArrayLike | None) -> tuple[NDArray, NDArray]:
    """(S, N) differences of targets → their sums (S, G) and numbers (G,) in each image."""
    if images is None:
        return difference, np.ones(difference.shape[1])
    names = np.asarray(images)
    if names.shape != difference.shape[1:]:
        raise ValueError(f"images must name those of all {difference.shape[1]} scores, not {names.shape}")
    _, place, counts = np.unique(names, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(place, weights=row, minlength=len(counts)) for row in difference])
    return sums, counts


def _hits(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """TP and 2·TP + FP + FN per category."""
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1) + confusion.sum(-2)


def _image_scores(confusions: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,C) scores of categories → (N,) scores of images, see the conventions above; NaN without a labelled pixel."""
    defined = np.isfinite(scores[:, 1:])
    count = defined.sum(1)
    total = np.where(defined, scores[:, 1:], 0.0).sum(1)
    mean = np.divide(total, count, out=np.ones(len(scores)), where=count > 0)
    return np.where(confusions.sum((1, 2)) > 0, mean, np.nan)


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of the finite values, None without one."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None
