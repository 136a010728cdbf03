"""A page that shows the references that new images were segmented with, and how similar they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.images import read_image
from maskwright.data.mask_files import read_mask
from maskwright.data.pictures import overlay, palette, thumbnail, thumbnail_mask
from maskwright.engine.report import Picture, Report

NAME = "references.html"

_SIDE = 256
# Longer side of the queries' pictures.


def write_report(
    folder: Path,
    rows: Mapping[str, Mapping[str, Any]],
    categories: Sequence[str],
    pictures: Sequence[bytes],
    most: int,
    reading: ImageReading = PLAIN,
) -> Path:
    """Write ``folder/references.html`` by rename, and return its path.

    Args:
        folder: of the predictions, with its masks.
        rows: entries of ``predictions.json`` by name, each with its ``references``.
        categories: names by id.
        pictures: JPEG files by place in the pool.
        most: images at most, those with the lowest predicted IoU.
        reading: how the images are read.
    """
    report = Report("References", f"{len(rows)} images segmented in context")
    report.text(
        "For every category that the segmenter sees in an image, references were chosen from the model's pool. SAM was shown them "
        "with their masks, and found the same in the image. Similarity is the cosine of the mean features of both images, object "
        "similarity that of the objects; probability, where a policy chose, is that of the choice given those before it. "
        "Predicted IoU is SAM's own guess of how good its mask is."
    )
    _often(report, rows, pictures)
    there = {name: row for name, row in rows.items() if Path(row["file"]).is_file()}
    order = sorted(there, key=lambda name: (_sureness(there[name]), name))
    if len(order) > most:
        report.text(f"Shown are the {most} images of whose masks SAM is least sure.", "Images")
    colours = palette(len(categories))
    for name in order[:most]:
        row = there[name]
        image = thumbnail(read_image(row["file"], reading), _SIDE)
        mask = thumbnail_mask(read_mask(folder / row["mask"]), (image.shape[1], image.shape[0]))
        panels = [Picture(image, "image"), Picture(np.asarray(overlay(image, mask, colours)), "mask")]
        for evidence in row["references"]:
            panels += [Picture(_open(pictures[one["entry"]]), _caption(evidence, one)) for one in evidence["chosen"]]
        scores = ", ".join(f"{one['category']}: predicted IoU {one['iou']:.2f}" for one in row["references"])
        report.pictures(name, scores or "The segmenter found no category, so nothing was looked for.", panels)
    return report.save(folder / NAME)


def _often(report: Report, rows: Mapping[str, Mapping[str, Any]], pictures: Sequence[bytes], most: int = 12) -> None:
    chosen = [(one["entry"], one["image"]) for row in rows.values() for f in row["references"] for one in f["chosen"]]
    counts = Counter(chosen)
    if counts:
        panels = [
            Picture(_open(pictures[entry]), f"{image}: {count} times")
            for (entry, image), count in counts.most_common(most)
        ]
        report.pictures("Chosen most often", f"{len(counts)} of {len(pictures)} references were chosen.", panels)


def _sureness(row: Mapping[str, Any]) -> float:
    return min((evidence["iou"] for evidence in row["references"]), default=1.0)


def _caption(evidence: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    why = f"{evidence['category']} in {one['image']}: similarity {one['similarity']:.3f}, object {one['object_similarity']:.3f}"
    return why + (f", probability {one['probability']:.2f}" if "probability" in one else "")


def _open(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))
