"""What a search leaves beside its masks: a contact sheet, and a dataset of what is certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maskwright.data import manifest
from maskwright.data.dataset import Dataset
from maskwright.data.formats import predictions
from maskwright.data.image_reading import ImageReading
from maskwright.data.images import read_image
from maskwright.data.labels import Labels, Sample
from maskwright.data.mask_files import read_mask
from maskwright.data.masks import label_values
from maskwright.data.pictures import overlay, overlay_instances, palette, thumbnail, thumbnail_mask
from maskwright.engine.report import Picture, Report
from maskwright.errors import DataError
from maskwright.methods.find.examples import Examples

PAGE, CERTAIN, EXAMPLES = "report.html", "certain.json", "examples"

SHOWN = 40
"""Images of each verdict that the page shows."""

VERDICTS = {
    "unsure": "Look at these first: the mask is what would be there, if anything is. Label some of them, with a mask or as "
    "nothing here, among the examples, and search again: the thresholds follow.",
    "found": "The lowest scores first.",
    "not there": "The highest scores first.",
}
"""In the order of the page, with what to do about each."""

_SIDE = 256


def verdict_of(row: Mapping[str, Any]) -> str:
    """Of an image: ``unsure`` where any category is, ``found`` where one is there, else ``not there``."""
    verdicts = {answer["verdict"] for answer in row["find"].values()}
    return "unsure" if "unsure" in verdicts else "found" if "found" in verdicts else "not there"


def write_report(
    folder: Path,
    rows: Mapping[str, Mapping[str, Any]],
    categories: Sequence[str],
    examples: Examples,
    notes: Sequence[str],
    reading: ImageReading,
) -> Path:
    """Write ``folder/report.html`` by rename, and return its path.

    Args:
        rows: entries of ``predictions.json`` by name, each with its ``find``.
        notes: what the verdicts rest on, one sentence each.
    """
    groups = {verdict: [name for name in rows if verdict_of(rows[name]) == verdict] for verdict in VERDICTS}
    counts = ", ".join(f"{len(names):,} {verdict}" for verdict, names in groups.items())
    page = Report("What was found", f"{len(rows):,} images: {counts}")
    page.text("\n".join(f"{note}." for note in notes), "What the verdicts rest on")
    page.table("By category", ["category", *VERDICTS], _by_category(rows, categories))
    pictures = [_example(examples.dataset, sample) for sample in examples.dataset.samples[:8]]
    page.pictures("Examples", f"{len(examples.dataset)} in all.", pictures)
    for verdict, advice in VERDICTS.items():
        names = sorted(groups[verdict], key=lambda name: (_order(verdict, rows[name]), name))
        there = [name for name in names if Path(rows[name]["file"]).is_file()][:SHOWN]
        if there:
            note = advice if len(there) == len(names) else f"{advice} {len(there)} of {len(names)} are shown."
            shown = [_found(folder, rows[name], name, categories, reading) for name in there]
            page.pictures(f"{verdict[0].upper()}{verdict[1:]} ({len(names):,})", note, shown)
    return page.save(folder / PAGE)


def write_certain(
    folder: Path, rows: Mapping[str, Mapping[str, Any]], examples: Examples, *, with_absent: bool
) -> Path:
    """Write ``folder/certain.json``, a dataset of the examples and of what was searched; unsure images have no label in it.

    Files of the examples are linked or copied into ``folder/examples``.

    Args:
        with_absent: images in which nothing was found have an empty mask; else no label.
    """
    labelled = {"found", "not there"} if with_absent else {"found"}
    placed, problems = manifest.place_files(examples.dataset, folder / EXAMPLES)
    if problems:
        raise DataError(problems, str(folder / EXAMPLES))
    samples = [_below(EXAMPLES, sample) for sample in placed.samples]
    searched = predictions.read(folder)
    by_mask = {row["mask"]: row for row in rows.values()}
    for sample in searched.samples:
        mask = sample.labels.mask
        assert mask is not None
        certain = verdict_of(by_mask[mask.path]) in labelled
        samples.append(sample if certain else replace(sample, labels=Labels()))
    return manifest.write(replace(searched, samples=tuple(samples)), folder / CERTAIN)


def _below(name: str, sample: Sample) -> Sample:
    """A sample of a folder's sub-folder, as the folder names it."""
    mask = sample.labels.mask
    assert mask is not None
    placed = Labels(replace(mask, path=f"{name}/{mask.path}"))
    return replace(sample, id=f"example-{sample.id}", image=f"{name}/{sample.image}", split="train", labels=placed)


def _by_category(rows: Mapping[str, Mapping[str, Any]], categories: Sequence[str]) -> list[list[Any]]:
    table = []
    for name in categories[1:]:
        verdicts = [row["find"][name]["verdict"] for row in rows.values() if name in row["find"]]
        if verdicts:
            table.append([name, *(verdicts.count(verdict) for verdict in VERDICTS)])
    return table


def _order(verdict: str, row: Mapping[str, Any]) -> float:
    """What comes first: the doubtful."""
    scores = [answer["score"] for answer in row["find"].values()]
    return -max(scores) if verdict != "found" else max(scores)


def _found(
    folder: Path, row: Mapping[str, Any], name: str, categories: Sequence[str], reading: ImageReading
) -> Picture:
    image = thumbnail(read_image(row["file"], reading), _SIDE)
    mask = thumbnail_mask(read_mask(folder / row["mask"]), (image.shape[1], image.shape[0]))
    drawn = overlay_instances(image, mask) if "ids" in row else overlay(image, mask, palette(len(categories)))
    said = "; ".join(
        f"{category} {answer['verdict']}, score {answer['score']:.2f}, expected Dice {answer['quality']:.2f}, "
        f"stability {answer['stability']:.2f}"
        for category, answer in row["find"].items()
    )
    return Picture(np.asarray(drawn), f"{name}: {said}")


def _example(dataset: Dataset, sample: Sample) -> Picture:
    pixels = thumbnail(dataset.pixels(sample), _SIDE)
    ids, values = label_values(dataset, sample)
    size = pixels.shape[1], pixels.shape[0]
    if sample.labels.mask is not None and sample.labels.mask.kind == "instance":
        return Picture(overlay_instances(pixels, thumbnail_mask(ids.astype(np.uint16), size)), sample.id)
    mask = thumbnail_mask(values.astype(np.uint8), size)
    return Picture(np.asarray(overlay(pixels, mask, palette(len(dataset.categories)))), sample.id)
