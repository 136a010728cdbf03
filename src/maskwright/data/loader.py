"""Batches of images with every kind of label, all moved by one affine per sample.

The batch of a step depends only on the seed and the step, never on timing, on the number of processes or on what was
asked for before: a resumed run sees the same batches, and the processes of a run share out the very batch that one
process would see.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskwright.data.augment import Augmentation
from maskwright.data.geometry import (
    MIN_VISIBLE,
    Affine,
    Size,
    compose,
    resize_matrix,
    warp_box,
    warp_image,
    warp_mask,
    warp_points,
)
from maskwright.data.images import read_image, read_mask
from maskwright.data.labels import IGNORE, Dataset, Kind, Mask, Sample
from maskwright.errors import DataError, MaskwrightError

MARK = 0.012
"""Radius of a click's disc and width of a scribble's line in `Batch.target`, as a share of the canvas; >= 1 pixel."""

SCRIBBLE_POINTS = 8
"""Points that `Batch.points` gets for each scribble, evenly spaced along it."""

TAG_VISIBLE = 2 / 3
"""A tagged category is present while at least this share of the image's area is on the canvas, else unknown."""

PRESENT_SHARE = 1e-4
"""A mask's category is present from this share of the canvas on (at least 4 pixels); unknown with fewer, but some."""

# Streams of random numbers that must not share draws.
_ORDER, _GEOMETRY = 0, 1


@dataclass(frozen=True, slots=True)
class Item:
    """One image with its labels, decoded; coordinates are pixels of the original image.

    Attributes:
        image: ``(h, w, 3)`` uint8; smaller than the original where the reader was given a limit.
        size: ``(width, height)`` of the original image.
        kind: the finest kind of label.
        mask: ``(h, w)`` uint8 category ids with 255 = ignore, of the image array's size, or None.
        boxes: ``(N, 4)`` float64 x0 y0 x1 y1, with ``box_categories`` ``(N,)``.
        points: ``(P, 2)`` float64 clicks, with ``point_categories`` ``(P,)``.
        scribbles: polylines ``(V, 2)`` float64, with ``scribble_categories``, one for each.
        tags: ``(T,)`` categories of the image; all of them, if there are any.
    """

    image: NDArray[np.uint8]
    size: Size
    kind: Kind
    mask: NDArray[np.uint8] | None
    boxes: NDArray[np.float64]
    box_categories: NDArray[np.int64]
    points: NDArray[np.float64]
    point_categories: NDArray[np.int64]
    scribbles: tuple[NDArray[np.float64], ...]
    scribble_categories: NDArray[np.int64]
    tags: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """Bytes that the pixels take."""
        return self.image.nbytes + (self.mask.nbytes if self.mask is not None else 0)


@dataclass
class Batch:
    """B samples on canvases of S x S pixels; C counts the categories with background. N and P may be 0.

    Attributes:
        images: ``(B, 3, S, S)`` float32 in 0..1, geometric augmentation only (the weak view).
        inside: ``(B, S, S)`` bool, the canvas pixels that show the image.
        target: ``(B, S, S)`` int64, the category where a mask, scribble or click says so, else 255. Where labels of
            one image conflict the finer kind wins, and in one kind the later label.
        boxes: ``(B, N, 4)`` float32 canvas pixels x0 y0 x1 y1, clipped; those less than 20 % visible are left out.
        box_categories: ``(B, N)`` int64, -1 = padding.
        points: ``(B, P, 2)`` float32 canvas pixels: the clicks on the canvas, then points along the scribbles.
        point_categories: ``(B, P)`` int64, -1 = padding, 0 = a background click.
        present: ``(B, C)`` int8: 1 = the category is in the image, 0 = it is not, -1 = unknown. A mask knows all
            categories. Tags know all but the background, and a tagged category is unknown again once much of the image
            left the canvas. Boxes, points and scribbles vouch for their own category while they can be seen, and say
            nothing of others.
        kinds: ``(B,)`` int64 `Kind` of the finest label.
        matrices: ``(B, 2, 3)`` float32, original pixels to canvas pixels.
        sizes: ``(B, 2)`` int64 original width and height.
        indices: ``(B,)`` int64 position in the dataset.
    """

    images: Tensor
    inside: Tensor
    target: Tensor
    boxes: Tensor
    box_categories: Tensor
    points: Tensor
    point_categories: Tensor
    present: Tensor
    kinds: Tensor
    matrices: Tensor
    sizes: Tensor
    indices: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)})

    def __len__(self) -> int:
        return len(self.indices)


