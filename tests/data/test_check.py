"""Every kind of problem is found, named with file, place and remedy, and a clean dataset has none."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import check, require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Scribble, Tag
from maskwright.data.mask_files import write_mask
from maskwright.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three training images (semantic mask, instance mask, weak labels) and one for validation; 20 x 10 pixels."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (10, 20, 3), np.uint8)).save(tmp_path / f"{name}.png")
    semantic = np.zeros((10, 20), np.uint8)
    semantic[2:5, 2:5], semantic[0, 0] = 2, 255
    write_mask(tmp_path / "semantic.png", semantic)
    write_mask(tmp_path / "instance.png", np.arange(200, dtype=np.uint16).reshape(10, 20))
    weak = Labels(
        boxes=(Box(0, 0, 20, 10, 1),),
        points=(Point(0, 9.9, 0),),
        scribbles=(Scribble(((1, 1), (3, 3)), 2),),
        tags=(Tag(1),),
    )
    samples = (
        Sample("a", "a.png", "train", Labels(Mask("semantic.png")), (20, 10)),
        Sample("b", "b.png", "train", Labels(Mask("instance.png", "instance", {3: 2}))),
        Sample("c", "c.png", "train", weak),
        Sample("d", "d.png", "val"),
    )
    return Dataset(tmp_path, ("background", "cat", "dog"), samples, "here.json")


def with_sample(dataset: Dataset, index: int, **changes) -> Dataset:
    samples = list(dataset.samples)
    samples[index] = replace(samples[index], **changes)
    return dataset.with_samples(samples)


def with_labels(dataset: Dataset, **labels) -> Dataset:
    return with_sample(dataset, 2, labels=Labels(**labels))


def only_problem(dataset: Dataset, **options) -> str:
    found = check(dataset, **options)
    assert len(found) == 1, found
    assert "\n" not in found[0]
    return found[0]


def test_a_clean_dataset_has_no_problem_and_reports_progress(dataset: Dataset) -> None:
    calls = []
    assert check(dataset, progress=lambda done, total: calls.append((done, total))) == []
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    require_clean(dataset)


def test_missing_truncated_and_oversize_images(dataset: Dataset) -> None:
    (dataset.root / "a.png").write_bytes((dataset.root / "a.png").read_bytes()[:300])
    (dataset.root / "d.png").unlink()
    found = check(dataset)
    assert len(found) == 2
    assert re.match(rf"{dataset.root}/a.png: (truncated|damaged)", found[0])
    assert "(image of sample 'a')" in found[0]
    assert f"{dataset.root}/d.png: missing" in found[1]
    assert len(check(dataset, decode=False)) == 1  # Headers cannot show a truncated end.


def test_masks_missing_truncated_or_of_another_size(dataset: Dataset) -> None:
    path = dataset.root / "semantic.png"
    write_mask(path, np.zeros((20, 10), np.uint8))
    assert "semantic.png: mask of sample 'a' is 10 x 20, but its image a.png is 20 x 10" in only_problem(dataset)
    assert "10 x 20" in only_problem(dataset, decode=False)
    path.write_bytes(path.read_bytes()[:45])
    assert "(mask of sample 'a')" in only_problem(dataset)
    path.unlink()
    assert "missing" in only_problem(dataset)


def test_a_noted_size_must_be_the_images(dataset: Dataset) -> None:
    line = only_problem(with_sample(dataset, 0, size=(10, 20)))
    assert "sample 'a', size: noted 10 x 20, but" in line


def test_mask_pixels_of_unknown_categories_are_counted(dataset: Dataset) -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[0, :3], mask[1, 0], mask[2, 0] = 3, 254, 1
    write_mask(dataset.root / "semantic.png", mask)
    line = only_problem(dataset)
    assert "semantic.png: unknown category ids 3 (3 pixels), 254 (1 pixels); known are 0..2 and 255" in line


def test_instances_of_unknown_categories(dataset: Dataset) -> None:
    bad = with_sample(dataset, 1, labels=Labels(Mask("instance.png", "instance", {3: 9, 4: 0})))
    found = check(bad)
    assert ["instance 3: unknown category id 9, known are 1..2" in found[0], "instance 4" in found[1]] == [True, True]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"boxes": (Box(0, 0, 21, 5, 1),)}, "boxes[0]: box 0 0 21 5 reaches outside the image of 20 x 10"),
        ({"boxes": (Box(-1, 0, 5, 5, 1),)}, "reaches outside"),
        ({"boxes": (Box(5, 5, 5, 9, 1),)}, "boxes[0]: box 5 5 5 9 is empty"),
        ({"boxes": (Box(5, 9, 8, 5, 1),)}, "is empty"),
        ({"boxes": (Box(0, 0, float("nan"), 5, 1),)}, "holds a number that is not finite"),
        ({"boxes": (Box(0, 0, 1, 1, 1), Box(0, 0, 1, 1, 3))}, "boxes[1]: unknown category id 3, known are 1..2"),
        ({"boxes": (Box(0, 0, 1, 1, 0),)}, "unknown category id 0, known are 1..2"),
        ({"points": (Point(20, 5, 1),)}, "points[0]: 20 5 lies outside the image of 20 x 10"),
        ({"points": (Point(float("inf"), 5, 1),)}, "not finite"),
        ({"points": (Point(5, 5, -1),)}, "points[0]: unknown category id -1, known are 0..2"),
        ({"scribbles": (Scribble(((1, 1), (1, -2), (1, 12)), 1),)}, "scribbles[0]: 1 -2 lies outside"),
        ({"scribbles": (Scribble((), 1),)}, "scribbles[0]: has no point"),
        ({"tags": (Tag(1), Tag(3))}, "tags[1]: unknown category id 3"),
    ],
)
def test_bad_labels_are_named_with_their_place(dataset: Dataset, labels: dict, expected: str) -> None:
    line = only_problem(with_labels(dataset, **labels))
    assert expected in line
    assert line.startswith("here.json: sample 'c', ")


def test_a_box_of_an_object_that_the_mask_does_not_show(dataset: Dataset) -> None:
    def boxed(index: int, *boxes: Box) -> Dataset:
        return with_sample(dataset, index, labels=replace(dataset[index].labels, boxes=boxes))

    # Semantic: category 2 in rows and columns 2 to 4, and one pixel that is not known. Instance: all have category 1 but id 3.
    assert check(boxed(0, Box(1, 1, 6, 6, 2), Box(0, 0, 2, 2, 1))) == []
    found = only_problem(boxed(0, Box(1, 1, 6, 6, 2), Box(10, 1, 16, 6, 2)))
    assert found.startswith("here.json: sample 'a', boxes[1]: its mask shows nothing of 'dog' there")
    assert "remove the box" in found
    assert check(boxed(1, Box(3, 0, 4, 1, 2), Box(5, 5, 9, 9, 1))) == []
    assert "boxes[0]: its mask shows nothing of 'dog'" in only_problem(boxed(1, Box(5, 5, 9, 9, 2)))


def test_duplicate_ids(dataset: Dataset) -> None:
    assert "sample 'a': this id is there 2 times" in only_problem(with_sample(dataset, 3, id="a"))


def test_the_same_image_in_two_splits_by_path_or_content(dataset: Dataset) -> None:
    line = only_problem(with_sample(dataset, 3, image="a.png"))
    assert "one image in several splits: a.png (sample 'a', split 'train'), a.png (sample 'd', split 'val')" in line
    (dataset.root / "d.png").write_bytes((dataset.root / "b.png").read_bytes())
    assert "b.png (sample 'b', split 'train'), d.png (sample 'd', split 'val')" in only_problem(dataset)
    assert check(with_sample(dataset, 3, split="train")) == []  # Twice within one split is no problem.


def test_paths_that_leave_the_folder(dataset: Dataset, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    outside.write_bytes((dataset.root / "d.png").read_bytes())
    os.symlink(outside, dataset.root / "link.png")
    assert "image: path 'link.png' leaves the dataset's folder by a link" in only_problem(
        with_sample(dataset, 3, image="link.png")
    )
    assert "leaves the dataset's folder" in only_problem(with_sample(dataset, 0, labels=Labels(Mask("../m.png"))))


def test_training_needs_a_split_with_labels(dataset: Dataset) -> None:
    held_out = dataset.split("val")
    assert "split 'train' is empty (splits: val)" in only_problem(held_out)
    assert check(held_out, training=False) == []
    bare = dataset.with_samples([replace(s, labels=Labels()) for s in dataset])
    assert "none of the 3 images of split 'train' has a label" in only_problem(bare)


def test_white_objects_are_not_taken_for_ignored_pixels(dataset: Dataset) -> None:
    write_mask(dataset.root / "semantic.png", np.eye(10, 20, dtype=np.uint8) * 255)
    assert "no training mask marks any category, yet some hold 255" in only_problem(dataset)


def test_category_names(dataset: Dataset) -> None:
    renamed = Dataset(dataset.root, ("cat", "cat", "dog"), dataset.samples)
    assert len(check(renamed)) == 2


def test_require_clean_raises_all_problems_in_order(dataset: Dataset) -> None:
    bad = with_labels(with_sample(dataset, 0, image="no.png"), boxes=(Box(0, 0, 99, 99, 9),))
    with pytest.raises(DataError) as error:
        require_clean(bad)
    assert error.value.problems == check(bad)
    assert [any(p in line for p in ("no.png", "unknown", "outside")) for line in error.value.problems] == [True] * 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real data is not here")
@pytest.mark.parametrize("name", ["polyps", "polyps/splits_masks_only.json", "nuclei", "saliency", "cats", "streets"])
def test_real_data_is_clean(name: str) -> None:
    dataset = Dataset.load(SHARED / name)
    assert len(dataset) >= 240
    assert check(dataset.with_samples(dataset.samples[::12])) == []
