"""The data of click episodes that clicks do not change: images, their embeddings and, where there are any, true masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import resize_matrix, warp_image, warp_mask
from maskwright.data.labels import IGNORE, Sample
from maskwright.data.masks import label_values
from maskwright.data.scenes import Scenes
from maskwright.errors import DataError
from maskwright.sam.frozen import Cells, FrozenDecoder
from maskwright.sam.precompute import precompute
from maskwright.sam.sam import Embedding, Sam
from maskwright.sam.store import EmbeddingStore

MIN_SHARE = 2.5e-4
"""A target takes at least this share of the canvas: 16 pixels of 256 x 256."""

LOGIT_STRIDE = 4
"""Canvas pixels along one pixel of SAM's low-resolution logits, in x and in y."""


@dataclass(frozen=True)
class Truth:
    """The true masks of N targets, on the canvas and on the grid of the low-resolution logits.

    Attributes:
        canvas: (N, S, S) bool, on the object.
        known: (N, S, S) bool, pixels that count: within the image, and not labelled "ignore".
        area: (N, h, w) float32 in 0..1, share of each low-resolution pixel that is known and on the object.
        counted: (N, h, w) float32 in 0..1, share of it that is known.
    """

    canvas: Tensor
    known: Tensor
    area: Tensor
    counted: Tensor

    @classmethod
    def of(cls, canvas: Tensor, known: Tensor) -> Truth:
        """From (N, S, S) bool each."""
        canvas = canvas & known
        return cls(
            canvas, known, *(F.avg_pool2d(mask[:, None].float(), LOGIT_STRIDE)[:, 0] for mask in (canvas, known))
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.canvas, self.known, self.area, self.counted))

    @property
    def hard(self) -> Tensor:
        """(N, h, w) bool: at least half of the known part of the low-resolution pixel is on the object."""
        return (2 * self.area >= self.counted) & (self.area > 0)

    def __getitem__(self, rows: Any) -> Truth:
        return Truth(self.canvas[rows], self.known[rows], self.area[rows], self.counted[rows])

    @staticmethod
    def cat(parts: Sequence[Truth]) -> Truth:
        names = ("canvas", "known", "area", "counted")
        return Truth(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def to(self, device: torch.device | str) -> Truth:
        return Truth(self.canvas.to(device), self.known.to(device), self.area.to(device), self.counted.to(device))


@dataclass(frozen=True)
class Bank:
    """N targets in M images of one canvas of S x S pixels; a target is an object, or a category's pixels, in one image.

    The images are encoded once, when the bank is made. Rows are named by their place 0..N-1.

    Attributes:
        embedding: of the M images.
        cells: the same in the form that ``FrozenDecoder`` reads; both share the memory of the coarse level.
        image: (N,) int64, the image of each target.
        pixels: (M, 3, S, S) uint8.
        inside: (M, S, S) bool, canvas pixels that show the image.
        truth: true masks of the N targets, or None where there are none.
        names: N names for messages and reports.
        tiny: number of targets of these images that were left out, being smaller than ``MIN_SHARE`` of the canvas.
    """

    embedding: Embedding
    cells: Cells
    image: Tensor
    pixels: Tensor
    inside: Tensor
    truth: Truth | None
    names: tuple[str, ...]
    tiny: int = 0

    def __len__(self) -> int:
        return len(self.image)

    @property
    def size(self) -> int:
        """S, the side of the canvas."""
        return self.pixels.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.embedding.low.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [self.embedding.high0, self.embedding.high1, self.image, self.pixels, self.inside]
        truth = 0 if self.truth is None else self.truth.nbytes
        return self.cells.nbytes + truth + sum(tensor.nbytes for tensor in tensors)

    @property
    def known_truth(self) -> Truth:
        """``truth``, never None. Raises ValueError where the bank has none."""
        if self.truth is None:
            raise ValueError("this bank was made without truth; only clicks without a score are possible")
        return self.truth

    def embed(self, rows: Tensor) -> Embedding:
        """The embeddings of some targets' images (B rows), by one gather."""
        return self.embedding[self.image[rows]]

    def select(self, rows: Tensor) -> Bank:
        """The bank of some targets; it keeps the images of those only."""
        images, image = self.image[rows].unique(return_inverse=True)
        return replace(
            self,
            **_levels(self.embedding[images], self.cells[images]),
            image=image,
            pixels=self.pixels[images],
            inside=self.inside[images],
            truth=None if self.truth is None else self.truth[rows],
            names=tuple(self.names[row] for row in rows.tolist()),
        )

    def to(self, device: torch.device | str) -> Bank:
        return replace(
            self,
            **_levels(self.embedding.to(device), self.cells.to(device)),
            image=self.image.to(device),
            pixels=self.pixels.to(device),
            inside=self.inside.to(device),
            truth=None if self.truth is None else self.truth.to(device),
        )

    def mirrored(self, sam: Sam) -> Bank:
        """The bank and, after it, the mirror images of all its targets, which ``sam`` encodes."""
        truth, flipped = self.known_truth, self.pixels.flip(-1)
        return Bank.of_images(
            sam,
            torch.cat([self.pixels, flipped]),
            truth=torch.cat([truth.canvas, truth.canvas.flip(-1)]),
            known=torch.cat([truth.known, truth.known.flip(-1)]),
            inside=torch.cat([self.inside, self.inside.flip(-1)]),
            image=torch.cat([self.image, self.image + len(self.pixels)]),
            names=[*self.names, *self.names],
            embedding=Embedding.cat([self.embedding, encode(sam, flipped)]),
        )

    @staticmethod
    def cat(parts: Sequence[Bank]) -> Bank:
        """Banks of one canvas, one after the other; all with truth, or all without."""
        first = torch.tensor([0, *(len(part.pixels) for part in parts[:-1])], device=parts[0].device).cumsum(0)
        truths = [part.truth for part in parts if part.truth is not None]
        if truths and len(truths) < len(parts):
            raise ValueError("some banks have truth and some have not")
        return Bank(
            **_levels(Embedding.cat([part.embedding for part in parts]), Cells.cat([part.cells for part in parts])),
            image=torch.cat([part.image + offset for part, offset in zip(parts, first, strict=True)]),
            pixels=torch.cat([part.pixels for part in parts]),
            inside=torch.cat([part.inside for part in parts]),
            truth=Truth.cat(truths) if truths else None,
            names=tuple(name for part in parts for name in part.names),
            tiny=sum(part.tiny for part in parts),
        )

    @classmethod
    def of_images(
        cls,
        sam: Sam,
        pixels: Tensor,
        *,
        truth: Tensor | None = None,
        known: Tensor | None = None,
        inside: Tensor | None = None,
        image: Tensor | None = None,
        names: Sequence[str] | None = None,
        embedding: Embedding | None = None,
        batch: int = 8,
    ) -> Bank:
        """From images that lie on the canvas.

        Args:
            sam: encodes the images, and gives the device.
            pixels: (M, 3, S, S) uint8, or float in 0..1.
            truth: (N, S, S) bool or None.
            known: (N, S, S) bool, pixels that count; left out: all inside the image.
            inside: (M, S, S) bool, canvas pixels that show the image; left out: all.
            image: (N,) image of each target; left out: one target in each image.
            names: N of them; left out: numbers.
            embedding: of the M images, if it has been computed before; left out: they are encoded.
            batch: images in one pass of the encoder.

        Raises:
            ValueError: the images are not of the size of ``sam``'s canvas.
        """
        if tuple(pixels.shape[1:]) != (3, sam.size, sam.size):
            raise ValueError(f"the bank needs images (M, 3, {sam.size}, {sam.size}), not {tuple(pixels.shape)}")
        device = sam.device
        pixels = (pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().byte()).to(device)
        image = (torch.arange(len(pixels)) if image is None else image).to(device)
        inside = (pixels.new_ones(len(pixels), sam.size, sam.size) > 0) if inside is None else inside.to(device)
        masks = None
        if truth is not None:
            counted = inside[image] if known is None else inside[image] & known.to(device)
            masks = Truth.of(truth.to(device), counted)
        embedding = encode(sam, pixels, batch) if embedding is None else embedding.to(device, sam.dtype)
        levels = _levels(embedding, FrozenDecoder.of(sam).prepare(embedding))
        names = tuple(map(str, range(len(image)))) if names is None else tuple(names)
        return cls(**levels, image=image, pixels=pixels, inside=inside, truth=masks, names=names)

    @classmethod
    def of_scenes(cls, sam: Sam, scenes: Scenes, *, objects: int = 1, batch: int = 8) -> Bank:
        """From procedural scenes of the canvas' size: the largest objects of each, at most ``objects``.

        Raises:
            DataError: no scene shows an object of ``MIN_SHARE``.
        """
        ids, slots = scenes.instances, scenes.categories.shape[1]
        area = torch.zeros(len(ids), slots + 1, device=ids.device)
        area.scatter_add_(1, ids.flatten(1), torch.ones_like(ids.flatten(1), dtype=area.dtype))
        largest = area[:, 1:].topk(min(objects, slots), 1)
        image, place = (largest.values >= MIN_SHARE * ids[0].numel()).nonzero(as_tuple=True)
        if not len(image):
            raise DataError([f"none of {len(ids)} scenes shows an object; render others"])
        number = largest.indices[image, place] + 1
        names = [f"scene-{i}/{k}" for i, k in zip(image.tolist(), number.tolist(), strict=True)]
        truth = ids[image] == number[:, None, None]
        return cls.of_images(sam, scenes.images, truth=truth, image=image, names=names, batch=batch)

    @classmethod
    def of_dataset(
        cls,
        sam: Sam,
        dataset: Dataset,
        *,
        category: int | None = None,
        objects: int | None = None,
        memory: int | None = None,
        store: EmbeddingStore | None = None,
        batch: int = 8,
    ) -> Bank:
        """The first of the ``parts``, with the same arguments: without ``memory``, all there is."""
        return next(
            cls.parts(sam, dataset, category=category, objects=objects, memory=memory, store=store, batch=batch)
        )

    @classmethod
    def parts(
        cls,
        sam: Sam,
        dataset: Dataset,
        *,
        category: int | None = None,
        objects: int | None = None,
        memory: int | None = None,
        store: EmbeddingStore | None = None,
        batch: int = 8,
        may_be_empty: bool = False,
    ) -> Iterator[Bank]:
        """Banks of all samples of a dataset that have a mask, in order: an instance mask gives a target for each object, a
        semantic one a target for each category. Targets smaller than ``MIN_SHARE`` of the canvas are left out, and counted.

        Args:
            dataset: the samples wanted (``dataset.split("train")``); images are squashed to the canvas, as in SAM 2.
            category: targets of this one only; left out: of all but the background.
            objects: at most so many targets of an image, spread evenly over its ids; left out: all.
            memory: bytes of one bank, which has one image at least; left out: all is one bank.
            store: embeddings are read from it, and missing ones are computed and added; left out: all images are encoded here.
            batch: images in one pass of the encoder.
            may_be_empty: give nothing where there is no target at all.

        Raises:
            DataError: files that cannot be read (all of them, in what makes up one bank), or no target at all.
        """
        per_image, per_target = (0, 0) if memory is None else cls._bytes(sam)
        where = dataset.source or str(dataset.root)
        loaded: list[_Loaded] = []
        problems: list[str] = []
        used, is_empty, tiny = 0, True, 0
        for sample in dataset:
            if sample.labels.mask is None:
                continue
            try:
                pixels, targets, too_small = _read(dataset, sample, sam.size, category, objects)
            except DataError as error:
                problems += error.problems
                continue
            if not targets:
                tiny += too_small
                continue
            more = per_image + per_target * len(targets)
            if memory is not None and loaded and used + more > memory:
                if problems:
                    raise DataError(problems, where)
                yield replace(cls._of_loaded(sam, dataset, loaded, store, batch), tiny=tiny)
                loaded, used, tiny = [], 0, 0
            loaded.append((sample, pixels, targets))
            used, is_empty, tiny = used + more, False, tiny + too_small
        if not problems and is_empty:
            if may_be_empty:
                return
            target = "a category" if category is None else f"category {category}"
            problems = [f"no mask shows an object of {target}, of at least {MIN_SHARE:.3%} of the image; name others"]
        if problems:
            raise DataError(problems, where)
        yield replace(cls._of_loaded(sam, dataset, loaded, store, batch), tiny=tiny)

    @classmethod
    def _bytes(cls, sam: Sam) -> tuple[int, int]:
        """Bytes that one image, and that one target, takes in a bank."""
        blank = torch.zeros(1, 3, sam.size, sam.size, dtype=torch.uint8)
        bank = cls.of_images(sam, blank, truth=blank[:, 0] > 0)
        target = bank.known_truth.nbytes
        return bank.nbytes - target, target

    @classmethod
    def _of_loaded(
        cls, sam: Sam, dataset: Dataset, loaded: Sequence[_Loaded], store: EmbeddingStore | None, batch: int
    ) -> Bank:
        targets = [(place, *target) for place, (_, _, of_sample) in enumerate(loaded) for target in of_sample]
        embedding = None
        if store is not None:
            part = dataset.with_samples([sample for sample, _, _ in loaded])
            precompute(sam, part, store, batch=batch)
            stored = store.load([store.key(part.image_path(sample), reading=part.image_reading) for sample in part])
            embedding = Embedding(stored["high0"], stored["high1"], stored["low"])
        return cls.of_images(
            sam,
            torch.from_numpy(np.stack([pixels for _, pixels, _ in loaded])).permute(0, 3, 1, 2).contiguous(),
            truth=torch.from_numpy(np.stack([mask for *_, mask, _ in targets])),
            known=torch.from_numpy(np.stack([known for *_, known in targets])),
            image=torch.tensor([place for place, *_ in targets]),
            names=[f"{loaded[place][0].id}/{id}" for place, id, *_ in targets],
            embedding=embedding,
            batch=batch,
        )


@torch.inference_mode(False)
@torch.no_grad()
def encode(sam: Sam, pixels: Tensor, batch: int = 8) -> Embedding:
    """Encode (M, 3, S, S) uint8 in batches; the tensors need no gradient and may be used anywhere."""
    return Embedding.cat([sam.encode(part.to(sam.device).to(sam.dtype) / 255) for part in pixels.split(batch)])


def _levels(embedding: Embedding, cells: Cells) -> dict[str, Any]:
    return {"embedding": replace(embedding, low=cells.features), "cells": cells}


_Target = tuple[int, NDArray[np.bool_], NDArray[np.bool_]]
"""An id, its mask ``(S, S)``, and the pixels ``(S, S)`` that are known."""

_Loaded = tuple[Sample, NDArray[np.uint8], list[_Target]]
"""A sample, its image on the canvas ``(S, S, 3)``, and its targets."""


def _read(
    dataset: Dataset, sample: Sample, size: int, category: int | None, objects: int | None
) -> tuple[NDArray[np.uint8], list[_Target], int]:
    """An image on the canvas ``(S, S, 3)``, its targets, at most ``objects`` of them, and the number of those that are too small."""
    image = dataset.pixels(sample)
    values, categories = label_values(dataset, sample)
    if values.shape != image.shape[:2]:
        mask_size = f"{values.shape[1]}x{values.shape[0]}"
        raise DataError(
            [
                f"{dataset.mask_path(sample)}: the mask has {mask_size} pixels, its image {image.shape[1]}x{image.shape[0]}"
            ]
        )
    matrix = resize_matrix((image.shape[1], image.shape[0]), size)
    ids, kinds = warp_mask(values, matrix, size, fill=0), warp_mask(categories, matrix, size)
    known = kinds != IGNORE
    on_target = known & (ids > 0) if category is None else kinds == category
    numbers, counts = np.unique(ids[on_target], return_counts=True)
    target_ids = numbers[counts >= MIN_SHARE * size * size]
    # On the canvas an object of less than a pixel may have none: the image's own ids are those that are there.
    wanted = (values > 0) & (categories != IGNORE) if category is None else categories == category
    tiny = len(np.unique(values[wanted])) - len(target_ids)
    if objects is not None and len(target_ids) > objects:
        target_ids = target_ids[np.linspace(0, len(target_ids) - 1, objects).round().astype(int)]
    return warp_image(image, matrix, size)[0], [(int(id), ids == id, known) for id in target_ids.tolist()], tiny
