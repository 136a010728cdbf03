"""Deep images, pages and channels from the command line: check, train, predict, evaluate, and what a model remembers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskwright
from maskwright import api
from maskwright.errors import DataError, MaskwrightError, RunError
from tests.data.tiffs import write_tiff

torch.set_num_threads(1)
SMALL = {"steps": 1, "size": 64, "batch": 2, "device": "cpu", "pseudo": "none", "validations": 1}
BRIGHTEST = {"a": 3000, "b": 1500, "c": 800, "d": 400}


def command(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maskwright", *map(str, args)], capture_output=True, text=True, check=False
    )


def cell(seed: int, brightest: int, channels: int = 3, kind: str = "u2") -> tuple[np.ndarray, np.ndarray]:
    """A bright square on a dim ground: the image ``(H, W, C)``, and its mask."""
    mask = np.zeros((48, 64), np.uint8)
    mask[8 + seed : 28 + seed, 10:40] = 1
    pixels = np.random.default_rng(seed).integers(0, brightest // 10, (48, 64, channels)).astype(kind)
    pixels[mask > 0] += brightest - pixels.max()
    return pixels, mask


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 12 bits in files of 16 with 3 channels, some dim and some bright."""
    root = tmp_path_factory.mktemp("deep")
    (root / "masks").mkdir()
    for seed, (name, brightest) in enumerate(BRIGHTEST.items()):
        pixels, mask = cell(seed, brightest)
        write_tiff(root / "images" / f"{name}.tif", pixels)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "splits.json").write_text(json.dumps({"train": ["a", "b"], "val": ["c"], "test": ["d"]}))
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maskwright.train("samix", data=data, out=tmp_path_factory.mktemp("runs") / "run", **SMALL)


def test_the_check_says_the_range(data: Path) -> None:
    done = command("data", "check", data)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert (
        "images of more than 8 bits: 4; in all of them 0 becomes black and 4095 white (measured over the training split"
        in said
    )
    done = command("data", "check", data, "--intensity", "0,1000")
    assert "holds 0..3000, and what is beyond 0..1000 is cut off" in " ".join(done.stdout.split())


