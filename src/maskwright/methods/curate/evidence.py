"""What speaks against a mask: numbers from a model that never saw it, from SAM, and from the image, for one label map each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maskwright.data.labels import IGNORE
from maskwright.methods.curate.regions import (
    SMALLEST,
    Map,
    Region,
    inner_border,
    iou,
    moved,
    objects_of,
    operations,
    parts_of,
    rectangle,
)

NAMES = (
    "disagreement",
    "soft_minimum",
    "missed",
    "missed_probability",
    "missed_share",
    "extra",
    "extra_part",
    "extra_part_share",
    "swapped",
    "shift_gain",
    "shift_distance",
    "sam_boundary",
    "sam_mask",
    "sam_gain",
    "sam_boundary_gain",
    "sam_unsure",
    "edges",
    "log_area",
    "objects",
    "empty",
)
"""Of the numbers, in their order; larger is more suspicious, but for the last three, which say what kind of image it is."""

Probability = NDArray[np.float32]
"""(C, H, W)."""

Objects = list[tuple[int, Region]]
"""Category and region of each, see ``objects_of``."""

_TEMPERATURE = 0.1
"""Of the soft minimum (Lad and Mueller 2023)."""

_BAND = 2
"""Cells along a border in which a model is rarely sure."""

_SHIFT = 0.25
"""How far a mask is moved in search of a better place, in square roots of its area."""


@dataclass(frozen=True)
class Proposal:
    """What a mask would become if the evidence of one kind were right, on the grid of the maps.

    Attributes:
        add: cells that become ``category``.
        remove: cells that become background.
        category: of what is added.
        shift: (down, right) in cells, of a mask that is moved: the same move is made at the image's own resolution.
        region: the cells of the object that is moved or replaced.
    """

    add: Region
    remove: Region
    category: int
    shift: tuple[int, int] | None = None
    region: Region | None = None


@dataclass(frozen=True)
class Evidence:
    """Of one map.

    Attributes:
        values: (len(NAMES),) float32.
        proposals: by kind of error, where there is anything to propose.
    """

    values: NDArray[np.float32]
    proposals: dict[str, Proposal] = field(default_factory=dict)


@dataclass(frozen=True)
class SamObject:
    """SAM's answer to the box of an object of a map.

    Attributes:
        region: (H, W) on the grid of the map.
        iou: 0..1, as SAM predicts it.
    """

    region: Region
    iou: float


@dataclass
class _Findings:
    """What is found against one map: numbers by name, and proposals by kind of error."""

    values: dict[str, float]
    proposals: dict[str, Proposal]


def gather(labels: Map, probability: Probability, sam: list[SamObject], edges: NDArray[np.float32]) -> Evidence:
    """The evidence against a map.

    Args:
        labels: (H, W) category ids, 255 = unknown.
        probability: (C, H, W) of a model that never saw this map.
        sam: answers to the boxes of ``objects_of(labels)``, in that order.
        edges: (H, W) how strong the image's edges are.
    """
    objects = objects_of(labels)
    known = labels != IGNORE
    predicted = probability.argmax(0)
    probability = probability * known
    findings = _Findings(dict.fromkeys(NAMES, 0.0), {})
    values = findings.values
    values["disagreement"] = 1 - _soft_iou(labels, probability, known)
    values["soft_minimum"] = _soft_minimum(labels, probability, known)
    _missed(findings, labels, np.where(known, predicted, 0).astype(np.uint8), probability)
    _extra(findings, objects, probability)
    _swapped(findings, objects, probability)
    _shifted(findings, objects, probability)
    _coarse(findings, objects, sam, probability)
    values["edges"] = max((_off_edges(region, edges) for _, region in objects), default=0.0)
    values["log_area"] = float(np.log((labels > 0)[known].mean() + 1e-3)) if known.any() else 0.0
    values["objects"] = float(np.log1p(len(objects)))
    values["empty"] = float(not objects)
    return Evidence(np.array([values[name] for name in NAMES], np.float32), findings.proposals)


def _soft_iou(labels: Map, probability: Probability, known: Region) -> float:
    """Mean over the categories that map or model name."""
    scores = []
    for category in range(1, len(probability)):
        is_category, p = (labels == category), probability[category]
        if is_category.any() or (p > 0.5).any():
            both = float((p * is_category).sum())
            scores.append(both / max(1e-6, float((p + is_category * known).sum()) - both))
    return float(np.mean(scores)) if scores else 1.0


def _soft_minimum(labels: Map, probability: Probability, known: Region) -> float:
    """1 − the soft minimum of the label's probability, away from borders."""
    own = np.take_along_axis(probability, np.where(known, labels, 0)[None].astype(np.int64), 0)[0]
    inner = known & ~_border_band(labels)
    doubt = 1 - own[inner]
    if not doubt.size:
        return 0.0
    weight = np.exp((doubt - doubt.max()) / _TEMPERATURE)
    return float((doubt * weight).sum() / weight.sum())


def _missed(findings: _Findings, labels: Map, predicted: Map, probability: Probability) -> None:
    """The largest of what the model sees and the map does not have."""
    total = max(1.0, float(((labels > 0) & (labels != IGNORE)).sum()))
    best = 0.0
    for category, region in objects_of(predicted):
        fresh = region & (labels == 0)
        if fresh.sum() < max(SMALLEST, 0.75 * region.sum()):
            continue
        mean = float(probability[category][region].mean())
        share = float(fresh.sum()) / (total + float(fresh.sum()))
        score = mean * np.sqrt(share)
        if score > best:
            best = score
            findings.values |= {"missed": score, "missed_probability": mean, "missed_share": share}
            findings.proposals["missed"] = Proposal(fresh, np.zeros_like(fresh), category)


