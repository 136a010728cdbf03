"""The scores as a table, and as a page with a curve and pictures of the worst, median and best answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Box, Point
from maskwright.data.pictures import draw_labels, overlay, thumbnail_mask
from maskwright.engine.report import Picture, Report
from maskwright.engine.scoring import ScoreTable
from maskwright.methods.zero_shot.objects import ImageTargets, read_view

_COLOURS = np.array([(0, 0, 0), (86, 180, 233), (240, 228, 66)], np.uint8)
# Background and "off", SAM's answer and the prompt, the truth.
_SIDE = 320
# Longer side of a picture.


@dataclass(frozen=True)
class ObjectAnswer:
    """What was asked about one object and what came back, for pictures.

    Attributes:
        image: which one it lies in.
        object: id in its mask.
        box: ``(4,)`` on the canvas.
        points, labels: ``(T, 2)`` and ``(T,)``, the clicks; label -1 = no click.
        by_box, by_look, by_clicks: the answers ``(S, S)``, packed by ``np.packbits`` along the rows.
    """

    image: ImageTargets
    object: int
    box: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    by_box: np.ndarray
    by_look: np.ndarray
    by_clicks: np.ndarray


def score_table(scores: dict[str, Any]) -> ScoreTable:
    """What ``evaluate_sam`` returns, to be printed; the error is None where nothing predicted an IoU."""
    columns = ["", "mean IoU", "IoU error"]
    rows: list[list[Any]] = _rows(scores)
    if scores["noc"] is not None:
        columns += ["clicks", "not reached"]
        rows = [[*row, None, None] for row in rows] + [
            [f"NoC@{goal}: clicks to IoU .{goal}", None, None, noc["clicks"], noc["failures"]]
            for goal, noc in scores["noc"].items()
        ]
    title = (
        f"{scores['sam']} at {scores['size']} pixels on {scores['split']} of {scores['dataset']}: "
        f"{_count(scores['objects'], 'object')} in {_count(scores['images'], 'image')}"
    )
    rows = [[round(cell, 3) if isinstance(cell, float) else cell for cell in row] for row in rows]
    return ScoreTable(columns, rows, "\n".join(_explanation(scores)), title)


def _rows(scores: dict[str, Any]) -> list[list[Any]]:
    trivial = scores["trivial"]
    asked = {"exact box": scores["box"], "exact box, closer look": scores["closer_look"]}
    rows: list[list[Any]] = [[name, score["iou"], score["iou_error"]] for name, score in asked.items()]
    rows += [
        ["no model: ellipse in the box", trivial["ellipse"], None],
        ["no model: filled box", trivial["filled_box"], None],
        ["no model: whole canvas", trivial["all_foreground"], None],
    ]
    rows += [
        [_count(number, "click"), clicked["iou"], clicked["iou_error"]]
        for number, clicked in enumerate(scores["clicks"], start=1)
    ]
    closer = scores["closer_clicks"]
    rows += [[f"{_count(len(closer), 'click')}, closer look", closer[-1]["iou"], closer[-1]["iou_error"]]]
    context = scores["in_context"]
    if context is not None:
        rows += [
            [f"in context, {_count(int(shots), 'reference')}", value, None] for shots, value in context["iou"].items()
        ]
        rows += [["no model: whole canvas", context["trivial"]["all_foreground"], None]]
        rows += [
            [f"best threshold, {_count(int(shots), 'reference')}", value, None]
            for shots, value in context["trivial"]["threshold"].items()
        ]
    return rows


def _explanation(scores: dict[str, Any]) -> list[str]:
    """How to read the table, and what was left out: one sentence each."""
    context = scores["in_context"]
    lines = [
        f"An object is {scores['object']}. IoU error: how far the IoU that SAM predicts for its answer is off, on average."
    ]
    if context is not None:
        lines.append(
            f"In context: {_count(context['queries'], 'query', 'queries')}, each all pixels of a category in an image; "
            f"references from {context['split']}. Best threshold: without the decoder, the cosine of the features with "
            "the mean feature inside the references' masks, above one threshold for all images that is the best on this very "
            "split: an upper bound."
        )
    else:
        lines.append("Nothing in context: no other image with a mask shows the categories.")
    if scores["noc"] is not None:
        lines.append(
            "NoC: an IoU that 20 clicks did not reach counts as 20 clicks; the last column is the share of such objects."
        )
    lines += [f"Note: {note}." for note in scores["notes"]]
    return lines + [f"Warning: {warning}." for warning in scores["warnings"]]


def write_report(
    path: str | Path, scores: dict[str, Any], dataset: Dataset, answers: Sequence[ObjectAnswer], size: int
) -> Path:
    """Write the page.

    Args:
        scores: what ``evaluate_sam`` returns.
        answers: one for each of its ``per_object`` rows.
        size: of the canvas.

    Raises:
        DataError: an image cannot be read any more, or the page cannot be written.
    """
    table = score_table(scores)
    page = Report("What a SAM does without training", table.title)
    page.table("Mean IoU", table.columns, table.rows, note=table.note.replace("\n", " "))
    steps = np.arange(1, len(scores["clicks"]) + 1)
    series = {
        "clicks": (steps, [clicked["iou"] for clicked in scores["clicks"]]),
        "predicted": (steps, np.mean([row["clicks_predicted"] for row in scores["per_object"]], axis=0)),
        "exact box": (steps, np.full(len(steps), scores["box"]["iou"])),
    }
    page.curves("IoU over clicks", series, x="clicks", y="mean IoU", note="Predicted is SAM's own guess of its IoU.")
    rows = scores["per_object"]
    note = "Blue: SAM's answer and its prompt (black: a click that says off). Yellow: the outline of the truth."
    for name, by_box, masks, values in (
        ("Exact box", True, [answer.by_box for answer in answers], [row["box"] for row in rows]),
        ("Closer look", True, [answer.by_look for answer in answers], [row["closer_look"] for row in rows]),
        (
            _count(len(steps), "click").capitalize(),
            False,
            [answer.by_clicks for answer in answers],
            [row["clicks"][-1] for row in rows],
        ),
    ):
        pictures = [
            Picture(
                _drawn(dataset, answers[n], masks[n], by_box, size), f"{rank}: {rows[n]['image']}, IoU {values[n]:.2f}"
            )
            for rank, n in _ranked(values)
        ]
        page.pictures(f"{name}: worst, median, best", note, pictures)
    return page.save(path)


def _ranked(values: Sequence[float], each: int = 3) -> list[tuple[str, int]]:
    """Places of the worst, the middle and the best values, ``each`` of them, none twice."""
    order = np.argsort(values, kind="stable").tolist()
    middle = max(0, (len(order) - each) // 2)
    groups = {"worst": order[:each], "median": order[middle : middle + each], "best": order[::-1][:each]}
    ranks: dict[int, str] = {}
    for rank, places in groups.items():
        for place in places:
            ranks.setdefault(place, rank)
    return [(rank, place) for place, rank in ranks.items()]


def _drawn(dataset: Dataset, answer: ObjectAnswer, packed: np.ndarray, by_box: bool, size: int) -> NDArray[np.uint8]:
    """The part of the image around an object with one of its answers and the prompt, in the image's own proportions."""
    view = read_view(dataset, answer.image.sample, size)
    mask = np.unpackbits(packed, axis=-1, count=size)
    truth = (view.ids == answer.object) * np.uint8(2)
    prompts = np.zeros(0, np.int64) if by_box else np.flatnonzero(answer.labels >= 0)
    clicks = answer.points[prompts].tolist()
    left, top, side = _window([answer.box[:2].tolist(), answer.box[2:].tolist(), *clicks], size)
    width, height = dataset.size_of(answer.image.sample)
    scaled = [max(1, round(_SIDE * length / max(width, height))) for length in (width, height)]
    size_of_picture = scaled[0], scaled[1]
    image, mask, truth = (part[top : top + side, left : left + side] for part in (view.image, mask, truth))
    drawn = np.asarray(Image.fromarray(image).resize(size_of_picture, Image.Resampling.BILINEAR))
    drawn = overlay(drawn, thumbnail_mask(mask, size_of_picture), _COLOURS, outline=False)
    drawn = overlay(drawn, thumbnail_mask(truth, size_of_picture), _COLOURS, alpha=0.0)
    offset, scale = np.array([left, top]), np.array(size_of_picture) / side
    x0, y0, x1, y1 = ((answer.box.reshape(2, 2) - offset) * scale).ravel().tolist()
    places = ((answer.points[prompts] - offset) * scale).tolist()
    points = [Point(x, y, label) for (x, y), label in zip(places, answer.labels[prompts].tolist(), strict=True)]
    return draw_labels(drawn, boxes=[Box(x0, y0, x1, y1, 1)] if by_box else [], points=points, palette=_COLOURS)


def _window(points: list[list[float]], size: int) -> tuple[int, int, int]:
    """Left, top and side of a square part of the canvas around these points, a quarter of it or more."""
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    side = int(np.clip(2 * (high - low).max(), size / 4, size))
    left, top = np.clip(np.rint((low + high - side) / 2), 0, size - side).astype(int).tolist()
    return left, top, side


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
