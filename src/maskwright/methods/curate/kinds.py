"""Which kind of label is worth most per second: how good SAM's masks of it are, measured on the masks that there are.

Predicting which kind of label suffices and taking the cheapest saved 10 to 73 % of annotators' time (Jain and Grauman, ICCV 2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from maskwright.data.shapes import tight_boxes
from maskwright.methods.curate.costs import Costs
from maskwright.methods.curate.material import Material
from maskwright.methods.curate.regions import Map, Region, iou, objects_of, operations
from maskwright.methods.curate.targets import GRID
from maskwright.methods.curate.views import canvas_of, regions_of
from maskwright.sam.closer_look import look_closer, look_closer_at_clicks
from maskwright.sam.prompts import POSITIVE, Prompts
from maskwright.sam.sam import Sam

MEASURED = ("point", "box")
"""Kinds that SAM makes a mask of, and that are measured; a mask is taken to be right."""

GOOD = 0.8
"""IoU from which a mask made of a weaker label is as good as a drawn one."""

POOR = -1.0
"""What a mask below that is worth, in drawn ones: it takes away what a good one brings. On polyps 286 clicks, half of whose masks were
wrong, taught less than a tenth as many boxes."""

SPECK = 0.1
"""Share of the largest predicted object that others must have to be counted."""

LEAST = 20
"""Masks, below which nothing is measured: a box then, which is right most often (Zhang et al. 2023)."""

MOST = 30
"""Masks on which it is measured, at most."""

_JITTER: Mapping[str, float] = {"point": 0.05, "box": 0.03}
"""How far annotators' clicks and sides are off, in sides of the box."""


@dataclass(frozen=True)
class Reliability:
    """How likely a mask made from a kind of label is good, by the IoU that SAM predicts for it.

    Attributes:
        predicted, good: by kind: rising predicted IoUs, and the probability at each.
        masks: how many it was measured on.
    """

    predicted: Mapping[str, NDArray[np.float64]]
    good: Mapping[str, NDArray[np.float64]]
    masks: int

    def of(self, kind: str, predicted: float) -> float:
        """0..1."""
        return float(np.interp(predicted, self.predicted[kind], self.good[kind]))


@dataclass(frozen=True)
class KindChoice:
    """What to draw on an image.

    Attributes:
        kind: ``point``, ``box`` or ``mask``.
        seconds: that it takes.
        good: 0..1, how likely the mask made of it is good; None where it was not measured.
        objects: that are expected in the image.
    """

    kind: str
    seconds: float
    good: float | None
    objects: int


def measure(material: Material, places: NDArray[np.int64], seed: int) -> Reliability | None:
    """How good SAM's masks are, on some images with masks; None where there are too few.

    Args:
        places: of images with masks.
    """
    if len(places) < LEAST:
        return None
    generator = np.random.default_rng([seed, 8])
    some = generator.permutation(places)[:MOST]
    pairs: dict[str, list[tuple[float, bool]]] = {kind: [] for kind in MEASURED}
    for place in some.tolist():
        image, labels = canvas_of(material.dataset, place, material.sam), material.maps[place]
        regions = [region for _, region in objects_of(labels, 4)]
        for kind in MEASURED if regions else ():
            answers, sure = simulated_answers(material.sam, image, regions, kind, generator)
            pairs[kind] += [
                (own, iou(a, region) >= GOOD) for a, own, region in zip(answers, sure, regions, strict=True)
            ]
    if min(len(found) for found in pairs.values()) < LEAST:
        return None
    predicted, good = {}, {}
    for kind, found in pairs.items():
        found.sort()
        predicted[kind] = np.array([own for own, _ in found])
        # With two imagined ones, a good and a bad one, at either end: few masks prove little.
        marks = np.array([0.0, *(float(right) for _, right in found), 1.0])
        good[kind] = isotonic_regression(marks).x[1:-1]
    return Reliability(predicted, good, len(some))


def kind_for(
    material: Material, place: int, predicted: Map | None, costs: Costs, reliability: Reliability | None, seed: int
) -> KindChoice:
    """The kind of label that is worth most per second on an image.

    Args:
        predicted: what a model sees in it, on the grid of the maps; None where there is no model.
    """
    regions = [] if predicted is None else [region for _, region in objects_of(predicted, 6)]
    # What a small model sees besides in specks is rarely an object.
    regions = [region for region in regions if region.sum() >= SPECK * regions[0].sum()]
    objects = max(1, len(regions))
    if reliability is None or not regions:
        return KindChoice("box", costs.of("box", objects), None, objects)
    generator = np.random.default_rng([seed, 9, place])
    image = canvas_of(material.dataset, place, material.sam)
    choices = [KindChoice("mask", costs.of("mask", objects), 1.0, objects)]
    for kind in MEASURED:
        sure = simulated_answers(material.sam, image, regions, kind, generator)[1]
        good = float(np.mean([reliability.of(kind, own) for own in sure]))
        choices.append(KindChoice(kind, costs.of(kind, objects), good, objects))
    return max(choices, key=lambda choice: worth(choice.good) / choice.seconds)


def worth(good: float | None) -> float:
    """Of a label, in drawn masks."""
    return 1.0 if good is None else good + (1 - good) * POOR


@torch.no_grad()
def simulated_answers(
    sam: Sam, image: torch.Tensor, regions: list[Region], kind: str, generator: np.random.Generator
) -> tuple[list[Region], list[float]]:
    """SAM's masks for labels of regions as an annotator might draw them, and the IoUs that it predicts."""
    side = image.shape[-1]
    scale = side / GRID
    boxes = tight_boxes(torch.from_numpy(np.stack(regions))).numpy() * scale
    sides = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], 1)
    rows = torch.zeros(len(regions), dtype=torch.long, device=sam.device)
    if kind == "box":
        boxes = boxes + generator.normal(size=boxes.shape) * _JITTER["box"] * np.concatenate([sides, sides], 1)
        looks = look_closer(sam, image, rows, torch.from_numpy(boxes).float().clamp(0, side).to(sam.device))
    else:
        places = np.stack([_inside(region) for region in regions]) * scale
        places = np.clip(places + generator.normal(size=places.shape) * _JITTER["point"] * sides, 0, side - 1)
        points = torch.from_numpy(places).float().to(sam.device)[:, None, None]
        clicks = Prompts(points, torch.full(points.shape[:-1], POSITIVE, device=sam.device))
        embedding = sam.encode(image)
        small = Prompts(points * (sam.size / side), clicks.labels)
        first = sam.decode(embedding[rows], small, multimask=True).best[:, 0]
        looks = look_closer_at_clicks(sam, image, rows, clicks, first)
    return regions_of(looks, side), looks.iou.clamp(0, 1).tolist()


def _inside(region: Region) -> NDArray[np.float64]:
    """x, y of the cell that is deepest inside a region."""
    depth = operations.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return np.array([x + 0.5, y + 0.5])
