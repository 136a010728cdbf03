"""Batches of a dataset by step, prepared ahead in threads.

The batch of a step depends only on the seed and the step, never on timing, on the number of processes or on what was
requested before: a resumed run gets the same batches, and the processes of a run divide among them the same batch that
a single process would get.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from maskwright.data.augment import Augmentation, Crop
from maskwright.data.batch import Batch, collate
from maskwright.data.dataset import Dataset
from maskwright.data.geometry import Affine, resize_matrix
from maskwright.data.items import Item, read_item
from maskwright.data.lookahead import ahead
from maskwright.errors import MaskwrightError

# Streams of random numbers that must not share draws.
_ORDER, _GEOMETRY = 0, 1


class Loader:
    """Batches of a dataset by step, in any order and without end.

    An epoch is a permutation of the dataset, cut into batches; its last batch is filled up from a fresh permutation,
    so that every batch is full. With ``weights`` an epoch is drawn with replacement instead, each sample in proportion to
    its weight, its count rounded up or down at random. Decoded images stay in memory (long side at most twice the canvas)
    until ``cache_bytes`` are used; the images decoded up to then stay, and all others are decoded each time.

    Args:
        dataset: at least one sample.
        size: side S of the canvas in pixels.
        batch_size: samples of the whole batch, over all processes.
        augment: random geometry (of the whole image, or of crops), or None for the plain resize. An image with boxes is never tilted.
        seed: not negative; with the step it decides everything random.
        shuffle: False goes through the dataset in order.
        weights: one weight for each sample, not negative, in any unit.
        workers: threads that prepare the next batches ahead; 0 prepares a batch when it is requested.
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
        augment: Augmentation | Crop | None = None,
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
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader") if workers > 0 else None
        self._waiting: dict[int, Future[Batch]] = {}

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def __enter__(self) -> Self:
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
        cache = self._epoch  # read once: another thread may be at another epoch
        if cache is None or cache[0] != epoch:
            cache = self._epoch = epoch, self._order(epoch)
        return cache[1][number * self.batch_size : (number + 1) * self.batch_size]

    def batch(self, step: int) -> Batch:
        """This process' part of the batch of a step (0, 1, 2, ...); steps may be requested in any order.

        Raises:
            DataError: a file of the batch cannot be read.
        """
        if self._pool is None:
            return self._batch(step)
        steps = range(step, step + self._workers + 1)
        for stale in [key for key in self._waiting if key not in steps]:
            self._waiting.pop(stale).cancel()
        for key in steps:
            if key not in self._waiting:
                self._waiting[key] = self._pool.submit(self._batch, key)
        return self._waiting.pop(step).result()

    def take(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples at these positions of the dataset as one batch, without augmentation."""
        items = [self.item(int(index)) for index in indices]
        matrices = [resize_matrix(item.size, self.size) for item in items]
        return self._collate(items, matrices, indices)

    def ordered(self) -> Iterator[Batch]:
        """Every sample once, in order and without augmentation; the last batch is smaller.

        With several processes each gets its part of every batch; the smaller last batch may leave a process without
        one.
        """
        parts = (
            range(start, min(start + self.batch_size, len(self.dataset)))[self.rank :: self.world]
            for start in range(0, len(self.dataset), self.batch_size)
        )
        workers = 0 if self._pool is None else self._workers
        yield from ahead(self.take, (part for part in parts if len(part)), workers, workers + 1)

    def item(self, index: int) -> Item:
        """The decoded sample at a position of the dataset, from memory where it is there."""
        item = self._items.get(index)
        if item is None:
            item = self._read(index)
            with self._lock:
                if index not in self._items and item.nbytes <= self._free:
                    self._items[index] = item
                    self._free -= item.nbytes
        return item

    def _batch(self, step: int) -> Batch:
        epoch, number = divmod(step, len(self))
        positions = self.indices(step)[self.rank :: self.world]
        if self.augment is None:
            return self.take(positions)
        slots = range(number * self.batch_size + self.rank, (number + 1) * self.batch_size, self.world)
        items, matrices = [], []
        for slot, index in zip(slots, positions, strict=True):
            item = self.item(int(index))
            generator = np.random.default_rng([self.seed, epoch, _GEOMETRY, slot])
            matrices.append(self._matrix(item, generator))
            items.append(item)
        return self._collate(items, matrices, positions)

    def _matrix(self, item: Any, generator: np.random.Generator) -> Affine:
        """The random affine of one image; only where there is an augmentation."""
        assert self.augment is not None
        return self.augment.matrix(item.size, self.size, generator, tilt=len(item.boxes) == 0)

    def _read(self, index: int) -> Item:
        return read_item(self.dataset, self.dataset[index], limit=2 * self.size)

    def _collate(self, items: list[Any], matrices: list[Affine], indices: Sequence[int] | np.ndarray) -> Batch:
        return collate(items, matrices, self.size, len(self.dataset.categories), indices)

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
            positions = np.searchsorted(bounds, np.minimum(places, np.nextafter(1, 0)), side="right")
            return generator.permutation(positions)
        orders = [generator.permutation(count) if self.shuffle else np.arange(count) for generator in generators]
        return np.concatenate(orders)[:length]


def _weighs(weights: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0)
