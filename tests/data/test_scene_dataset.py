"""Scenes on disk: an ordinary dataset that is clean, repeatable, whole or absent, and honest about its masks."""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data import scene_dataset
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.images import read_image
from maskwright.data.labels import Kind
from maskwright.data.mask_files import read_mask
from maskwright.data.scene_dataset import FULL, write_scenes
from maskwright.data.weaken import mask_to_boxes, mask_to_tags
from maskwright.errors import DataError

SMALL = {"train": 6, "val": 0, "test": 2, "size": 32, "categories": ("disc", "polygon"), "difficulty": 0.2}
MIXED = {Kind.MASK: 0.5, Kind.BOX: 0.5}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_is_a_clean_dataset_of_the_sizes_asked_for(scene_folder: Path):
    dataset = Dataset.load(scene_folder)
    assert check(dataset) == []
    assert dataset.categories == ("background", "disc", "figure")
    assert Counter(s.split for s in dataset) == {"train": 12, "val": 2, "test": 4}
    for sample in dataset:
        with Image.open(dataset.image_path(sample)) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (64, 64), "RGB")
            assert sample.size == image.size


def test_train_has_the_mix_that_was_asked_for_and_the_other_splits_have_masks(scene_folder: Path):
    dataset = Dataset.load(scene_folder)
    kinds = Counter(s.labels.kind for s in dataset.split("train"))
    assert kinds == {Kind.MASK: 3, Kind.BOX: 2, Kind.SCRIBBLE: 2, Kind.POINT: 2, Kind.TAG: 2, Kind.NONE: 1}
    assert all(s.labels == s.labels.only(s.labels.kind) for s in dataset)
    assert {s.labels.kind for s in dataset.split("val", "test")} == {Kind.MASK}


def test_full_manifest_has_the_masks_that_the_weak_labels_were_drawn_from(scene_folder: Path):
    mixed, full = Dataset.load(scene_folder), Dataset.load(scene_folder / FULL)
    assert check(full) == []
    assert {s.labels.kind for s in full} == {Kind.MASK}
    assert [(s.id, s.image, s.split) for s in full] == [(s.id, s.image, s.split) for s in mixed]
    for weak, truth in zip(mixed, full):
        mask = truth.labels.mask
        assert mask is not None
        values = read_mask(full.root / mask.path)
        if weak.labels.kind == Kind.MASK:
            assert weak.labels == truth.labels
        elif weak.labels.kind == Kind.BOX:
            assert weak.labels.boxes == mask_to_boxes(values, mask)
        elif weak.labels.kind == Kind.TAG:
            assert weak.labels.tags == mask_to_tags(values, mask)
        for x, y, category in [(p.x, p.y, p.category) for p in weak.labels.points]:
            assert values[int(y), int(x)] == category


def test_images_show_the_shapes_in_equal_parts_and_one_in_twenty_shows_none(tmp_path: Path):
    dataset = write_scenes(tmp_path / "s", **{**SMALL, "train": 21, "test": 0})
    areas = np.array([np.bincount(read_mask(dataset.root / f"masks/{s.id}.png").ravel(), minlength=3) for s in dataset])
    assert areas.shape == (21, 3)  # nothing but background and the two shapes
    visible = areas[:, 1:] >= 0.01 * 32 * 32
    assert (areas[:, 1:].sum(1) == 0).sum() == 1
    assert visible.any(1).sum() == 20
    assert (visible.sum(0) >= 10).all()


def test_masks_lie_on_what_the_image_shows(tmp_path: Path):
    """In the easiest scenes objects differ from their background in brightness by a known margin."""
    dataset = write_scenes(tmp_path / "s", **{**SMALL, "difficulty": 0.0, "categories": ("disc",)})
    for sample in dataset:
        mask = read_mask(dataset.root / f"masks/{sample.id}.png")
        grey = read_image(dataset.image_path(sample)).mean(2)
        if mask.any():
            border = np.abs(np.diff(grey, axis=1))[np.diff(mask, axis=1) != 0].mean()
            elsewhere = np.abs(np.diff(grey, axis=1))[np.diff(mask, axis=1) == 0].mean()
            assert border > 4 * elsewhere


