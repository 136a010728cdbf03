"""Merged datasets say what their parts said, by the names of their categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright import api
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.images import read_image
from maskwright.data.items import read_item
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Scribble, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError


def make(root: Path, categories: tuple[str, ...], labels: dict[str, Labels], shade: int = 0) -> Dataset:
    (root / "images").mkdir(parents=True)
    samples = []
    for i, (name, label) in enumerate(labels.items()):
        Image.fromarray(np.full((8, 10, 3), shade + i, np.uint8)).save(root / f"images/{name}.png")
        samples.append(Sample(name, f"images/{name}.png", "val" if i else "train", label))
    dataset = Dataset(root, categories, tuple(samples))
    dataset.save()
    return dataset


@pytest.fixture
def parts(tmp_path: Path) -> list[Dataset]:
    semantic = np.zeros((8, 10), np.uint8)
    semantic[:2], semantic[2:4], semantic[4] = 1, 2, 255
    instances = np.zeros((8, 10), np.uint16)
    instances[:2], instances[3:5] = 7, 300
    write_mask(tmp_path / "a/masks/x.png", semantic)
    write_mask(tmp_path / "b/masks/x.png", semantic)
    write_mask(tmp_path / "b/masks/y.png", instances)
    lines = Labels(
        None, (Scribble(((1.0, 1.0), (5.0, 1.0)), 1),), (Box(1, 1, 5, 5, 2),), (Point(2.0, 2.0, 0),), (Tag(1), Tag(2))
    )
    first = make(tmp_path / "a", ("background", "cat", "dog"), {"x": Labels(mask=Mask("masks/x.png")), "z": Labels()})
    marks = {
        "x": Labels(mask=Mask("masks/x.png")),
        "y": Labels(mask=Mask("masks/y.png", "instance", {300: 2})),
        "w": lines,
    }
    return [first, make(tmp_path / "b", ("background", "dog", "bird"), marks, shade=100)]


def named(dataset: Dataset, id: str) -> np.ndarray:
    """The names of the categories at each pixel."""
    sample = next(sample for sample in dataset if sample.id == id)
    mask = read_item(dataset, sample).mask
    assert mask is not None
    return np.array([*dataset.categories, *["?"] * 256], object)[mask]


def test_categories_are_the_same_where_their_names_are(parts: list[Dataset], tmp_path: Path) -> None:
    before = read_mask(tmp_path / "b/masks/x.png").copy()
    result = api.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    merged = result.dataset
    assert merged.categories == ("background", "cat", "dog", "bird")
    assert [sample.id for sample in merged] == ["a-x", "z", "b-x", "y", "w"]
    assert [sample.split for sample in merged] == ["train", "val", "train", "val", "val"]
    assert (result.images, result.renamed, result.rewritten, result.left_out) == ((2, 3), 2, 2, 0)
    for old, id, new in ((0, "x", "a-x"), (1, "x", "b-x"), (1, "y", "y")):
        assert np.array_equal(named(parts[old], id), named(merged, new))
    assert np.array_equal(read_mask(tmp_path / "out/masks/y.png"), read_mask(tmp_path / "b/masks/y.png"))
    labels = merged[4].labels
    assert [
        merged.categories[each.category] for each in (*labels.scribbles, *labels.boxes, *labels.points, *labels.tags)
    ] == [
        "dog",
        "bird",
        "background",
        "dog",
        "bird",
    ]
    assert np.array_equal(read_image(merged.image_path(merged[2])), read_image(parts[1].image_path(parts[1][0])))
    # The files of the parts are linked: rewriting must not reach them.
    assert np.array_equal(read_mask(tmp_path / "b/masks/x.png"), before)
    assert not check(merged)


def test_what_a_part_does_not_name_is_said_to_count_as_background(parts: list[Dataset], tmp_path: Path) -> None:
    warnings = api.merge(parts, tmp_path / "out").warnings
    assert [warning.message.partition(",")[0] for warning in warnings] == [
        "1 masks or tags say that there is no 'bird'",
        "3 masks or tags say that there is no 'cat'",
    ]


def test_the_same_picture_is_refused_or_taken_once(parts: list[Dataset], tmp_path: Path) -> None:
    with Image.open(parts[0].image_path(parts[0][1])) as image:
        image.save(tmp_path / "b/images/w.png", compress_level=0)
    with pytest.raises(DataError, match=r"w\.png: is the same picture as .*z\.png; give --twins first"):
        api.merge(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    first = api.merge(parts, tmp_path / "first", twins="first")
    assert (len(first.dataset), first.left_out, first.images) == (4, 1, (2, 2))
    assert len(api.merge(parts, tmp_path / "keep", twins="keep").dataset) == 5


def test_a_single_dataset_is_no_merge_and_a_category_without_a_name_is_refused(
    parts: list[Dataset], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="takes two datasets or more"):
        api.merge(parts[:1], tmp_path / "out")
    write_mask(tmp_path / "b/masks/x.png", np.full((8, 10), 9, np.uint8))
    with pytest.raises(DataError, match="holds category 9, which has no name"):
        api.merge(parts, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
