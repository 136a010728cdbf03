"""The manifest keeps every label, and every structural problem is reported at once with its place."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Box, Labels, Mask, Point, Sample, Scribble, Tag
from maskwright.data.manifest import copy_files, read, write
from maskwright.errors import DataError

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/\\:."), min_size=1)
IDS = NAMES.filter(lambda name: name.isprintable() and len(name.encode()) <= 60)


@st.composite
def datasets(draw, root: Path) -> Dataset:
    names = draw(st.lists(NAMES.filter(lambda n: n != "background"), unique=True, min_size=1, max_size=4))
    category = st.integers(0, len(names))
    xy = st.tuples(NUMBERS, NUMBERS)
    instances = st.dictionaries(st.integers(1, 65535), category, max_size=3)
    path = IDS.map(lambda name: f"images/{name}")
    labels = st.builds(
        Labels,
        st.none() | st.builds(Mask, path) | st.builds(Mask, path, st.just("instance"), instances),
        st.lists(st.builds(Scribble, st.lists(xy, min_size=1, max_size=4).map(tuple), category), max_size=2).map(tuple),
        st.lists(st.builds(Box, NUMBERS, NUMBERS, NUMBERS, NUMBERS, category), max_size=3).map(tuple),
        st.lists(st.builds(Point, NUMBERS, NUMBERS, category), max_size=3).map(tuple),
        st.lists(st.builds(Tag, category), max_size=3).map(tuple),
    )
    size = st.none() | st.tuples(st.integers(1, 99999), st.integers(1, 99999))
    sample = st.builds(Sample, IDS, path, NAMES, labels, size)
    samples = draw(st.lists(sample, max_size=4, unique_by=lambda s: s.id))
    return Dataset(root, ("background", *names), tuple(samples), str(root / "manifest.json"))


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_dataset_survives_a_round_trip(tmp_path_factory, data) -> None:
    dataset = data.draw(datasets(tmp_path_factory.getbasetemp()))
    path = write(dataset)
    assert read(path) == dataset
    assert read(path.parent) == dataset
    assert Dataset.load(path) == dataset


def test_the_file_is_one_line_per_sample_and_reads_well(tmp_path: Path) -> None:
    labels = Labels(boxes=(Box(1.0, 2.0, 3.5, 4.0, 1),), tags=(Tag(1),))
    samples = (Sample("a", "images/ä.jpg", "train", labels, (8, 6)), Sample("b", "images/b.jpg"))
    assert write(Dataset(tmp_path, ("background", "cat"), samples)).read_text(encoding="utf-8") == (
        '{\n  "version": 1,\n  "categories": ["background", "cat"],\n  "samples": [\n'
        '    {"id": "a", "image": "images/ä.jpg", "split": "train", "size": [8, 6], "labels": '
        '{"boxes": [{"xyxy": [1, 2, 3.5, 4], "category": "cat"}], "tags": ["cat"]}},\n'
        '    {"id": "b", "image": "images/b.jpg", "split": "train"}\n  ]\n}\n'
    )


def manifest(tmp_path: Path, *samples: object, **top: object) -> Path:
    document = {"version": 1, "categories": ["background", "cat"], "samples": list(samples), **top}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(document))
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read(path)
    assert str(path) in str(error.value)
    return error.value.problems


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"id": "a"}, "samples[0] (id 'a').image: is missing"),
        ({"image": "a.png"}, "samples[0].id: is missing"),
        ({"id": 3, "image": "a.png"}, "samples[0].id: must be a text, found 3"),
        ({"id": "a/b", "image": "a.png"}, "must be usable as a file name"),
        ({"id": "a", "image": "a.png", "lables": {}}, "samples[0] (id 'a').lables: is unknown"),
        ({"id": "a", "image": "a.png", "size": [0, 3]}, "(id 'a').size: [0.0, 3.0] is no width and height"),
        ({"id": "a", "image": "a.png", "split": ""}, "(id 'a').split: is empty"),
        ({"id": "a", "image": "/etc/passwd"}, "(id 'a').image: path '/etc/passwd' is absolute"),
        ({"id": "a", "image": "C:/a.png"}, "is absolute"),
        ({"id": "a", "image": "b/../../a.png"}, "path 'b/../../a.png' leaves the dataset's folder"),
        ({"id": "a", "image": "b\\a.png"}, "backslash"),
        ({"id": "a", "image": "\ud800.png"}, "is no valid text"),
        ({"id": "a", "image": "a.png", "labels": []}, "(id 'a').labels: must be an object, found []"),
        (
            {"id": "a", "image": "a.png", "labels": {"tags": ["dog"]}},
            "labels.tags[0]: unknown category 'dog'; known are",
        ),
        ({"id": "a", "image": "a.png", "labels": {"tags": [None]}}, "labels.tags[0]: must be a category's name"),
        (
            {"id": "a", "image": "a.png", "labels": {"boxes": [{"xyxy": [0, 0, 1], "category": "cat"}]}},
            "labels.boxes[0].xyxy: must be a list of 4 numbers",
        ),
        (
            {"id": "a", "image": "a.png", "labels": {"boxes": [{"xyxy": [0, 0, float("nan"), 1], "category": "cat"}]}},
            "labels.boxes[0].xyxy: holds a number that is not finite",
        ),
        (
            {"id": "a", "image": "a.png", "labels": {"points": [{"xy": [10**400, 0], "category": "cat"}]}},
            "labels.points[0].xy: holds a number that is not finite",
        ),
        (
            {"id": "a", "image": "a.png", "labels": {"points": [{"xy": [True, 0], "category": "cat"}]}},
            "labels.points[0].xy: must be a list of 2 numbers",
        ),
        (
            {"id": "a", "image": "a.png", "labels": {"scribbles": [{"points": [], "category": "cat"}]}},
            "labels.scribbles[0].points: is empty",
        ),
        (
            {"id": "a", "image": "a.png", "labels": {"scribbles": [{"points": [[1, 2], [1]]}]}},
            "labels.scribbles[0].points[1]: must be a list of 2 numbers",
        ),
        ({"id": "a", "image": "a.png", "labels": {"mask": {"kind": "instance"}}}, "labels.mask.path: is missing"),
        ({"id": "a", "image": "a.png", "labels": {"mask": {"path": "m", "kind": "x"}}}, "mask.kind: 'x' is unknown"),
        ({"id": "a", "image": "a.png", "labels": {"mask": {"path": "../m"}}}, "labels.mask.path: path '../m' leaves"),
        (
            {
                "id": "a",
                "image": "a.png",
                "labels": {"mask": {"path": "m", "kind": "instance", "categories": {"0": "cat"}}},
            },
            "labels.mask.categories: '0' is no instance id",
        ),
        (
            {"id": "a", "image": "a.png", "labels": {"mask": {"path": "m", "categories": {"1": "cat"}}}},
            "labels.mask.categories: belongs to instance masks only",
        ),
        ([], "samples[0]: must be an object"),
    ],
)
def test_structural_problems_name_sample_and_place(tmp_path: Path, sample: object, expected: str) -> None:
    found = problems(manifest(tmp_path, sample))
    assert any(expected in problem for problem in found), found


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    bad_box = {"boxes": [{"xyxy": [0, 0, 1], "category": "dog"}]}
    path = manifest(tmp_path, {"id": "a", "image": "a.png", "labels": bad_box}, {"id": "b"}, categories=["cat", "cat"])
    found = problems(path)
    for part in (
        "categories[1]: 'cat' is there twice",
        "categories[0]: must be 'background'",
        "xyxy",
        "'dog'",
        "image",
    ):
        assert sum(part in problem for problem in found) == 1, (part, found)
    assert len(found) == 5


def test_duplicate_ids_unknown_versions_and_broken_json(tmp_path: Path) -> None:
    row = {"id": "a", "image": "a.png"}
    assert "samples[1]: id 'a' is also that of samples[0]" in problems(manifest(tmp_path, row, row))[0]
    assert "version: must be 1, found 2" in problems(manifest(tmp_path, version=2))[0]
    (tmp_path / "manifest.json").write_text('{"version": 1, "version": 1}')
    assert "'version' is there twice" in problems(tmp_path / "manifest.json")[0]
    (tmp_path / "manifest.json").write_text('{"version": 1,\n "x"')
    assert "not valid JSON (Expecting" in problems(tmp_path / "manifest.json")[0]
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe{}")
    assert "not UTF-8" in problems(tmp_path / "manifest.json")[0]
    assert "missing" in problems(tmp_path / "no.json")[0]


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "outside.png").touch()
    os.symlink(tmp_path / "outside.png", root / "a.png")
    assert "leaves the dataset's folder by a link" in problems(manifest(root, {"id": "a", "image": "a.png"}))[0]
    (root / "real.png").touch()
    os.symlink(root / "real.png", root / "b.png")
    assert len(read(manifest(root, {"id": "b", "image": "b.png"}))) == 1


def test_write_refuses_what_read_would_refuse_and_writes_nothing(tmp_path: Path) -> None:
    labels = Labels(boxes=(Box(0, 0, float("inf"), 1, 1), Box(0, 0, 1, 1, 7)))
    samples = (Sample("a", "a.png", labels=labels), Sample("a", "../b.png"))
    with pytest.raises(DataError) as error:
        write(Dataset(tmp_path, ("background", "cat"), samples))
    text = str(error.value)
    assert all(part in text for part in ("not finite", "'id 7'", "also that of", "leaves"))
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_lies_in_the_datasets_folder(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path / "data", ("background",), ())
    with pytest.raises(DataError, match="must lie directly in"):
        write(dataset, tmp_path / "manifest.json")
    assert dataset.save(tmp_path / "data" / "other.json").is_file()


def test_copy_files_names_all_missing_files_and_refuses_a_full_folder(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path, ("background",), (Sample("a", "a.png"), Sample("b", "b.png")))
    with pytest.raises(DataError) as error:
        copy_files(dataset, tmp_path / "new")
    assert len(error.value.problems) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match="is not empty"):
        copy_files(dataset, tmp_path / "full")