def read_item(dataset: Dataset, sample: Sample, limit: int | None = None) -> Item:
    """Decode a sample's image and mask and turn its labels into arrays.

    Args:
        dataset: gives the folder and the categories.
        sample: one of its samples.
        limit: longest side kept, in pixels; a larger image (and its mask) is reduced to it, coordinates stay those of
            the original.

    Raises:
        DataError: a file cannot be read, sizes do not match, or the mask holds an unknown category.
    """
    labels, path = sample.labels, dataset.image_path(sample)
    image = read_image(path)
    height, width = image.shape[:2]
    if sample.size is not None and tuple(sample.size) != (width, height):
        stated = "x".join(map(str, sample.size))
        raise DataError([f"{path}: the image has {width}x{height} pixels, the dataset says {stated}; import it again"])
    mask = None
    mask_path = dataset.mask_path(sample)
    if labels.mask is not None and mask_path is not None:
        mask = _semantic(read_mask(mask_path), labels.mask, len(dataset.categories), str(mask_path))
        if mask.shape != (height, width):
            found = f"{mask.shape[1]}x{mask.shape[0]}"
            raise DataError([f"{mask_path}: the mask has {found} pixels, its image {width}x{height}; make them equal"])
    shrink = min(1.0, limit / max(width, height)) if limit else 1.0
    if shrink < 1:
        kept = max(1, round(width * shrink)), max(1, round(height * shrink))
        reduced = Image.fromarray(image).resize(kept, Image.Resampling.BILINEAR, reducing_gap=3.0)
        image = np.asarray(reduced)
        if mask is not None:
            mask = np.asarray(Image.fromarray(mask).resize(kept, Image.Resampling.NEAREST))
    return Item(
        image=image,
        size=(width, height),
        kind=labels.kind,
        mask=mask,
        boxes=np.array([box.xyxy for box in labels.boxes], dtype=np.float64).reshape(-1, 4),
        box_categories=np.array([box.category for box in labels.boxes], dtype=np.int64),
        points=np.array([(point.x, point.y) for point in labels.points], dtype=np.float64).reshape(-1, 2),
        point_categories=np.array([point.category for point in labels.points], dtype=np.int64),
        scribbles=tuple(np.array(line.points, dtype=np.float64).reshape(-1, 2) for line in labels.scribbles),
        scribble_categories=np.array([line.category for line in labels.scribbles], dtype=np.int64),
        tags=np.array([tag.category for tag in labels.tags], dtype=np.int64),
    )


def _semantic(values: np.ndarray, mask: Mask, count: int, path: str) -> NDArray[np.uint8]:
    """Category ids of a mask file's values; instance ids go through the mask's ``categories`` (default: 1)."""
    found = np.unique(values)
    if mask.kind == "instance":
        table = {int(value): mask.categories.get(int(value), 1) if value else 0 for value in found}
    else:
        table = {int(value): int(value) for value in found}
    known = set(range(count)) | ({IGNORE} if mask.kind == "semantic" else set())
    unknown = sorted(set(table.values()) - known)
    if unknown:
        listed = ", ".join(map(str, unknown[:10]))
        raise DataError([f"{path}: holds category {listed}, the dataset has 0..{count - 1}; add it or mend the mask"])
    lookup = np.zeros(int(found[-1]) + 1, dtype=np.uint8)
    lookup[list(table)] = list(table.values())
    return lookup[values]


