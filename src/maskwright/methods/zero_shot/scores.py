"""How good a SAM is as it comes, on a dataset with masks: exact box, oracle clicks, references in context; each beside trivial answers.

Every number is a mean IoU on the canvas, over objects (box, clicks) or over queries (in context: all pixels of a
category in an image).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.labels import IGNORE
from maskwright.data.shapes import ellipse_radius, filled_boxes
from maskwright.errors import DataError, MaskwrightError
from maskwright.methods.zero_shot.baselines import iou
from maskwright.methods.zero_shot.context import ContextQueries
from maskwright.methods.zero_shot.objects import ImageTargets, View, draw_targets, on_device, read_view
from maskwright.methods.zero_shot.prompted import (
    BoxAnswers,
    ClickAnswers,
    ask_boxes,
    ask_clicks,
    look_at_boxes,
    look_at_clicks,
)
from maskwright.methods.zero_shot.report import ObjectAnswer, write_report
from maskwright.rl.oracle import NOC_GOALS, NOC_MOST, clicks_to_reach
from maskwright.sam.sam import Embedding, Sam

TRIVIAL = ("ellipse", "filled_box", "all_foreground")


def evaluate_sam(
    sam: Sam,
    dataset: Dataset,
    split: str = "test",
    *,
    limit: int = 100,
    objects: int = 3,
    batch: int = 8,
    clicks: int = 5,
    noc: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Score a SAM, without training it, on the masks of one split.

    - Box: the exact box of the object on the canvas.
    - Closer look: the same box, asked on a crop of the original image around it, see :mod:`maskwright.sam.closer_look`.
    - Clicks: those of :mod:`maskwright.rl.oracle`, see :func:`maskwright.methods.zero_shot.prompted.ask_clicks`; and with a closer look
      after each of them.
    - In context: the query is all pixels of a category in an image; the references are random images of ``train`` with
      their masks (other images of the split itself where ``train`` has no masks), and there is no prompt.

    Args:
        sam: on the device that is to be used.
        dataset: with masks in ``split``.
        limit: images at most, drawn by the seed from those with a mask.
        objects: at most so many of an image, drawn by the seed, so that an image full of them does not outweigh the
            others. See :mod:`maskwright.methods.zero_shot.objects` for what an object is.
        batch: images per pass of the encoder.
        clicks: how many the oracle makes.
        noc: also count the clicks that it takes to reach each of ``NOC_GOALS``: the oracle makes up to ``NOC_MOST`` of them.
        seed: not negative.
        progress: called as ``progress(done, total)`` after each batch of images, references first.
        report: also write an HTML page with tables, a curve and pictures there.

    Returns:
        JSON-able numbers, means over objects or queries::

            {"sam", "size", "dataset", "split", "seed", "limit",
             "images": those with an object, "objects", "object": what one is,
             "box": {"iou", "iou_error": mean absolute error of the predicted IoU},
             "closer_look": the same for a closer look at the box,
             "clicks": [the same after 1, 2, ... clicks],
             "closer_clicks": [the same with a closer look after each click],
             "noc": None, or {"80", "85", "90"}: {"clicks": the mean, "failures": share of the objects that never got there},
             "trivial": {"ellipse", "filled_box": in the exact box, "all_foreground": the whole canvas},
             "in_context": None without a query, else
                {"queries", "split": of the references, "iou": {"1", "5"},
                 "trivial": {"all_foreground", "threshold": {"1", "5"}: one for all images, the best on this split},
                 "thresholds": {"1", "5"}: those, as cosines},
             "notes": [what was left out, and why], "warnings": [where SAM is worse than no model],
             "per_object": [...], "per_query": [...]}

    Raises:
        DataError: no such split, no mask or object in it, or files that cannot be read.
        MaskwrightError: settings out of range, all listed.
    """
    least = {
        "limit": (limit, 1),
        "objects": (objects, 1),
        "batch": (batch, 1),
        "clicks": (clicks, 1),
        "seed": (seed, 0),
    }
    broken = [f"{name} {value}: must be at least {low}" for name, (value, low) in least.items() if value < low]
    if broken:
        raise MaskwrightError("; ".join(broken))
    targets = draw_targets(dataset, split, limit=limit, objects=objects, seed=seed)
    head = {"sam": sam.name, "size": sam.size, "dataset": dataset.source or str(dataset.root)}
    with torch.inference_mode():
        evaluation = _Evaluation(sam, dataset, split, targets, clicks, noc, seed, keep_answers=report is not None)
        evaluation.run(batch, progress)
    scores = head | {"split": split, "seed": seed, "limit": limit} | evaluation.summary(objects)
    if report is not None:
        write_report(report, scores, dataset, evaluation.answers, sam.size)
    return scores


