"""Writing nnU-Net v2 folders of 2D images."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from maskwright.data.files import place_file, write_atomic
from maskwright.data.formats.contents import mask_kinds, weak_labels
from maskwright.data.image_reading import PLAIN
from maskwright.data.images import mode_of
from maskwright.data.labels import IGNORE, Sample, Samples
from maskwright.data.lookahead import ahead
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.data.masks import semantic_of
from maskwright.errors import DataError

NAME = "dataset.json"
SPLITS = "splits_final.json"
_LOSSY = (".jpg", ".jpeg", ".jfif")
_GREY = ("L", "1", "I;16", "I", "F")


def loss(dataset: Samples) -> list[str]:
    """What of a dataset nnU-Net cannot hold, one line each."""
    lost = weak_labels(dataset, ("scribbles", "boxes", "points", "tags"))
    if count := mask_kinds(dataset)["instance"]:
        lost.append(f"{count} instance masks (their categories are written, objects are not told apart)")
    if count := sum(sample.labels.mask is None and sample.split != "test" for sample in dataset):
        lost.append(f"{count} images without a mask (each image to learn from needs one, these are left out)")
    if others := sorted({sample.split for sample in dataset} - {"train", "val", "test"}):
        lost.append(f"the splits {', '.join(others)} (they become train)")
    return lost


def write(dataset: Samples, folder: str | Path) -> Path:
    """Write ``dataset.json``, ``imagesTr/``, ``labelsTr/``, ``imagesTs/`` and ``labelsTs/`` into a new folder.

    PNGs are placed as they are where all images are grey, or all RGB; others, and JPEGs, are written as PNGs of 8 bits as
    they are displayed. The pixels
    that labels ignore get the number after the last category, named ``ignore``. Where there is a split ``val``,
    ``splits_final.json`` has it as its only fold: nnU-Net looks for it beside the preprocessed data.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, a file is missing or unreadable, images that nnU-Net does not read, or a
            category called ``ignore``.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError([f"{folder}: is not empty; choose a new folder"])
    if "ignore" in dataset.categories:
        raise DataError(["the category 'ignore' means pixels without a label in nnU-Net; rename it"])
    samples = [sample for sample in dataset if sample.labels.mask or sample.split == "test"]
    kind = _kind(dataset, samples)
    ignored = any(list(ahead(lambda sample: _write(dataset, sample, folder, kind), samples)))
    labels = {name: id for id, name in enumerate(dataset.categories)}
    labels |= {"ignore": len(dataset.categories)} if ignored else {}
    learnt = [sample for sample in samples if sample.split != "test"]
    settings = {"channel_names": dict(enumerate(kind.channels)), "labels": labels, "numTraining": len(learnt)}
    settings |= {"file_ending": kind.ending}
    if held := [sample.id for sample in learnt if sample.split == "val"]:
        fold = {"train": [sample.id for sample in learnt if sample.split != "val"], "val": held}
        write_atomic(folder / SPLITS, json.dumps([fold], ensure_ascii=False, indent=1))
    write_atomic(folder / NAME, json.dumps(settings, ensure_ascii=False, indent=1))
    return folder


@dataclass(frozen=True)
class _Kind:
    """What all images of a folder have in common: their ending and their channels."""

    ending: str
    channels: tuple[str, ...]


def _kind(dataset: Samples, samples: list[Sample]) -> _Kind:
    endings = {Path(sample.image).suffix.lower() for sample in samples}
    if dataset.image_reading != PLAIN:
        return _Kind(".png", ("R", "G", "B"))
    grey = all(mode_of(dataset.image_path(sample)) in _GREY for sample in samples)
    channels = ("grey",) if grey else ("R", "G", "B")
    if endings <= {".tif", ".tiff"} and endings:
        modes = {mode_of(dataset.image_path(sample)) for sample in samples}
        if not grey and modes != {"RGB"}:
            listed = ", ".join(mode or "several channels, or deep colours" for mode in sorted(modes))
            raise DataError([f"TIFFs of several kinds ({listed}) are not written for nnU-Net; save all as PNG"])
        return _Kind(".tif", channels)
    if bad := sorted(endings - {".png", *_LOSSY}):
        raise DataError([f"images that end in {', '.join(bad)} are not written for nnU-Net; save all as PNG first"])
    return _Kind(".png", channels)


def _write(dataset: Samples, sample: Sample, folder: Path, kind: _Kind) -> bool:
    """Write one case; whether its label has pixels that are ignored."""
    part, ending = "Ts" if sample.split == "test" else "Tr", kind.ending
    source, target = dataset.image_path(sample), folder / f"images{part}" / f"{sample.id}_0000{ending}"
    chosen = dataset.image_reading != PLAIN  # A page, channels or a range: what is written then is what is read.
    if source.suffix.lower() in _LOSSY or chosen or (len(kind.channels) == 3 and mode_of(source) != "RGB"):
        pixels = dataset.pixels(sample)
        buffer = io.BytesIO()
        Image.fromarray(pixels if len(kind.channels) == 3 else pixels[..., 0]).save(buffer, "PNG")
        write_atomic(target, buffer.getvalue())
    else:
        place_file(source, target)
    mask = sample.labels.mask
    if mask is None:
        return False
    values = semantic_of(read_mask(dataset.root / mask.path), mask)
    if strange := [int(value) for value in np.unique(values) if value >= len(dataset.categories) and value != IGNORE]:
        raise DataError([f"{dataset.root / mask.path}: holds category {strange[0]}, which the dataset does not have"])
    ignored = (values == IGNORE) if mask.kind == "semantic" else np.zeros(values.shape, bool)
    values = np.where(ignored, len(dataset.categories), values).astype(np.uint8)
    target = folder / f"labels{part}" / f"{sample.id}{ending}"
    if ending == ".png":
        write_mask(target, values)
    else:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "TIFF", compression="tiff_adobe_deflate")
        write_atomic(target, buffer.getvalue())
    return bool(ignored.any())
