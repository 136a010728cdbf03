"""YOLO: as Ultralytics documents it, both ways, against pycocotools and datumaro, and with everything that can be wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.formats import yolo
from maskwright.data.formats.outlines import polygon_of
from maskwright.data.formats.rle import Part, polygon
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Samples, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError
from tests.data.random_masks import write_random

SIZE = (40, 30)


def make(root: Path, files: dict[str, str], images: tuple[str, ...] = ("images/train/a.png",)) -> Path:
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(root / name)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def row(*numbers: float) -> str:
    """A row of a class and x, y, ... in pixels."""
    shares = [value / SIZE[i % 2] for i, value in enumerate(numbers[1:])]
    return " ".join([str(numbers[0]), *map(str, shares)]) + "\n"


def problems(path: Path) -> str:
    with pytest.raises(DataError) as error:
        yolo.read(path)
    return "\n".join(error.value.problems)


def kinds(dataset: Samples) -> list[str]:
    return sorted(warning.kind for warning in dataset.warnings)


# ------------------------------------------------------------------------------------------------------------- reading


def test_a_dataset_as_it_is_documented(tmp_path: Path) -> None:
    description = """# Train/val/test sets as 1) dir: path/to/imgs, 2) file: path/to/imgs.txt, or 3) list
path: coco8-seg # dataset root dir
train: images/train # train images (relative to 'path')
val: images/val
test: # test images (optional)

names:
  0: person
  1: bicycle
