"""Fill an embedding store for a whole dataset, once: resumable, and shared out among processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import squash
from maskwright.data.image_files import turn
from maskwright.data.image_reading import ImageReading
from maskwright.data.images import image_size, read_image
from maskwright.data.lookahead import ahead_readable
from maskwright.errors import DataError
from maskwright.sam.sam import Embedding, Sam
from maskwright.sam.store import LEVELS, EmbeddingStore, Signature, weights_signature

PREPROCESSING = 1
"""Version of what happens to an image before it is encoded; to be raised whenever that changes."""


def signature(sam: Sam, dtype: str = "float32") -> Signature:
    """What decides the embeddings of ``sam``: its image encoder with all adapters, the canvas, the stored dtype.

    Args:
        dtype: ``float32``, or ``float16`` for half the space.
    """
    decoder = sam.model.mask_decoder
    parts = nn.ModuleDict({"encoder": sam.model.vision_encoder, "high0": decoder.conv_s0, "high1": decoder.conv_s1})
    # Window sizes, heads and the like change what the same tensors compute.
    config = sam.model.vision_encoder.config.to_dict()
    told = {
        name: value for name, value in config.items() if not name.startswith("_") and name != "transformers_version"
    }
    context = json.dumps(told, sort_keys=True, default=str)
    return Signature(weights_signature(parts, context), PREPROCESSING, sam.size, dtype)


def precompute(
    sam: Sam,
    dataset: Dataset,
    store: EmbeddingStore,
    *,
    batch: int = 8,
    workers: int = 2,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Encode the images of a dataset that are not in the store yet; equal images are encoded once.

    Args:
        sam: on the device that is to be used; ``store`` was opened with its :func:`signature`.
        batch: images per pass of the encoder.
        workers: threads that decode images ahead.
        rank, world: this process and their number; it takes images ``rank::world``.
        progress: called as ``progress(done, total)`` after each batch, for this process' images.

    Returns:
        How many images were encoded, and how many were there already.

    Raises:
        DataError: images that cannot be read, all of them at once, after all others are done.
        WeightsError: the store cannot be written, or holds embeddings of other weights.
        ValueError: the store's signature is not that of ``sam``.
    """
    if signature(sam, store.signature.dtype) != store.signature:
        raise ValueError(f"{store.folder}: was not opened with the signature of {sam.name}")
    problems: list[str] = []
    paths: dict[str, Path] = {}
    reading = dataset.image_reading
    for sample in dataset.samples[rank::world]:
        path = dataset.image_path(sample)
        try:
            paths.setdefault(store.key(path, reading=reading), path)
        except DataError as error:
            problems += error.problems
    missing = store.missing(paths)
    there = len(paths) - len(missing)
    if progress:
        progress(there, len(paths))

    def canvas(key: str) -> tuple[str, NDArray[np.uint8]]:
        return key, read_canvas(paths[key], reading, sam.size)

    canvases = ahead_readable(canvas, missing, workers, 2 * batch, problems)
    encoded = 0
    while ready := list(islice(canvases, batch)):
        _encode(sam, store, ready)
        encoded += len(ready)
        if progress:
            progress(there + encoded, len(paths))
    if problems:
        raise DataError(problems, dataset.source or str(dataset.root))
    return encoded, there


def read_canvas(path: Path, reading: ImageReading, size: int) -> NDArray[np.uint8]:
    """An image file as SAM encodes it, ``(size, size, 3)``; large ones take turns. Raises DataError."""
    with turn(image_size(path, reading.page)):
        return squash(read_image(path, reading), size)


@torch.inference_mode()
def encode_canvases(sam: Sam, canvases: Sequence[NDArray[np.uint8]]) -> Embedding:
    """The embedding of B canvases of :func:`read_canvas`."""
    return sam.encode(images_of(sam, np.stack(canvases)))


def images_of(sam: Sam, canvases: NDArray[np.uint8]) -> Tensor:
    """Canvases (B, s, s, 3) uint8 as SAM takes images: (B, 3, s, s) in 0..1, on its device."""
    return torch.from_numpy(canvases).to(sam.device).permute(0, 3, 1, 2).to(sam.dtype) / 255


def _encode(sam: Sam, store: EmbeddingStore, ready: list[tuple[str, NDArray[np.uint8]]]) -> None:
    embedding = encode_canvases(sam, [canvas for _, canvas in ready])
    for row, (key, _) in enumerate(ready):
        store.save(key, {level: getattr(embedding, level)[row] for level in LEVELS})
