"""LabelMe's files: as LabelMe writes them, both ways, and with everything that can be wrong."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.formats import labelme, rle
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Samples, Scribble, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError
from tests.data.random_masks import write_random


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shape(kind: str, points: list, label: str = "cat", **more: Any) -> dict:
    head = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
    return {**head, "mask": None, **more}


def file(shapes: list, image: str = "a.png", size: tuple[int, int] = (40, 30), **more: Any) -> dict:
    head = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
    return {**head, "imageHeight": size[1], "imageWidth": size[0], **more}


def make(root: Path, files: dict[str, Any], images: tuple[str, ...] = ("a.png",)) -> Path:
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (len(name), 0, 0)).save(root / name)
    for name, document in files.items():
        (root / name).write_text(json.dumps(document))
    return root


def problems(path: Path) -> str:
    with pytest.raises(DataError) as error:
        labelme.read(path)
    assert all(line.isprintable() for line in error.value.problems)
    return "\n".join(error.value.problems)


def test_every_kind_of_shape_is_read(tmp_path: Path) -> None:
    crop = np.array([[1, 0, 1], [1, 1, 1]], bool)
    shapes = [
        shape("mask", [[2, 3], [4, 4]], mask=png(crop)),
        shape("polygon", [[10, 10], [20, 10], [20, 20], [10, 20]], "dog"),
        shape("circle", [[30, 20], [30, 25]], "dog"),
        shape("polygon", [[0, 20], [4, 20], [4, 24], [0, 24]], group_id=7),
        shape("polygon", [[6, 20], [8, 20], [8, 24], [6, 24]], group_id=7),
        shape("rectangle", [[20, 9], [5, 2]]),
        shape("linestrip", [[1, 1], [2, 2], [3, 1]], "_background_"),
        shape("line", [[1, 1], [2, 2]], "dog"),
        shape("point", [[3.5, 4.5]]),
        shape("points", [[1, 2], [3, 4]], "dog"),
        shape("polygon", [[1, 1], [2, 2], [3, 1]], "__ignore__"),
        shape("oriented_rectangle", [[1, 1], [2, 2], [3, 1], [2, 0]]),
    ]
    make(tmp_path, {"a.json": file(shapes, flags={"dog": True, "blurred": False}, image="..\\here\\a.png")})
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    dataset = labelme.read(tmp_path)
    assert labelme.detect(tmp_path, None)
    assert labelme.read(tmp_path / "a.json") == dataset
    assert dataset.categories == ("background", "dog", "cat")
    (sample,) = dataset
    assert sample.labels.boxes == (Box(5, 2, 20, 9, 2),)
    assert sample.labels.scribbles == (Scribble(((1, 1), (2, 2), (3, 1)), 0), Scribble(((1, 1), (2, 2)), 1))
    assert sample.labels.points == (Point(3.5, 4.5, 2), Point(1, 2, 1), Point(3, 4, 1))
    assert sample.labels.tags == (Tag(1),)
    mask = sample.labels.mask
    assert mask is not None
    assert mask.categories == {1: 2, 2: 1, 3: 1, 4: 2}
    ids = read_mask(tmp_path / mask.path)
    np.testing.assert_array_equal((ids == 1)[3:5, 2:5], crop)
    np.testing.assert_array_equal(ids == 2, rle.polygon([10, 10, 20, 10, 20, 20, 10, 20], (30, 40)))
    assert abs((ids == 3).sum() - np.pi * 25) < 10
    assert (ids == 4).sum() == 4 * 4 + 2 * 4
    assert sorted(
        warning.message.partition(" are")[0] for warning in dataset.warnings if warning.kind == "left-out"
    ) == [
        "1 shapes of type 'oriented_rectangle'",
        "1 shapes with the label __ignore__",
    ]


def test_folders_splits_images_without_files_and_files_without_shapes(tmp_path: Path) -> None:
    files = {
        "train/a.json": file([shape("rectangle", [[1, 1], [9, 9]])]),
        "val/b.json": file([], "../val/b.png"),
        "other/c.json": file([shape("point", [[1, 1]])], "/home/me/c.png"),
        "settings.json": {"a": 1},
    }
    make(tmp_path, files, ("train/a.png", "train/bare.png", "val/b.png", "other/c.png"))
    dataset = labelme.read(tmp_path)
    found = {s.id: (s.image, s.split, s.labels.kind.name) for s in dataset}
    assert found == {
        "a": ("train/a.png", "train", "BOX"),
        "b": ("val/b.png", "val", "MASK"),
        "c": ("other/c.png", "train", "POINT"),
        "bare": ("train/bare.png", "train", "NONE"),
    }
    assert {warning.kind for warning in dataset.warnings} == {"path-elsewhere", "left-out"}
    assert not read_mask(tmp_path / next(s for s in dataset if s.id == "b").labels.mask.path).any()  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_masks_stay_bit_for_bit(tmp_path: Path, seed: int) -> None:
    dataset = write_random(tmp_path / "in", 1000 if seed else 100, seed=seed)
    assert labelme.loss(dataset) == []
    again = labelme.read(labelme.write(dataset, tmp_path / "out"))
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


def test_weak_labels_stay_as_they_are(tmp_path: Path) -> None:
    make(tmp_path / "in", {}, ("a.png", "b.png", "c.png"))
    write_mask(tmp_path / "in" / "m.png", np.zeros((30, 40), np.uint8))
    labels = Labels(
        boxes=(Box(1, 2.25, 1 / 3 + 7, 9, 1), Box(0, 0, 30, 20, 2)),
        scribbles=(Scribble(((1.5, 2.5), (29.125, 0.1)), 0), Scribble(((3, 4), (5, 6), (7, 8)), 2)),
        points=(Point(1.5, 2.5, 1), Point(0, 19.5, 0)),
        tags=(Tag(2), Tag(1)),
    )
    empty = Labels(Mask("m.png", "instance"))
    samples = [Sample(n, f"{n}.png", labels=x) for n, x in zip("abc", (labels, empty, Labels()))]
    dataset = Samples(tmp_path / "in", ("background", "cat", "dog"), tuple(samples))
    again = labelme.read(labelme.write(dataset, tmp_path / "out"))
    assert again.categories == dataset.categories
    assert again[0].labels == labels
    assert again[1].labels.mask is not None
    assert again[2].labels == Labels()
    assert not (tmp_path / "out" / "c.json").exists()
    assert examine(Dataset(**vars(again))).problems == []
    odd = replace(samples[0], split="fold1", labels=Labels(scribbles=(Scribble(((3, 4),), 1),)))
    lost = ["1 scribbles of a single point (they become points)", "the splits fold1 (they become train)"]
    assert labelme.loss(dataset.with_samples([odd])) == lost


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (file(3), "a.json.shapes: must be a list, found 3"),  # type: ignore[arg-type]
        (file([3]), "a.json: shapes[0]: must be an object, found 3"),
        (file([], image="../../zz.jpg", size=(9, 9)), None),
        (file([], size=(0, 9)), "width and height [0, 9] are not those of an image"),
        (file([shape("polygon", [[1, 1], [2, 2], [3, 1]])], size=(30, 40)), "says 30 x 40 pixels, but a.png"),
        (file([shape("polygon", [[1, 1], [2, 2]])]), "a polygon needs x and y of at least three"),
        (file([shape("polygon", [[1, 1], [2, "2"], [3, 1]])]), "points[1]: must be a list of 2 numbers"),
        (file([shape("polygon", [[1, 1], [2, 200], [3, 1]])]), "reaches outside the image of 40 x 30"),
        (file([shape("rectangle", [[1, 1]])]), "points: must be 2 points, found 1"),
        (file([shape("point", [[100, 1]])]), "lies outside the image of 40 x 30"),
        (file([shape("mask", [[0, 0], [2, 1]])]), "shapes[0].mask: is missing"),
        (file([shape("mask", [[0, 0], [2, 1]], mask="§")]), "its mask is no base64 text"),
        (file([shape("mask", [[0, 0], [2, 1]], mask="YWJj")]), "its mask is no PNG"),
        (
            file([shape("mask", [[0, 0], [2, 1]], mask=png(np.eye(3)))]),
            "its mask has 3 x 3 pixels, its points say 3 x 2",
        ),
        (file([shape("mask", [[0, 0], [2, 2]], mask=png(np.eye(3))[:-8])]), "the PNG of its mask is damaged"),
        (file([shape("mask", [[0, 0], [1, 0]], mask=png(np.ones((1, 2, 3))))]), "the PNG of its mask has colours"),
        (file([shape("mask", [[38, 0], [40, 2]], mask=png(np.eye(3)))]), "are not inside the image"),
        (file([shape("point", [[1, 1]], "a\nb")]), "is no category's name"),
    ],
)
def test_problems_name_the_place(tmp_path: Path, document: dict, expected: str | None) -> None:
    path = make(tmp_path, {"a.json": document})
    if expected is None:
        (tmp_path / "a.png").rename(tmp_path / "b.png")
        expected = "a.json.imagePath: path '../../zz.jpg' leaves the dataset's folder"
    assert expected in problems(path)
