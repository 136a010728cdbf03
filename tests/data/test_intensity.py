"""One range of intensity for all images: the rule, what the check says, fingerprints, and what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import maskwright
from maskwright.data.check import examine
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.intensity import settled
from maskwright.data.raster import Extent, Raster, intensity_of
from maskwright.data.understood import understood
from maskwright.errors import MaskwrightError
from tests.data.tiffs import write_tiff


def scan(root: Path, images: dict[str, np.ndarray], splits: dict[str, list[str]] | None = None) -> Dataset:
    """Images of grey ``(H, W)`` as TIFFs with masks of one object."""
    (root / "masks").mkdir(parents=True)
    for name, pixels in images.items():
        write_tiff(root / "images" / f"{name}.tif", pixels)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[1:3, 1:3] = 1
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "splits.json").write_text(json.dumps(splits or {"train": list(images)}))
    return Dataset.load(root)


def grey(*values: float, kind: str = "u2") -> np.ndarray:
    return np.resize(np.array(values, kind), (6, 8))


@pytest.mark.parametrize(
    ("low", "high", "floats", "expected"),
    [
        (0, 200, False, (0, 255)),
        (3, 256, False, (0, 1023)),
        (0, 1023, False, (0, 1023)),
        (0, 1024, False, (0, 4095)),
        (0, 4096, False, (0, 16383)),
        (9, 16384, False, (0, 65535)),
        (0, 65536, False, (0, 65536)),
        (7, 70000, False, (7, 70000)),
        (-5, 100, False, (-5, 100)),
        (0.2, 0.9, True, (0, 1)),
        (0.2, 1.5, True, (0, 255)),
        (10, 255, True, (0, 255)),
        (10, 256, True, (10, 256)),
        (-0.1, 0.5, True, (-0.1, 0.5)),
    ],
)
def test_the_rule(low: float, high: float, floats: bool, expected: tuple[float, float]) -> None:
    assert intensity_of(Extent(low, high, floats)) == expected


@given(
    low=st.floats(-1e30, 1e30),
    span=st.floats(1e-3, 1e30),
    values=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=9),
)
def test_scaling_keeps_the_order_and_the_ends(low: float, span: float, values: list[float]) -> None:
    high = low + span
    if high <= low:
        return
    pixels = np.sort(np.array([low, high, *values]))[None, :, None]
    out = Raster(pixels, "a").rgb((low, high))[0, :, 0].astype(int)
    assert (np.diff(out) >= 0).all()
    assert (out[pixels[0, :, 0] <= low] == 0).all()
    assert (out[pixels[0, :, 0] >= high] == 255).all()


def test_images_of_one_set_are_scaled_alike(tmp_path: Path) -> None:
    """By itself, the dim image would have been taken for one of 8 bits."""
    dataset = settled(scan(tmp_path, {"dim": grey(0, 200), "bright": grey(0, 4000)}))
    assert dataset.image_reading == ImageReading(intensity=(0, 4095))
    dim, bright = (dataset.pixels(sample).max() for sample in sorted(dataset, key=lambda s: s.id, reverse=True))
    assert (dim, bright) == (round(200 / 4095 * 255), round(4000 / 4095 * 255))


def test_the_training_split_decides_and_others_are_cut_off_with_a_warning(tmp_path: Path) -> None:
    splits = {"train": ["a", "b"], "test": ["c"]}
    dataset = scan(tmp_path, {"a": grey(0, 900), "b": grey(5), "c": grey(0, 5000)}, splits)
    report = examine(dataset)
    assert report.intensity.range == settled(dataset).image_reading.intensity == (0, 1023)
    (warning,) = [w for w in report.warnings if w.kind == "intensity"]
    assert warning.file.endswith("c.tif")
    assert "holds 0..5000, and what is beyond 0..1023 is cut off" in warning
    said = (
        "images of more than 8 bits: 3; in all of them 0 becomes black and 1023 white (measured over the training split"
    )
    assert any(said in line for line in understood(report))


def test_a_range_that_is_given_is_kept(tmp_path: Path) -> None:
    scan(tmp_path, {"a": grey(0, 900)})
    result = maskwright.check(tmp_path, image_reading=ImageReading(intensity=(100, 600)))
    assert any("100 becomes black and 600 white (as given)" in line for line in result.understood)
    assert any("holds 0..900, and what is beyond 100..600 is cut off" in warning for warning in result.warnings)


def test_images_of_8_bits_stay_as_they_are(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    scan(tmp_path, {"a": grey(0, 900)})
    Image.fromarray(pixels).save(tmp_path / "images" / "b.png")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a", "b"]}))
    dataset = settled(Dataset.load(tmp_path))
    (sample,) = [sample for sample in dataset if sample.id == "b"]
    np.testing.assert_array_equal(dataset.pixels(sample)[:, :, 0], pixels)
    only = dataset.with_samples([sample])
    assert settled(only.with_image_reading(PLAIN)).image_reading == PLAIN


def test_integers_and_floats_together_are_scaled_each_by_itself_and_said(tmp_path: Path) -> None:
    dataset = scan(tmp_path, {"a": grey(0, 900), "b": grey(0, 0.5, kind="f4")})
    report = examine(dataset)
    assert not report.problems
    (warning,) = [w for w in report.warnings if w.kind == "intensity"]
    assert "some images hold integers of more than 8 bits (images/a.tif) and some floats (images/b.tif)" in warning
    assert "each is scaled by itself; " in warning
    assert settled(dataset).image_reading == PLAIN
    assert [int(dataset.pixels(sample).max()) for sample in dataset] == [round(900 / 1023 * 255), 128]
    given = dataset.with_image_reading(ImageReading(intensity=(0, 900)))
    assert not [w for w in examine(given).warnings if w.kind == "intensity"]


def test_a_copy_in_another_split_is_found_though_its_scale_is_not_known(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 4000, (6, 8), np.uint16)
    splits = {"train": ["a"], "test": ["b", "c"]}
    dataset = scan(tmp_path, {"a": random, "b": random // 2, "c": np.zeros((6, 8), np.uint16)}, splits)
    (tmp_path / "images" / "c.tif").unlink()
    Image.fromarray(random).save(tmp_path / "images" / "c.png")
    (problem,) = examine(Dataset.load(tmp_path)).problems
    assert "one image in several splits" in problem
    assert "c.png" in problem
    assert dataset


def test_the_fingerprint_covers_how_images_are_read(tmp_path: Path) -> None:
    dataset = scan(tmp_path, {"a": grey(0, 900)})
    plain = Fingerprint.of(dataset)
    other = Fingerprint.of(dataset.with_image_reading(ImageReading(page=1, intensity=(0, 4095))))
    assert "image_reading" not in plain.to_json()
    assert other.digest != plain.digest
    assert Fingerprint.from_json(other.to_json()) == other
    assert plain.changes_to(other) == ["images read in another way: as they are → --page 1 --intensity 0,4095"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"page": -1}, "--page -1: must be 0 or more"),
        ({"channels": (0, 1)}, "--channels 0,1: must be one number or three, each 0 or more"),
        ({"channels": (0, 1, -2)}, "--channels 0,1,-2"),
        ({"intensity": (5.0, 5.0)}, "--intensity 5,5: must be two numbers, the first the lower"),
        ({"intensity": (0.0, float("inf"))}, "--intensity 0,inf"),
        ({"intensity": (0.0,)}, "--intensity 0:"),
    ],
)
def test_readings_that_cannot_be(values: dict[str, object], says: str) -> None:
    with pytest.raises(MaskwrightError, match=says):
        ImageReading(**values)  # type: ignore[arg-type]


def test_a_reading_survives_json_and_is_laid_over_another() -> None:
    reading = ImageReading(page=2, channels=(2, 0, 1), intensity=(0.5, 4095.0))
    assert ImageReading.of(json.loads(json.dumps(reading.as_dict()))) == reading
    assert reading.options == "--page 2 --channels 2,0,1 --intensity 0.5,4095"
    assert ImageReading(page=0).over(reading) == replace(reading, page=0)
    assert PLAIN.over(reading) == reading
    with pytest.raises(MaskwrightError):
        ImageReading.of({"pages": 1})