def test_same_settings_same_bytes_other_seed_other_images(tmp_path: Path):
    first, second, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    write_scenes(first, **SMALL, seed=3, shares=MIXED)
    write_scenes(second, **SMALL, seed=3, shares=MIXED)
    write_scenes(other, **SMALL, seed=4, shares=MIXED)
    assert contents(first) == contents(second)
    images = [{v for k, v in contents(f).items() if k.startswith("images")} for f in (first, other)]
    assert len(images[0]) == 8  # no image twice, in no two splits
    assert not images[0] & images[1]


def test_a_split_does_not_depend_on_the_size_of_the_others(tmp_path: Path):
    few = contents(write_scenes(tmp_path / "few", **SMALL).root)
    more = contents(write_scenes(tmp_path / "more", **{**SMALL, "train": 9, "val": 2}).root)
    for name in ("images/test-0000.png", "masks/test-0001.png"):
        assert few[name] == more[name]


def test_does_nothing_where_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "s"
    made = write_scenes(folder, **SMALL, shares=MIXED)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    monkeypatch.setattr(scene_dataset, "render", lambda *a, **k: pytest.fail("rendered again"))
    again = write_scenes(folder, **SMALL, shares=MIXED)
    assert again == made
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_an_empty_folder_is_taken_and_nothing_is_left_beside_it(tmp_path: Path):
    (tmp_path / "s").mkdir()
    write_scenes(tmp_path / "s", **SMALL)
    assert os.listdir(tmp_path) == ["s"]
    assert sorted(os.listdir(tmp_path / "s")) == ["images", "manifest.json", "masks", "scenes.json"]


def test_other_settings_are_refused_by_name(tmp_path: Path):
    write_scenes(tmp_path / "s", **SMALL)
    before = contents(tmp_path / "s")
    with pytest.raises(DataError, match=r"other settings.*delete this one") as caught:
        write_scenes(tmp_path / "s", **{**SMALL, "size": 64}, seed=1)
    assert "size: 32 there, 64 asked for" in caught.value.problems
    assert "seed: 0 there, 1 asked for" in caught.value.problems
    assert len(caught.value.problems) == 3
    assert contents(tmp_path / "s") == before


@pytest.mark.parametrize("name", ["photo.jpg", "images/a.png"])
def test_somebody_elses_folder_is_left_alone(tmp_path: Path, name: str):
    path = tmp_path / "s" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    with pytest.raises(DataError, match="something else than procedural scenes"):
        write_scenes(tmp_path / "s", **SMALL)
    assert contents(tmp_path / "s") == {name: b"precious"}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_dataset, "weaken", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "s", **SMALL, shares=MIXED)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_make_one_dataset(tmp_path: Path):
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: write_scenes(tmp_path / "s", **SMALL), range(2)))
    assert made[0] == made[1]
    assert check(made[0]) == []
    assert os.listdir(tmp_path) == ["s"]


def test_all_wrong_settings_are_named_at_once(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        write_scenes(
            tmp_path / "s",
            train=0,
            val=-1,
            test=0,
            size=16,
            seed=-1,
            categories=("disc", "cat", "disc"),
            difficulty=2,
            shares={Kind.MASK: 0.5},
        )
    text = str(caught.value)
    for part in ("val: -1", "no image", "16 pixels", "seed: -1", "'cat' is unknown", "'disc' is named twice"):
        assert part in text
    assert "difficulty: 2" in text
    assert "no training images to weaken" in text
    assert "{'mask': 0.5} must not be negative and sum up to 1" in text
    assert list(tmp_path.iterdir()) == []


def test_shapes_that_are_never_found_end_with_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scene_dataset, "_PATIENCE", 16)
    monkeypatch.setattr(scene_dataset, "_MIN_SHARE", 1.1)
    with pytest.raises(DataError, match="missing are 1 with star; choose others"):
        write_scenes(tmp_path / "s", train=1, val=0, test=0, size=32, categories=("star",))
    assert list(tmp_path.iterdir()) == []


def test_settings_are_recorded(scene_folder: Path):
    settings = json.loads((scene_folder / "scenes.json").read_text())
    assert settings["train"] == 12
    assert settings["categories"] == ["disc", "figure"]
    assert settings["shares"]["mask"] == pytest.approx(0.25)
