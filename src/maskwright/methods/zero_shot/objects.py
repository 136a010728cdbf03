"""The objects that a SAM is asked for, and the images that serve as references: drawn by a seed, read onto the canvas.

An object is an instance where the mask holds instances, and all pixels of a category in an image where it is semantic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import resize_matrix, squash, warp_mask
from maskwright.data.labels import IGNORE, Sample
from maskwright.data.masks import label_values
from maskwright.errors import DataError

MIN_SHARE = 2.5e-4
"""An object takes at least this share of its image: 16 pixels of a canvas of 256."""

_IMAGES, _OBJECTS, _CATEGORIES, _POOL, _REFERENCES = range(5)
# Streams of random numbers that must not share draws.
_MOST_MASKS = 500
# Masks that are read at most while looking for references.


@dataclass(frozen=True, slots=True)
class ImageTargets:
    """What a SAM is asked for in one image.

    Attributes:
        sample: the image.
        position: of the sample in its split; with the seed it decides what is drawn.
        objects: instance ids, or category ids of a semantic mask.
        categories: those that are looked for in context.
    """

    sample: Sample
    position: int
    objects: tuple[int, ...]
    categories: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """An image, and what is known of it on the canvas of S x S pixels.

    Attributes:
        original: ``(H, W, 3)`` uint8, at its own size.
        image: ``(S, S, 3)`` uint8.
        ids: ``(S, S)`` instance ids, or category ids of a semantic mask.
        categories: ``(S, S)`` uint8 category ids, 255 = ignore.
    """

    original: NDArray[np.uint8]
    image: NDArray[np.uint8]
    ids: NDArray[np.integer]
    categories: NDArray[np.uint8]


def draw_targets(dataset: Dataset, split: str, *, limit: int, objects: int, seed: int) -> list[ImageTargets]:
    """Draw images of a split, and objects in them. What is drawn of an image depends on the seed and its place alone.

    Args:
        limit: images at most, of those with a mask.
        objects: at most so many of an image, and likewise categories.

    Raises:
        DataError: no such split, no mask in it, images or masks of those drawn that cannot be read or do not fit (all
            of them), or no object in any of them.
    """
    where = dataset.source or str(dataset.root)
    part = dataset.split(split)
    if not len(part):
        splits = ", ".join(sorted({repr(sample.split) for sample in dataset})) or "none"
        raise DataError([f"split {split!r} is empty (splits: {splits}); name another with --split"], where)
    places = [place for place, sample in enumerate(part) if sample.labels.mask is not None]
    if not places:
        raise DataError(
            [f"none of the {len(part)} images of split {split!r} has a mask to score against; name another split"],
            where,
        )
    at = sorted(np.random.default_rng([seed, _IMAGES]).permutation(places)[:limit].tolist())
    require_clean(part.with_samples([part[place] for place in at]), training=False)
    targets = [_draw(dataset, part[place], place, objects, seed) for place in at]
    if not any(item.objects for item in targets):
        remedy = f"show no object of at least {MIN_SHARE:.3%} of the image; name another split or raise --limit"
        raise DataError([f"the masks of {len(targets)} images of split {split!r} {remedy}"], where)
    return targets


def read_view(dataset: Dataset, sample: Sample, size: int) -> View:
    """An image with its mask, squashed to the canvas without augmentation. Raises DataError."""
    pixels = dataset.pixels(sample)
    return View(pixels, squash(pixels, size), *_read_labels(dataset, sample, size))


def reference_split(dataset: Dataset, split: str) -> str:
    """Where references come from: ``train``, or the split itself where ``train`` is asked for or has no masks."""
    return "train" if any(sample.labels.mask for sample in dataset.split("train")) else split


def draw_pools(
    dataset: Dataset, targets: Sequence[ImageTargets], split: str, *, size: int, smallest: int, largest: int, seed: int
) -> dict[int, list[Sample]]:
    """For each category that is looked for, images of ``split`` that may show it as a reference.

    Args:
        size: of the canvas on which a reference must show the category.
        smallest, largest: images of a category; as many as there are queries, within these bounds. A category that few
            images show gets fewer, perhaps none.

    Returns:
        Category → samples in a random order.

    Raises:
        DataError: a mask cannot be read.
    """
    queries = [category for item in targets for category in item.categories]
    wanted = {category: min(max(queries.count(category), smallest), largest) for category in sorted(set(queries))}
    pools: dict[int, list[Sample]] = {category: [] for category in wanted}
    candidates = [sample for sample in dataset.split(split) if sample.labels.mask is not None]
    for place in np.random.default_rng([seed, _POOL]).permutation(len(candidates))[:_MOST_MASKS]:
        open_pools = [category for category in wanted if len(pools[category]) < wanted[category]]
        if not open_pools:
            break
        counts = np.bincount(_read_labels(dataset, candidates[place], size)[1].ravel(), minlength=256)
        for category in open_pools:
            if counts[category] >= max(1.0, MIN_SHARE * size * size):
                pools[category].append(candidates[place])
    return pools


def draw_references(item: ImageTargets, category: int, pool: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """``count`` references of one query, never its own image; where there are fewer they come again. May be empty."""
    others = [sample for sample in pool if sample.id != item.sample.id]
    order = np.random.default_rng([seed, _REFERENCES, item.position, category]).permutation(len(others))
    return [others[order[number % len(order)]] for number in range(count)] if others else []


def on_device(masks: Sequence[NDArray[np.bool_]], device: torch.device) -> Tensor:
    """Masks ``(S, S)`` as one tensor ``(N, S, S)`` bool."""
    return torch.from_numpy(np.stack(masks)).to(device)


def _draw(dataset: Dataset, sample: Sample, position: int, objects: int, seed: int) -> ImageTargets:
    ids, categories = label_values(dataset, sample)
    draws = []
    for stream, values in ((_OBJECTS, ids), (_CATEGORIES, categories)):
        ids_there, counts = np.unique(values[(categories != IGNORE) & (values > 0)], return_counts=True)
        large = ids_there[counts >= MIN_SHARE * values.size]
        order = np.random.default_rng([seed, stream, position]).permutation(len(large))[:objects]
        draws.append(tuple(sorted(large[order].tolist())))
    return ImageTargets(sample, position, *draws)


def _read_labels(dataset: Dataset, sample: Sample, size: int) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    ids, categories = label_values(dataset, sample)
    matrix = resize_matrix((ids.shape[1], ids.shape[0]), size)
    return warp_mask(ids, matrix, size, fill=0), warp_mask(categories, matrix, size)
