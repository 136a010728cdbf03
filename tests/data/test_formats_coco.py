"""COCO in all its forms becomes the masks pycocotools sees, and what is written is right for pycocotools."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO

from maskwright.data.dataset import Dataset
from maskwright.data.formats import convert, read, rle
from maskwright.data.labels import Box, Kind, Labels, Mask, Point, Sample, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError

HOLE = np.zeros((30, 40), np.uint8)
HOLE[4:20, 6:30], HOLE[8:12, 10:20] = 1, 0
POLYGONS = [[1.0, 1.0, 12.5, 2.0, 9.0, 17.3], [25, 20, 38, 20, 38, 29, 25, 29]]


def document() -> dict:
    """Image 7: polygons in two parts, both run lengths, a crowd. Image 8: only a box. Image 9: nothing; 10: looked at."""
    small = np.zeros((30, 40), np.uint8)
    small[5:7, 8:10] = 1
    compressed = reference.encode(np.asfortranarray(HOLE))
    plain = {"size": [30, 40], "counts": rle.encode(small)}
    crowd = {"size": [30, 40], "counts": rle.encode(np.ones((30, 40)))}
    rows = [
        {"image_id": 7, "category_id": 18, "bbox": [1, 1, 37, 28], "segmentation": POLYGONS, "iscrowd": 0},
        {"image_id": 7, "category_id": 3, "bbox": [8, 5, 2, 2], "segmentation": plain, "iscrowd": 0},
        {"image_id": 7, "category_id": 18, "segmentation": compressed | {"counts": compressed["counts"].decode()}},
        {"image_id": 7, "category_id": 3, "segmentation": crowd, "iscrowd": 1},
        {"image_id": 8, "category_id": 18, "bbox": [0.0, 1.5, 40.004, 3], "segmentation": []},
    ]
    return {
        "images": [
            {"id": id, "file_name": f"{id}.png", "width": 40, "height": 30, **({"labelled": True} if id == 10 else {})}
            for id in (7, 8, 9, 10)
        ],
        "annotations": [{"id": i, **row} for i, row in enumerate(rows, start=1)],
        "categories": [{"id": 3, "name": "dog", "supercategory": "x"}, {"id": 18, "name": "cat"}],
    }


def save(root: Path, content: dict, name: str = "annotations/instances_val2017.json") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    for row in content["images"]:
        if isinstance(row.get("file_name"), str) and "/" not in row["file_name"]:
            Image.new("RGB", (40, 30), (int(row["id"]), 0, 0)).save(root / "images" / row["file_name"])
    (root / name).write_text(json.dumps(content))
    return root / name


@pytest.mark.parametrize("by_folder", [True, False])
def test_every_form_of_annotation_is_read(tmp_path: Path, by_folder: bool) -> None:
    file = save(tmp_path, document())
    dataset = read(tmp_path if by_folder else file)
    assert dataset.categories == ("background", "dog", "cat")
    assert [(s.id, s.split, s.labels.kind, s.size) for s in dataset] == [
        ("7", "val", Kind.MASK, (40, 30)),
        ("8", "val", Kind.BOX, (40, 30)),
        ("9", "val", Kind.NONE, (40, 30)),
        ("10", "val", Kind.MASK, (40, 30)),
    ]
    assert all(dataset.image_path(sample).is_file() for sample in dataset)
    mask = dataset[0].labels.mask
    assert mask is not None
    assert (mask.kind, mask.categories) == ("instance", {1: 2, 2: 1, 3: 2})
    polygons = reference.decode(reference.merge(reference.frPyObjects(POLYGONS, 30, 40)))
    expected = np.zeros((30, 40), int)  # Larger first, so that smaller ones lie on top.
    small = np.zeros((30, 40))
    small[5:7, 8:10] = 1
    assert HOLE.sum() > polygons.sum() > small.sum()
    for id, part in ((3, HOLE), (1, polygons), (2, small)):
        expected[part > 0] = id
    np.testing.assert_array_equal(read_mask(dataset.root / mask.path), expected)
    assert dataset[1].labels.boxes == (Box(0.0, 1.5, 40.0, 4.5, 2),)
    empty = dataset.mask_path(dataset[3])
    assert empty is not None
    assert not read_mask(empty).any()


def test_masks_are_made_once_and_anew_when_annotations_change(tmp_path: Path) -> None:
    content = document()
    save(tmp_path, content)
    path = read(tmp_path).mask_path(read(tmp_path)[0])
    assert path is not None
    before = path.stat().st_mtime_ns
    assert read(tmp_path).mask_path(read(tmp_path)[0]) == path
    assert path.stat().st_mtime_ns == before
    content["annotations"][0]["segmentation"] = [[0, 0, 5, 0, 5, 5]]
    save(tmp_path, content)
    assert read(tmp_path).mask_path(read(tmp_path)[0]) != path


def test_several_files_share_one_list_of_names(tmp_path: Path) -> None:
    train = document()
    train["categories"] = [{"id": 3, "name": "cow"}, {"id": 18, "name": "cat"}]
    for row in train["images"]:
        row["file_name"] = f"t{row['id']}.png"
    save(tmp_path, train, "annotations/instances_train2017.json")
    save(tmp_path, document())
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    dataset = read(tmp_path)
    assert dataset.categories == ("background", "cow", "cat", "dog")
    assert [s.split for s in dataset] == ["train"] * 4 + ["val"] * 4
    assert [s.labels.mask.categories for s in (dataset[0], dataset[4]) if s.labels.mask] == [
        {1: 2, 2: 1, 3: 2},
        {1: 2, 2: 3, 3: 2},
    ]


def test_roboflow_layout_and_equal_stems(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        file = save(tmp_path, document(), f"{split}/_annotations.coco.json")
        for image in (tmp_path / "images").iterdir():
            image.rename(file.parent / image.name)
    (tmp_path / "images").rmdir()
    dataset = read(tmp_path)
    assert [(s.id, s.image) for s in dataset][::4] == [("train_7", "train/7.png"), ("val_7", "valid/7.png")]


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (("annotations", 0, "category_id"), 99, "annotations[0] (id 1): category_id 99 is not among the categories"),
        (("annotations", 0, "image_id"), 99, "annotations[0] (id 1): image_id 99 is not among the images"),
        (("annotations", 0, "segmentation"), [[1, 2, 3, 4]], "annotations[0] (id 1).segmentation: a polygon needs"),
        (("annotations", 1, "segmentation", "size"), [3, 4], "its size [3, 4] is not that of the image, [30, 40]"),
        (("annotations", 1, "segmentation", "counts"), [5], "run lengths must be positive and sum up to 30 x 40"),
        (("annotations", 1, "segmentation"), 5, "is neither a list of polygons nor"),
        (("annotations", 4, "bbox"), [0, 0, None, 1], "annotations[4] (id 5).bbox: must be a list of 4 numbers"),
        (("annotations", 4, "bbox"), None, "has neither a segmentation nor a bbox"),
        (("images", 1, "id"), 7, "images[1].id: 7 is missing or that of another image"),
        (("images", 1, "file_name"), "../8.png", "images[1].file_name: path '../8.png' leaves"),
        (("images", 1, "file_name"), "7.png", "'7.png' is there twice"),
        (("images", 1, "width"), "40", "images[1].width: must be a whole number"),
        (("images", 1, "height"), 10**9, "are not those of an image"),
        (("categories", 1, "name"), "dog", "'dog' is there twice"),
        (("categories", 1, "id"), 3, "id 3 or name 'cat' is there twice"),
    ],
)
def test_problems_name_file_and_place(tmp_path: Path, place: tuple, value: object, expected: str) -> None:
    content = copy.deepcopy(document())
    row = content
    for key in place[:-1]:
        row = row[key]
    row[place[-1]] = value
    with pytest.raises(DataError) as error:
        read(save(tmp_path, content))
    assert any(expected in problem for problem in error.value.problems), error.value.problems


def dataset_of(root: Path) -> Dataset:
    for name in "abc":
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / "images" / f"{name}.jpg")
    ids = HOLE.astype(np.uint16) * 2
    ids[25:, 35:], ids[0, 0] = 3, 1
    write_mask(root / "masks" / "a.png", ids)
    samples = (
        Sample(
            "a", "images/a.jpg", "train", Labels(Mask("masks/a.png", "instance", {3: 2}), boxes=(Box(1, 2, 4, 8, 1),))
        ),
        Sample("b", "images/b.jpg", "holdout of training", Labels(boxes=(Box(0.5, 0, 40, 30, 2),))),
        Sample("c", "images/c.jpg", "train"),
    )
    return Dataset(root, ("background", "cat", "dog"), samples)


def test_export_is_right_for_pycocotools(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "in")
    out = convert(dataset, tmp_path / "out", "coco")
    ground_truth = COCO(str(out / "annotations" / "train.json"))
    ids = read_mask(dataset.root / "masks" / "a.png")
    rows = ground_truth.loadAnns(ground_truth.getAnnIds(imgIds=[1]))
    assert [(row["category_id"], row["iscrowd"]) for row in rows] == [(1, 0), (1, 0), (2, 0), (1, 0)]
    for instance, row in enumerate(rows[:3], start=1):
        part = np.asfortranarray(ids == instance, np.uint8)
        np.testing.assert_array_equal(ground_truth.annToMask(row), part)
        assert row["area"] == reference.area(reference.encode(part))
        assert row["bbox"] == reference.toBbox(reference.encode(part)).tolist()
    assert (rows[3]["bbox"], rows[3]["area"]) == ([1, 2, 3, 6], 18)
    assert len(ground_truth.getImgIds()) == 2


def test_export_and_import_give_the_same_labels(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "in")
    again = read(convert(dataset, tmp_path / "out", "coco"))
    assert again.categories == dataset.categories
    by_id = {sample.id: sample for sample in again}
    for sample in dataset:
        other = by_id[sample.id]
        assert (other.split, other.labels.boxes, other.labels.kind) == (
            sample.split,
            sample.labels.boxes,
            sample.labels.kind,
        )
        assert other.size == (40, 30)
    mask = by_id["a"].labels.mask
    assert mask is not None
    assert mask.categories == {1: 1, 2: 1, 3: 2}
    np.testing.assert_array_equal(read_mask(again.root / mask.path), read_mask(dataset.root / "masks" / "a.png"))


def test_what_coco_cannot_hold_is_named_and_lost_only_on_request(tmp_path: Path) -> None:
    base = dataset_of(tmp_path / "in")
    semantic = np.where(HOLE > 0, 2, 0).astype(np.uint8)
    semantic[-1] = 255
    write_mask(base.root / "masks" / "s.png", semantic)
    samples = (
        Sample("a", "images/a.jpg", labels=Labels(Mask("masks/s.png"))),
        Sample("b", "images/b.jpg", labels=Labels(points=(Point(1, 1, 1),), tags=(Tag(1), Tag(2)))),
    )
    dataset = base.with_samples(samples)
    with pytest.raises(DataError, match=r"cannot hold 1 points, 2 tags, 1 semantic masks .*allow the loss"):
        convert(dataset, tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()
    again = read(convert(dataset, tmp_path / "out", "coco", allow_loss=True))
    mask = again[0].labels.mask
    assert mask is not None
    assert mask.categories == {1: 2}
    np.testing.assert_array_equal(read_mask(again.root / mask.path), HOLE)


def test_the_split_is_a_word_of_the_name(tmp_path: Path) -> None:
    for number, (name, split) in enumerate(
        {
            "annotations/instances_val2017.json": "val",
            "annotations/instances_default.json": "train",
            "annotations/latest.json": "latest",
            "annotations/night.json": "night",
            "my-test.json": "test",
            "contest.json": "train",
        }.items()
    ):
        folder = tmp_path / str(number)
        save(folder, document(), name)
        assert {sample.split for sample in read(folder)} == {split}, name
