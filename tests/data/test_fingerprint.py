"""Fingerprints: whatever may change in a dataset is seen and named; what does not matter is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data import fingerprint as module
from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint, file_digest
from maskwright.data.labels import Box, Labels, Mask, Sample
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Five images with masks, the last for validation; the first also has a box."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    samples = []
    for number, name in enumerate("abcde"):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(folder / "images" / f"{name}.png")
        mask = np.zeros((8, 8), np.uint8)
        mask[number:, 2:] = 1
        write_mask(folder / "masks" / f"{name}.png", mask)
        boxes = (Box(2, 0, 8, 8, 1),) if name == "a" else ()
        labels = Labels(Mask(f"masks/{name}.png"), boxes=boxes)
        samples.append(Sample(name, f"images/{name}.png", "val" if name == "e" else "train", labels))
    Dataset(folder, ("background", "polyp", "tool"), tuple(samples)).save()
    return Dataset.load(folder)


def invert(dataset: Dataset) -> Dataset:
    for sample in dataset:
        path = dataset.mask_path(sample)
        assert path is not None
        write_mask(path, 1 - read_mask(path))
    return dataset


def repaint(dataset: Dataset) -> Dataset:
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(dataset.image_path(dataset[1]))
    return dataset


def relabel(dataset: Dataset) -> Dataset:
    first = dataset[0]
    return dataset.with_samples(
        [replace(first, labels=replace(first.labels, boxes=(Box(2, 0, 8, 7, 1),))), *dataset.samples[1:]]
    )


CHANGES: dict[str, tuple[Callable[[Dataset], Dataset], list[str]]] = {
    "an image removed": (lambda d: d.with_samples(d.samples[1:]), ["1 image removed: a"]),
    "images added": (
        lambda d: d.with_samples([*d.samples, *(replace(d[i], id=f"new-{i}") for i in range(4))]),
        ["4 images added: new-0, new-1, new-2 and 1 more"],
    ),
    "the order reversed": (
        lambda d: d.with_samples(d.samples[::-1]),
        ["another order of the images, from a on"],
    ),
    "a category renamed": (
        lambda d: replace(d, categories=("background", "lesion", "tool")),
        ["categories renamed: polyp → lesion"],
    ),
    "categories swapped": (
        lambda d: replace(d, categories=("background", "tool", "polyp")),
        ["categories with another number: polyp, tool"],
    ),
    "a category added": (
        lambda d: replace(d, categories=(*d.categories, "dye")),
        ["categories added: dye"],
    ),
    "masks inverted": (invert, ["5 images relabelled: a, b, c and 2 more"]),
    "a box moved": (relabel, ["1 image relabelled: a"]),
    "a mask taken away": (
        lambda d: d.with_samples([*d.samples[:2], replace(d[2], labels=Labels()), *d.samples[3:]]),
        ["1 image relabelled: c"],
    ),
    "another split": (
        lambda d: d.with_samples([replace(d[0], split="val"), *d.samples[1:]]),
        ["1 image moved: a (train → val)"],
    ),
    "another picture": (repaint, ["1 image with another picture: b"]),
    "an id changed": (
        lambda d: d.with_samples([replace(d[0], id="z"), *d.samples[1:]]),
        ["1 image renamed: a → z"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_named(change: str, data: Dataset):
    then = Fingerprint.of(data)
    make, lines = CHANGES[change]
    now = Fingerprint.of(make(data))
    assert now.digest != then.digest
    assert then.changes_to(now) == lines


def test_several_changes_are_told_at_once(data: Dataset):
    then = Fingerprint.of(data)
    now = Fingerprint.of(relabel(repaint(data)).split("train"))
    assert then.changes_to(now) == [
        "1 image removed: e",
        "1 image relabelled: a",
        "1 image with another picture: b",
    ]


def test_a_dataset_that_was_moved_is_the_same(data: Dataset, tmp_path: Path):
    then = Fingerprint.of(data)
    shutil.copytree(data.root, tmp_path / "elsewhere")
    os.rename(tmp_path / "elsewhere" / "images", tmp_path / "elsewhere" / "pictures")
    moved = Dataset.load(data.root).with_samples(
        [replace(sample, image=sample.image.replace("images", "pictures")) for sample in data]
    )
    assert Fingerprint.of(replace(moved, root=tmp_path / "elsewhere")).digest == then.digest


def test_it_is_read_back_as_it_was_written(data: Dataset):
    then = Fingerprint.of(data)
    assert Fingerprint.from_json(then.to_json()) == then
    for damage in ("", "[]", "{}", then.to_json().replace('"a"', '"b"'), then.to_json().replace("data 1", "data 9")):
        with pytest.raises(ValueError):
            Fingerprint.from_json(damage)


def test_a_check_and_a_fingerprint_hash_each_file_once(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_known", {})
    hashed: list[str] = []
    digest = module.hashlib.file_digest
    monkeypatch.setattr(
        module.hashlib, "file_digest", lambda file, name: (hashed.append(file.name), digest(file, name))[1]
    )
    require_clean(data)
    Fingerprint.of(data)
    Fingerprint.of(data)
    assert len(hashed) == len(set(hashed)) == 10
    path = data.image_path(data[0])
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(path)
    os.utime(path, ns=(0, 0))
    assert file_digest(path) == digest(path.open("rb"), "sha256").digest()
    assert len(hashed) == 11


def test_files_that_are_gone_are_named_together(data: Dataset):
    for sample in data.samples[:2]:
        os.remove(data.image_path(sample))
    with pytest.raises(DataError, match=r"a\.png(.|\n)*b\.png"):
        Fingerprint.of(data)
