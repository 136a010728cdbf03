"""Packs: one file each with many small photographs and the masks of their objects, for ``pretrain_nano.py`` and what else learns from them.

A pack is a NumPy archive (``.npz``, no pickles) of N pictures, squashed to squares:

==============  ==============================================================================================
image_bytes     (·,) uint8: the pictures as WebP, one after another
image_offsets   (N + 1,) int64: picture i lies in ``image_bytes[image_offsets[i] : image_offsets[i + 1]]``
mask_bytes      (·,) uint8: their masks as PNG with one channel: 0 = ground, 1..250 = objects
mask_offsets    (N + 1,) int64; a picture without a mask has no byte
classes         (N,) int32: the category that all objects of a picture share, -1 = none
meta            a JSON object as text: ``name``; ``upright``: its pictures have an up and a down; ``weight``: how much
                more often than by its size it is drawn; and, where known, ``kind``: what all of its objects are, in one
                word; ``source`` and ``licence``: who published it, on which terms
==============  ==============================================================================================

``pack_photos.py`` makes packs of datasets. What the project measures on goes into none.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskwright.errors import DataError

MEASURED_ON = ("polyps", "saliency", "streets", "cats", "nuclei")
"""Datasets of ``../shared/data`` that every table is measured on: nothing that is bundled may have learnt from them."""

MOST_OBJECTS = 250
"""Of a picture."""

_ARRAYS = ("image_bytes", "image_offsets", "mask_bytes", "mask_offsets", "classes", "meta")


@dataclass
class Pack:
    """Photographs in memory.

    Attributes:
        name: of the pack.
        images: (N, 3, s, s) uint8.
        ids: (N, s, s) uint8, 0 = ground; all 0 where the pack has no masks.
        kind: what all objects are, or None where they are of several kinds.
        upright: pictures have an up and a down, and are rarely turned.
        weight: factor on how often the pack is drawn.
    """

    name: str
    images: Tensor
    ids: Tensor
    kind: str | None = None
    upright: bool = True
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> Pack:
        """Some of the pictures."""
        return replace(self, images=self.images[rows], ids=self.ids[rows])

    @property
    def has_masks(self) -> bool:
        return bool((self.ids > 0).any())

    def divided(self) -> tuple[Pack, Pack]:
        """The pictures to learn from, and the others: every tenth, if it has a mask, is kept for validation."""
        kept = (torch.arange(len(self)) % 10 == 9) & (self.ids > 0).flatten(1).any(1)
        return self[~kept], self[kept]

    def to(self, device: torch.device) -> Pack:
        return replace(self, images=self.images.to(device), ids=self.ids.to(device))


def refuse_measured(names: Iterable[str], where: str) -> None:
    """Raise a DataError if one of the names (of a pack, a dataset, a folder) is that of a set in ``MEASURED_ON``."""
    bad = sorted({name.lower() for name in names} & set(MEASURED_ON))
    if bad:
        raise DataError(
            [f"{', '.join(bad)}: results are measured on this set, so nothing may learn from it; leave it out"], where
        )


def write_pack(
    path: Path, pictures: Iterable[tuple[NDArray, NDArray | None]], meta: dict[str, Any], quality: int
) -> int:
    """Write a pack and return the number of its pictures.

    Args:
        path: the ``.npz``.
        pictures: (s, s, 3) uint8 and their ids (s, s), 0..250, or None.
        meta: see the module's docstring; ``name`` is required.
        quality: of WebP, 0..100.
    """
    images, masks = [], []
    for pixels, ids in pictures:
        images.append(_encoded(pixels, "WEBP", quality=quality, method=4))
        masks.append(b"" if ids is None else _encoded(ids.astype(np.uint8), "PNG", optimize=True))
    arrays = {
        "image_bytes": np.frombuffer(b"".join(images), np.uint8),
        "image_offsets": np.cumsum([0, *map(len, images)]),
        "mask_bytes": np.frombuffer(b"".join(masks), np.uint8),
        "mask_offsets": np.cumsum([0, *map(len, masks)]),
        "classes": np.full(len(images), 0 if meta.get("kind") else -1, np.int32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with open(aside, "wb") as file:
        np.savez(file, meta=json.dumps(meta), **arrays)
    os.replace(aside, path)
    return len(images)


def read_pack(path: Path, kinds: Mapping[str, str] | None = None) -> Pack:
    """Read a pack, pictures at their own size, but at least 256 pixels.

    Args:
        path: the ``.npz``.
        kinds: name of a pack → what all its objects are, for packs that do not say it themselves.

    Raises:
        DataError: no such file, no pack, damaged, or of a set in ``MEASURED_ON``.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in _ARRAYS}
        meta = json.loads(str(parts["meta"]))
        refuse_measured([path.stem, meta["name"]], str(path))
        with ThreadPoolExecutor(8) as pool:
            pictures = list(pool.map(lambda row: _decoded(parts, row), range(len(parts["classes"]))))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            [f"cannot be read as a pack ({error}); make one with tools/pack_photos.py"], str(path)
        ) from error
    if not pictures:
        raise DataError(["holds no picture"], str(path))
    images = torch.from_numpy(np.stack([pixels for pixels, _ in pictures])).permute(0, 3, 1, 2).contiguous()
    ids = torch.from_numpy(np.stack([mask for _, mask in pictures]))
    kind = meta.get("kind") or (kinds or {}).get(meta["name"])
    return Pack(meta["name"], images, ids, kind, bool(meta.get("upright", True)), float(meta.get("weight", 1.0)))


def _encoded(pixels: NDArray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _decoded(parts: dict[str, NDArray], row: int) -> tuple[NDArray, NDArray]:
    """One picture (s, s, 3) and its ids (s, s)."""
    start, end = parts["image_offsets"][row : row + 2]
    image = Image.open(io.BytesIO(parts["image_bytes"][start:end].tobytes())).convert("RGB")
    side = max(image.width, 256)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    start, end = parts["mask_offsets"][row : row + 2]
    if start == end:
        return pixels, np.zeros((side, side), np.uint8)
    mask = Image.open(io.BytesIO(parts["mask_bytes"][start:end].tobytes()))
    return pixels, np.asarray(mask.resize((side, side), Image.Resampling.NEAREST)).astype(np.uint8)
