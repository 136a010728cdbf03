"""CVAT for images 1.1: as its documentation has it, both ways, against datumaro, and with everything that can be wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.formats import cvat, rle
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Samples, Scribble, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError
from tests.data.random_masks import write_random

# ruff: noqa: E501  lines as the documentation has them
DOCUMENTED = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>4</id>
      <name>segmentation</name>
      <size>2</size>
      <mode>annotation</mode>
      <overlap>0</overlap>
      <bugtracker></bugtracker>
      <flipped>False</flipped>
      <created>2018-09-25 11:34:24.617558+03:00</created>
      <labels>
        <label>
          <name>car</name>
          <color>#c06060</color>
          <type>any</type>
          <attributes></attributes>
        </label>
        <label><name>traffic_line</name><attributes/></label>
        <label><name>wheel</name><attributes/></label>
        <label><name>plate</name><attributes/></label>
        <label><name>s1</name><type>skeleton</type><attributes/></label>
        <label><name>1</name><type>points</type><attributes/><parent>s1</parent></label>
      </labels>
    </task>
    <dumped>2018-09-25 11:38:28.799808+03:00</dumped>
  </meta>
  <image id="0" name="filename000.jpg" width="1600" height="1200">
    <box label="plate" xtl="797.33" ytl="870.92" xbr="965.52" ybr="928.94" rotation="0.00" source="manual" occluded="0" z_order="4">
    </box>
    <polygon label="car" points="561.30,916.23;561.30,842.77;554.72,761.63;553.62,716.67;565.68,677.20" source="manual" occluded="0" z_order="0">
      <attribute name="model">a</attribute>
    </polygon>
    <polyline label="traffic_line" source="manual" occluded="0" points="126.80,780.45;85.67,792.91;3.16,802.98" z_order="1"></polyline>
    <points label="wheel" source="manual" occluded="0" points="933.81,443.34;970.66,448.17" z_order="6"></points>
    <tag label="plate" source="manual"></tag>
    <cuboid label="car" source="manual" occluded="0" xtl1="2.0" ytl1="1.0" z_order="0"></cuboid>
    <skeleton label="s1" source="manual" z_order="0"><points label="1" occluded="0" source="manual" outside="0" points="1.5,2.5"></points></skeleton>
    <mask label="car" source="manual" occluded="0" rle="3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1, 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3" left="707" top="888" width="13" height="15" z_order="0"></mask>
  </image>
  <image id="1" name="empty.jpg" width="8" height="6"></image>
</annotations>
"""


def make(root: Path, text: str, sizes: dict[str, tuple[int, int]] | None = None) -> Path:
    for name, size in (sizes or {"a.png": (20, 10)}).items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / "images" / name)
    (root / "annotations.xml").write_text(text)
    return root


def one(shapes: str, image: str = 'id="0" name="a.png" width="20" height="10"') -> str:
    return f"<annotations><version>1.1</version><image {image}>{shapes}</image></annotations>"


def problems(path: Path) -> str:
    with pytest.raises(DataError) as error:
        cvat.read(path)
    assert all(line.isprintable() for line in error.value.problems)
    return "\n".join(error.value.problems)


def test_the_documented_sample_is_read(tmp_path: Path) -> None:
    make(tmp_path, DOCUMENTED, {"filename000.jpg": (1600, 1200), "empty.jpg": (8, 6)})
    for path in (tmp_path, tmp_path / "annotations.xml"):
        assert cvat.detect(path, None)
        dataset = cvat.read(path)
    assert dataset.categories == ("background", "car", "traffic_line", "wheel", "plate", "s1")
    first, second = dataset
    assert (first.id, first.image, first.size, first.split) == (
        "filename000",
        "images/filename000.jpg",
        (1600, 1200),
        "train",
    )
    assert first.labels.boxes == (Box(797.33, 870.92, 965.52, 928.94, 4),)
    assert first.labels.scribbles == (Scribble(((126.8, 780.45), (85.67, 792.91), (3.16, 802.98)), 2),)
    assert first.labels.points == (Point(933.81, 443.34, 3), Point(970.66, 448.17, 3))
    assert first.labels.tags == (Tag(4),)
    assert first.labels.mask is not None
    assert first.labels.mask.categories == {1: 1, 2: 1}
    ids = read_mask(tmp_path / first.labels.mask.path)
    outline = [561.30, 916.23, 561.30, 842.77, 554.72, 761.63, 553.62, 716.67, 565.68, 677.20]
    np.testing.assert_array_equal(ids == 1, rle.polygon(outline, (1200, 1600)))
    # The mask by hand: an ellipse of 13 x 15 pixels; its first row has three of background, five of the object, five of background.
    assert (ids == 2)[888, 707:720].tolist() == [False] * 3 + [True] * 5 + [False] * 5
    rows = [5, 7, 9, 11, 11, 12, 12, 13, 13, 12, 12, 11, 9, 7, 5]
    assert (ids == 2)[888:903, 707:720].sum(1).tolist() == rows
    assert (ids == 2).sum() == sum(rows)
    assert second.labels == Labels()
    assert sorted(warning.message for warning in dataset.warnings) == [
        "1 cuboids are left out, such as image 'filename000.jpg': cuboid 0",
        "1 skeletons are left out, such as image 'filename000.jpg': skeleton 0",
    ]
    # A mask is complete here, and the boxes say that it is not.
    assert {problem.kind for problem in examine(Dataset(**vars(dataset))).problems} == {"box-without-mask"}


