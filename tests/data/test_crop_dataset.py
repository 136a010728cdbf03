"""Crops on disk are the images' own pixels and labels, read by windows; made once, and again where data or settings differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from maskwright.data import check, crop_dataset
from maskwright.data.crop_dataset import cropped, diameters
from maskwright.data.dataset import Dataset
from maskwright.data.image_reading import ImageReading
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 255, (600, 900, 3), dtype=np.uint8)


def frames(folder: Path) -> Dataset:
    """A mask of two objects, a mask of none, boxes with a tag, and nothing; the second in validation."""
    (folder / "images").mkdir(parents=True)
    ids = np.zeros((600, 900), np.uint16)
    ids[100:120, 200:230], ids[400:410, 700:715] = 3, 9
    for name, values in (("a", ids), ("b", np.zeros_like(ids))):
        write_mask(folder / f"masks/{name}.png", values)
    for name in "abcd":
        Image.fromarray(np.roll(PIXELS, ord(name), 1)).save(folder / f"images/{name}.png")
    labels = {
        "a": {"mask": {"path": "masks/a.png", "kind": "instance", "categories": {"3": "x", "9": "y"}}},
        "b": {"mask": {"path": "masks/b.png"}},
        "c": {"boxes": [{"xyxy": [50, 50, 90, 80], "category": "y"}], "tags": ["y"]},
        "d": {},
    }
    rows = [
        {"id": name, "image": f"images/{name}.png", "split": "val" if name == "b" else "train", "labels": labels[name]}
        for name in "abcd"
    ]
    content = {"version": 1, "categories": ["background", "x", "y"], "samples": rows}
    (folder / "manifest.json").write_text(json.dumps(content))
    return Dataset.load(folder)


def place(id: str) -> tuple[int, int]:
    _name, x, y = id.split("-")
    return int(x[1:]), int(y[1:])


def test_crops_hold_the_pixels_and_the_labels(tmp_path: Path) -> None:
    dataset = frames(tmp_path / "data")
    crops, told = cropped(dataset, "digest", {"train": 128, "val": 64})
    assert crops.categories == dataset.categories
    assert told[0].startswith(f"train: {len(crops.split('train'))} crops of 3 images; 1 tags of images left out")
    seen = set()
    for crop in crops:
        x, y = place(crop.id)
        side = 64 if crop.split == "val" else 128
        own = next(sample for sample in dataset if crop.id.startswith(f"{sample.id}-"))
        assert np.array_equal(crops.pixels(crop), dataset.pixels(own)[y : y + side, x : x + side])
        assert crop.labels.tags == ()
        if own.labels.mask is not None:
            mask = crop.labels.mask
            assert mask is not None
            values = read_mask(crops.root / mask.path)
            assert np.array_equal(values, read_mask(dataset.root / own.labels.mask.path)[y : y + side, x : x + side])
            assert set(mask.categories) == set(np.unique(values).tolist()) & set(own.labels.mask.categories)
            seen |= set(np.unique(values).tolist())
    assert seen == {0, 3, 9}
    assert not check.check(crops)
    boxed = [crop for crop in crops if crop.labels.boxes]
    assert any(crop.labels.boxes[0].cut == "" for crop in boxed)


def test_they_are_made_once_and_again_for_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = frames(tmp_path / "data")
    first, told = cropped(dataset, "digest", {"train": 128})
    with monkeypatch.context() as patch:
        patch.setattr(crop_dataset, "_cut_all", None)
        again, told_again = cropped(dataset, "digest", {"train": 128})
    assert (again, told_again) == (first, told)
    others = [
        cropped(dataset, "other data", {"train": 128}),
        cropped(dataset, "digest", {"train": 96}),
        cropped(dataset, "digest", {"train": 128}, seed=1),
        cropped(dataset.with_image_reading(ImageReading(channels=(2, 1, 0))), "digest", {"train": 128}),
    ]
    assert len({crops.root for crops, _ in [(first, told), *others]}) == 5


def test_a_failure_leaves_no_crops(tmp_path: Path) -> None:
    dataset = frames(tmp_path / "data")
    (tmp_path / "data/images/a.png").write_bytes(b"no image")
    (tmp_path / "data/images/c.png").unlink()
    with pytest.raises(DataError) as caught:
        cropped(dataset, "digest", {"train": 128})
    assert len(caught.value.problems) == 2
    assert not list((tmp_path / "data/.maskwright/crops").iterdir())


def test_large_files_are_read_by_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiled TIFF of more pixels than are decoded at once, and its mask: checked, measured and cut without either in memory."""
    for module in ("maskwright.data.large.opening", "maskwright.data.image_files"):
        monkeypatch.setattr(f"{module}.MAX_PIXELS", 500_000)
    (tmp_path / "data").mkdir()
    mask = np.zeros((600, 900), np.uint8)
    mask[300:320, 500:520] = 1
    for name, pixels in (("a", PIXELS), ("m", mask)):
        tifffile.imwrite(tmp_path / f"data/{name}.tif", pixels, tile=(128, 128), compression="zlib")
    row = {"id": "a", "image": "a.tif", "labels": {"mask": {"path": "m.tif"}}}
    content = {"version": 1, "categories": ["background", "x"], "samples": [row]}
    (tmp_path / "data/manifest.json").write_text(json.dumps(content))
    dataset = Dataset.load(tmp_path / "data")
    report = check.examine(dataset)
    assert report.problems == []
    assert dataset.size_of(dataset[0]) == (900, 600)
    assert diameters(dataset)[0] == pytest.approx(2 * np.sqrt(400 / np.pi))
    crops, _ = cropped(dataset, "digest", {"train": 64})
    shown = 0
    for crop in crops:
        x, y = place(crop.id)
        assert np.array_equal(crops.pixels(crop), PIXELS[y : y + 64, x : x + 64])
        assert crop.labels.mask is not None
        shown = max(shown, int(read_mask(crops.root / crop.labels.mask.path).sum()))
    assert shown == 400
    tifffile.imwrite(tmp_path / "data/m.tif", mask[:590] * 7, tile=(128, 128), compression="zlib")
    (problem,) = check.check(dataset)
    assert "the mask has 900x590 pixels, its image 900x600" in problem
