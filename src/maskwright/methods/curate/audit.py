"""Which masks look wrong: evidence from models that never saw them, weighed by what planted errors look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from maskwright.data.lookahead import ahead
from maskwright.data.shapes import tight_boxes
from maskwright.methods.curate.evidence import Evidence, Proposal, SamObject, gather
from maskwright.methods.curate.material import Material, Stage
from maskwright.methods.curate.planted_errors import ERROR_KINDS, ErrorKind, plant
from maskwright.methods.curate.quick import answers, train_quick
from maskwright.methods.curate.regions import Map, objects_of
from maskwright.methods.curate.suspicion import SOUND, learn
from maskwright.methods.curate.targets import GRID
from maskwright.methods.curate.views import canvas_of, regions_of
from maskwright.sam.closer_look import look_closer
from maskwright.sam.sam import Sam

FOLDS = 5
"""Models are trained on four fifths of the images and judge the last one."""

SPOILED = 0.4
"""Share of the masks of which a spoiled copy is made to learn from."""

EXPECTED = 0.05
"""Share of the masks that is taken to be wrong; it sets the level of the probabilities, not the order."""

LEAST = 20
"""Masks, below which models of them say nothing about each other."""


@dataclass(frozen=True)
class Suspect:
    """One mask, judged.

    Attributes:
        place: of its image among those that were judged.
        wrong: 0..1, the probability that something is wrong with it.
        kind: the likeliest error.
        probabilities: by kind of error.
        proposal: how it would be repaired; None where nothing can be proposed.
    """

    place: int
    wrong: float
    kind: ErrorKind
    probabilities: dict[ErrorKind, float]
    proposal: Proposal | None


@dataclass(frozen=True)
class Case:
    """The evidence against all masks, and against spoiled copies of some.

    Attributes:
        found: of each of the N masks.
        spoiled: numbers of each copy, and the class that its error has.
    """

    found: list[Evidence]
    spoiled: list[tuple[NDArray[np.float32], int]]


def judge(material: Material, **options: Any) -> list[Suspect]:
    """Judge N masks; the most suspicious comes first. See :func:`collect`, which takes the same, and :func:`rank`."""
    return rank(collect(material, **options))


def collect(
    material: Material,
    *,
    also: NDArray[np.floating] | None = None,
    heard: NDArray[np.bool_] | None = None,
    seed: int = 0,
    stage: Stage | None = None,
) -> Case:
    """Gather the evidence.

    Args:
        material: of N images, each with a mask. Images of one group fall into one fold.
        also: (N, C, g, g) probabilities of another model, on the grid of the features; they count half.
        heard: (N,) bool, the images for which ``also`` counts: those that the other model did not learn from.
        seed: of folds, models and planted errors.

    Raises:
        DataError: files that cannot be read.
    """
    folds = folds_of(material.groups, seed)
    probability = out_of_fold(material, folds, seed, stage)
    if also is not None and heard is not None:
        probability[heard] = (probability[heard] + also[heard]) / 2
    copies = spoiled_copies(material.maps, material.categories, ERROR_KINDS, seed)
    found: list[Evidence] = []
    spoiled: list[tuple[NDArray[np.float32], int]] = []
    for place, judged in _evidence(material, copies, probability):
        found.append(judged[0])
        spoiled += [(each.values, cls) for each, (_, cls) in zip(judged[1:], copies.get(place, []), strict=True)]
        if stage:
            stage("comparing masks", place + 1, len(material.dataset))
    return Case(found, spoiled)


def rank(case: Case, kinds: Sequence[ErrorKind] = ERROR_KINDS) -> list[Suspect]:
    """All masks, the most suspicious first.

    Args:
        kinds: of planted errors that are learnt from; the others are left out.
    """
    values = np.stack([each.values for each in case.found])
    wanted = {1 + ERROR_KINDS.index(kind) for kind in kinds}
    spoiled = [(row, cls) for row, cls in case.spoiled if cls in wanted]
    classes = np.array([SOUND] * len(values) + [cls for _, cls in spoiled])
    suspicion = learn(np.concatenate([values, *(row[None] for row, _ in spoiled)]), classes, EXPECTED)
    return _ranked(case.found, suspicion.probabilities(values))


def folds_of(groups: NDArray[np.int64], seed: int, folds: int = FOLDS) -> NDArray[np.int64]:
    """The fold of each image: whole groups, evenly, at random."""
    names, which = np.unique(groups, return_inverse=True)
    order = np.random.default_rng([seed, 1]).permutation(len(names))
    return (order % min(folds, len(names)))[which]


def out_of_fold(material: Material, folds: NDArray[np.int64], seed: int, stage: Stage | None) -> NDArray[np.float16]:
    """(N, C, g, g) probabilities on the grid of the features, each of a model that did not learn from the image."""
    features, maps, categories = material.features, material.maps, material.categories
    result = np.zeros((len(maps), categories, features.cells, features.cells), np.float16)
    names = np.unique(folds)
    for number, fold in enumerate(names):
        rest, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)

        def told(done: int, total: int, number: int = number) -> None:
            if stage:
                stage("training models", number * total + done, len(names) * total)

        network = train_quick(features.subset(rest), maps[rest], categories, seed=seed + number, progress=told)
        part = features.subset(own)
        for which, probability in answers(network, part):
            result[own[which]] = probability.numpy()
    return result


def spoiled_copies(
    maps: NDArray[np.uint8], categories: int, kinds: Sequence[ErrorKind], seed: int
) -> dict[int, list[tuple[Map, int]]]:
    """Copies of some maps with a planted error each: place → (map, class)."""
    generator = np.random.default_rng([seed, 2])
    possible: list[ErrorKind] = [kind for kind in kinds if kind != "swapped" or categories > 2]
    count = max(len(possible), round(SPOILED * len(maps)))
    copies: dict[int, list[tuple[Map, int]]] = {}
    for number in range(count):
        place = int(generator.integers(len(maps)))
        donor = maps[int(generator.integers(len(maps)))]
        kind = possible[number % len(possible)]
        spoiled = plant(maps[place], kind, categories, generator, donor)
        if spoiled is not None:
            copies.setdefault(place, []).append((spoiled, 1 + ERROR_KINDS.index(kind)))
    return copies


def _ranked(found: list[Evidence], probabilities: NDArray[np.float64]) -> list[Suspect]:
    wrong = 1 - probabilities[:, SOUND]
    suspects = []
    for place in np.argsort(-wrong, kind="stable").tolist():
        by_kind = dict(zip(ERROR_KINDS, probabilities[place, 1:].tolist(), strict=True))
        kind = max(by_kind, key=lambda name: by_kind[name])
        suspects.append(Suspect(place, float(wrong[place]), kind, by_kind, found[place].proposals.get(kind)))
    return suspects


def _evidence(
    material: Material, copies: dict[int, list[tuple[Map, int]]], probability: NDArray[np.float16], batch: int = 4
) -> Iterator[tuple[int, list[Evidence]]]:
    """For each image the evidence against its map, and against each spoiled copy of it."""
    sam, dataset = material.sam, material.dataset
    images = ahead(lambda place: canvas_of(dataset, place, sam), range(len(dataset)), 2, 2 * batch)
    for start in range(0, len(dataset), batch):
        places = list(range(start, min(start + batch, len(dataset))))
        pixels = torch.cat([next(images) for _ in places])
        versions = [_versions(material.maps, copies, place) for place in places]
        seen = iter(sam_objects(sam, pixels, [(row, labels) for row, each in enumerate(versions) for labels in each]))
        for row, place in enumerate(places):
            # Once for all versions of an image.
            p, edges = _enlarged(probability[place]), _edges(pixels[row])
            yield place, [gather(labels, p, next(seen), edges) for labels in versions[row]]


def _versions(maps: NDArray[np.uint8], copies: dict[int, list[tuple[Map, int]]], place: int) -> list[Map]:
    return [maps[place], *(labels for labels, _ in copies.get(place, []))]


def sam_objects(sam: Sam, images: torch.Tensor, versions: list[tuple[int, Map]]) -> list[list[SamObject]]:
    """SAM's answers to the boxes of all objects of some maps.

    Args:
        images: (B, 3, S, S), on SAM's device.
        versions: maps, each with the row of its image.
    """
    objects = [objects_of(labels) for _, labels in versions]
    rows = [row for (row, _), found in zip(versions, objects, strict=True) for _ in found]
    result: list[list[SamObject]] = [[] for _ in versions]
    if not rows:
        return result
    regions = torch.from_numpy(np.stack([region for found in objects for _, region in found]))
    side = images.shape[-1]
    boxes = tight_boxes(regions) * (side / GRID)
    looks = look_closer(sam, images, torch.tensor(rows, device=sam.device), boxes.to(sam.device))
    sure = looks.iou.clamp(0, 1).tolist()
    owners = [number for number, found in enumerate(objects) for _ in found]
    for owner, region, iou in zip(owners, regions_of(looks, side), sure, strict=True):
        result[owner].append(SamObject(region, iou))
    return result


def _enlarged(probability: NDArray[np.float16]) -> NDArray[np.float32]:
    """(C, g, g) → (C, GRID, GRID)."""
    maps = torch.from_numpy(probability.astype(np.float32))[None]
    return F.interpolate(maps, (GRID, GRID), mode="bilinear", align_corners=False)[0].numpy()


def _edges(image: torch.Tensor) -> NDArray[np.float32]:
    """(3, S, S) → how strong the edges are, (GRID, GRID)."""
    small = F.interpolate(image[None], (GRID, GRID), mode="bilinear", antialias=True)[0].cpu().numpy()
    return np.max([np.hypot(ndimage.sobel(band, 0), ndimage.sobel(band, 1)) for band in small], axis=0)