download: https://example.com/coco8-seg.zip
"""
    outline = row(1, 10, 10, 20, 10, 20, 20, 10, 20)
    files = {"coco8-seg.yaml": description, "labels/train/a.txt": outline + row(0, 15, 6, 30, 8) + row(1, 1, 1, 2, 2)}
    images = ("images/train/a.png", "images/train/bare.png", "images/val/b.png", "images/other/c.png")
    make(tmp_path, files | {"labels/val/b.txt": "", "labels/val/gone.txt": "0 .5 .5 .1 .1\n"}, images)
    assert yolo.detect(tmp_path, None)
    assert yolo.detect(tmp_path / "coco8-seg.yaml", None)
    dataset = yolo.read(tmp_path)
    assert yolo.read(tmp_path / "coco8-seg.yaml") == dataset
    assert dataset.categories == ("background", "person", "bicycle")
    assert [(s.id, s.split, s.labels.kind.name) for s in dataset] == [
        ("a", "train", "MASK"),
        ("bare", "train", "NONE"),
        ("b", "val", "MASK"),
    ]
    labels = dataset[0].labels
    assert labels.boxes == (Box(0, 2, 30, 10, 1), Box(0, 0, 2, 2, 2))
    assert labels.mask is not None
    assert labels.mask.categories == {1: 2}
    np.testing.assert_array_equal(
        read_mask(tmp_path / labels.mask.path) == 1, polygon([10, 10, 20, 10, 20, 20, 10, 20], (30, 40))
    )
    assert dataset[2].labels.mask is not None
    assert not read_mask(tmp_path / dataset[2].labels.mask.path).any()
    assert [str(w).partition(":")[0].partition(", such")[0] for w in dataset.warnings] == [
        "1 images in no split are left out",
        "1 label files without an image are left out",
    ]


def test_roboflows_paths_and_folders_without_a_description(tmp_path: Path) -> None:
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['no']\n"
    images = ("train/images/a.png", "valid/images/b.png")
    rows = {"train/labels/a.txt": row(0, 20, 15, 4, 4), "valid/labels/b.txt": row(0, 20, 15, 6, 4)}
    dataset = yolo.read(make(tmp_path / "described", rows | {"data.yaml": text}, images))
    assert dataset.categories == ("background", "no")  # Which YAML takes for false.
    assert [(s.split, s.labels.boxes) for s in dataset] == [
        ("train", (Box(18, 13, 22, 17, 1),)),
        ("val", (Box(17, 13, 23, 17, 1),)),
    ]
    assert kinds(dataset) == ["missing-split"]
    bare = yolo.read(make(tmp_path / "bare", rows, images))
    assert [s.labels for s in bare] == [s.labels for s in dataset]
    assert [s.split for s in bare] == ["train", "val"]
    assert bare.categories == ("background", "class_0")
    assert kinds(bare) == ["no-names"]
    named = yolo.read(make(tmp_path / "named", rows | {"classes.txt": "cat\ndog\n"}, images))
    assert named.categories == ("background", "cat", "dog")
    assert kinds(named) == []


def test_lists_of_images_as_cvat_writes_them(tmp_path: Path) -> None:
    files = {
        "data.yaml": "path: .\ntrain: train.txt\nval: [val.txt, images/more]\nnames: {0: cat}\n",
        "train.txt": "data/images/train/a.png\nimages/train/b.png\n",
        "val.txt": "./images/train/c.png\nimages/train/a.png\n",
        "labels/train/a.txt": row(0, 20, 15, 4, 4),
    }
    images = ("images/train/a.png", "images/train/b.png", "images/train/c.png", "images/more/d.png")
    dataset = yolo.read(make(tmp_path, files, images))
    assert {s.id: s.split for s in dataset} == {"a": "train", "b": "train", "c": "val", "d": "val"}
    assert kinds(dataset) == ["left-out"]
    assert "of val they are left out" in dataset.warnings[0]


def test_scores_and_keypoints_are_left_out_and_said(tmp_path: Path) -> None:
    description = "train: images/train\nnames: [cat]\nkpt_shape: [2, 3]\n"
    scored = row(0, 20, 15, 4, 4).rstrip() + " 0.9\n" + row(0, 1, 1, 9, 1, 9, 9, 1, 9).rstrip() + " 0.8\n"
    pose = row(0, 20, 15, 4, 4).rstrip() + " 0.5 0.5 2 0.1 0.1 0\n"
    dataset = yolo.read(make(tmp_path, {"data.yaml": description, "labels/train/a.txt": scored + pose}))
    assert len(dataset[0].labels.boxes) == 2
    assert dataset[0].labels.mask is not None
    assert dataset[0].labels.mask.categories == {1: 1}
    said = "\n".join(dataset.warnings)
    assert "2 scores or tracks at the end of a row are left out" in said
    assert "1 rows with key-points are read as boxes" in said


# ------------------------------------------------------------------------------------------------------------- writing


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
@settings(max_examples=300, deadline=None)
def test_an_outline_fills_the_pixels_that_it_was_made_of(mask: np.ndarray) -> None:
    if not mask.any():
        with pytest.raises(ValueError, match="empty"):
            polygon_of(Part(0, 0, mask))
        return
    height, width = mask.shape[0] + 5, mask.shape[1] + 7
    part = Part(2, 3, mask)
    outline = polygon_of(part)
    assert (outline[0] == outline[-1]).all()
    steps = np.abs(np.diff(outline, axis=0))
    assert (steps.min(1) == 0).sum() >= 4  # Along the edges of pixels; other lines join loops.
    drawn = coco_mask.decode(coco_mask.frPyObjects([outline.astype(float).ravel().tolist()], height, width)[0])
    np.testing.assert_array_equal(drawn.astype(bool), part.whole((height, width)))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_masks_stay_bit_for_bit(tmp_path: Path, seed: int) -> None:
    dataset = write_random(tmp_path / "in", 300 if seed else 100, seed=seed)
    assert yolo.loss(dataset) == []
    again = yolo.read(yolo.write(dataset, tmp_path / "out"))
    assert again.categories == dataset.categories
    order = {sample.id: sample for sample in again}
    assert len(order) == len(dataset)
    for before in dataset:
        after = order[before.id]
        assert before.labels.mask is not None
        assert after.labels.mask is not None
        assert after.split == before.split
        np.testing.assert_array_equal(
            read_mask(tmp_path / "out" / after.labels.mask.path), read_mask(tmp_path / "in" / before.labels.mask.path)
        )
        assert after.labels.mask.categories == before.labels.mask.categories


def test_pycocotools_draws_the_same_from_the_written_rows(tmp_path: Path) -> None:
    dataset = write_random(tmp_path / "in", 40, seed=3)
    yolo.write(dataset, tmp_path / "out")
    for sample in dataset:
        assert sample.labels.mask is not None
        ids = read_mask(tmp_path / "in" / sample.labels.mask.path)
        height, width = ids.shape
        rows = (tmp_path / "out" / "labels" / sample.split / f"{sample.id}.txt").read_text().splitlines()
        assert len(rows) == ids.max()
        for id, text in enumerate(rows, 1):
            number, *shares = map(float, text.split())
            assert number + 1 == sample.labels.mask.category_of(id)
            vertices = [share * (width, height)[i % 2] for i, share in enumerate(shares)]
            drawn = coco_mask.decode(coco_mask.frPyObjects([vertices], height, width)[0])
            np.testing.assert_array_equal(drawn.astype(bool), ids == id)


def test_datumaro_reads_the_same_boxes(tmp_path: Path) -> None:
    components = pytest.importorskip("datumaro.components.dataset")
    make(tmp_path / "in", {}, ("a.png", "b.png"))
    boxes = {"a": (Box(1, 2, 9, 12, 1), Box(0, 0, 40, 30, 2)), "b": (Box(3.25, 4.5, 6, 7, 2),)}
    samples = [Sample(id, f"{id}.png", labels=Labels(boxes=found)) for id, found in boxes.items()]
    dataset = Samples(tmp_path / "in", ("background", "cat", "dog"), tuple(samples))
    again = components.Dataset.import_from(str(yolo.write(dataset, tmp_path / "out")), "yolo")
    found = {}
    for item in again:
        found[item.id.rpartition("/")[2]] = [(one.get_bbox(), one.label) for one in item.annotations]
    assert found.keys() == boxes.keys()
    for id, read in found.items():
        for (corners, label), box in zip(read, boxes[id], strict=True):
            np.testing.assert_allclose(corners, (box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0), atol=0.01)
            assert label == box.category - 1
    assert {s.id: s.labels.boxes for s in yolo.read(tmp_path / "out")} == boxes


def test_what_it_cannot_hold_is_named_and_left_out(tmp_path: Path) -> None:
    make(tmp_path / "in", {}, ("a.png", "b.png", "c.png", "d.png"))
    write_mask(tmp_path / "in" / "m.png", np.eye(30, 40, dtype=np.uint8))
    write_mask(tmp_path / "in" / "s.png", np.eye(30, 40, dtype=np.uint8) * 255)
    labels = {
        "a": Labels(Mask("m.png", "instance"), boxes=(Box(1, 1, 2, 2, 1),)),
        "b": Labels(Mask("s.png")),
        "c": Labels(points=(Point(1, 1, 1),), tags=(Tag(1),)),
        "d": Labels(boxes=(Box(1.5, 2, 7.25, 9, 2),)),
    }
    samples = [Sample(id, f"{id}.png", "fold1" if id == "d" else "train", one) for id, one in labels.items()]
    dataset = Samples(tmp_path / "in", ("background", "cat: 'a' #1", "no"), tuple(samples))
    assert yolo.loss(dataset) == [
        "1 points",
        "1 tags",
        "1 semantic masks (each category of an image becomes one object, 255 is dropped)",
        "1 boxes of images that have masks too",
        "the splits fold1 (they become train)",
    ]
    again = yolo.read(yolo.write(dataset, tmp_path / "out"))
    assert again.categories == dataset.categories
    assert [s.labels.kind.name for s in again] == ["MASK", "MASK", "NONE", "BOX"]
    assert again[3].labels == labels["d"]
    assert examine(Dataset(**vars(again))).problems == []
    with pytest.raises(DataError, match="is not empty"):
        yolo.write(dataset, tmp_path / "out")


def test_an_object_that_one_outline_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_random(tmp_path / "in", 3)
    monkeypatch.setattr("maskwright.data.formats.rle._LONGEST", 30)
    with pytest.raises(DataError, match=r"0\.png.*object 1 is too fragmented for one outline"):
        yolo.write(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- faults

DATA = "train: images/train\nnames: [cat]\n"
BOX = row(0, 20, 15, 4, 4)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("0 0.1 0.1\n", "labels/train/a.txt: line 1: has 2 numbers after its class; a box has 4"),
        ("\n0\n", "line 2: has 0 numbers after its class"),
        ("cat 0.1 0.1 0.2 0.2\n", "line 1: must be a class and shares of the image's sides, found 'cat 0.1"),
        ("0.5 0.1 0.1 0.2 0.2\n", "must be a class and shares"),
        ("-1 0.1 0.1 0.2 0.2\n", "must be a class and shares"),
        ("0 0.1 0.1 0.2 nan\n", "must be a class and shares"),
        ("0 0.1 0.1 0.2 1_0\n", "must be a class and shares"),
        ("0 0.1 0.1 0.2 1e999\n", "must be a class and shares"),
        ("3 0.1 0.1 0.2 0.2\n", "class 3 has no name; known are 0 to 0"),
        ("0 10 10 20 20 30 10\n", "holds 30, which is no share of the image's side (0 to 1)"),
        ("0 0.1 0.1 1.4 0.2 0.3 0.3\n", "reaches outside the image of 40 x 30 by 40% of its side"),
        ("0 0.95 0.5 0.4 0.4\n", "reaches outside the image of 40 x 30 by 15% of its side"),
        ("\xff\xfe".encode("latin-1").decode("latin-1"), "must be a class and shares"),
    ],
)
def test_faults_of_rows_name_the_line(tmp_path: Path, rows: str, expected: str) -> None:
    assert expected in problems(make(tmp_path, {"data.yaml": DATA, "labels/train/a.txt": rows}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: images/train\nnames: cat\n", "data.yaml: names: must be a list, or an object by number, found 'cat'"),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "must be numbered 0 to 1 without a gap"),
        ("train: images/train\nnames: [cat, cat]\n", "names[1]: 'cat' is there twice"),
        ("train: images/train\nnames: [[1]]\n", "is no category's name"),
        ("train: images/train\nnc: 3\nnames: [cat]\n", "nc: is '3', but there are 1 names"),
        ("train: images/nowhere\nnames: [cat]\n", "train: 'images/nowhere' is not there; correct the path"),
        ("train: ''\nnames: [cat]\n", "data.yaml: names no image"),
        ("train: {a: b}\nnames: [cat]\n", "train: must be a path or a list of paths"),
        ("train: /etc\nnames: [cat]\n", "train: '/etc' is not there"),
        ("train: ../..\nnames: [cat]\n", "is not there"),
        ("train: images/train\npath: [a]\nnames: [cat]\n", "path: must be a text"),
        ("train: images/train\nnames: [cat]\nkpt_shape: [17, 9]\n", "are no key-points of 2 or 3 numbers"),
        ("train: images/train\nnames: [cat]\nkpt_shape: x\n", "kpt_shape: must be two whole numbers"),
        ("names: &a [x]\ntrain: *a\n", "line 2: has an alias (*name), which is not read"),
        ("names: [a]\nnames: [b]\ntrain: images/train\n", "has the key 'names' twice"),
        ("? [a]\n: b\n", "has a key that is no text"),
        ("names: [a\n", "not valid YAML"),
        ("names: !!python/object/apply:os.system ['true']\ntrain: images/train\n", "names: must be a list"),
        ("[" * 3000, "not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("- a\n", "must be an object with names and train"),
    ],
)
def test_faults_of_the_description_name_the_place(tmp_path: Path, text: str, expected: str) -> None:
    path = make(tmp_path, {"data.yaml": text, "labels/train/a.txt": BOX})
    if "python/object" in text:  # A tag runs nothing: it is not even looked at.
        assert yolo.read(path / "data.yaml").categories == ("background", "true")
    else:
        assert expected in problems(path / "data.yaml")


def test_other_faults(tmp_path: Path) -> None:
    two = make(tmp_path / "two", {"a.yaml": DATA, "b.yml": DATA})
    assert "holds several descriptions (a.yaml, b.yml)" in problems(two)
    assert yolo.read(two / "a.yaml")[0].id == "a"
    empty = make(tmp_path / "empty", {"labels/a.txt": BOX}, ())
    assert "there is no image below images/" in problems(empty)
    damaged = make(tmp_path / "damaged", {"data.yaml": DATA, "labels/train/a.txt": BOX})
    (damaged / "images/train/a.png").write_bytes(b"no image")
    assert "images/train/a.png" in problems(damaged)
    outside = make(tmp_path / "outside", {"data.yaml": DATA})
    (outside / "labels" / "train").mkdir(parents=True)
    (outside / "labels" / "train" / "a.txt").symlink_to(tmp_path / "two" / "a.yaml")
    assert "leaves the dataset's folder by a link" in problems(outside)
    large = make(tmp_path / "large", {"data.yaml": DATA + "#" * 1_000_000})
    assert "more than the 1,000,000 bytes" in problems(large / "data.yaml")
    assert not yolo.detect(tmp_path / "nowhere.yaml", None)
    assert replace(yolo.read(two / "a.yaml"), samples=()).samples == ()