def test_a_model_keeps_the_range_and_uses_it_on_other_images(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["image_reading"] == {"intensity": [0, 4095]}
    model = maskwright.load(run, device="cpu")
    paths = [write_tiff(tmp_path / f"{n}.tif", np.full((48, 64, 3), n, np.uint16)) for n in (300, 3000, 60000)]
    seen: list[int] = []
    squash = model.prepare
    model.prepare = lambda pixels: seen.append(int(pixels.max())) or squash(pixels)  # type: ignore[method-assign]
    predictions = list(model.predict(paths, workers=1))
    # By itself, each would have been scaled by another depth: 300 to 75 and 60000 to 233.
    assert seen == [round(300 / 4095 * 255), round(3000 / 4095 * 255), 255]
    assert np.asarray(predictions[0].overlay(alpha=0, outline=False)).max() == seen[0]


def test_predicting_and_scoring_a_folder(run: Path, data: Path, tmp_path: Path) -> None:
    done = command("predict", run, data / "images", "--out", tmp_path / "out", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert index["options"]["intensity"] == [0, 4095]
    other = command(
        "predict", run, data / "images", "--out", tmp_path / "out", "--device", "cpu", "--intensity", "0,900"
    )
    assert other.returncode == 1
    assert "another --intensity" in other.stderr
    done = command("evaluate", run, data, "--device", "cpu")
    assert done.returncode == 0, done.stderr


def test_a_resumed_training_refuses_another_reading(run: Path, data: Path) -> None:
    reading = api.ImageReading(channels=(0, 0, 0))
    with pytest.raises(
        RunError, match=r"images read in another way: --intensity 0,4095 → --channels 0,0,0 --intensity 0,4095"
    ):
        maskwright.train("samix", data=data, out=run, resume=True, image_reading=reading, **SMALL)
    maskwright.train("samix", data=data, out=run, resume=True, **SMALL)


@pytest.fixture
def satellite(tmp_path: Path) -> Path:
    """Two pages of five channels each."""
    root = tmp_path / "satellite"
    (root / "masks").mkdir(parents=True)
    for seed, name in enumerate("ab"):
        pixels, mask = cell(seed, 200, 5, "u1")
        write_tiff(root / "images" / f"{name}.tif", 255 - pixels, pixels, planar=seed == 1)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "splits.json").write_text(json.dumps({"train": ["a", "b"]}))
    return root


def test_pages_and_channels_from_refusal_to_prediction(satellite: Path, tmp_path: Path) -> None:
    done = command("data", "check", satellite)
    assert (done.returncode, done.stderr) == (1, "")
    said = " ".join(done.stdout.split())
    assert "2 problems" in said
    assert "a.tif: has 2 pages" in said
    assert "b.tif: has 2 pages" in said
    assert said.count("say which to read, counted from 0, with --page 0") == 1
    done = command("data", "check", satellite, "--page", "1")
    assert "has 5 channels, and three are read" not in done.stderr
    assert "has 5 channels" in done.stdout
    assert "--channels 0,1,2" in done.stdout
    done = command("data", "check", satellite, "--page", "1", "--channels", "2,0,1")
    assert done.returncode == 0, done.stdout
    assert "images are read with --page 1 --channels 2,0,1 (counted from 0)" in " ".join(done.stdout.split())
    reading = api.ImageReading(page=1, channels=(2, 0, 1))
    run = maskwright.train("samix", data=satellite, out=tmp_path / "run", image_reading=reading, **SMALL)
    assert maskwright.load(run, device="cpu").image_reading == reading
    done = command("predict", run, satellite, "--out", tmp_path / "out", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    scores = maskwright.evaluate(run, satellite, "train")
    assert 0 <= scores["dice"] <= 1


def test_counting_and_weakening_take_a_page(satellite: Path, tmp_path: Path) -> None:
    chosen = ("--page", "1", "--channels", "2,0,1")
    counted = command("data", "stats", satellite, *chosen, "--json")
    assert counted.returncode == 0, counted.stderr
    assert json.loads(counted.stdout)["splits"]["train"]["images"] == 2
    out = tmp_path / "weak"
    weakened = command("data", "weaken", satellite, "--out", out, "--box", "1", *chosen)
    assert weakened.returncode == 0, weakened.stderr
    checked = command("data", "check", out, *chosen)
    assert checked.returncode == 0, checked.stdout
    reading = api.ImageReading(page=1, channels=(2, 0, 1))
    assert api.weaken(satellite, tmp_path / "again", box=1.0, image_reading=reading).image_reading == reading


def test_a_training_refuses_pages_in_one_go(satellite: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        maskwright.train("samix", data=satellite, out=tmp_path / "run", **SMALL)
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [("--page", "-1"), ("--channels", "1,2"), ("--intensity", "9,3")])
def test_options_that_cannot_be(data: Path, option: tuple[str, str]) -> None:
    done = command("data", "check", data, *option)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {option[0]} ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", [("--page", "x"), ("--channels", "red"), ("--intensity", "low,high")])
def test_options_that_are_no_numbers(data: Path, option: tuple[str, str]) -> None:
    done = command("data", "check", data, *option)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_negative_numbers_on_the_command_line(data: Path) -> None:
    done = command("data", "check", data, "--intensity", "-1000,3000")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "-1000 becomes black and 3000 white (as given)" in " ".join(done.stdout.split())


def test_embeddings_are_kept_for_each_reading(data: Path, tmp_path: Path) -> None:
    assert maskwright.precompute("nano", data, tmp_path / "store", size=64, device="cpu") == (4, 0)
    assert maskwright.precompute("nano", data, tmp_path / "store", size=64, device="cpu") == (0, 4)
    other = api.ImageReading(intensity=(0, 65535))
    assert maskwright.precompute("nano", data, tmp_path / "store", size=64, device="cpu", image_reading=other) == (4, 0)


def test_converting_keeps_what_is_read(satellite: Path, tmp_path: Path) -> None:
    reading = api.ImageReading(page=1, channels=(2, 0, 1))
    maskwright.convert(satellite, tmp_path / "nnunet", "nnunet", image_reading=reading)
    with Image.open(tmp_path / "nnunet" / "imagesTr" / "a_0000.png") as image:
        np.testing.assert_array_equal(np.asarray(image), cell(0, 200, 5, "u1")[0][:, :, [2, 0, 1]])
    maskwright.convert(satellite, tmp_path / "coco", "coco", image_reading=reading, allow_loss=True)
    with pytest.raises(MaskwrightError):
        api.ImageReading(page=True, channels=())


def test_fixing_reads_what_the_other_commands_read(satellite: Path, tmp_path: Path) -> None:
    """Pages of five channels are no PNG: the files stay, and are read in the same way again."""
    mask = np.asarray(Image.open(satellite / "masks" / "a.png")) * 255
    Image.fromarray(mask).save(satellite / "masks" / "a.png")
    done = command("data", "check", satellite, "--page", "1", "--channels", "2,0,1")
    assert done.returncode == 1
    options = ("--page", "1", "--channels", "2,0,1")
    done = command("data", "fix", satellite, "--out", tmp_path / "fixed", *options)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "fixed" / "fixed.json").read_text())
    assert written["options"] == {"page": 1, "channels": [2, 0, 1]}
    assert command("data", "check", tmp_path / "fixed", *options).returncode == 0
