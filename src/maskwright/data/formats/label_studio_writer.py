"""Writing Label Studio's tasks, with annotations or with predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from maskwright.data.files import write_atomic
from maskwright.data.formats import brush
from maskwright.data.formats.contents import cuts, mask_kinds, weak_labels
from maskwright.data.formats.objects import Scores, objects_of
from maskwright.data.formats.safe_xml import require_writable
from maskwright.data.labels import IGNORE, Sample, Samples
from maskwright.data.manifest import copy_files
from maskwright.data.pictures import palette

CONFIG = "label_config.xml"
"""The labelling interface: what a project's settings take under "Labeling Interface, Code"."""

_CONTROLS = (("brush", "BrushLabels"), ("box", "RectangleLabels"), ("point", "KeyPointLabels"))


def loss(dataset: Samples) -> list[str]:
    """What of a dataset Label Studio cannot hold, one line each."""
    lost = weak_labels(dataset, ("scribbles",)) + cuts(dataset)
    if count := mask_kinds(dataset)["semantic"]:
        lost.append(f"{count} semantic masks (each category of an image becomes one object, {IGNORE} is dropped)")
    return lost


def write(dataset: Samples, folder: str | Path, scores: Scores | None = None) -> Path:
    """Write ``tasks.json``, ``label_config.xml`` and ``images/`` into a new folder; what :func:`loss` names is left out.

    The objects of masks are brush regions, bit for bit. Images are links to Label Studio's local files, relative to this
    folder: start it with ``LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true`` and ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``
    set to the folder, add its ``images`` as local storage, and import ``tasks.json``.

    Args:
        scores: where given, the labels are written as predictions with these, else as annotations.

    Returns:
        The folder.

    Raises:
        DataError: the folder is not empty, or a file is missing or unreadable.
    """
    folder = Path(folder)
    require_writable(dataset.categories)
    copied = copy_files(dataset, folder, masks=False)
    tasks = []
    for number, (sample, copy) in enumerate(zip(dataset, copied, strict=True), start=1):
        data: dict[str, Any] = {"image": f"/data/local-files/?d={quote(copy.image)}", "split": sample.split}
        if sample.labels.mask:
            data["labelled"] = True
        task: dict[str, Any] = {"id": number, "data": data, "annotations": [], "predictions": []}
        results = _results(dataset, sample, None if scores is None else scores.get(sample.id, {}))
        if scores is not None:
            of_task = [row["score"] for row in results if "score" in row]
            mean = {"score": sum(of_task) / len(of_task)} if of_task else {}
            task["predictions"] = [{"model_version": "maskwright", **mean, "result": results}]
        elif results or sample.labels.mask:
            task["annotations"] = [{"result": results}]
        tasks.append(task)
    write_atomic(folder / CONFIG, _config(dataset))
    write_atomic(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False))
    return folder


def _results(dataset: Samples, sample: Sample, scores: Mapping[int, float] | None) -> list[dict[str, Any]]:
    width, height = dataset.size_of(sample)
    names, labels = dataset.categories, sample.labels
    rows: list[dict[str, Any]] = []

    def add(control: str, type: str, value: dict[str, Any], **more: Any) -> None:
        head = {"id": f"region{len(rows) + 1}", "from_name": control, "to_name": "image", "type": type}
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        rows.append({**head, **size, "value": value, **more})

    for found in objects_of(dataset, sample, (height, width)):
        code = brush.encode(found.part.whole((height, width)))
        score = {"score": scores[found.id]} if scores and found.id in scores else {}
        add("brush", "brushlabels", {"format": "rle", "rle": code, "brushlabels": [names[found.category]]}, **score)
    for box in labels.boxes:
        place = {"x": 100 * box.x0 / width, "y": 100 * box.y0 / height, "rotation": 0}
        size = {"width": 100 * (box.x1 - box.x0) / width, "height": 100 * (box.y1 - box.y0) / height}
        add("box", "rectanglelabels", {**place, **size, "rectanglelabels": [names[box.category]]})
    for point in labels.points:
        place = {"x": 100 * point.x / width, "y": 100 * point.y / height, "width": 0.5}
        add("point", "keypointlabels", {**place, "keypointlabels": [names[point.category]]})
    if labels.tags:
        add("tags", "choices", {"choices": [names[tag.category] for tag in labels.tags]})
    return rows


def _config(dataset: Samples) -> bytes:
    view = Element("View")
    SubElement(view, "Image", name="image", value="$image", zoom="true", zoomControl="true", brightnessControl="true")
    colours = np.asarray(palette(min(len(dataset.categories), IGNORE))).tolist()
    background = any(point.category == 0 for sample in dataset for point in sample.labels.points)
    for name, control in _CONTROLS:
        labels = SubElement(view, control, name=name, toName="image")
        for id, category in enumerate(dataset.categories):
            if id or (background and name == "point"):
                SubElement(
                    labels,
                    "Label",
                    value=category,
                    background="#{:02x}{:02x}{:02x}".format(*colours[id % len(colours)]),
                )
    choices = SubElement(view, "Choices", name="tags", toName="image", choice="multiple")
    for category in dataset.categories[1:]:
        SubElement(choices, "Choice", value=category)
    indent(view)
    return tostring(view, "utf-8") + b"\n"