def _extra(findings: _Findings, objects: Objects, probability: Probability) -> None:
    """Objects, and parts of objects, that the model does not see."""
    total = max(1, sum(int(region.sum()) for _, region in objects))
    best = 0.0
    for category, region in objects:
        p = probability[category]
        doubt = 1 - float(p[region].mean())
        findings.values["extra"] = max(findings.values["extra"], doubt)
        parts = parts_of(operations.binary_opening(region & (p < 0.35), np.ones((3, 3))))
        if parts:
            part = max(parts, key=np.count_nonzero)
            share = float(part.sum()) / total
            score = (1 - float(p[part].mean())) * np.sqrt(share)
            if score > best:
                best = score
                findings.values |= {"extra_part": score, "extra_part_share": share}
                whole = region if doubt > 0.65 else operations.binary_dilation(part, iterations=1) & region
                findings.proposals["extra"] = Proposal(np.zeros_like(whole), whole, category)


def _swapped(findings: _Findings, objects: Objects, probability: Probability) -> None:
    """Whether the model gives an object to another category."""
    if len(probability) < 3:
        return
    best = -1.0
    for category, region in objects:
        means = probability[:, region].mean(1)
        means[0] = 0
        other = int(np.argmax(np.where(np.arange(len(means)) == category, -1, means)))
        margin = float(means[other] - means[category])
        if other and margin > best:
            best = margin
            findings.proposals["swapped"] = Proposal(region, np.zeros_like(region), other)
    findings.values["swapped"] = best if objects else 0.0


def _shifted(findings: _Findings, objects: Objects, probability: Probability) -> None:
    """Whether an object's mask would agree better with the model if it were moved."""
    best = 0.0
    for category, region in objects[:3]:
        area = int(region.sum())
        reach = max(1, round(_SHIFT * np.sqrt(area)))
        window = _window(region, reach + 1)
        own, p = region[window].astype(np.float32), probability[category][window]
        # IoU of the moved mask with p: its sum with p at each move is a correlation.
        reach = min(reach, (min(own.shape) - 1) // 2)
        moves = range(-reach, reach + 1)
        both = np.array([[float((moved(own, y, x) * p).sum()) for x in moves] for y in moves])
        gain = both / np.maximum(1e-6, area + p.sum() - both)
        place = np.unravel_index(int(gain.argmax()), gain.shape)
        move = moves[int(place[0])], moves[int(place[1])]
        won = float(gain[place] - gain[reach, reach])
        if won > best:
            best = won
            findings.values |= {"shift_gain": won, "shift_distance": float(np.hypot(*move) / np.sqrt(area))}
            there = moved(region, move[0], move[1])
            findings.proposals["shifted"] = Proposal(there & ~region, region & ~there, category, move, region)


def _coarse(findings: _Findings, objects: Objects, sam: list[SamObject], probability: Probability) -> None:
    """Whether SAM, given an object's box, draws another outline, and whether the model agrees more with that one."""
    numbers = findings.values
    best = -1.0
    for (category, region), answer in zip(objects, sam, strict=True):
        p = probability[category]
        apart = 1 - _border_iou(region, answer.region)
        other = 1 - iou(region, answer.region)
        window = _window(region, 4)
        gain = _overlap(answer.region[window], p[window]) - _overlap(region[window], p[window])
        band = _border_band(region.astype(np.uint8)) | _border_band(answer.region.astype(np.uint8))
        border_gain = _overlap(answer.region & band, p * band) - _overlap(region & band, p * band)
        numbers["sam_boundary"] = max(numbers["sam_boundary"], apart)
        numbers["sam_mask"] = max(numbers["sam_mask"], other)
        numbers["sam_unsure"] = max(numbers["sam_unsure"], 1 - answer.iou)
        numbers["sam_gain"] = max(numbers["sam_gain"], gain)
        numbers["sam_boundary_gain"] = max(numbers["sam_boundary_gain"], border_gain)
        if apart > best:
            best = apart
            findings.proposals["coarse"] = Proposal(
                answer.region & ~region, region & ~answer.region, category, None, region
            )


def _overlap(region: Region, p: NDArray[np.float32]) -> float:
    both = float((p * region).sum())
    return both / max(1e-6, float(region.sum() + p.sum()) - both)


def _border_band(labels: NDArray[np.integer]) -> Region:
    """Cells within ``_BAND`` of a change of category."""
    size = 2 * _BAND + 1
    return operations.maximum_filter(labels, size) != operations.minimum_filter(labels, size)


def _border_iou(a: Region, b: Region) -> float:
    """IoU of the bands along the inner sides of two outlines (Cheng et al., CVPR 2021)."""
    return iou(inner_border(a, _BAND), inner_border(b, _BAND))


def _off_edges(region: Region, edges: NDArray[np.float32]) -> float:
    """How much weaker the image's edges are under an outline than two cells beside it, -1..1."""
    border = inner_border(region)
    near = operations.binary_dilation(border, iterations=3)
    on = float(edges[operations.binary_dilation(border)].mean()) if border.any() else 0.0
    beside = float(edges[near].max(initial=0.0))
    around = float(edges[near].mean()) if near.any() else 0.0
    return (around - on) / max(beside, 1e-6)


def _window(region: Region, margin: int) -> tuple[slice, slice]:
    y0, y1, x0, x1 = rectangle(region, margin)
    return slice(y0, y1), slice(x0, x1)
