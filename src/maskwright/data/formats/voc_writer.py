"""Writing Pascal VOC."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwright.data.fields import names_a_file
from maskwright.data.files import place_file, write_atomic
from maskwright.data.formats.contents import cuts, weak_labels
from maskwright.data.formats.safe_xml import require_writable
from maskwright.data.formats.splits import split_of
from maskwright.data.formats.voc_masks import colormap
from maskwright.data.labels import IGNORE, Mask, Sample, Samples
from maskwright.data.mask_files import read_mask
from maskwright.data.masks import label_values
from maskwright.errors import DataError

_MOST = IGNORE - 1  # Ids of 8 bits, 255 being "undecided".


def loss(dataset: Samples) -> list[str]:
    """What of a dataset Pascal VOC cannot hold, one line each."""
    lost = weak_labels(dataset, ("scribbles", "points", "tags")) + cuts(dataset)
    many = sum(sample.labels.mask is not None and _objects(dataset, sample.labels.mask) > _MOST for sample in dataset)
    if many:
        lost.append(f"the objects of {many} masks with more than {_MOST} (their categories are kept)")
    if others := sorted({s.split for s in dataset if split_of(s.split) != s.split or s.split == "trainval"}):
        lost.append(f"the splits {', '.join(others)} (they are read as {', '.join(map(_read_as, others))})")
    return lost


def write(dataset: Samples, folder: str | Path) -> Path:
    """Write VOC's folders and ``labelmap.txt`` into a new folder; what :func:`loss` names is left out.

    Masks are PNGs with VOC's palette, ids as they are; instance masks are in ``SegmentationObject/`` and their categories in
    ``SegmentationClass/``. Corners of boxes count pixels from 1 where all of the dataset are whole, as VOC's do; else they are
    coordinates as they are.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, a file is missing or unreadable, or names that the format cannot hold.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError([f"{folder}: is not empty; choose a new folder"])
    _refuse_names(dataset)
    if len(dataset.categories) > IGNORE:
        raise DataError([f"{folder}: voc holds {_MOST} categories at most; convert to manifest"])
    corners = [value for sample in dataset for box in sample.labels.boxes for value in box.xyxy]
    from_one = all(float(value).is_integer() for value in corners)
    lists: dict[str, list[str]] = defaultdict(list)
    for sample in dataset:
        image = place_file(
            dataset.image_path(sample), folder / "JPEGImages" / f"{sample.id}{Path(sample.image).suffix}"
        )
        lists[f"Main/{sample.split}"].append(sample.id)
        if sample.labels.mask is not None:
            lists[f"Segmentation/{sample.split}"].append(sample.id)
            _write_masks(dataset, sample, folder)
        if sample.labels.boxes:
            document = _annotation(dataset, sample, image, from_one=from_one)
            write_atomic(folder / "Annotations" / f"{sample.id}.xml", tostring(document, "utf-8") + b"\n")
    for name, ids in lists.items():
        lines = [f'"{id}"' if " " in id else id for id in ids]
        write_atomic(folder / "ImageSets" / f"{name}.txt", "\n".join(lines) + "\n")
    colours = [",".join(map(str, colour)) for colour in colormap().tolist()]
    rows = [f"{name}:{colours[id]}::" for id, name in enumerate(dataset.categories)]
    write_atomic(folder / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *rows]) + "\n")
    return folder


def _refuse_names(dataset: Samples) -> None:
    require_writable([*dataset.categories, *(sample.id for sample in dataset)])
    if bad := [name for name in dataset.categories if ":" in name or name[0] == "#" or name != name.strip()]:
        raise DataError(
            [f"{bad[0]!r} cannot be a line of labelmap.txt (no colon, no # in front, no space at an end); rename it"]
        )
    if bad := [sample.id for sample in dataset if sample.id != sample.id.strip().strip('"')]:
        raise DataError([f"{bad[0]!r} cannot be a line of a list of images (no quote or space at an end); rename it"])
    if bad := [sample.split for sample in dataset if not names_a_file(sample.split)]:
        raise DataError([f"split {bad[0]!r} cannot be a file name; rename it"])


def _read_as(split: str) -> str:
    return "train" if split == "trainval" else split_of(split)


def _objects(dataset: Samples, mask: Mask) -> int:
    """How many objects a mask holds; 0 of a semantic one."""
    if mask.kind == "semantic":
        return 0
    return int(np.count_nonzero(np.unique(read_mask(dataset.root / mask.path))))


def _write_masks(dataset: Samples, sample: Sample, folder: Path) -> None:
    mask = sample.labels.mask
    values, semantic = label_values(dataset, sample)
    size = dataset.size_of(sample)
    if values.shape != size[::-1]:
        sizes = f"{values.shape[1]}x{values.shape[0]} pixels, its image {size[0]}x{size[1]}"
        raise DataError([f"{dataset.mask_path(sample)}: the mask has {sizes}; make them equal"])
    write_atomic(folder / "SegmentationClass" / f"{sample.id}.png", _png(semantic))
    if mask is None or mask.kind == "semantic":
        return
    present = np.unique(values[values > 0])
    if len(present) <= _MOST:
        ids = values if values.max(initial=0) <= _MOST else np.searchsorted(present, values) + 1
        write_atomic(folder / "SegmentationObject" / f"{sample.id}.png", _png(np.where(values > 0, ids, 0)))


def _png(values: NDArray[np.integer]) -> bytes:
    """A PNG of 8 bits whose indices are the values, with VOC's colours."""
    image = Image.fromarray(np.ascontiguousarray(values.astype(np.uint8)), "P")
    image.putpalette(colormap().ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _annotation(dataset: Samples, sample: Sample, image: Path, *, from_one: bool) -> Element:
    width, height = dataset.size_of(sample)
    root = Element("annotation")
    for key, value in (("folder", "JPEGImages"), ("filename", image.name)):
        SubElement(root, key).text = value
    size = SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        SubElement(size, key).text = str(value)
    SubElement(root, "segmented").text = str(int(sample.labels.mask is not None))
    for box in sample.labels.boxes:
        row = SubElement(root, "object")
        SubElement(row, "name").text = dataset.categories[box.category]
        for key, value in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            SubElement(row, key).text = value
        corners = SubElement(row, "bndbox")
        x0, y0, x1, y1 = box.xyxy
        shifted = (x0 + 1, y0 + 1, x1, y1) if from_one else (x0, y0, x1, y1)
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), shifted, strict=True):
            SubElement(corners, key).text = repr(int(value)) if from_one else repr(float(value))
    indent(root)
    return root
