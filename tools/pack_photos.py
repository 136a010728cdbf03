"""Make a pack of photographs (see ``photo_packs.py``) of any dataset that maskwright reads, for ``pretrain_nano.py``.

    python tools/pack_photos.py DATASET --out packs/animals.npz --source "who published it" --licence "CC BY 4.0"
    python tools/pack_photos.py DATASET --out packs/balloons.npz --kind balloon      # all objects are of one kind
    python tools/pack_photos.py DATASET --out packs/streets_at_night.npz --no-masks  # as filling of collages only

Pictures are squashed to squares, as SAM sees them. Objects are instances, or the regions of a semantic mask. Sets that results are
measured on are refused, by name and, with ``--apart-from``, picture by picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.images import read_image
from maskwright.data.labels import IGNORE, Sample
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError
from photo_packs import MOST_OBJECTS, refuse_measured, write_pack


@dataclass
class Config:
    dataset: tyro.conf.Positional[Path]
    """Folder or file of the dataset."""
    out: Path
    """The pack, ``.npz``."""
    name: str = ""
    """Of the pack; by default that of its file."""
    split: tuple[str, ...] = ("train",)
    """Splits that are packed."""
    kind: str = ""
    """What all objects are, in one word; then pictures of the pack are each other's references. Empty: they differ."""
    source: str = ""
    """Who published it, and where."""
    licence: str = ""
    """As the publisher states it."""
    masks: bool = True
    """Keep the masks; pictures without one are left out."""
    upright: bool = True
    """The pictures have an up and a down, and are rarely turned."""
    weight: float = 1.0
    """How much more often than by its size the pack is drawn."""
    size: int = 288
    """Side in pixels."""
    quality: int = 72
    """Of WebP."""
    limit: int = 100_000
    """Pictures at most, drawn by the seed."""
    seed: int = 0
    apart_from: list[Path] = field(default_factory=list)
    """Datasets none of whose pictures may be in the pack, such as those that results are measured on."""


def samples_of(config: Config, dataset: Dataset) -> list[Sample]:
    """What is packed, in a random order. Raises DataError where there is nothing."""
    part = [sample for sample in dataset.split(*config.split) if sample.labels.mask is not None or not config.masks]
    if not part:
        wanted = f"no picture {'with a mask ' if config.masks else ''}in split {', '.join(config.split)}"
        raise DataError(
            [f"{wanted}; name others with --split{', or pack with --no-masks' * config.masks}"], dataset.source
        )
    order = np.random.default_rng(config.seed).permutation(len(part))[: config.limit]
    return [part[place] for place in order]


def object_ids(dataset: Dataset, sample: Sample, size: int) -> NDArray[np.uint8]:
    """(size, size): objects as 1, 2, ...; of too many, those that show most. What is to be ignored is ground."""
    path = dataset.mask_path(sample)
    assert path is not None
    assert sample.labels.mask is not None
    values = read_mask(path)
    if sample.labels.mask.kind == "semantic":
        values = np.where(values == IGNORE, 0, values)
    values = np.asarray(Image.fromarray(values.astype(np.int32)).resize((size, size), Image.Resampling.NEAREST))
    names, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(-np.where(names > 0, counts, 0), kind="stable")
    order = order[names[order] > 0][:MOST_OBJECTS]
    number = np.zeros(len(names), np.uint8)
    number[order] = np.arange(1, len(order) + 1)
    return number[inverse].reshape(size, size)


def pictures_of(
    config: Config, dataset: Dataset, samples: list[Sample], refused: dict[bytes, Path]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8] | None]]:
    """The pictures and their ids. Raises DataError for one that is in ``refused``, by the digest of its pixels."""
    for sample in samples:
        pixels = read_image(dataset.image_path(sample))
        if (other := refused.get(digest(pixels))) is not None:
            problem = (
                f"{sample.image} is the same picture as {other}, which must stay unseen; take it out of the dataset"
            )
            raise DataError([problem], dataset.source)
        small = np.asarray(Image.fromarray(pixels).resize((config.size, config.size), Image.Resampling.LANCZOS))
        yield small, object_ids(dataset, sample, config.size) if config.masks else None


def digest(pixels: NDArray[np.uint8]) -> bytes:
    """Of decoded pixels, so that another file name or format makes no difference."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()


def digests_of(folders: list[Path]) -> dict[bytes, Path]:
    """Those of all pictures of some datasets, and where each lies."""
    paths = {}
    for folder in folders:
        dataset = Dataset.load(folder)
        for sample in dataset:
            path = dataset.image_path(sample)
            paths[digest(read_image(path))] = path
    return paths


def main(config: Config) -> None:
    dataset = Dataset.load(config.dataset)
    name = config.name or config.out.stem
    names = [name, config.out.stem, config.dataset.resolve().name, dataset.root.resolve().name]
    refuse_measured(names, str(config.dataset))
    samples = samples_of(config, dataset)
    meta: dict[str, Any] = {"name": name, "upright": config.upright, "weight": config.weight}
    meta |= {key: value for key in ("kind", "source", "licence") if (value := getattr(config, key))}
    pictures = pictures_of(config, dataset, samples, digests_of(config.apart_from))
    count = write_pack(config.out, pictures, meta, config.quality)
    print(f"{config.out}: {count} pictures, {config.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
