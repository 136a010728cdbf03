"""Writing CVAT for images 1.1."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from maskwright.data.files import write_atomic
from maskwright.data.formats import rle
from maskwright.data.formats.contents import cuts, mask_kinds
from maskwright.data.formats.objects import Found, objects_of
from maskwright.data.formats.safe_xml import require_writable
from maskwright.data.labels import IGNORE, Sample, Samples
from maskwright.data.manifest import copy_files
from maskwright.data.pictures import palette


def loss(dataset: Samples) -> list[str]:
    """What of a dataset CVAT cannot hold, one line each."""
    lost = cuts(dataset)
    if count := mask_kinds(dataset)["semantic"]:
        lost.append(f"{count} semantic masks (each category of an image becomes one object, {IGNORE} is dropped)")
    if count := sum(len(line.points) == 1 for sample in dataset for line in sample.labels.scribbles):
        lost.append(f"{count} scribbles of a single point (they become points)")
    return lost


def write(dataset: Samples, folder: str | Path) -> Path:
    """Write ``annotations.xml`` and ``images/`` into a new folder; what :func:`loss` names is left out.

    The objects of masks are ``mask`` elements, bit for bit; scribbles are polylines. Splits are ``subset``, where there
    are others than ``train``. To get the shapes into CVAT, make a task of the images and upload the XML to it.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, a file is missing or unreadable, or a name that XML cannot hold.
    """
    folder = Path(folder)
    require_writable([*dataset.categories, *(text for sample in dataset for text in (sample.id, sample.split))])
    copied = copy_files(dataset, folder, masks=False)
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    _meta(root, dataset)
    subsets = {sample.split for sample in dataset} != {"train"}
    for number, (sample, copy) in enumerate(zip(dataset, copied, strict=True)):
        width, height = dataset.size_of(sample)
        row = {"id": number, "name": Path(copy.image).name, "width": width, "height": height}
        row |= {"subset": sample.split} if subsets else {}
        row |= {"labelled": 1} if sample.labels.mask else {}
        _shapes(_element(root, "image", row), dataset, sample, (height, width))
    indent(root)
    write_atomic(folder / "annotations.xml", tostring(root, "utf-8", xml_declaration=True) + b"\n")
    return folder


def _meta(root: Element, dataset: Samples) -> None:
    """What CVAT's importer and other readers look for: the labels."""
    task = SubElement(SubElement(root, "meta"), "task")
    for key, value in (("name", "maskwright"), ("size", len(dataset)), ("mode", "annotation")):
        SubElement(task, key).text = str(value)
    labels = SubElement(task, "labels")
    background = any(
        label.category == 0 for sample in dataset for label in (*sample.labels.points, *sample.labels.scribbles)
    )
    colours = np.asarray(palette(min(len(dataset.categories), IGNORE))).tolist()
    for id, name in enumerate(dataset.categories):
        if id or background:
            label = SubElement(labels, "label")
            SubElement(label, "name").text = name
            SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*colours[id % len(colours)])
            SubElement(label, "type").text = "any"
            SubElement(label, "attributes")


def _shapes(image: Element, dataset: Samples, sample: Sample, size: tuple[int, int]) -> None:
    labels, names = sample.labels, dataset.categories
    shape = {"source": "manual", "occluded": 0, "z_order": 0}
    for found in objects_of(dataset, sample, size):
        _element(image, "mask", {"label": names[found.category], **shape, **_run_lengths(found)})
    for box in labels.boxes:
        corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(_text, box.xyxy), strict=True))
        _element(image, "box", {"label": names[box.category], **shape, **corners})
    for line in labels.scribbles:
        places = ";".join(f"{_text(x)},{_text(y)}" for x, y in line.points)
        kind = "polyline" if len(line.points) > 1 else "points"
        _element(image, kind, {"label": names[line.category], **shape, "points": places})
    for point in labels.points:
        places = f"{_text(point.x)},{_text(point.y)}"
        _element(image, "points", {"label": names[point.category], **shape, "points": places})
    for tag in labels.tags:
        _element(image, "tag", {"label": names[tag.category], "source": "manual"})


def _run_lengths(found: Found) -> dict[str, object]:
    height, width = found.part.mask.shape
    counts = ", ".join(map(str, rle.encode(found.part.mask.T)))  # COCO's code goes along columns, CVAT's along rows.
    return {"rle": counts, "left": found.part.left, "top": found.part.top, "width": width, "height": height}


def _element(parent: Element, tag: str, attributes: dict[str, object]) -> Element:
    return SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})


def _text(value: float) -> str:
    """The shortest text that is read as the same number."""
    return repr(int(value)) if float(value).is_integer() else repr(float(value))