def collate(
    items: Sequence[Item],
    matrices: Sequence[Affine] | np.ndarray,
    size: int,
    categories: int,
    indices: Sequence[int] | np.ndarray | None = None,
) -> Batch:
    """Draw items on canvases.

    Args:
        items: B of them.
        matrices: B affines ``(2, 3)`` from original pixels to the canvas.
        size: side S of the canvas.
        categories: number C of categories with background.
        indices: positions in the dataset; left out, 0..B-1.

    Returns:
        A `Batch` on the CPU.
    """
    drawn = [_draw(item, matrix, size, categories) for item, matrix in zip(items, matrices, strict=True)]
    images, inside, target, boxes, box_categories, points, point_categories, present = zip(*drawn, strict=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return Batch(
        images=pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255),
        inside=torch.from_numpy(np.stack(inside)),
        target=torch.from_numpy(np.stack(target)).long(),
        boxes=_pad(boxes, 0.0, np.float32),
        box_categories=_pad(box_categories, -1, np.int64),
        points=_pad(points, 0.0, np.float32),
        point_categories=_pad(point_categories, -1, np.int64),
        present=torch.from_numpy(np.stack(present)),
        kinds=torch.tensor([int(item.kind) for item in items]),
        matrices=torch.from_numpy(np.stack(list(matrices)).astype(np.float32)),
        sizes=torch.tensor([item.size for item in items]),
        indices=torch.arange(len(items)) if indices is None else torch.tensor([int(i) for i in indices]),
    )


def _pad(arrays: Sequence[np.ndarray], value: float, dtype: type) -> Tensor:
    """Stack arrays of different length, padded at their end."""
    longest = max(len(array) for array in arrays)
    padded = np.full((len(arrays), longest, *arrays[0].shape[1:]), value, dtype=dtype)
    for row, array in zip(padded, arrays):
        row[: len(array)] = array
    return torch.from_numpy(padded)


def _draw(item: Item, matrix: Affine, size: int, categories: int) -> tuple[np.ndarray, ...]:
    """One item on its canvas: image, inside, target, boxes, their categories, points, their categories, present."""
    kept = item.image.shape[1], item.image.shape[0]
    from_kept = compose(matrix, resize_matrix(kept, item.size))
    image, inside = warp_image(item.image, from_kept, size)
    boxes, visible = warp_box(item.boxes, matrix, size)
    seen_boxes = visible >= MIN_VISIBLE
    clicks = warp_points(item.points, matrix)
    lines = [warp_points(line, matrix) for line in item.scribbles]
    along = [warp_points(_along(line, SCRIBBLE_POINTS), matrix) for line in item.scribbles]
    points = np.concatenate([clicks, *along])
    line_of = np.repeat(item.scribble_categories, [len(line) for line in along])
    point_categories = np.concatenate([item.point_categories, line_of])
    on_canvas = ((points >= 0) & (points < size)).all(1)
    points, point_categories = points[on_canvas], point_categories[on_canvas]

    target = np.full((size, size), IGNORE, dtype=np.uint8)
    for click, category in zip(clicks, item.point_categories):
        _draw_segment(target, click, click, max(1.0, size * MARK), int(category))
    for line, category in zip(lines, item.scribble_categories):
        # Half the width, but enough that the pixel under every vertex is drawn.
        half = max(0.71, size * MARK / 2)
        for start, end in zip(line, line[1:] if len(line) > 1 else line):
            _draw_segment(target, start, end, half, int(category))
    target[~inside] = IGNORE

    present = np.full(categories, -1, dtype=np.int8)
    if len(item.tags):
        shown = inside.sum() / (abs(np.linalg.det(matrix[:, :2])) * item.size[0] * item.size[1])
        present[1:] = 0
        present[item.tags] = 1 if shown >= TAG_VISIBLE else -1
    present[item.box_categories[seen_boxes]] = 1
    present[point_categories] = 1
    if item.mask is not None:
        mask = warp_mask(item.mask, from_kept, size)
        target = np.where(mask == IGNORE, target, mask)
        counts = np.bincount(mask.ravel(), minlength=256)[:categories]
        enough = max(4, PRESENT_SHARE * size * size)
        present = np.where(counts == 0, 0, np.where(counts >= enough, 1, -1)).astype(np.int8)
    return image, inside, target, boxes[seen_boxes], item.box_categories[seen_boxes], points, point_categories, present


