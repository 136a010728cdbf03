"""Label Studio's tasks: as its documentation has them, both ways, and with everything that can be wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.formats import brush, label_studio, rle
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Samples, Scribble, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError
from tests.data.random_masks import write_random

SIZE = {"original_width": 600, "original_height": 400, "image_rotation": 0}


def region(type: str, value: dict, id: str = "Dx_aB91ISN", **more: Any) -> dict:
    return {"id": id, "from_name": "label", "to_name": "image", "type": type, **SIZE, "value": value, **more}


def task(results: list | None, image: str = "/data/upload/3/0a1b2c3d-a.png", **more: Any) -> dict:
    annotations = [] if results is None else [{"id": 1001, "result": results, "was_cancelled": False, "lead_time": 9.2}]
    return {"id": 1, "data": {"image": image}, "annotations": annotations, "predictions": [], **more}


def make(root: Path, tasks: Any, names: tuple[str, ...] = ("0a1b2c3d-a.png",)) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (600, 400)).save(root / "images" / name)
    (root / "project-1-at-2024.json").write_text(json.dumps(tasks))
    return root


def problems(path: Path) -> str:
    with pytest.raises(DataError) as error:
        label_studio.read(path)
    assert all(line.isprintable() for line in error.value.problems)
    return "\n".join(error.value.problems)


def test_the_documented_kinds_of_region_are_read(tmp_path: Path) -> None:
    painted = np.zeros((400, 600), bool)
    painted[100:200, 50:80], painted[150, 60] = True, False
    results = [
        # From the documentation of the export: a rectangle in percent of the image, turned around its upper left corner.
        region(
            "rectanglelabels",
            {"x": 25, "y": 10, "width": 50, "height": 20, "rotation": 0, "rectanglelabels": ["Airplane"]},
        ),
        region(
            "rectanglelabels", {"x": 50, "y": 50, "width": 10, "height": 30, "rotation": 90, "rectanglelabels": ["Car"]}
        ),
        region(
            "polygonlabels",
            {"points": [[10, 20], [30, 20], [30, 60], [10, 60]], "closed": True, "polygonlabels": ["Car"]},
        ),
        region(
            "ellipselabels", {"x": 70, "y": 70, "radiusX": 5, "radiusY": 10, "rotation": 0, "ellipselabels": ["Car"]}
        ),
        region("keypointlabels", {"x": 50, "y": 25, "width": 0.3, "keypointlabels": ["Airplane"]}),
        region("brushlabels", {"format": "rle", "rle": brush.encode(painted), "brushlabels": ["Airplane"]}),
        {"id": "c", "from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": ["Car", "Sky"]}},
        {"id": "t", "from_name": "text", "to_name": "image", "type": "textarea", "value": {"text": ["hello"]}},
    ]
    make(tmp_path, [task(results)])
    for path in (tmp_path, tmp_path / "project-1-at-2024.json"):
        assert label_studio.detect(path, json.loads((tmp_path / "project-1-at-2024.json").read_text()))
        dataset = label_studio.read(path)
    assert dataset.categories == ("background", "Airplane", "Car", "Sky")
    (sample,) = dataset
    assert (sample.id, sample.image, sample.size) == ("0a1b2c3d-a", "images/0a1b2c3d-a.png", (600, 400))
    assert sample.labels.boxes == (Box(150, 40, 450, 120, 1), Box(180, 200, 300, 260, 2))
    assert sample.labels.points == (Point(300, 100, 1),)
    assert sample.labels.tags == (Tag(2), Tag(3))
    mask = sample.labels.mask
    assert mask is not None
    assert mask.categories == {1: 2, 2: 2, 3: 1}
    ids = read_mask(tmp_path / mask.path)
    np.testing.assert_array_equal(ids == 3, painted)
    outline = rle.polygon([60, 80, 180, 80, 180, 240, 60, 240], (400, 600))
    np.testing.assert_array_equal(ids == 1, outline & ~painted)
    assert abs((ids == 2).sum() - np.pi * 30 * 40) < 30
    kinds = [(warning.kind, warning.message) for warning in dataset.warnings]
    assert (
        "left-out",
        "1 results of type 'textarea' are left out, such as tasks[0] (id 1).annotations.result[7]",
    ) in kinds
    assert [kind for kind, _ in kinds].count("turned-box") == 1


def test_images_are_found_by_the_end_of_their_links(tmp_path: Path) -> None:
    links = {
        "/data/upload/3/0a1b2c3d-a.png": "a.png",
        "/data/local-files/?d=images%2Fb%20b.png": "b b.png",
        "s3://bucket/folder/c.png": "c.png",
        "https://host.example/x/d.png?X-Amz-Signature=12": "d.png",
        "images/e.png": "e.png",
        "../../label-studio/media/upload/4/f.png": "f.png",
    }
    path = make(tmp_path, [task([], link) for link in links], tuple(links.values()))
    dataset = label_studio.read(path)
    assert [sample.image for sample in dataset] == [f"images/{name}" for name in links.values()]
    assert [warning.message.partition(",")[0] for warning in dataset.warnings] == [
        "5 images are taken for files by the end of their links"
    ]
    assert "image '/data/upload/3/no.png' is not in the folder" in problems(
        make(tmp_path, [task([], "/data/upload/3/no.png")])
    )


def test_labels_apart_from_their_region_and_which_annotation_is_read(tmp_path: Path) -> None:
    point = {"x": 50, "y": 25, "width": 1}
    apart = [
        region("keypoint", point, "r1"),
        region("labels", {"labels": ["cat"]}, "r1"),
        region("keypoint", point, "r2"),
    ]
    several = [
        {
            "result": [region("keypointlabels", {**point, "keypointlabels": ["dog"]})],
            "updated_at": "2024-02-01T00:00:00Z",
        },
        {"result": [], "updated_at": "2024-01-01T00:00:00Z"},
        {"result": [], "updated_at": "2024-03-01T00:00:00Z", "was_cancelled": True},
    ]
    truth = [several[0], {**several[1], "ground_truth": True}]
    tasks = [
        task(apart, "a.png"),
        task(None, "b.png", annotations=several),
        task(None, "c.png", annotations=truth),
        task(None, "d.png"),
    ]
    dataset = label_studio.read(make(tmp_path, tasks, ("a.png", "b.png", "c.png", "d.png")))
    assert [sample.labels.points for sample in dataset] == [(Point(300, 100, 1),), (Point(300, 100, 2),), (), ()]
    assert [sample.labels.mask is not None for sample in dataset] == [False, False, True, False]
    told = "\n".join(warning.message for warning in dataset.warnings)
    assert "1 regions without a label are left out" in told
    assert "2 tasks have several annotations" in told
    assert "1 cancelled annotations are left out" in told


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("predicted", [False, True])
def test_random_masks_stay_bit_for_bit(tmp_path: Path, seed: int, predicted: bool) -> None:
    dataset = write_random(tmp_path / "in", 1000 if seed else 100, seed=seed)
    assert label_studio.loss(dataset) == []
    scores = {sample.id: dict.fromkeys(range(1, 600), 0.25) for sample in dataset} if predicted else None
    again = label_studio.read(label_studio.write(dataset, tmp_path / "out", scores))
    assert again.categories == dataset.categories
    assert [(s.id, s.split) for s in again] == [(s.id, s.split) for s in dataset]
    for before, after in zip(dataset, again, strict=True):
        assert before.labels.mask is not None
        assert after.labels.mask is not None
        np.testing.assert_array_equal(
            read_mask(tmp_path / "out" / after.labels.mask.path), read_mask(tmp_path / "in" / before.labels.mask.path)
        )
        assert after.labels.mask.categories == before.labels.mask.categories
    told = [warning.message for warning in again.warnings]
    assert any("have predictions and no annotations" in line for line in told) == predicted


def test_predictions_have_scores_and_links_are_relative(tmp_path: Path) -> None:
    dataset = write_random(tmp_path / "in", 3)
    label_studio.write(dataset, tmp_path / "out", {"s0": {1: 0.5, 2: 1.0}})
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    first = tasks[0]["predictions"][0]
    assert (first["model_version"], first["score"]) == ("maskwright", 0.75)
    assert [row.get("score") for row in first["result"][:3]] == [0.5, 1.0, None]
    assert tasks[0]["data"] == {"image": "/data/local-files/?d=images/s0.png", "split": "train", "labelled": True}
    assert tasks[0]["annotations"] == []


def test_weak_labels_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcd":
        Image.new("RGB", (33, 21)).save(tmp_path / "in" / f"{name}.png")
    write_mask(tmp_path / "in" / "m.png", np.zeros((21, 33), np.uint8))
    labels = Labels(
        boxes=(Box(1, 2.25, 7.333333, 9, 1), Box(0, 0, 33, 21, 2)),
        points=(Point(1.5, 2.5, 1), Point(0, 19.5, 0)),
        tags=(Tag(2), Tag(1)),
    )
    empty = Labels(Mask("m.png", "instance"), tags=(Tag(1),))
    samples = [Sample(n, f"{n}.png", "test", x) for n, x in zip("abc", (labels, empty, Labels()))]
    dataset = Samples(tmp_path / "in", ("background", "cat", "dog"), tuple(samples))
    again = label_studio.read(label_studio.write(dataset, tmp_path / "out"))
    assert again.categories == dataset.categories
    assert again[0].labels == labels
    assert again[1].labels.mask is not None
    assert again[1].labels.tags == (Tag(1),)
    assert again[2].labels == Labels()
    assert [p for p in examine(Dataset(**vars(again))).problems if "split 'train' is empty" not in p] == []
    drawn = replace(labels, scribbles=(Scribble(((3, 4),), 1),))
    assert label_studio.loss(dataset.with_samples([Sample("a", "a.png", labels=drawn)])) == ["1 scribbles"]


def spoiled(change: Callable[[list], object]) -> list:
    value = {"points": [[10, 20], [30, 20], [30, 60]], "polygonlabels": ["cat"]}
    tasks = [task([region("polygonlabels", value)])]
    change(tasks)
    return tasks


def of_region(**changes: Any) -> list:
    return spoiled(lambda tasks: tasks[0]["annotations"][0]["result"][0].update(changes))


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([{"id": 1, "image": "a", "annotation_id": 1, "annotator": 1, "lead_time": 1}], "JSON-MIN, which is not read"),
        (spoiled(lambda tasks: tasks.append(3)), "tasks[1]: must be an object, found 3"),
        (spoiled(lambda tasks: tasks[0].update(data=[])), "tasks[0] (id 1).data: must be an object"),
        (spoiled(lambda tasks: tasks[0].update(data={"text": "a"})), "data: has no image"),
        (spoiled(lambda tasks: tasks.append(tasks[0])), "is there twice"),
        (spoiled(lambda tasks: tasks[0]["data"].update(split=3)), "data.split: must be a name, found 3"),
        (spoiled(lambda tasks: tasks[0].update(annotations=[{"id": 1}])), "annotations[0].result: is missing"),
        (of_region(type=3), ".type: must be a text, found 3"),
        (of_region(value=None), ".value: must be an object, found null"),
        (of_region(original_width=0), "width and height [0, 400] are not those of an image"),
        (of_region(original_width=300), "says 300 x 400 pixels, but 0a1b2c3d-a.png has 600 x 400"),
        (of_region(image_rotation=90), "its image was turned by 90 degrees"),
        (
            of_region(value={"points": [[1, 2], [3]], "polygonlabels": ["cat"]}),
            "points[1]: must be a list of 2 numbers",
        ),
        (of_region(value={"points": [[1, 2]], "polygonlabels": ["cat"]}), "a polygon needs x and y"),
        (of_region(value={"points": "x", "polygonlabels": ["cat"]}), "points: must be a list of points"),
        (of_region(value={"points": [[1, 2]], "polygonlabels": [3]}), "its label 3 is no text"),
        (of_region(value={"points": [[1, 2]], "polygonlabels": ["a\nb"]}), "is no category's name"),
        (of_region(type="brushlabels", value={"rle": "x", "brushlabels": ["cat"]}), "has no list rle of a brush"),
        (of_region(type="brushlabels", value={"rle": [1, 2], "brushlabels": ["cat"]}), "a brush's rle is cut short"),
        (of_region(type="brush", value={"rle": brush.encode(np.eye(9)), "labels": ["cat"]}), "600 x 400 pixels have"),
        (of_region(type="rectangle", value={"x": 1, "y": 1, "labels": ["cat"]}), "must be a list of 5 numbers"),
        (
            of_region(type="rectangle", value={"x": 1e300, "y": 1, "width": 1, "height": 1, "labels": ["cat"]}),
            "no percentages",
        ),
        (of_region(type="keypoint", value={"x": 200, "y": 1, "labels": ["cat"]}), "lies outside the image"),
        (of_region(type="ellipse", value={"x": 2, "y": 1, "radiusX": 0, "radiusY": 1, "labels": ["cat"]}), "its radii"),
    ],
)
def test_problems_name_the_place(tmp_path: Path, tasks: list, expected: str) -> None:
    assert expected in problems(make(tmp_path, tasks))


def test_what_is_no_list_of_tasks_is_not_detected(tmp_path: Path) -> None:
    for document in ([], [1], {}, [{"data": {}}], {"images": []}):
        assert not label_studio.detect(make(tmp_path, document), None)
    (tmp_path / "project-1-at-2024.json").write_text("[{")
    assert not label_studio.detect(tmp_path, None)
    make(tmp_path, [task([])])
    (tmp_path / "other.json").write_text(json.dumps([task([])]))
    assert "holds several files of tasks (other.json, project-1-at-2024.json)" in problems(tmp_path)