def test_turned_shapes_layers_subsets_and_names(tmp_path: Path) -> None:
    shapes = (
        '<box label="a" xtl="6" ytl="2" xbr="12" ybr="4" rotation="90" />'
        '<ellipse label="b" cx="5" cy="5" rx="4" ry="3" rotation="0" z_order="1"/>'
        '<polygon label="a" points="1,1;19,1;19,9;1,9" z_order="2"/>'
        '<polygon label="b" points="2,2;4,2;4,4;2,4" z_order="2"/>'
    )
    text = one(shapes, 'id="0" name="v/a.png" width="20" height="10" subset="Validation"')
    dataset = cvat.read(make(tmp_path, text, {"Validation/v/a.png": (20, 10)}))
    sample = dataset[0]
    assert dataset.categories == ("background", "a", "b")
    assert (sample.id, sample.image, sample.split) == ("a", "images/Validation/v/a.png", "val")
    assert [tuple(round(v, 9) for v in box.xyxy) for box in sample.labels.boxes] == [(8, 0, 10, 6)]
    ids = read_mask(tmp_path / sample.labels.mask.path)  # type: ignore[union-attr]
    assert sorted(np.unique(ids)) == [0, 2, 3]  # The ellipse is wholly behind.
    assert (ids == 3).sum() == 4
    assert [warning.kind for warning in dataset.warnings] == ["turned-box"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_masks_stay_bit_for_bit(tmp_path: Path, seed: int) -> None:
    dataset = write_random(tmp_path / "in", 1000 if seed else 150, seed=seed)
    assert cvat.loss(dataset) == []
    again = cvat.read(cvat.write(dataset, tmp_path / "out"))
    assert again.categories == dataset.categories
    assert [(s.id, s.split) for s in again] == [(s.id, s.split) for s in dataset]
    for before, after in zip(dataset, again, strict=True):
        assert before.labels.mask is not None
        assert after.labels.mask is not None
        np.testing.assert_array_equal(
            read_mask(tmp_path / "out" / after.labels.mask.path), read_mask(tmp_path / "in" / before.labels.mask.path)
        )
        assert after.labels.mask.categories == before.labels.mask.categories
    assert again.warnings == ()


def test_semantic_masks_become_one_object_for_each_category(tmp_path: Path) -> None:
    dataset = write_random(tmp_path / "in", 30, semantic=True)
    assert cvat.loss(dataset) == ["30 semantic masks (each category of an image becomes one object, 255 is dropped)"]
    again = cvat.read(cvat.write(dataset, tmp_path / "out"))
    for before, after in zip(dataset, again, strict=True):
        values = read_mask(tmp_path / "in" / before.labels.mask.path)  # type: ignore[union-attr]
        mask = after.labels.mask
        assert mask is not None
        ids = read_mask(tmp_path / "out" / mask.path)
        table = np.array([0, *(mask.categories[id] for id in range(1, len(mask.categories) + 1))], np.uint8)
        np.testing.assert_array_equal(table[ids], np.where(values == 255, 0, values))


def test_weak_labels_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcd":
        Image.new("RGB", (30, 20)).save(tmp_path / "in" / f"{name}.png")
    write_mask(tmp_path / "in" / "m.png", np.zeros((20, 30), np.uint8))
    labels = Labels(
        boxes=(Box(1, 2.25, 1 / 3 + 7, 9, 1), Box(0, 0, 30, 20, 2)),
        scribbles=(Scribble(((1.5, 2.5), (29.125, 0.1)), 0), Scribble(((3, 4), (5, 6), (7, 8)), 2)),
        points=(Point(1.5, 2.5, 1), Point(0, 19.5, 0)),
        tags=(Tag(2), Tag(1)),
    )
    empty = Labels(Mask("m.png", "instance"))
    samples = [Sample(n, f"{n}.png", "test", x) for n, x in zip("abc", (labels, empty, Labels()))]
    dataset = Samples(tmp_path / "in", ("background", "cat", "dog"), tuple(samples))
    again = cvat.read(cvat.write(dataset, tmp_path / "out"))
    assert again.categories == dataset.categories
    assert [sample.split for sample in again] == ["test"] * 3
    assert again[0].labels == labels
    assert again[1].labels.mask is not None
    assert read_mask(tmp_path / "out" / again[1].labels.mask.path).any() == np.False_
    assert again[2].labels == Labels()
    single = replace(labels, scribbles=(Scribble(((3, 4),), 1),))
    lossy = dataset.with_samples([Sample("a", "a.png", labels=single)])
    assert cvat.loss(lossy) == ["1 scribbles of a single point (they become points)"]


def test_datumaro_reads_the_same(tmp_path: Path) -> None:
    base = pytest.importorskip("datumaro.plugins.data_formats.cvat.base")
    dataset = write_random(tmp_path / "in", 60)
    dataset = dataset.with_samples([replace(sample, split="train") for sample in dataset])
    cvat.write(dataset, tmp_path / "out")
    items = {item.id: item for item in base.CvatBase(str(tmp_path / "out" / "annotations.xml"))}
    assert len(items) == len(dataset)
    for sample in dataset:
        mask = sample.labels.mask
        assert mask is not None
        ids = read_mask(tmp_path / "in" / mask.path)
        shapes = items[sample.id].annotations
        assert len(shapes) == len(mask.categories)
        for id, shape in enumerate(shapes, start=1):
            np.testing.assert_array_equal(np.asarray(shape.image, bool), ids == id)
            assert shape.label + 1 == mask.categories[id]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a/>", "is no CVAT file, its root is 'a'"),
        ("<annotations><track/></annotations>", "CVAT for video"),
        ("<annotations/>", "has no image"),
        (one("", 'id="0" width="20" height="10"'), "images[0].name: is missing"),
        (one("", 'id="0" name="a.png" height="10"'), "image 'a.png'.width: is missing"),
        (one("", 'id="0" name="a.png" width="1e400" height="10"'), "image 'a.png'.width: must hold whole numbers"),
        (one("", 'id="0" name="a.png" width="90000" height="90000"'), "are not those of an image"),
        (one("", 'id="0" name="../../a.png" width="20" height="10"'), "'../../a.png' leaves the dataset's folder"),
        (one("", 'id="0" name="a.png" width="20" height="10" labelled="2"'), "labelled: must be 0 or 1"),
        (one('<tag source="manual"/>'), "tag: has no label"),
        (one('<what label="a"/>'), "what 0: is no shape of CVAT's"),
        (one('<polygon label="a" points="1,1;2"/>'), "polygon 0.points: must be x,y;x,y;..."),
        (one('<polygon label="a" points="1,1;2,2"/>'), "polygon 0.points: a polygon needs x and y"),
        (one('<polygon label="a" points="1,1;2,nan;3,3"/>'), "polygon 0.points: must hold finite numbers"),
        (one('<polygon label="a" points="1,1;2,1_0;3,3"/>'), "polygon 0.points: must hold finite numbers"),
        (one('<polygon label="a"/>'), "polygon 0.points: is missing"),
        (one('<points label="a" points="30,1"/>'), "points 0.points: lies outside the image of 20 x 10"),
        (one('<box label="a" xtl="50" ytl="1" xbr="70" ybr="3"/>'), "reaches outside the image of 20 x 10 by far"),
        (one('<ellipse label="a" cx="5" cy="5" rx="0" ry="2"/>'), "its radii [0.0, 2.0] must be positive"),
        (one('<mask label="a" rle="1,3" left="0" top="0" width="2" height="3"/>'), "mask 0.rle: run lengths must be"),
        (one('<mask label="a" rle="1,3" left="19" top="0" width="2" height="2"/>'), "are not inside the image"),
        (one('<mask label="a" rle="0,-3" left="0" top="0" width="2" height="2"/>'), "mask 0.rle: run lengths must be"),
        (one('<mask label="a" rle="0.5,3" left="0" top="0" width="2" height="2"/>'), "must hold whole numbers"),
        (one('<tag label="a"/>', 'id="0" name="a.png" width="10" height="20"'), None),
        (
            one('<polygon label="a" points="1,1;9,1;9,9"/>', 'id="0" name="a.png" width="10" height="20"'),
            "says 10 x 20 pixels, but a.png, turned as its EXIF data say, has 20 x 10",
        ),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + one(""), "has a document type"),
    ],
)
def test_problems_name_the_place(tmp_path: Path, text: str, expected: str | None) -> None:
    path = make(tmp_path, text)
    if expected is None:  # The check compares the size of what needs no drawing.
        assert "20x10" in str(examine(Dataset(**vars(cvat.read(path)))).problems).replace(" x ", "x")
    else:
        assert expected in problems(path)


def test_a_name_that_xml_cannot_hold_is_refused(tmp_path: Path) -> None:
    dataset = write_random(tmp_path / "in", 2)
    with pytest.raises(DataError, match="XML cannot hold"):
        cvat.write(replace(dataset, categories=("background", "cat\ufffe", "dog", "bird")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
