"""Counts of a small dataset, worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Scribble, Tag
from maskwright.data.mask_files import write_mask
from maskwright.data.stats import Range, SplitStats, stats
from maskwright.errors import DataError


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for name, size in {"a": (4, 2), "b": (8, 2), "c": (6, 3)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    write_mask(tmp_path / "semantic.png", np.array([[0, 1, 1, 255], [0, 0, 0, 0]], np.uint8))
    write_mask(tmp_path / "instance.png", np.array([[0, 1, 1, 2, 2, 2, 2, 300], [0] * 8], np.uint16))
    weak = Labels(
        None, (Scribble(((1, 1),), 0),), (Box(0, 0, 1, 1, 2), Box(1, 1, 2, 2, 2)), (Point(1, 1, 1),), (Tag(1),)
    )
    samples = (
        Sample("a", "a.png", "train", Labels(Mask("semantic.png"))),
        Sample("b", "b.png", "val", Labels(Mask("instance.png", "instance", {2: 2}))),
        Sample("c", "c.png", "train", weak),
        Sample("d", "d.png", "train", size=(5, 5)),
    )
    return Dataset(tmp_path, ("background", "cat", "dog"), samples)


def test_all_counts(dataset: Dataset) -> None:
    result = stats(dataset)
    plain = result.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert (result.images, result.masks) == (4, {"semantic": 1, "instance": 1})
    assert result.splits == {
        "train": SplitStats(3, {"mask": 1, "scribble": 1, "none": 1}, 0, boxes=2, scribbles=1, points=1, tags=1),
        "val": SplitStats(1, {"mask": 1}, instances=3),
    }
    assert result.ignored_share == 1 / 24
    assert (result.width, result.height) == (Range(4, 5.5, 8), Range(2, 2.5, 5))
    assert result.instances_in_image == Range(3, 3.0, 3)
    assert (result.empty_masks, result.tiny_masks, result.tiny_objects) == (0, 0, 2)
    columns = ("id", "name", "images", "pixel_share", "instances", "boxes", "scribbles", "points", "tags")
    assert [[getattr(row, key) for key in columns] for row in result.categories] == [
        [0, "background", 3, 14 / 23, 0, 0, 1, 0, 0],
        [1, "cat", 3, 5 / 23, 2, 0, 0, 1, 1],
        [2, "dog", 2, 4 / 23, 1, 2, 0, 0, 0],
    ]


def test_nothing_at_all_and_no_masks(dataset: Dataset) -> None:
    empty = stats(dataset.with_samples([]))
    assert (empty.images, empty.splits, empty.width, empty.instances_in_image) == (0, {}, None, None)
    weak = stats(dataset.with_samples(dataset.samples[2:]))
    assert weak.ignored_share is None
    assert {row.pixel_share for row in weak.categories} == {None}


def test_unreadable_files_and_unknown_ids_come_at_once(dataset: Dataset) -> None:
    (dataset.root / "a.png").unlink()
    narrow = Dataset(dataset.root, ("background", "cat"), dataset.samples)
    with pytest.raises(DataError) as error:
        stats(narrow)
    assert ["a.png: missing" in error.value.problems[0], len(error.value.problems)] == [True, 3]
