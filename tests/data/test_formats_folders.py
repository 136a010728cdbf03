"""Folders of images and masks: splits, what pixel values mean, and everything that is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.formats import convert, read
from maskwright.data.labels import Box, Labels, Mask, Sample
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def fill(root: Path, masks: dict[str, object], dtype: type = np.uint8, bare: tuple[str, ...] = (), **splits) -> Path:
    """Images with masks of one row of values each, and images without."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for i, stem in enumerate((*masks, *bare)):
        Image.new("RGB", (4, 1), (i, len(str(root)) % 256, 0)).save(root / "images" / f"{stem}.png")
    for stem, row in masks.items():
        write_mask(root / "masks" / f"{stem}.png", np.array([row], dtype))
    if splits:
        (root / "splits.json").write_text(json.dumps(splits))
    return root


def problems(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read(path)
    return "\n".join(error.value.problems)


def test_zero_and_one_are_one_category(tmp_path: Path) -> None:
    dataset = read(fill(tmp_path, {"b": [0, 1, 255, 0], "a": [0, 0, 0, 0]}, bare=("c",)))
    assert dataset.categories == ("background", "object")
    assert [(s.id, s.image, s.split, s.labels.mask) for s in dataset] == [
        ("a", "images/a.png", "train", Mask("masks/a.png")),
        ("b", "images/b.png", "train", Mask("masks/b.png")),
        ("c", "images/c.png", "train", None),
    ]
    assert check(dataset) == []


def test_lists_give_splits_and_study_subsets_are_not_read(tmp_path: Path) -> None:
    masks = {stem: [0, 1, 2, 0] for stem in "abcd"}
    splits = {"train": ["c", "a"], "test": ["b"], "labelled": {"5": ["a"]}, "shots": [["a"], ["c"]], "empty": []}
    fill(tmp_path, masks, **splits, categories=["background", "cat", "dog"], ignore=255)
    dataset = read(tmp_path)
    assert [(s.id, s.split) for s in dataset] == [("c", "train"), ("a", "train"), ("b", "test")]
    assert dataset.categories == ("background", "cat", "dog")
    other = tmp_path / "splits_other.json"
    other.write_text(json.dumps({"val": ["d"], "categories": ["background", "cat", "dog"]}))
    assert [(s.id, s.split) for s in read(other)] == [("d", "val")]


def test_split_folders(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": [0, 1, 0, 0]})
    fill(tmp_path / "valid", {"a": [0, 1, 0, 0]}, bare=("b",))
    dataset = read(tmp_path)
    assert [(s.id, s.split, s.image) for s in dataset] == [
        ("train_a", "train", "train/images/a.png"),
        ("val_a", "val", "valid/images/a.png"),
        ("val_b", "val", "valid/images/b.png"),
    ]
    (tmp_path / "categories.json").write_text('["background", "cat"]')
    assert read(tmp_path).categories == ("background", "cat")


@pytest.mark.parametrize(
    ("masks", "dtype", "splits", "kind"),
    [
        ({"a": [0, 1, 2, 3], "b": [0, 1, 1, 1]}, np.uint8, {}, "instance"),  # counted ids, as many as there are objects
        ({"a": [0, 1, 7, 9]}, np.uint16, {}, "instance"),
        ({"a": [0, 1, 7, 9]}, np.uint8, {"kind": "instance"}, "instance"),
        ({"a": [0, 1, 2, 2]}, np.uint16, {"kind": "semantic", "categories": ["background", "x", "y"]}, "semantic"),
        ({"a": [0, 2, 2, 2]}, np.uint8, {"categories": ["background", "x", "y"]}, "semantic"),
        ({"a": [0, 5, 300, 2]}, np.uint16, {"categories": ["background", "x"]}, "instance"),
    ],
)
def test_what_pixel_values_mean(tmp_path: Path, masks: dict, dtype: type, splits: dict, kind: str) -> None:
    dataset = read(fill(tmp_path, masks, dtype, **splits))
    assert {s.labels.mask.kind for s in dataset if s.labels.mask} == {kind}


@pytest.mark.parametrize(
    ("masks", "dtype", "splits", "expected"),
    [
        (
            {"a": [0, 1, 7, 9]},
            np.uint8,
            {},
            'the values 0, 1, 7, 9, which may be categories or instances; add "categories"',
        ),
        ({"a": [0, 1, 2, 2], "b": [0, 2, 1, 1]}, np.uint8, {}, "may be categories or instances"),
        ({"a": [1, 2, 3, 3], "b": [1, 2, 1, 1]}, np.uint8, {}, "may be categories or instances"),
        ({"a": [0, 1, 2, 2]}, np.uint16, {"categories": ["background", "x", "y"]}, "16 bits and there are several"),
        ({"a": [0, 1, 2, 2]}, np.uint8, {"kind": "semantic"}, "hold the values 0, 1, 2; name them"),
    ],
)
def test_what_nobody_can_know_is_refused(tmp_path: Path, masks: dict, dtype: type, splits: dict, expected: str) -> None:
    assert expected in problems(fill(tmp_path, masks, dtype, **splits))


@pytest.mark.parametrize("splits", [{}, {"categories": ["background", "polyp"]}, {"kind": "semantic"}])
def test_white_on_black_is_an_object(tmp_path: Path, splits: dict) -> None:
    fill(tmp_path, {"a": [0, 255, 255, 0], "b": [0, 0, 0, 0], "c": [255] * 4}, **splits)
    dataset = read(tmp_path)
    masks = [read_mask(path).tolist() for sample in dataset if (path := dataset.mask_path(sample))]
    assert masks == [[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]]
    assert read_mask(tmp_path / "masks" / "a.png").max() == 255  # The user's own file stays as it is.
    assert check(dataset) == []


def test_white_is_ignored_where_that_is_said(tmp_path: Path) -> None:
    dataset = read(fill(tmp_path, {"a": [0, 255, 255, 0]}, ignore=255))
    assert [s.labels.mask for s in dataset] == [Mask("masks/a.png")]
    assert "no training mask marks any category" in check(dataset)[0]


def test_an_unreadable_mask_is_left_to_the_check(tmp_path: Path) -> None:
    fill(tmp_path, {"a": [0, 255, 255, 0], "b": [0, 255, 0, 0]})
    (tmp_path / "masks" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    dataset = read(tmp_path)
    assert ["masks/b.png" in line for line in check(dataset)] == [True]


def test_all_structural_problems_come_at_once(tmp_path: Path) -> None:
    fill(tmp_path, {"a": [0, 1, 0, 0]}, bare=("b",))
    write_mask(tmp_path / "masks" / "z.png", np.zeros((1, 4), np.uint8))
    (tmp_path / "masks" / "b.npy").touch()
    (tmp_path / "images" / "a.jpg").touch()
    (tmp_path / "images" / "x.heic").touch()
    (tmp_path / "images" / ".hidden").touch()
    (tmp_path / "images" / "sub").mkdir()
    settings = {"train": ["a", "no"], "val": ["a"], "kind": "panoptic", "ignore": 0, "categories": ["cat"], "note": "x"}
    (tmp_path / "splits.json").write_text(json.dumps(settings))
    found = problems(tmp_path)
    for expected in (
        "masks/z.png: there is no image images/z.*",
        "masks/b.npy: is no .avif",
        "has the same stem as",
        "images/x.heic: is no",
        "images/sub: folders in here are not read",
        "val: 'a' is in 'train' too",
        "train: there is no image",
        "kind: 'panoptic' is unknown",
        "ignore: must be 255",
        "categories[0]: must be 'background'",
        "note: must be a list of file stems",
    ):
        assert expected in found
    assert len(found.split("\n")) == 11


def test_folders_hold_masks_of_all_categories_bit_exact(tmp_path: Path) -> None:
    fill(tmp_path / "in", {"a": [0, 3, 300, 9], "b": [0, 1, 1, 1]}, np.uint16, bare=("c",))
    samples = (
        Sample("a", "images/a.png", "train", Labels(Mask("masks/a.png", "instance", {300: 2}))),
        Sample("b", "images/b.png", "test", Labels(Mask("masks/b.png", "instance"))),
        Sample("c", "images/c.png", "train"),
    )
    dataset = Dataset(tmp_path / "in", ("background", "cat", "dog"), samples)
    again = read(convert(dataset, tmp_path / "out", "folders"))
    assert again.categories == dataset.categories
    assert {(s.id, s.split, s.image) for s in again} == {(s.id, s.split, s.image) for s in dataset}
    for sample in again:
        original = next(s for s in dataset if s.id == sample.id)
        assert sample.labels == original.labels
        assert again.image_path(sample).read_bytes() == dataset.image_path(original).read_bytes()
        if sample.labels.mask and original.labels.mask:
            expected = (dataset.root / original.labels.mask.path).read_bytes()
            assert (again.root / sample.labels.mask.path).read_bytes() == expected


def test_what_folders_cannot_hold_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "in", {"a": [0, 3, 2, 9], "b": [0, 1, 2, 255]})
    samples = (
        Sample(
            "a", "images/a.png", labels=Labels(Mask("masks/a.png", "instance", {2: 2}), boxes=(Box(0, 0, 1, 1, 1),))
        ),
        Sample("b", "images/b.png", labels=Labels(Mask("masks/b.png"))),
    )
    dataset = Dataset(tmp_path / "in", ("background", "cat", "dog"), samples)
    with pytest.raises(DataError, match="cannot hold 1 boxes, 1 instance masks beside 1 semantic"):
        convert(dataset, tmp_path / "out", "folders")
    again = read(convert(dataset, tmp_path / "out", "folders", allow_loss=True))
    assert [read_mask(again.root / f"masks/{id}.png").tolist() for id in "ab"] == [[[0, 1, 2, 1]], [[0, 1, 2, 255]]]
    assert read_mask(dataset.root / "masks" / "a.png").tolist() == [[0, 3, 2, 9]]
    with pytest.raises(DataError, match="name of a setting"):
        convert(dataset.with_samples([Sample("a", "images/a.png", "kind")]), tmp_path / "other", "folders")


def test_unknown_layouts_list_what_is_read(tmp_path: Path) -> None:
    assert "not recognised as a dataset; read are: a folder with manifest.json" in problems(tmp_path)
    (tmp_path / "a.txt").touch()
    assert "not recognised" in problems(tmp_path / "a.txt")
    (tmp_path / "a.json").write_text("[]")
    assert "not recognised" in problems(tmp_path / "a.json")
    assert "no such file" in problems(tmp_path / "no")
    with pytest.raises(DataError, match="choose one of manifest, cvat"):
        convert(Dataset(tmp_path, ("background",), ()), tmp_path / "x", "xyz")


def test_a_manifest_holds_everything(tmp_path: Path) -> None:
    fill(tmp_path / "in", {"a": [0, 3, 2, 9]}, kind="instance")
    dataset = read(tmp_path / "in")
    again = read(convert(dataset, tmp_path / "out", "manifest"))
    assert again.samples == dataset.samples
    assert (again.root / "masks" / "a.png").read_bytes() == (dataset.root / "masks" / "a.png").read_bytes()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real data is not here")
@pytest.mark.parametrize(
    ("name", "kind", "categories", "counts"),
    [
        ("nuclei", "instance", 2, {"train": 466, "val": 66, "test": 132}),
        ("saliency", "semantic", 2, {"train": 750, "val": 50, "test": 200}),
        ("cats", "instance", 2, {"train": 688, "val": 195, "test": 101}),
        ("streets", "semantic", 12, {"train": 367, "val": 101, "test": 233}),
    ],
)
def test_real_folders(name: str, kind: str, categories: int, counts: dict[str, int]) -> None:
    dataset = read(SHARED / name)
    assert {s.labels.mask.kind for s in dataset if s.labels.mask} == {kind}
    assert len(dataset.categories) == categories
    assert {split: len(dataset.split(split)) for split in counts} == counts
    assert sum(counts.values()) == len(dataset)
