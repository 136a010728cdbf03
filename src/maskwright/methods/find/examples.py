"""The examples: images with masks, as SAM sees them, and what their labels say of each category."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import file_digest
from maskwright.data.geometry import resize_matrix, squash, warp_mask
from maskwright.data.intensity import settled
from maskwright.data.labels import IGNORE, Kind, Sample
from maskwright.data.masks import label_values
from maskwright.errors import DataError
from maskwright.methods.find.showing import Showing
from maskwright.sam.precompute import images_of
from maskwright.sam.sam import Embedding, Sam

MOST = 60
"""Examples of a dataset that are used, of those that show something, and as many of the others."""

CHUNK = 8
"""Images that are encoded at once."""


@dataclass(frozen=True)
class Examples:
    """N examples.

    Attributes:
        dataset: with the examples alone as its samples; its image reading is decided.
        canvases: (N, 2S, 2S, 3) uint8.
        embedding, mirrored: of them, and of their mirror images.
        categories: (N, S, S) uint8 category ids, 255 = unknown.
        instances: masks hold instances.
        diameters: of the objects of each category in pixels of the canvas, the median; where masks hold instances.
        notes: what was left out.
    """

    dataset: Dataset
    canvases: NDArray[np.uint8]
    embedding: Embedding
    mirrored: Embedding
    categories: NDArray[np.uint8]
    instances: bool
    diameters: dict[int, float]
    notes: tuple[str, ...]

    @property
    def shown(self) -> list[int]:
        """The categories that an example shows."""
        return [c for c in range(1, len(self.dataset.categories)) if (self.categories == c).any()]

    def of(self, sam: Sam, category: int) -> Showing:
        """What they say of a category."""
        masks = torch.from_numpy(self.categories == category).to(sam.device)
        return Showing.of(sam, self.embedding, masks, torch.from_numpy(self.categories != IGNORE).to(sam.device))

    def digest(self) -> str:
        """Hexadecimal digits that change with the images and their masks."""
        parts = [self.dataset.image_reading.as_dict(), self.dataset.categories]
        for sample in self.dataset:
            path = self.dataset.mask_path(sample)
            assert path is not None
            parts.append([file_digest(each).hex() for each in (self.dataset.image_path(sample), path)])
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def read_examples(
    sam: Sam, dataset: Dataset, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Examples:
    """Read and encode the examples of a dataset: its images with masks, of all splits. Masks without an object say "not there".

    Raises:
        DataError: no mask that shows anything, or files that cannot be read; all of them.
    """
    dataset = settled(dataset)
    masked = [sample for sample in dataset if sample.labels.mask is not None]
    if not masked:
        remedy = "draw one: maskwright label " + str(dataset.root)
        raise DataError(
            [f"none of the {len(dataset)} images has a mask, and a mask is the example; {remedy}"], _where(dataset)
        )
    require_clean(dataset.with_samples(masked), training=False)
    showing: list[_Example] = []
    empty: list[_Example] = []
    for number, place in enumerate(np.random.default_rng([seed, 1]).permutation(len(masked)).tolist(), 1):
        ids, values = label_values(dataset, masked[place])
        side = showing if ((values > 0) & (values != IGNORE)).any() else empty
        if len(side) < MOST:
            side.append(_read(sam, dataset, masked[place], ids, values))
        if progress:
            progress(number, len(masked))
        if len(showing) == len(empty) == MOST:
            break
    if not showing:
        raise DataError(
            [f"none of the {len(masked)} masks shows an object; draw one around what is looked for"], _where(dataset)
        )
    used = [*showing, *empty]
    canvases, categories = (np.stack([getattr(one, name) for one in used]) for name in ("canvas", "categories"))
    sizes = [(one.ids, one.categories) for one in used if one.ids is not None]
    return Examples(
        dataset.with_samples([one.sample for one in used]),
        canvases,
        *encode_both(sam, canvases),
        categories,
        len(sizes) > len(used) / 2,
        _diameters(sizes),
        _notes(dataset, len(masked) - len(used)),
    )


@dataclass(frozen=True)
class _Example:
    """One of them, as in :class:`Examples`; ``ids`` (S, S) where its mask holds instances."""

    sample: Sample
    canvas: NDArray[np.uint8]
    categories: NDArray[np.uint8]
    ids: NDArray[np.integer] | None


def _read(
    sam: Sam, dataset: Dataset, sample: Sample, ids: NDArray[np.integer], values: NDArray[np.integer]
) -> _Example:
    """An example whose mask was read already: ids and categories (H, W)."""
    matrix = resize_matrix((ids.shape[1], ids.shape[0]), sam.size)
    holds = sample.labels.mask is not None and sample.labels.mask.kind == "instance"
    return _Example(
        sample,
        squash(dataset.pixels(sample), 2 * sam.size),
        warp_mask(values, matrix, sam.size),
        warp_mask(ids, matrix, sam.size, fill=0) if holds else None,
    )


@torch.inference_mode()
def encode_both(sam: Sam, canvases: NDArray[np.uint8]) -> tuple[Embedding, Embedding]:
    """Embeddings of canvases (N, s, s, 3) uint8, and of their mirror images."""
    plain, mirrored = [], []
    for start in range(0, len(canvases), CHUNK):
        images = images_of(sam, canvases[start : start + CHUNK])
        plain.append(sam.encode(images))
        mirrored.append(sam.encode(images.flip(-1)))
    return Embedding.cat(plain), Embedding.cat(mirrored)


def _diameters(sizes: Sequence[tuple[NDArray, NDArray[np.uint8]]]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for ids, categories in sizes:
        for id in np.unique(ids[ids > 0]).tolist():
            inside = ids == id
            category = int(np.bincount(categories[inside]).argmax())
            if 0 < category < IGNORE:
                found.setdefault(category, []).append(2 * float(np.sqrt(inside.sum() / np.pi)))
    return {category: float(np.median(values)) for category, values in found.items()}


def _notes(dataset: Dataset, more: int) -> tuple[str, ...]:
    weak = sum(sample.labels.kind not in (Kind.MASK, Kind.NONE) for sample in dataset)
    notes = []
    if more:
        notes.append(
            f"{more} further masks are not used: {MOST} examples with an object, and {MOST} without, are enough"
        )
    if weak:
        notes.append(f"{weak} images with boxes, points, scribbles or tags alone are not used: an example is a mask")
    return tuple(notes)


def _where(dataset: Dataset) -> str:
    return dataset.source or str(Path(dataset.root))


def without_labels(dataset: Dataset) -> list[Sample]:
    """The images of a dataset that nobody has labelled: what is searched where no others are given."""
    return [sample for sample in dataset if sample.labels.kind == Kind.NONE]
