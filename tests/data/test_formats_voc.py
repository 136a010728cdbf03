"""Pascal VOC: as its development kit documents it, both ways, against datumaro, and with everything that can be wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.formats import voc
from maskwright.data.formats.voc_masks import colormap
from maskwright.data.formats.voc_names import OFFICIAL
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Samples, Tag
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError
from tests.data.random_masks import write_random

SIZE = (40, 30)

# As the development kit of VOC 2007 shows it.
DOCUMENTED = """<annotation>
    <folder>VOC2007</folder>
    <filename>a.jpg</filename>
    <source><database>The VOC2007 Database</database><annotation>PASCAL VOC2007</annotation></source>
    <size><width>40</width><height>30</height><depth>3</depth></size>
    <segmented>0</segmented>
    <object>
        <name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
        <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>
    </object>
    <object>
        <name>person</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
        <bndbox><xmin>8</xmin><ymin>12</ymin><xmax>35</xmax><ymax>20</ymax></bndbox>
        <part><name>head</name><bndbox><xmin>9</xmin><ymin>12</ymin><xmax>12</xmax><ymax>14</ymax></bndbox></part>
    </object>
</annotation>
"""


def image(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(root / name)
    return root


def text(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def mask(path: Path, values: np.ndarray, palette: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8), "P")
    picture.putpalette((colormap() if palette is None else palette).ravel().tolist())
    picture.save(path)


def xml(*objects: tuple[str, float, float, float, float], size: str = "") -> str:
    rows = [
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in objects
    ]
    return f"<annotation>{size}{''.join(rows)}</annotation>"


def squares() -> np.ndarray:
    """Two objects, 1 and 2."""
    values = np.zeros(SIZE[::-1], np.uint8)
    values[2:9, 3:12], values[15:20, 20:33] = 1, 2
    return values


def problems(path: Path) -> str:
    with pytest.raises(DataError) as error:
        voc.read(path)
    return "\n".join(error.value.problems)


def kinds(dataset: Samples) -> list[str]:
    return sorted(warning.kind for warning in dataset.warnings)


# ------------------------------------------------------------------------------------------------------------- reading


def test_the_colours_are_those_of_the_development_kit() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), 255: (224, 224, 192)}
    assert {id: tuple(colormap()[id].tolist()) for id in known} == known


def test_the_layout_of_the_challenge(tmp_path: Path) -> None:
    image(tmp_path, *(f"JPEGImages/{name}.jpg" for name in "abcd"))
    lists = {
        "Segmentation/train": "a\n",
        "Segmentation/val": "b\n",
        "Main/train": "a\nc\n",
        "Main/trainval": "a\nb\nc\n",
    }
    lists |= {"Main/dog_train": "a  1\nc -1\n", "Main/val": "b\n"}
    text(tmp_path, {f"ImageSets/{name}.txt": lines for name, lines in lists.items()})
    text(tmp_path, {"Annotations/a.xml": DOCUMENTED, "Annotations/gone.xml": xml()})
    for name in "ab":
        values = squares()
        border = values.copy()
        border[2, 3:12] = 255
        mask(tmp_path / f"SegmentationClass/{name}.png", np.where(border == 1, 15, np.where(border == 2, 12, border)))
        mask(tmp_path / f"SegmentationObject/{name}.png", border)
    (tmp_path / "ImageSets/Main/dog_train.txt").unlink()
    assert voc.detect(tmp_path, None)
    dataset = voc.read(tmp_path)
    assert dataset.categories == ("background", *OFFICIAL)
    assert dataset.format == "Pascal VOC, boxes counted from 1"
    assert [(s.id, s.split, s.labels.kind.name) for s in dataset] == [
        ("a", "train", "MASK"),
        ("b", "val", "MASK"),
        ("c", "train", "NONE"),
    ]
    dog, person = OFFICIAL.index("dog") + 1, OFFICIAL.index("person") + 1
    assert dataset[0].labels.boxes == (Box(0, 1, 40, 30, dog), Box(7, 11, 35, 20, person))
    assert dataset[0].labels.mask == Mask("SegmentationClass/a.png")
    assert np.unique(read_mask(tmp_path / "SegmentationClass/a.png")).tolist() == [0, dog, person, 255]
    assert kinds(dataset) == ["left-out", "left-out", "objects-left-out"]
    assert "1 images in no list" in "".join(dataset.warnings)
    assert "1 files of Annotations/ without an image" in "".join(dataset.warnings)


def test_objects_are_read_where_they_say_all_that_categories_do(tmp_path: Path) -> None:
    image(tmp_path, "JPEGImages/a.png", "JPEGImages/b.png")
    text(
        tmp_path,
        {"labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"},
    )
    mask(tmp_path / "SegmentationObject/a.png", squares())
    mask(tmp_path / "SegmentationClass/a.png", np.where(squares() == 1, 2, squares() > 0))
    mask(tmp_path / "SegmentationClass/b.png", np.zeros((30, 40)))
    mask(tmp_path / "SegmentationObject/b.png", np.zeros((30, 40)))
    dataset = voc.read(tmp_path)
    assert dataset.categories == ("background", "cat", "dog")
    assert [s.labels.mask for s in dataset] == [
        Mask("SegmentationObject/a.png", "instance", {1: 2, 2: 1}),
        Mask("SegmentationObject/b.png", "instance", {}),
    ]
    assert dataset.warnings == ()
    (tmp_path / "SegmentationObject/b.png").unlink()
    assert voc.read(tmp_path)[0].labels.mask == Mask("SegmentationClass/a.png")
    assert kinds(voc.read(tmp_path)) == ["objects-left-out"]


def test_objects_alone_have_the_categories_of_the_xml_file_in_its_order(tmp_path: Path) -> None:
    image(tmp_path, "JPEGImages/a.png")
    values = squares()
    values[0, 0] = 255
    mask(tmp_path / "SegmentationObject/a.png", values)
    text(tmp_path, {"Annotations/a.xml": xml(("dog", 1, 1, 5, 5), ("cat", 6, 6, 9, 9))})
    dataset = voc.read(tmp_path)
    found = dataset[0].labels.mask
    assert found is not None
    assert {id: dataset.categories[c] for id, c in found.categories.items()} == {1: "dog", 2: "cat"}
    np.testing.assert_array_equal(read_mask(tmp_path / found.path), squares())
    assert "undecided pixels (255), which become background" in "".join(dataset.warnings)
    text(tmp_path, {"Annotations/a.xml": xml(("dog", 1, 1, 5, 5))})
    text(tmp_path, {"labelmap.txt": "cat:::\ndog:::\n"})
    assert "nothing says of which category its 2 objects are" in problems(tmp_path)


def test_masks_of_colours_as_cvat_writes_them(tmp_path: Path) -> None:
    image(tmp_path, "JPEGImages/a.png", "JPEGImages/b.png", "JPEGImages/c.png")
    lines = ["background:0,0,0::", "cat:250,50,83::", "dog:51,221,255::"]
    text(tmp_path, {"labelmap.txt": "\n".join(lines), "ImageSets/Segmentation/default.txt": "a\nb\nc\n"})
    palette = np.zeros((256, 3), np.uint8)
    palette[:3] = (0, 0, 0), (250, 50, 83), (51, 221, 255)
    expected = squares()
    (tmp_path / "SegmentationClass").mkdir()
    Image.fromarray(palette[expected]).save(tmp_path / "SegmentationClass/a.png")
    mask(tmp_path / "SegmentationClass/b.png", expected, palette)
    swapped = np.where(expected > 0, 3 - expected, 0)
    mask(tmp_path / "SegmentationClass/c.png", swapped, palette[[0, 2, 1, *range(3, 256)]])
    dataset = voc.read(tmp_path)
    assert dataset.categories == ("background", "cat", "dog")
    assert {s.split for s in dataset} == {"train"}
    for sample in dataset:
        assert sample.labels.mask is not None
        np.testing.assert_array_equal(read_mask(tmp_path / sample.labels.mask.path), expected)
    assert dataset[1].labels.mask == Mask("SegmentationClass/b.png")
    Image.fromarray(palette[expected] + np.uint8(1)).save(tmp_path / "SegmentationClass/a.png")
    assert "no category has the colour #010101 (1,072 pixels), #34de00 (65 pixels), #fb3354 (63" in problems(tmp_path)


def test_labelmes_folders_and_palettes_that_say_nothing(tmp_path: Path) -> None:
    image(tmp_path, "JPEGImages/a.jpg", "SegmentationClassVisualization/a.jpg")
    text(tmp_path, {"class_names.txt": "_background_\nperson\nbottle\n"})
    mask(tmp_path / "SegmentationClassPNG/a.png", squares(), np.random.default_rng(0).integers(1, 99, (256, 3)))
    dataset = voc.read(tmp_path)
    assert dataset.categories == ("background", "person", "bottle")
    assert dataset[0].labels.mask == Mask("SegmentationClassPNG/a.png")
    (tmp_path / "class_names.txt").unlink()
    assert voc.read(tmp_path).categories == ("background", "class_1", "class_2")
    assert kinds(voc.read(tmp_path)) == ["no-names"]


def test_xml_beside_images_as_roboflow_leaves_it(tmp_path: Path) -> None:
    image(tmp_path, "train/a.jpg", "valid/b.jpg", "valid/c.jpg")
    sized = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    outline = xml(("cat", 1, 2, 9, 8)).replace("</object>", "<polygon><x1>1</x1><y1>1</y1></polygon></object>")
    files = {"train/a.xml": xml(("cat", 0, 2, 9, 8), ("background", 1, 1, 3, 3), size=sized), "valid/b.xml": xml()}
    text(tmp_path, files | {"valid/c.xml": outline})
    assert voc.detect(tmp_path, None)
    dataset = voc.read(tmp_path)
    assert dataset.format == "Pascal VOC, boxes in coordinates from 0"
    assert [(s.id, s.split, s.labels.boxes) for s in dataset] == [
        ("a", "train", (Box(0, 2, 9, 8, 1),)),
        ("b", "val", ()),
        ("c", "val", (Box(1, 2, 9, 8, 1),)),
    ]
    assert dataset[1].labels.mask is not None  # No object was found there.
    assert not read_mask(tmp_path / dataset[1].labels.mask.path).any()
    assert kinds(dataset) == ["left-out"]


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("semantic", [False, True])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_masks_stay_bit_for_bit(tmp_path: Path, seed: int, semantic: bool) -> None:
    dataset = write_random(tmp_path / "in", 1000 if seed else 100, seed=seed, semantic=semantic)
    dataset = replace(dataset, categories=("background", "cat", "dog", 'a <bird> & "co"'))
    many = [
        s
        for s in dataset
        if s.labels.mask and not semantic and read_mask(dataset.root / s.labels.mask.path).max() > 254
    ]
    lost = voc.loss(dataset)
    assert lost == (
        [f"the objects of {len(many)} masks with more than 254 (their categories are kept)"] if many else []
    )
    assert semantic or many
    dataset = dataset.with_samples([sample for sample in dataset if sample not in many])
    assert voc.loss(dataset) == []
    again = voc.read(voc.write(dataset, tmp_path / "out"))
    assert again.categories == dataset.categories
    assert again.warnings == ()
    order = {sample.id: sample for sample in again}
    assert len(order) == len(dataset)
    for before in dataset:
        after = order[before.id]
        assert before.labels.mask is not None
        assert after.labels.mask is not None
        assert (after.split, after.labels.mask.kind) == (before.split, before.labels.mask.kind)
        np.testing.assert_array_equal(
            read_mask(tmp_path / "out" / after.labels.mask.path), read_mask(tmp_path / "in" / before.labels.mask.path)
        )
        assert after.labels.mask.categories == before.labels.mask.categories


def test_datumaro_reads_the_same_masks(tmp_path: Path) -> None:
    components = pytest.importorskip("datumaro.components.dataset")
    dataset = write_random(tmp_path / "in", 40, seed=5)
    small = [s for s in dataset if s.labels.mask and 0 < len(s.labels.mask.categories) < 255]
    dataset = dataset.with_samples([replace(sample, split="train") for sample in small])
    again = components.Dataset.import_from(str(voc.write(dataset, tmp_path / "out")), "voc_instance_segmentation")
    found = {item.id: item.annotations for item in again}
    assert found.keys() == {sample.id for sample in dataset}
    for sample in dataset:
        assert sample.labels.mask is not None
        ids = read_mask(tmp_path / "in" / sample.labels.mask.path)
        masks = {one.group: one for one in found[sample.id] if type(one).__name__.endswith("Mask")}
        assert masks.keys() == sample.labels.mask.categories.keys()
        for id, one in masks.items():
            np.testing.assert_array_equal(np.asarray(one.image, bool), ids == id)
            assert one.label == sample.labels.mask.categories[id]


@pytest.mark.parametrize("whole", [True, False])
def test_boxes_stay_as_they_are(tmp_path: Path, whole: bool) -> None:
    image(tmp_path / "in", "a.png", "b.png", "c.png")
    write_mask(tmp_path / "in" / "m.png", np.where(squares() == 2, 255, squares()).astype(np.uint8))
    boxes = (Box(1, 2, 9, 12, 1), Box(0, 0, 40, 30, 2))
    more = boxes if whole else (*boxes, Box(1 / 3, 4.5, 6, 7.125, 2))
    labels = {"a": Labels(boxes=more), "my b": Labels(Mask("m.png"), boxes=boxes), "c": Labels()}
    samples = [Sample(id, f"{id[-1]}.png", "fold 1", one) for id, one in labels.items()]
    dataset = Samples(tmp_path / "in", ("background", "cat", "dog"), tuple(samples))
    assert voc.loss(dataset) == []
    again = voc.read(voc.write(dataset, tmp_path / "out"))
    assert {s.id: s.labels.boxes for s in again} == {s.id: s.labels.boxes for s in dataset}
    assert {s.split for s in again} == {"fold 1"}
    assert again.format.endswith("counted from 1" if whole else "coordinates from 0")
    assert [s.labels.mask is not None for s in again] == [s.labels.mask is not None for s in dataset] or len(again) == 3
    assert {s.id: s.labels.kind.name for s in again} == {"a": "BOX", "my b": "MASK", "c": "NONE"}
    assert [p for p in examine(Dataset(**vars(again)), training=False).problems if p.kind != "unknown-category"] == []


def test_what_it_cannot_hold_is_named(tmp_path: Path) -> None:
    image(tmp_path / "in", "a.png")
    labels = Labels(points=(Point(1, 1, 1),), tags=(Tag(1),))
    dataset = Samples(tmp_path / "in", ("background", "cat"), (Sample("a", "a.png", "trainval", labels),))
    dataset = dataset.with_samples([*dataset, Sample("b", "a.png", "Testing")])
    assert voc.loss(dataset) == ["1 points", "1 tags", "the splits Testing, trainval (they are read as test, train)"]
    assert {s.id: s.split for s in voc.read(voc.write(dataset, tmp_path / "out"))} == {"a": "train", "b": "test"}
    for change, expected in (
        ({"categories": ("background", "a:b")}, "cannot be a line of labelmap.txt"),
        ({"categories": ("background", "#a")}, "cannot be a line of labelmap.txt"),
        ({"categories": ("background", "a\ufffe")}, "XML cannot hold"),
        ({"categories": ("background", *map(str, range(255)))}, "254 categories at most"),
        ({"samples": (Sample('a"', "a.png"),)}, "cannot be a line of a list"),
        ({"samples": (Sample("a", "a.png", "a/b"),)}, "cannot be a file name"),
    ):
        with pytest.raises(DataError, match=expected):
            voc.write(replace(dataset, **change), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(DataError, match="is not empty"):
        voc.write(dataset, tmp_path / "out")


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<a/>", "Annotations/a.xml: is no annotation of Pascal VOC, its root is 'a'"),
        ("<annotation>", "Annotations/a.xml: not valid XML"),
        ('<!DOCTYPE annotation [<!ENTITY b "c">]>' + xml(), "has a document type"),
        (
            xml(("cat", 1, 2, 3, 4)).replace("<xmin>1</xmin>", ""),
            "object[0].bndbox.xmin: must be a finite number, found ''",
        ),
        (xml(("cat", 1, 2, "nan", 4)), "object[0].bndbox.xmax: must be a finite number"),  # type: ignore[arg-type]
        (xml(("cat", 1, 2, "1_0", 4)), "object[0].bndbox.xmax: must be a finite number"),  # type: ignore[arg-type]
        (xml(("", 1, 2, 3, 4)), "object[0].name: '' is no category's name"),
        ("<annotation><object><name>a</name></object></annotation>", "object[0].bndbox: is missing"),
        (xml(("cat", 100, 2, 300, 4)), "object[0]: reaches outside the image of 40 x 30 by far"),
        (
            xml(size="<size><width>30</width><height>40</height></size>"),
            "says 30 x 40 pixels, but JPEGImages/a.png has 40 x 30",
        ),
        (xml(size="<size><width>-1</width><height>40</height></size>"), "are not those of an image"),
    ],
)
def test_faults_of_xml_name_the_place(tmp_path: Path, content: str, expected: str) -> None:
    image(tmp_path, "JPEGImages/a.png")
    assert expected in problems(text(tmp_path, {"Annotations/a.xml": content}))


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("labelmap.txt", "cat:1,2::\n", "labelmap.txt: line 1: '1,2' is no colour red,green,blue"),
        ("labelmap.txt", "cat:1,2,300::\n", "is no colour red,green,blue"),
        ("labelmap.txt", "cat:::\n\ncat:::\n", "labelmap.txt: line 3: 'cat' is no name, or is there twice"),
        ("labelmap.txt", "dog:::\n", "object[0].name: 'cat' is in no list of names"),
        ("labelmap.txt", "\udcff", "cannot be read as text"),
        ("ImageSets/Main/train.txt", "a\nzz\n", "ImageSets/Main/train.txt: line 2: there is no image JPEGImages/zz.*"),
        ("ImageSets/Segmentation/val.txt", "a\n", "ImageSets/Segmentation/val.txt: line 1: 'a' is in train too"),
        ("JPEGImages/b.xml", "", None),
        ("JPEGImages/a.bmp", "", "has the same name as JPEGImages/a.bmp"),
    ],
)
def test_faults_of_lists_name_the_place(tmp_path: Path, file: str, content: str, expected: str | None) -> None:
    image(tmp_path, "JPEGImages/a.png")
    text(tmp_path, {"Annotations/a.xml": xml(("cat", 1, 2, 3, 4)), "ImageSets/Segmentation/train.txt": "a\n"})
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(content.encode(errors="surrogateescape"))
    if expected is None:
        assert voc.read(tmp_path).categories == ("background", *OFFICIAL)
    else:
        assert expected in problems(tmp_path)


def test_other_faults(tmp_path: Path) -> None:
    empty = text(tmp_path / "empty", {"Annotations/a.xml": xml()})
    assert "holds no image" in problems(empty)
    assert "is a folder; name that with JPEGImages/" in problems(empty / "Annotations/a.xml")
    sizes = image(tmp_path / "sizes", "JPEGImages/a.png")
    mask(sizes / "SegmentationClass/a.png", squares())
    mask(sizes / "SegmentationObject/a.png", squares().T)
    assert "its size and that of the mask of categories are 30 x 40 and 40 x 30" in problems(sizes)
    gone = image(tmp_path / "gone", "JPEGImages/a.png")
    (gone / "JPEGImages/a.png").write_bytes(b"no image")
    text(gone, {"Annotations/a.xml": xml()})
    assert "its size is not known" in problems(gone)
    names = image(tmp_path / "names", "JPEGImages/a.png", "JPEGImages/b.png")
    mask(names / "SegmentationClass/a.png", squares())
    text(names, {"Annotations/b.xml": xml(("x", 1, 2, 3, 4), ("y", 1, 2, 3, 4))})
    assert "masks hold ids up to 2, and only XML files name categories, in no order" in problems(names)
    outside = image(tmp_path / "outside", "JPEGImages/a.png")
    (outside / "Annotations").mkdir()
    (outside / "Annotations/a.xml").symlink_to(empty / "Annotations/a.xml")
    assert "leaves the dataset's folder by a link" in problems(outside)
    lossy = image(tmp_path / "lossy", "JPEGImages/a.png")
    (lossy / "SegmentationClass").mkdir()
    Image.fromarray(squares() * 100).save(lossy / "SegmentationClass/a.png", "JPEG")
    assert {p.kind for p in examine(Dataset(**vars(voc.read(lossy)))).problems} >= {"lossy-mask"}