def _along(line: np.ndarray, count: int) -> np.ndarray:
    """``count`` points evenly along a polyline ``(V, 2)``, half a space from its ends; one if it has no length."""
    travelled = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    if travelled[-1] == 0:
        return line[:1]
    places = (np.arange(count) + 0.5) / count * travelled[-1]
    return np.stack([np.interp(places, travelled, line[:, axis]) for axis in range(2)], axis=1)


def _draw_segment(target: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, value: int) -> None:
    """Set the pixels of ``target`` with centres within ``radius`` of a segment (a disc where its ends coincide)."""
    low = np.floor(np.minimum(start, end) - radius).astype(int).clip(0, len(target))
    high = np.ceil(np.maximum(start, end) + radius).astype(int).clip(0, len(target))
    x = np.arange(low[0], high[0])[None, :] + 0.5 - start[0]
    y = np.arange(low[1], high[1])[:, None] + 0.5 - start[1]
    dx, dy = end - start
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
    near = (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius * radius
    target[low[1] : high[1], low[0] : high[0]][near] = value


class Loader:
    """Batches of a dataset by step, in any order and without end.

    An epoch is a permutation of the dataset, cut into batches; its last batch is filled up from a fresh permutation,
    so that every batch is full. With ``weights`` an epoch is drawn with replacement instead, each sample as often as
    its share says, rounded up or down at random. Decoded images stay in memory (long side at most twice the canvas)
    until ``cache_bytes`` are used; what is there then stays, and the rest is decoded each time.

    Args:
        dataset: at least one sample.
        size: side S of the canvas in pixels.
        batch_size: samples of the whole batch, over all processes.
        augment: random geometry, or None for the plain resize. An image with boxes is never tilted.
        seed: not negative; with the step it decides everything random.
        shuffle: False goes through the dataset in order.
        weights: one weight for each sample, not negative, in any unit.
        workers: threads that prepare the next batches ahead; 0 prepares a batch when it is asked for.
        rank: this process; it gets samples ``rank::world`` of every batch.
        world: number of processes.
        cache_bytes: memory for decoded images, per process.

    Raises:
        MaskwrightError: settings that cannot be met, all listed.

    Example:
        >>> with Loader(Dataset.load("polyps").split("train"), 352, 8, augment=Augmentation(), workers=2) as loader:
        ...     for step in range(start, steps):
        ...         batch = loader.batch(step)
    """

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        batch_size: int,
        *,
        augment: Augmentation | None = None,
        seed: int = 0,
        shuffle: bool = True,
        weights: Sequence[float] | np.ndarray | None = None,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        cache_bytes: int = 2 << 30,
    ) -> None:
        share = None if weights is None else np.asarray(weights, dtype=np.float64)
        rules = {
            f"{dataset.source or dataset.root}: there are no samples to load; check the split": len(dataset) > 0,
            f"size {size}: must be at least 1": size >= 1,
            f"seed {seed}: must not be negative": seed >= 0,
            f"rank {rank} of {world} processes: must lie in 0..{world - 1}": 0 <= rank < world,
            f"batch size {batch_size}: must be a multiple of the {world} processes": (
                batch_size >= 1 and batch_size % max(world, 1) == 0
            ),
            f"weights: need {len(dataset)} finite numbers that are not negative nor all zero, and shuffle": (
                share is None or (shuffle and share.shape == (len(dataset),) and _weighs(share))
            ),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise MaskwrightError("\n  - ".join(["loader:", *broken]) if len(broken) > 1 else f"loader: {broken[0]}")
        self.dataset, self.size, self.batch_size = dataset, size, batch_size
        self.augment, self.seed, self.shuffle, self.weights = augment, seed, shuffle, share
        self.rank, self.world = rank, world
        self._items: dict[int, Item] = {}
        self._free = cache_bytes
        self._lock = threading.Lock()
        self._epoch: tuple[int, NDArray[np.int64]] | None = None
        self._ahead = workers + 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader") if workers > 0 else None
        self._waiting: dict[int, Future[Batch]] = {}

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and forget what they prepared; the loader still works, without preparing ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._waiting.clear()

    def indices(self, step: int) -> NDArray[np.int64]:
        """Positions in the dataset of the whole batch of a step, ``(batch_size,)``, over all processes."""
        epoch, number = divmod(step, len(self))
        known = self._epoch  # read once: another thread may be at another epoch
        if known is None or known[0] != epoch:
            known = self._epoch = epoch, self._order(epoch)
        return known[1][number * self.batch_size : (number + 1) * self.batch_size]

    def batch(self, step: int) -> Batch:
        """This process' part of the batch of a step (0, 1, 2, ...); steps may be asked for in any order.

        Raises:
            DataError: a file of the batch cannot be read.
        """
        if self._pool is None:
            return self._batch(step)
        wanted = range(step, step + self._ahead)
        for stale in [key for key in self._waiting if key not in wanted]:
            self._waiting.pop(stale).cancel()
        for key in wanted:
            if key not in self._waiting:
                self._waiting[key] = self._pool.submit(self._batch, key)
        return self._waiting.pop(step).result()

    def take(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples at these positions of the dataset as one batch, without augmentation."""
        items = [self.item(int(index)) for index in indices]
        matrices = [resize_matrix(item.size, self.size) for item in items]
        return collate(items, matrices, self.size, len(self.dataset.categories), indices)

    def ordered(self) -> Iterator[Batch]:
        """Every sample once, in order and without augmentation; the last batch is smaller.

        With several processes each gets its part of every batch; the smaller last batch may leave a process without
        one.
        """
        parts = (
            range(start, min(start + self.batch_size, len(self.dataset)))[self.rank :: self.world]
            for start in range(0, len(self.dataset), self.batch_size)
        )
        yield from self._through_pool(self.take, (part for part in parts if len(part)))

    def item(self, index: int) -> Item:
        """The decoded sample at a position of the dataset, from memory where it is there."""
        item = self._items.get(index)
        if item is None:
            item = read_item(self.dataset, self.dataset[index], limit=2 * self.size)
            with self._lock:
                if index not in self._items and item.nbytes <= self._free:
                    self._items[index] = item
                    self._free -= item.nbytes
        return item

    def _batch(self, step: int) -> Batch:
        epoch, number = divmod(step, len(self))
        chosen = self.indices(step)[self.rank :: self.world]
        if self.augment is None:
            return self.take(chosen)
        slots = range(number * self.batch_size + self.rank, (number + 1) * self.batch_size, self.world)
        items, matrices = [], []
        for slot, index in zip(slots, chosen, strict=True):
            item = self.item(int(index))
            generator = np.random.default_rng([self.seed, epoch, _GEOMETRY, slot])
            matrices.append(self.augment.matrix(item.size, self.size, generator, tilt=len(item.boxes) == 0))
            items.append(item)
        return collate(items, matrices, self.size, len(self.dataset.categories), chosen)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Positions in the dataset for a whole epoch, ``(len(self) * batch_size,)``."""
        count, length = len(self.dataset), len(self) * self.batch_size
        rounds = -(-length // count)
        generators = (np.random.default_rng([self.seed, epoch, _ORDER, part]) for part in range(rounds))
        if self.weights is not None:
            generator = next(generators)
            bounds = self.weights.cumsum() / self.weights.sum()
            bounds[self.weights.nonzero()[0][-1] :] = 1.0
            # Systematic sampling, evenly spaced with one random offset: no sample's count strays by more than one.
            places = (np.arange(length) + generator.random()) / length
            chosen = np.searchsorted(bounds, np.minimum(places, np.nextafter(1, 0)), side="right")
            return generator.permutation(chosen)
        orders = [generator.permutation(count) if self.shuffle else np.arange(count) for generator in generators]
        return np.concatenate(orders)[:length]

    def _through_pool(self, make: Callable[[range], Batch], parts: Iterator[range]) -> Iterator[Batch]:
        """``map(make, parts)``, a few ahead in the threads where there are any."""
        if self._pool is None:
            yield from map(make, parts)
            return
        waiting: deque[Future[Batch]] = deque()
        for part in parts:
            waiting.append(self._pool.submit(make, part))
            if len(waiting) > self._ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _weighs(weights: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0)
