"""Labels both ways: those of the dataset as objects of the page, and objects as the dataset holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Box, Labels, Mask, MaskKind, Point, Sample, Scribble, Tag
from maskwright.data.mask_files import read_mask
from maskwright.serve.annotations import Annotations
from maskwright.serve.wire import MAX_OBJECTS, Runs, Size


def annotations_of(dataset: Dataset, sample: Sample) -> Annotations:
    """The labels of the dataset as objects: of an instance mask one each, of a semantic one the connected parts."""
    labels, objects = sample.labels, []
    if labels.mask:
        values = read_mask(dataset.root / labels.mask.path)
        parts = _instances(values, labels.mask) if labels.mask.kind == "instance" else _parts(values)
        for name, category, mask, offset in parts:
            runs = Runs.of_mask(mask, offset)
            assert runs is not None
            objects.append({"id": name, "kind": "mask", "category": category, "mask": runs.as_json()})
    for number, box in enumerate(labels.boxes):
        objects.append({"id": f"box-{number}", "kind": "box", "category": box.category, "xyxy": list(box.xyxy)})
    for number, scribble in enumerate(labels.scribbles):
        points = [list(point) for point in scribble.points]
        named = {"id": f"scribble-{number}", "kind": "scribble", "category": scribble.category}
        objects.append(named | {"points": points})
    for number, point in enumerate(labels.points):
        named = {"id": f"point-{number}", "kind": "point", "category": point.category}
        objects.append(named | {"xy": [point.x, point.y]})
    tags = tuple(tag.category for tag in labels.tags) or None
    nothing = labels.mask is not None and not any(each["kind"] == "mask" for each in objects)
    from_file = tuple(each | {"source": "file"} for each in objects)
    return Annotations(0, from_file, tags, nothing, labels.mask is not None)


def labels_of(sample: str, made: Annotations, mask_kind: MaskKind) -> Labels:
    """The labels that were made for a sample, as the dataset holds them; a mask is a complete label, and waits until it is done."""
    masks, by_kind = masks_of(made), {kind: [o for o in made.objects if o["kind"] == kind] for kind in _WEAK}
    mask = None
    if made.nothing or (made.done and masks):
        named = {} if mask_kind == "semantic" else {n: each["category"] for n, each in enumerate(masks, 1)}
        mask = Mask(f"masks/{sample}.png", mask_kind, named)
    return Labels(
        mask,
        tuple(Scribble(tuple((x, y) for x, y in o["points"]), o["category"]) for o in by_kind["scribble"]),
        tuple(_box(o) for o in by_kind["box"]),
        tuple(_point(o) for o in by_kind["point"]),
        tuple(Tag(category) for category in made.tags or ()),
    )


def draw_masks(made: Annotations, size: Size, mask_kind: MaskKind) -> NDArray[Any]:
    """The mask (H, W) of all objects of an image of (width, height): category ids, or numbers of instances; later ones lie on top."""
    width, height = size
    values = np.zeros((height, width), np.uint8 if mask_kind == "semantic" else np.uint16)
    for number, each in enumerate(masks_of(made), 1):
        runs = Runs.of_checked(each["mask"])
        runs.paint(values, each["category"] if mask_kind == "semantic" else number)
    return values


def masks_of(made: Annotations) -> list[dict[str, Any]]:
    """The objects that are masks."""
    return [each for each in made.objects if each["kind"] == "mask"]


def masks_by_category(objects: Sequence[dict[str, Any]], size: Size, categories: int) -> dict[int, NDArray[np.bool_]]:
    """The pixels (H, W) of each category that has masks; those of unknown ones are left out."""
    masks: dict[int, NDArray[np.bool_]] = {}
    for each in objects:
        if each["kind"] == "mask" and 0 < each["category"] < categories:
            canvas = masks.setdefault(each["category"], np.zeros((size[1], size[0]), bool))
            Runs.of_checked(each["mask"]).paint(canvas, True)
    return masks


_WEAK = ("scribble", "box", "point")


def _box(each: dict[str, Any]) -> Box:
    x0, y0, x1, y1 = each["xyxy"]
    return Box(x0, y0, x1, y1, each["category"])


def _point(each: dict[str, Any]) -> Point:
    x, y = each["xy"]
    return Point(x, y, each["category"])


_Part = tuple[str, int, NDArray[np.bool_], tuple[int, int]]
"""Name, category, mask within its box, and the box' first pixel (x, y)."""


def _instances(values: NDArray[Any], mask: Mask) -> Iterator[_Part]:
    for number, place in enumerate(ndimage.find_objects(values.astype(np.int32)), 1):
        if place is not None:
            offset = place[1].start, place[0].start
            yield f"instance-{number}", mask.category_of(number), values[place] == number, offset


def _parts(values: NDArray[Any]) -> Iterator[_Part]:
    """The connected parts of each category; whole categories where there are more parts than an image may have objects."""
    parts: list[_Part] = []
    whole: list[_Part] = []
    for category in np.unique(values[values > 0]).tolist():
        on = values == category
        whole.append((f"category-{category}", category, on, (0, 0)))
        found, _ = ndimage.label(on, np.ones((3, 3)))  # type: ignore[misc]
        for number, place in enumerate(ndimage.find_objects(found), 1):
            offset = place[1].start, place[0].start
            parts.append((f"category-{category}-{number}", category, found[place] == number, offset))
    yield from parts if len(parts) <= MAX_OBJECTS else whole
