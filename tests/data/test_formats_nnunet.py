"""nnU-Net v2's folders: as its documentation has them, both ways, and with everything that can be wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.formats import nnunet
from maskwright.data.images import read_image
from maskwright.data.labels import Box, Labels, Mask, Sample
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError
from tests.data.random_masks import write_random

# The labels and settings of the documented 2D example (Dataset120, roads), with an ignore label as in "ignore_label.md".
ROADS = {
    "channel_names": {"0": "R", "1": "G", "2": "B"},
    "labels": {"background": 0, "road": 1, "ignore": 2},
    "numTraining": 2,
    "file_ending": ".png",
}


def make(root: Path, settings: Any = ROADS, cases: str = "ab", tests: str = "t") -> Path:
    for folder, names in (("imagesTr", cases), ("imagesTs", tests)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.new("RGB", (6, 4), (9, 8, ord(name))).save(root / folder / f"road_{name}_0000.png")
    for name in cases:
        write_mask(root / "labelsTr" / f"road_{name}.png", np.array([[0, 1, 2, 1, 0, 0]] * 4, np.uint8))
    (root / "dataset.json").write_text(json.dumps(settings))
    return root


def problems(path: Path) -> str:
    with pytest.raises(DataError) as error:
        nnunet.read(path)
    assert all(line.isprintable() for line in error.value.problems)
    return "\n".join(error.value.problems)


def test_the_documented_layout_is_read(tmp_path: Path) -> None:
    make(tmp_path)
    for path in (tmp_path, tmp_path / "dataset.json"):
        assert nnunet.detect(path, ROADS)
        dataset = nnunet.read(path)
    assert dataset.categories == ("background", "road")
    assert [(s.id, s.split, s.image) for s in dataset] == [
        ("road_a", "train", "imagesTr/road_a_0000.png"),
        ("road_b", "train", "imagesTr/road_b_0000.png"),
        ("road_t", "test", "imagesTs/road_t_0000.png"),
    ]
    mask = dataset[0].labels.mask
    assert mask is not None
    assert read_mask(tmp_path / mask.path)[0].tolist() == [0, 1, 255, 1, 0, 0]
    assert dataset[2].labels == Labels()
    assert examine(Dataset(**vars(dataset))).problems == []


def test_labels_that_are_category_ids_already_are_read_where_they_lie(tmp_path: Path) -> None:
    make(tmp_path, ROADS | {"labels": {"dog": 2, "background": 0, "cat": 1}})
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["road_a"], "val": ["road_b"]}, {"val": []}]))
    dataset = nnunet.read(tmp_path)
    assert dataset.categories == ("background", "cat", "dog")
    assert [s.split for s in dataset] == ["train", "val", "test"]
    assert dataset[0].labels.mask == Mask("labelsTr/road_a.png")
    assert [warning.message for warning in dataset.warnings] == ["has 2 folds: the first is read"]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_masks_stay_bit_for_bit(tmp_path: Path, seed: int) -> None:
    dataset = write_random(tmp_path / "in", 1000 if seed else 100, seed=seed, semantic=True)
    assert nnunet.loss(dataset) == []
    again = nnunet.read(nnunet.write(dataset, tmp_path / "out"))
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


def test_instances_become_their_categories_and_what_is_lost_is_named(tmp_path: Path) -> None:
    dataset = write_random(tmp_path / "in", 20)
    bare = replace(dataset[3], id="bare", labels=Labels(boxes=(Box(0, 0, 1, 1, 1),)))
    odd = replace(dataset[4], id="odd", split="fold1")
    dataset = dataset.with_samples([*dataset, bare, odd])
    assert nnunet.loss(dataset) == [
        "1 boxes",
        "21 instance masks (their categories are written, objects are not told apart)",
        "1 images without a mask (each image to learn from needs one, these are left out)",
        "the splits fold1 (they become train)",
    ]
    again = {sample.id: sample for sample in nnunet.read(nnunet.write(dataset, tmp_path / "out"))}
    assert "bare" not in again
    for sample in list(dataset)[:20]:
        mask = sample.labels.mask
        assert mask is not None
        ids = read_mask(tmp_path / "in" / mask.path)
        table = np.array([0, *(mask.categories[id] for id in range(1, int(ids.max()) + 1))])
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / again[sample.id].labels.mask.path), table[ids])  # type: ignore[union-attr]


def test_images_keep_their_pixels_in_one_kind_of_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
    write_mask(tmp_path / "in" / "m.png", np.eye(8, dtype=np.uint8))
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    Image.fromarray(pixels).save(tmp_path / "in" / "b.jpg")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "in" / "c.png")
    samples = [Sample(name[0], name, labels=Labels(Mask("m.png"))) for name in ("a.png", "b.jpg", "c.png")]
    dataset = Dataset(tmp_path / "in", ("background", "cat"), tuple(samples))
    for part, channels in ((samples, {"0": "R", "1": "G", "2": "B"}), (samples[2:], {"0": "grey"})):
        out = nnunet.write(dataset.with_samples(part), tmp_path / f"out{len(part)}")
        assert json.loads((out / "dataset.json").read_text())["channel_names"] == channels
        for sample in nnunet.read(out):
            original = dataset.image_path(next(s for s in samples if s.id == sample.id))
            np.testing.assert_array_equal(read_image(out / sample.image), read_image(original))
            with Image.open(out / sample.image) as image:
                assert image.mode == ("RGB" if len(channels) == 3 else "L")
    (tmp_path / "in" / "a.bmp").write_bytes(b"")
    with pytest.raises(DataError, match=r"end in \.bmp are not written"):
        nnunet.write(
            dataset.with_samples([replace(samples[0], image="a.png"), replace(samples[1], image="a.bmp")]),
            tmp_path / "x",
        )


def test_tiffs_stay_tiffs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "in" / "a.tif")
    write_mask(tmp_path / "in" / "m.png", np.array([[0, 1, 255, 1, 0, 0, 1, 1]] * 8, np.uint8))
    sample = Sample("a", "a.tif", labels=Labels(Mask("m.png")))
    out = nnunet.write(Dataset(tmp_path / "in", ("background", "cat"), (sample,)), tmp_path / "out")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "dataset.json",
        "imagesTr/a_0000.tif",
        "labelsTr/a.tif",
    ]
    again = nnunet.read(out)
    assert read_mask(out / again[0].labels.mask.path)[0].tolist() == [0, 1, 255, 1, 0, 0, 1, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], "dataset.json: must be an object"),
        ({"labels": {"background": 0}}, "dataset.json.file_ending: is missing"),
        (ROADS | {"file_ending": ".nii.gz"}, "'.nii.gz' is not read; save the images and labels as 2D"),
        (ROADS | {"file_ending": "/../x.png"}, "is not read"),
        (ROADS | {"labels": {"background": 0, "whole": [1, 2]}}, "labels.'whole': is a region of several labels"),
        (ROADS | {"labels": {"background": 0, "a": 1.5}}, "must be a whole number from 0 to 65535, found 1.5"),
        (ROADS | {"labels": {"background": 0, "a": True}}, "must be a whole number from 0 to 65535, found true"),
        (ROADS | {"labels": {"background": 0, "a": 1, "b": 1}}, "has the number of 'a'"),
        (ROADS | {"labels": {"background": 0, "a\n": 1}}, "is no category's name"),
        (ROADS | {"labels": {"road": 0}}, "background must be 0"),
        (ROADS | {"labels": {"background": 0, **{f"c{i}": i for i in range(1, 300)}}}, "has more than 254 labels"),
        (
            ROADS | {"labels": {"background": 0, "road": 1}},
            "holds the value 2, and the labels of dataset.json are 0, 1",
        ),
        (ROADS | {"labels": {"background": 0, "road": 1, "ignore": 3}}, "holds the value 2, and the labels"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: Any, expected: str) -> None:
    assert expected in problems(make(tmp_path, settings))


def test_wrong_files_are_named_all_at_once(tmp_path: Path) -> None:
    make(tmp_path, tests="a")
    Image.new("L", (6, 4)).save(tmp_path / "imagesTr" / "road_b_0001.png")
    Image.new("L", (6, 4)).save(tmp_path / "imagesTr" / "other.png")
    write_mask(tmp_path / "labelsTr" / "lost.png", np.zeros((4, 6), np.uint8))
    (tmp_path / "labelsTr" / "notes.txt").write_text("")
    (tmp_path / "splits_final.json").write_text('[{"val": ["zz"]}]')
    (tmp_path / "outside").mkdir()
    (tmp_path / "imagesTr" / "road_c_0000.png").symlink_to("/etc/hostname")
    told = problems(tmp_path)
    for expected in (
        "1 cases have other files than _0000, such as road_b with _0000, _0001; an image here is one file",
        "imagesTr/other.png: is not called <case>_0000.png",
        "1 labels have no image in imagesTr/, such as 'lost'",
        "'road_a' is also in imagesTr/",
        "splits_final.json: 'zz' is not among the images",
        "imagesTr/road_c_0000.png: leaves the dataset's folder by a link",
    ):
        assert expected in told
    (tmp_path / "splits_final.json").write_text('{"val": 3}')
    assert "must be a list of folds" in problems(tmp_path)
