"""Splits hold what they are asked to hold, groups stay whole, and nothing but the split of an image changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskwright import api
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Box, Labels, Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.split import deal
from maskwright.errors import DataError

CATEGORIES = ("background", "common", "rare")


def make(root: Path, count: int, *, masks: int | None = None, rare: int = 4) -> Dataset:
    """Images ``p<patient>/<i>.png``, three of each patient; the first ``masks`` have a mask, the others a box."""
    samples = []
    for i in range(count):
        image = root / f"images/p{i // 3}_{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(image)
        category = 2 if i % 3 == 0 and i // 3 < rare else 1
        labels = Labels(boxes=(Box(1, 1, 4, 4, category),))
        if masks is None or i < masks:
            values = np.zeros((8, 8), np.uint8)
            values[1:4, 1:4] = category
            write_mask(root / f"masks/{i}.png", values)
            labels = Labels(mask=Mask(f"masks/{i}.png"))
        samples.append(Sample(f"s{i}", f"images/{image.name}", labels=labels))
    dataset = Dataset(root, CATEGORIES, tuple(samples))
    dataset.save()
    return dataset


def test_every_split_gets_its_share_of_each_category(tmp_path: Path) -> None:
    make(tmp_path / "data", 60, rare=10)
    result = api.split(tmp_path / "data", tmp_path / "out", {"val": 0.2, "test": 0.3}, seed=3)
    assert Counter(sample.split for sample in result.dataset) == {"train": 30, "val": 12, "test": 18}
    rare = [sample.split for sample in result.dataset if int(sample.id[1:]) % 3 == 0 and int(sample.id[1:]) < 30]
    assert Counter(rare) == {"train": 5, "val": 2, "test": 3}
    assert result.groups == {"train": 30, "val": 12, "test": 18}
    assert not check(result.dataset)
    assert not result.warnings
    original = Dataset.load(tmp_path / "data")
    assert [(s.id, s.labels.mask.kind if s.labels.mask else None) for s in result.dataset] == [
        (s.id, s.labels.mask.kind if s.labels.mask else None) for s in original
    ]
    assert {s.split for s in original} == {"train"}  # It stays as it is.


def test_the_seed_decides(tmp_path: Path) -> None:
    make(tmp_path / "data", 30)
    found = [
        [s.split for s in api.split(tmp_path / "data", tmp_path / str(i), {"val": 0.3}, seed=seed).dataset]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("by", ["group", "table"])
def test_frames_of_one_patient_never_part(tmp_path: Path, by: str) -> None:
    dataset = make(tmp_path / "data", 60)
    options: dict[str, object] = {"group": r"images/(p\d+)_"}
    if by == "table":
        rows = "\r\n".join(f"{Path(s.image).name};p{int(s.id[1:]) // 3}" for s in dataset)
        (tmp_path / "patients.csv").write_text(f"\ufeffFile;Patient\r\n{rows}\r\n", encoding="utf-8")
        options = {"table": tmp_path / "patients.csv", "column": "Patient"}
    result = api.split(tmp_path / "data", tmp_path / "out", {"val": 0.2, "test": 0.2}, **options)  # pyright: ignore[reportArgumentType]
    splits: dict[int, set[str]] = {}
    for sample in result.dataset:
        splits.setdefault(int(sample.id[1:]) // 3, set()).add(sample.split)
    assert all(len(names) == 1 for names in splits.values())
    assert result.groups == {"train": 12, "val": 4, "test": 4}


def test_the_same_picture_stays_in_one_split(tmp_path: Path) -> None:
    dataset = make(tmp_path / "data", 30)
    twin = Image.open(dataset.image_path(dataset[4]))
    twin.save(tmp_path / "data/images/twin.bmp")  # The same pixels in another file.
    dataset = dataset.with_samples([*dataset, Sample("twin", "images/twin.bmp", labels=dataset[4].labels)])
    dataset.save()
    for seed in range(5):
        result = api.split(tmp_path / "data", tmp_path / str(seed), {"val": 0.5}, seed=seed)
        splits = {sample.id: sample.split for sample in result.dataset}
        assert splits["twin"] == splits["s4"]
        assert not check(result.dataset)


def test_images_that_cannot_be_scored_stay_in_train(tmp_path: Path) -> None:
    make(tmp_path / "data", 40, masks=10)
    result = api.split(tmp_path / "data", tmp_path / "out", {"test": 0.4})
    assert [bool(s.labels.mask) for s in result.dataset.split("test")] == [True] * 4
    assert (len(result.dataset.split("train")), result.unscored) == (36, 30)


def test_without_masks_all_images_are_dealt(tmp_path: Path) -> None:
    make(tmp_path / "data", 40, masks=0)
    result = api.split(tmp_path / "data", tmp_path / "out", {"test": 0.25})
    assert (len(result.dataset.split("test")), result.unscored) == (10, 0)


def test_other_splits_stay_unless_they_are_named(tmp_path: Path) -> None:
    dataset = make(tmp_path / "data", 30)
    moved = [replace(s, split="test") if i < 9 else s for i, s in enumerate(dataset)]
    dataset.with_samples(moved).save()
    result = api.split(tmp_path / "data", tmp_path / "out", {"val": 1 / 3})
    assert Counter(sample.split for sample in result.dataset) == {"train": 14, "val": 7, "test": 9}
    assert result.kept == 9
    assert not [w for w in result.warnings if w.kind == "group-parted"]
    again = api.split(tmp_path / "data", tmp_path / "again", {"val": 1 / 3}, of=("all",))
    assert Counter(sample.split for sample in again.dataset) == {"train": 20, "val": 10}
    # Patients 0 to 4 as one group: the first three are in test already.
    parted = api.split(tmp_path / "data", tmp_path / "parted", {"val": 0.5}, group=r"p(?:[0-4](_)|([5-9]))")
    told = "1 groups of images are also in splits that were not dealt, and were parted"
    assert [w.message for w in parted.warnings if w.kind == "group-parted"] == [told]


def test_what_a_split_lacks_is_said(tmp_path: Path) -> None:
    make(tmp_path / "data", 30, rare=1)
    warnings = api.split(tmp_path / "data", tmp_path / "out", {"val": 0.2}).warnings
    assert [(w.kind, "shows nothing of 'rare'" in w) for w in warnings] == [("category-missing", True)]


@pytest.mark.parametrize(
    ("shares", "options", "told"),
    [
        ({"val": 0.0}, {}, "every share is 0"),
        ({"val": 0.5, "test": 0.5}, {}, "sum up to 1: nothing is left for train"),
        ({"val": -0.1, "test": 2}, {}, "share -0.1 of val"),
        ({"val": 0.2}, {"of": ("nix",)}, "no image is in the split nix; the splits are train"),
        ({"val": 0.2}, {"group": "("}, "is no regular expression"),
        ({"val": 0.2}, {"group": "q"}, "finds nothing in this path"),
        ({"val": 0.2}, {"group": "images"}, "1 groups of images are too few for 80% train, 20% val"),
        ({"val": 0.2}, {"table": "t.csv"}, "--table and --column go together"),
        ({"val": 0.2}, {"table": "t.csv", "column": "c", "group": "p"}, "exclude each other"),
        ({"val": 0.2}, {"table": "missing.csv", "column": "c"}, "missing.csv: cannot be read"),
    ],
)
def test_what_cannot_be_split_is_said_and_nothing_is_written(
    tmp_path: Path, shares: dict[str, float], options: dict[str, object], told: str
) -> None:
    make(tmp_path / "data", 9)
    with pytest.raises(DataError, match="(?s)" + told.replace("(", r"\(")):
        api.split(tmp_path / "data", tmp_path / "out", shares, **options)  # pyright: ignore[reportArgumentType]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,patient\n", "has no rows"),
        ("image,age\np0_0.png,7\n", "has no column 'patient'; its columns are image, age"),
        ("scan,patient\np0_0.png,7\n", "has no column that names the image"),
        ("image,patient\np0_0.png,7\np0_0.png,8\n", "in '8' here and in '7' in line 2"),
        ("image,patient\np0_0.png,\n", "line 2: 'p0_0.png' has no 'patient'"),
        ("image,patient\np0_0.png,7\n", "images/p0_1.png: the table has no row for this image"),
    ],
)
def test_a_table_that_leaves_images_out_is_refused(tmp_path: Path, text: str, told: str) -> None:
    make(tmp_path / "data", 3)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        api.split(tmp_path / "data", tmp_path / "out", {"val": 0.3}, table=tmp_path / "t.csv", column="patient")
    assert told in str(caught.value)


@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=4, max_size=8).map(
        lambda rows: [(1 + r[0], *r[1:]) for r in rows]
    ),
    st.floats(0.2, 0.5),
)
def test_dealt_groups_are_nearly_as_well_dealt_as_can_be(rows: list[tuple[int, ...]], share: float) -> None:
    """Against every possible assignment to two splits."""
    counts, targets = np.array(rows), np.array([1 - share, share])
    used = counts[:, counts.sum(0) > 0] / counts.sum(0)[counts.sum(0) > 0]

    def cost(where: np.ndarray) -> float:
        held = np.stack([used[where == place].sum(0) for place in (0, 1)])
        return float(((held - targets[:, None]) ** 2).sum())

    best = min(cost(np.array(where)) for where in product((0, 1), repeat=len(rows)))
    found = cost(deal(counts, targets, np.random.default_rng(0)))
    assert found <= 4 * best + 0.3


def test_many_images_are_dealt_exactly() -> None:
    generator = np.random.default_rng(0)
    counts = np.concatenate([np.ones((3000, 1), int), generator.random((3000, 12)) < generator.random(12) ** 3], axis=1)
    targets = np.array([0.7, 0.2, 0.1])
    where = deal(counts, targets, np.random.default_rng(1))
    held = np.stack([counts[where == place].sum(0) for place in range(3)])
    assert (np.abs(held - targets[:, None] * counts.sum(0)) <= 1 + 0.002 * counts.sum(0)).all()