class _Evaluation:
    """Goes through the references, then through the images, and keeps one row for each object."""

    def __init__(
        self,
        sam: Sam,
        dataset: Dataset,
        split: str,
        targets: list[ImageTargets],
        clicks: int,
        noc: bool,
        seed: int,
        *,
        keep_answers: bool,
    ) -> None:
        self.sam, self.dataset, self.targets = sam, dataset, targets
        self.split, self.clicks, self.keep_answers = split, clicks, keep_answers
        self.noc = noc
        self.context = ContextQueries(sam, dataset, split, targets, seed)
        self.per_object: list[dict[str, Any]] = []
        self.answers: list[ObjectAnswer] = []

    def run(self, batch: int, progress: Callable[[int, int], None] | None) -> None:
        """Encode every image once, and ask everything about it while its embedding is there."""
        references = self.context.samples
        require_clean(self.dataset.with_samples(references), training=False)
        total = len(references) + len(self.targets)
        for start in range(0, len(references), batch):
            self.context.remember(references[start : start + batch])
            if progress:
                progress(min(start + batch, len(references)), total)
        for start in range(0, len(self.targets), batch):
            items = self.targets[start : start + batch]
            views = [read_view(self.dataset, item.sample, self.sam.size) for item in items]
            embedding = self.context.encode([item.sample for item in items], views)
            self._ask_objects(items, views, embedding)
            self.context.ask(items, views, embedding)
            if progress:
                progress(len(references) + start + len(items), total)

    def _ask_objects(self, items: Sequence[ImageTargets], views: Sequence[View], embedding: Embedding) -> None:
        """Boxes and clicks of all objects in some images."""
        objects = [(row, object) for row, item in enumerate(items) for object in item.objects]
        # A small canvas may have no pixel for a small object.
        objects = [(row, object) for row, object in objects if (views[row].ids == object).any()]
        if not objects:
            return
        masks = [views[row].ids == object for row, object in objects]
        rows = [row for row, _ in objects]
        truths = on_device(masks, self.sam.device)
        valid = on_device([views[row].categories != IGNORE for row in rows], self.sam.device)
        embedding = embedding[torch.tensor(rows, device=self.sam.device)]
        by_box = ask_boxes(self.sam, embedding, truths, valid)
        by_look = look_at_boxes(self.sam, views, rows, by_box.boxes, truths, valid)
        further = max(0, NOC_MOST - self.clicks) if self.noc else 0
        by_clicks = ask_clicks(self.sam, embedding, truths, valid, self.clicks, further)
        by_closer = look_at_clicks(self.sam, views, rows, embedding, truths, valid, self.clicks)
        columns = _columns(by_box, by_look, by_clicks, by_closer, truths, valid)
        if self.noc:
            ious = by_clicks.all_iou[:, :NOC_MOST]
            columns["noc"] = torch.stack([clicks_to_reach(ious, goal) for goal in NOC_GOALS], 1).tolist()
        for n, (row, object) in enumerate(objects):
            category = self.dataset.categories[int(views[row].categories[masks[n]][0])]
            named = {"image": items[row].sample.id, "object": object, "category": category}
            self.per_object.append(named | {name: column[n] for name, column in columns.items()})
        if self.keep_answers:
            self.answers += _packed([(items[row], object) for row, object in objects], by_box, by_look, by_clicks)

    def summary(self, objects: int) -> dict[str, Any]:
        """The means, the rows, and what was left out. Raises DataError where the canvas shows no object."""
        rows = self.per_object
        if not rows:
            what = f"no object has a pixel on a canvas of {self.sam.size}; give a larger --size"
            raise DataError([what], self.dataset.source or str(self.dataset.root))
        kinds = {mask.kind for item in self.targets if (mask := item.sample.labels.mask)}
        named = {"instance": "an instance", "semantic": "all pixels of a category in an image"}
        what = " or ".join(text for kind, text in named.items() if kind in kinds)
        trivial = {name: float(np.mean([row[name] for row in rows])) for name in TRIVIAL}
        box, look = (
            _scores([(row[name], row[f"{name}_predicted"]) for row in rows]) for name in ("box", "closer_look")
        )
        clicks, closer = (
            [_scores(pairs) for pairs in zip(*(zip(row[name], row[f"{name}_predicted"]) for row in rows), strict=True)]
            for name in ("clicks", "closer_clicks")
        )
        return {
            "images": len({row["image"] for row in rows}),
            "objects": len(rows),
            "object": f"{what}, at most {objects} of an image",
            "box": box,
            "closer_look": look,
            "clicks": clicks,
            "closer_clicks": closer,
            "noc": _noc(rows) if self.noc else None,
            "trivial": trivial,
            "in_context": self.context.summary(),
            "notes": self._notes(),
            "warnings": _warnings(box["iou"], look["iou"], trivial["ellipse"]),
            "per_object": rows,
            "per_query": self.context.per_query,
        }

    def _notes(self) -> list[str]:
        unmasked = sum(sample.labels.mask is None for sample in self.dataset.split(self.split))
        lost = sum(len(item.objects) for item in self.targets) - len(self.per_object)
        notes = [f"{unmasked} images of split {self.split!r} left out: they have no mask"] if unmasked else []
        notes += [f"{lost} objects left out: too small for a pixel of the canvas"] if lost else []
        return notes + self.context.notes()


