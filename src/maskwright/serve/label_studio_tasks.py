"""Label Studio's side of a question: its labelling interface, the prompts that were drawn there, and masks as its regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from maskwright.data.formats import brush
from maskwright.data.formats.objects import turned
from maskwright.data.formats.safe_xml import parse_xml
from maskwright.errors import DataError
from maskwright.serve.wire import MAX_POINTS, Runs, Size, WireError

MAX_INTERFACE = 1_000_000
"""Characters of a labelling interface."""

_PROMPTS = ("keypoint", "rectangle", "brush")


@dataclass(frozen=True)
class Interface:
    """What of a labelling interface masks need.

    Attributes:
        control: name of the ``BrushLabels``.
        image: name of the ``Image`` that it draws on.
        key: of the image in a task's data.
        labels: what regions call each label: its alias where it has one; empty: labels that come from the tasks, any is right.
    """

    control: str
    image: str
    key: str
    labels: Mapping[str, str]

    def region_label(self, name: str) -> str:
        """The label as a region has it. Raises WireError for one that the interface does not have."""
        if self.labels and name not in self.labels:
            raise WireError(
                f'the BrushLabels {self.control!r} have no label {name!r}; add <Label value="{name}"/> there'
            )
        return self.labels.get(name, name)


@dataclass(frozen=True)
class Drawn:
    """What a person drew to ask for a mask, in pixels: see :meth:`maskwright.serve.assistant.Assistant.predict`."""

    label: str
    points: list[list[float]]
    box: list[float] | None
    mask: Runs | None


def read_interface(config: Any) -> Interface:
    """Read a labelling interface (XML). Raises WireError where it is none, or has nothing that masks could be given to."""
    if not isinstance(config, str):
        raise WireError("label_config is missing: the project's labelling interface")
    if len(config) > MAX_INTERFACE:
        raise WireError(f"a labelling interface may have {MAX_INTERFACE} characters, not {len(config)}")
    try:
        root = parse_xml(config.encode(), "the labelling interface")
    except (DataError, UnicodeEncodeError) as error:
        raise WireError(str(error)) from None
    images = {each.get("name"): each.get("value", "") for each in root.iter("Image")}
    for control in root.iter("BrushLabels"):
        target = control.get("toName")
        name, value = control.get("name"), images.get(target, "")
        if name and target and value.startswith("$"):
            labels: dict[str, str] = {}
            for label in control.iter("Label"):
                if text := label.get("value"):
                    labels[text] = label.get("alias") or text
            return Interface(name, target, value[1:], labels | {alias: alias for alias in labels.values()})
    raise WireError(
        "the labelling interface has no BrushLabels for an image: masks are brush regions; add "
        '<BrushLabels name="brush" toName="image"><Label value="..."/></BrushLabels>'
    )


def read_drawn(regions: Any, interface: Interface, size: Size) -> Drawn:
    """The prompts among the regions of a question; of several rectangles the newest counts.

    Args:
        size: (width, height) of the image here.

    Raises:
        WireError: no regions, kinds that are no prompts, or an image of another size there.
    """
    if not isinstance(regions, list) or not all(isinstance(each, dict) for each in regions):
        raise WireError("context.result must be a list of regions")
    points: list[list[float]] = []
    box, brushes, label = None, [], None
    for region in regions:
        if region.get("to_name", interface.image) != interface.image:
            continue
        kind, value = str(region.get("type")).removesuffix("labels"), region.get("value")
        if kind not in _PROMPTS or not isinstance(value, dict):
            raise WireError(
                f"a region of type {region.get('type')!r} is no prompt; draw key points, rectangles or brushes"
            )
        _require_size(region, size)
        label = _label_of(region, value) or label
        if kind == "keypoint":
            x, y = _pixels(value, ("x", "y"), size)
            if not (-1 <= x <= size[0] + 1 and -1 <= y <= size[1] + 1):
                raise WireError(f"a key point lies outside of the image's {size[0]} x {size[1]} pixels")
            # Percentages are rounded: a point on the border may lie a hair beyond it.
            place = [min(max(x, 0.0), size[0]), min(max(y, 0.0), size[1])]
            points.append([*place, int(region.get("is_positive", True) is not False)])
        elif kind == "rectangle":
            box = _box(value, size)
        else:
            brushes.append(_brush(value, size))
    if len(points) > MAX_POINTS:
        raise WireError(f"at most {MAX_POINTS} key points")
    if label is None:
        raise WireError("choose a label before drawing: the regions have none")
    mask = Runs.of_mask(np.logical_or.reduce(brushes)) if brushes else None
    return Drawn(interface.region_label(label), points, box, mask)


def region_of(mask: NDArray[np.bool_], label: str, score: float, interface: Interface) -> dict[str, Any]:
    """A mask (H, W) as a brush region, to the pixel."""
    return {
        "id": uuid4().hex[:10],
        "from_name": interface.control,
        "to_name": interface.image,
        "type": "brushlabels",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": [label]},
        "score": score,
        "readonly": False,
    }


def _require_size(region: Mapping[str, Any], size: Size) -> None:
    stated = region.get("original_width"), region.get("original_height")
    if stated != (None, None) and stated != size:
        there = f"{stated[0]} x {stated[1]}"
        raise WireError(
            f"the image has {there} pixels in Label Studio and {size[0]} x {size[1]} here; is it the same file?"
        )
    if region.get("image_rotation") not in (0, None):
        raise WireError("the image was turned in Label Studio, which is not understood; turn it back")


def _label_of(region: Mapping[str, Any], value: Mapping[str, Any]) -> str | None:
    """The first label of a region."""
    for key in (region.get("type"), "keypointlabels", "rectanglelabels", "brushlabels", "labels"):
        names = value.get(key) if isinstance(key, str) else None
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
    return None


def _pixels(value: Mapping[str, Any], keys: Sequence[str], size: Size) -> list[float]:
    """Shares in percent of width and height in turn, as pixels."""
    found = []
    for place, key in enumerate(keys):
        share = value.get(key)
        if not isinstance(share, int | float) or isinstance(share, bool) or not -1e6 < share < 1e6:
            raise WireError(f"value.{key} must be a number, in percent of the image")
        found.append(share * size[place % 2] / 100)
    return found


def _box(value: Mapping[str, Any], size: Size) -> list[float]:
    """The upright box x0, y0, x1, y1 around a rectangle that may be turned about its corner, within the image."""
    x, y, width, height = _pixels(value, ("x", "y", "width", "height"), size)
    degrees = value.get("rotation") or 0
    if not isinstance(degrees, int | float) or not -1e6 < degrees < 1e6:
        raise WireError("value.rotation must be a number of degrees")
    across, down = turned(np.array([0.0, width, 0.0, width]), np.array([0.0, 0.0, height, height]), degrees)
    x0, y0 = max(0.0, x + float(across.min())), max(0.0, y + float(down.min()))
    x1, y1 = min(size[0], x + float(across.max())), min(size[1], y + float(down.max()))
    if not (x0 < x1 and y0 < y1):
        raise WireError("the rectangle has no area in the image")
    return [x0, y0, x1, y1]


def _brush(value: Mapping[str, Any], size: Size) -> NDArray[np.bool_]:
    if value.get("format") != "rle" or not isinstance(value.get("rle"), list):
        raise WireError("a brush region must have its mask as run lengths (format: rle)")
    try:
        return brush.decode(value["rle"], (size[1], size[0]))
    except ValueError as error:
        raise WireError(str(error)) from None
