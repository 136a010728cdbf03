"""SAMIX's own layout, as published and with everything that can be wrong in it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import check
from maskwright.data.formats import read
from maskwright.data.labels import Box, Labels, Mask, Point, Scribble, Tag
from maskwright.data.mask_files import write_mask
from maskwright.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMED = {"class_name": "polyp", "class_id": 1}
FILES = {
    "boxes/b.json": {"image_id": "b", "boxes": [{"xyxy": [1, 2, 5, 6], **NAMED}]},
    "scribbles/c.json": {"scribbles": [{"points": [[1.5, 2.5], [3.5, 2.5]], "class_name": "ulcer", "class_id": 3}]},
    "points/d.json": {"points": [{"xy": [1.5, 2.5], "label": 1, **NAMED}, {"xy": [7.5, 0.5], "label": 0}]},
    "classes/e.json": {"classes": [{"class_name": "polyp"}]},
}
LABELS = {
    "a": {"mask": "masks/a.png"},
    "b": {"box": "boxes/b.json"},
    "c": {"scribble": "scribbles/c.json"},
    "d": {"point": "points/d.json"},
    "e": {"class": "classes/e.json"},
    "f": {"unlabeled": "unlabeled/f.json"},
}


def make(root: Path, document: dict | None = None, files: dict | None = None) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    images = {}
    for i, (id, labels) in enumerate(LABELS.items()):
        Image.new("RGB", (8, 7), (i, 0, 0)).save(root / "images" / f"{id}.png")
        images[id] = {"file_name": f"images/{id}.png", "split": "train", "width": 8, "height": 7, "labels": labels}
    for name, content in (FILES | (files or {})).items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(json.dumps(content))
    write_mask(root / "masks" / "a.png", np.eye(7, 8, dtype=np.uint8))
    splits = {"root": ".", "splits": {"train": list(LABELS)}, "images": images} | (document or {})
    (root / "splits.json").write_text(json.dumps(splits))
    return root


def problems(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read(path)
    return "\n".join(error.value.problems)


def test_every_kind_of_label_is_read(tmp_path: Path) -> None:
    dataset = read(make(tmp_path))
    assert dataset.categories == ("background", "polyp", "class_2", "ulcer")
    assert [sample.id for sample in dataset] == list("abcdef")
    assert [sample.labels for sample in dataset] == [
        Labels(Mask("masks/a.png")),
        Labels(boxes=(Box(1, 2, 5, 6, 1),)),
        Labels(scribbles=(Scribble(((1.5, 2.5), (3.5, 2.5)), 3),)),
        Labels(points=(Point(1.5, 2.5, 1), Point(7.5, 0.5, 0))),
        Labels(tags=(Tag(1),)),
        Labels(),
    ]
    assert {sample.size for sample in dataset} == {(8, 7)}
    assert check(dataset) == []
    assert read(tmp_path / "splits.json") == dataset


def test_masks_alone_take_names_from_the_parallel_folders_or_their_values(tmp_path: Path) -> None:
    make(tmp_path)
    image = {"file_name": "images/a.png", "split": "val", "labels": {"mask": "masks/a.png"}}
    (tmp_path / "splits_full.json").write_text(json.dumps({"images": {"a": image}}))
    dataset = read(tmp_path / "splits_full.json")
    assert dataset.categories == ("background", "polyp", "class_2", "ulcer")
    assert [(s.split, s.size) for s in dataset] == [("val", None)]
    for name in FILES:
        (tmp_path / name).unlink()
    assert read(tmp_path / "splits_full.json").categories == ("background", "object")
    write_mask(tmp_path / "masks" / "a.png", np.array([[0, 2, 255]], np.uint8))
    assert read(tmp_path / "splits_full.json").categories == ("background", "class_1", "class_2")


@pytest.mark.parametrize(
    ("document", "files", "expected"),
    [
        ({"root": "no"}, {}, "root: the folder"),
        ({"splits": {"train": ["a", "zz"]}}, {}, "splits.train: 'zz' is not among the images"),
        ({"splits": {"val": ["a"]}}, {}, "images.a.split: is 'train', but the lists say 'val'"),
        ({"splits": {"val": ["a"], "test": ["a"]}}, {}, "splits.test: 'a' is in 'val' too"),
        ({"images": {"a": {}}}, {}, "images.a.file_name: is missing"),
        ({"images": {"a": {"file_name": "../a.png"}}}, {}, "images.a.file_name: path '../a.png' leaves"),
        ({"images": {"a/b": {"file_name": "a.png"}}}, {}, "images.a/b: this id cannot be part of a file name"),
        ({"images": {"a": {"file_name": "a", "labels": {"boxs": "x"}}}}, {}, "images.a.labels.boxs: is unknown"),
        ({"images": {"a": {"file_name": "a", "labels": {"box": "x"}}}}, {}, "images.a.labels.box: "),
        ({}, {"boxes/b.json": {"boxes": [{"xyxy": [1, 2, 3], **NAMED}]}}, "b.json: boxes[0].xyxy: must be a list of 4"),
        ({}, {"boxes/b.json": {"boxes": [{"xyxy": [1, 2, 3, 4]}]}}, "boxes/b.json: boxes[0]: has no class_id"),
        ({}, {"boxes/b.json": {"boxes": [{"xyxy": [1, 2, 3, 4], "class_name": "dog", "class_id": 1}]}}, "elsewhere"),
        ({}, {"boxes/b.json": {"box": []}}, "boxes/b.json.boxes: is missing"),
        (
            {},
            {"points/d.json": {"points": [{"xy": [float("nan"), 1], **NAMED}]}},
            "points[0].xy: holds a number that is",
        ),
        (
            {},
            {"classes/e.json": {"classes": [{"class_name": "x", "class_id": 10**12}]}},
            "class_id 1000000000000 is not",
        ),
    ],
)
def test_problems_name_file_and_place(tmp_path: Path, document: dict, files: dict, expected: str) -> None:
    assert expected in problems(make(tmp_path, document, files))


def test_an_id_that_is_there_twice_is_no_silent_loss(tmp_path: Path) -> None:
    make(tmp_path)
    text = (tmp_path / "splits.json").read_text().replace('"b": {"file_name"', '"a": {"file_name"')
    (tmp_path / "splits.json").write_text(text)
    assert "the key 'a' is there twice" in problems(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real data is not here")
def test_real_polyps() -> None:
    dataset = read(SHARED / "polyps")
    assert dataset.categories == ("background", "polyp")
    kinds = Counter(str(sample.labels.kind) for sample in dataset.split("train"))
    assert kinds == {"mask": 40, "box": 152, "scribble": 152, "point": 152, "tag": 152, "none": 152}
    assert {str(sample.labels.kind) for sample in dataset.split("val", "test")} == {"mask"}
    assert read(SHARED / "polyps" / "splits_full.json").categories == dataset.categories