def _columns(
    by_box: BoxAnswers,
    by_look: BoxAnswers,
    by_clicks: ClickAnswers,
    by_closer: ClickAnswers,
    truths: Tensor,
    valid: Tensor,
) -> dict[str, list[Any]]:
    """What is kept of each object, as plain numbers."""
    size = truths.shape[-1]
    columns = {
        "box": by_box.iou,
        "box_predicted": by_box.predicted,
        "closer_look": by_look.iou,
        "closer_look_predicted": by_look.predicted,
        "clicks": by_clicks.iou,
        "clicks_predicted": by_clicks.predicted,
        "closer_clicks": by_closer.iou,
        "closer_clicks_predicted": by_closer.predicted,
        "ellipse": iou(ellipse_radius(by_box.boxes, size, size) <= 1, truths, valid),
        "filled_box": iou(filled_boxes(by_box.boxes, size, size), truths, valid),
        "all_foreground": iou(valid, truths, valid),
    }
    return {name: column.cpu().tolist() for name, column in columns.items()}


def _noc(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    counts = np.array([row["noc"] for row in rows])
    return {
        f"{100 * goal:.0f}": {
            "clicks": float(np.minimum(counts[:, place], NOC_MOST).mean()),
            "failures": float((counts[:, place] > NOC_MOST).mean()),
        }
        for place, goal in enumerate(NOC_GOALS)
    }


def _warnings(box: float, look: float, ellipse: float) -> list[str]:
    """One line where an exact box is worth less to SAM than to whoever draws the ellipse in it."""
    if box >= ellipse:
        return []
    told = f"an exact box is answered worse (IoU {box:.2f}) than by the ellipse in it ({ellipse:.2f})"
    if look > ellipse:
        return [f"{told}; a closer look is better ({look:.2f})"]
    return [f"{told}, even with a closer look ({look:.2f}): masks from boxes are no better than ellipses here"]


def _packed(
    objects: Sequence[tuple[ImageTargets, int]], by_box: BoxAnswers, by_look: BoxAnswers, by_clicks: ClickAnswers
) -> list[ObjectAnswer]:
    parts = by_box.boxes, by_clicks.points, by_clicks.labels, by_box.masks, by_look.masks, by_clicks.masks
    boxes, points, labels, *masks = (part.cpu().numpy() for part in parts)
    packed = [np.packbits(mask, axis=-1) for mask in masks]
    return [
        ObjectAnswer(*of, boxes[n], points[n], labels[n], *(mask[n] for mask in packed)) for n, of in enumerate(objects)
    ]


def _scores(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    true, predicted = np.array(pairs).T
    return {"iou": float(true.mean()), "iou_error": float(np.abs(true - predicted).mean())}
