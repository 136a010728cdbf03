"""A semantic segmenter in ONNX against the same in PyTorch, from the files of images to the files of masks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import maskwright
from maskwright import api, cli
from maskwright.data.mask_files import read_mask
from maskwright.engine.model import Model
from maskwright.errors import MaskwrightError, WeightsError
from maskwright.export import onnx_writer
from maskwright.export.onnx_models import export_predictor, picture
from maskwright.methods.semantic.predictor import SegmenterPredictor
from tests.tiny_model import CATEGORIES, Colours, save_run, seal

torch.set_num_threads(1)

SPARED = {
    "torch",
    "transformers",
    "accelerate",
    "huggingface_hub",
    "matplotlib",
    "gymnasium",
    "faster_coco_eval",
    "starlette",
}
"""What the page on ONNX does not tell people to install who only predict."""

SIZES = [(64, 64), (50, 70), (300, 130), (20, 333), (1, 1)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its model in ONNX. Leave it as it is."""
    run = save_run(tmp_path_factory.mktemp("runs") / "run", image_reading={"intensity": [0, 200]})
    with redirect_stdout(StringIO()) as told:
        assert cli.main(["export", str(run)]) == 0
    assert f"written: {run / 'model.onnx'}" in told.getvalue()
    assert "opset 20; largest difference from PyTorch: categories in" in told.getvalue()
    return run


@pytest.fixture
def colours(tmp_path: Path) -> SegmenterPredictor:
    """A network that only looks at colour, in PyTorch."""
    return SegmenterPredictor(Colours(), Model.open(save_run(tmp_path / "run"), ["samix"]))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number, size in enumerate(SIZES):
        Image.fromarray(picture(size, number)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_what_a_file_says_of_itself(exported: Path):
    facts = api.load_onnx(exported).file.facts
    assert (facts["kind"], facts["recipe"]) == ("semantic", "samix")
    assert facts["differences"]["probability"] < 1e-5
    assert facts["differences"]["categories"] < 5e-3
    assert facts["signature"] == maskwright.load(exported).signature


def test_masks_and_scores_are_those_of_pytorch(exported: Path):
    images = [picture(size, number) for number, size in enumerate(SIZES)]
    found = api.load_onnx(exported)
    assert found.image_reading == maskwright.load(exported).image_reading
    for one, other in zip(found.predict(images), maskwright.load(exported, device="cpu").predict(images), strict=True):
        assert one.categories == other.categories == CATEGORIES
        assert (one.mask != other.mask).mean() < 5e-3
        assert one.scores == pytest.approx(other.scores, abs=2e-3)
        assert one.mask.dtype == np.uint8


def test_the_graph_takes_any_number_of_images_of_any_size(exported: Path):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    together = np.stack([picture((90, 41), seed) for seed in range(3)])
    categories, probability = session.run(None, {"image": together})
    assert categories.shape == probability.shape == (3, 90, 41)
    for number, image in enumerate(together):
        alone, _ = session.run(None, {"image": image[None]})
        assert (alone[0] == categories[number]).mean() > 0.999


def test_predicting_a_folder_needs_no_pytorch(exported: Path, photos: Path, tmp_path: Path):
    words = ["predict", str(exported), str(photos), "--out", str(tmp_path / "onnx"), "--engine", "onnx", "--to", "coco"]
    program = (
        "import sys\nfrom maskwright.cli import main\nassert main(sys.argv[1:]) == 0\n"
        f"print({{name.split('.')[0] for name in sys.modules}} & {SPARED})"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    maskwright.predict(exported, photos, tmp_path / "torch", device="cpu")
    for path in sorted((tmp_path / "torch" / "masks").iterdir()):
        same = read_mask(path) == read_mask(tmp_path / "onnx" / "masks" / path.name)
        assert same.mean() > 0.995, path.name
    # Masks nearly the same are not the same: a folder is of one engine.
    with pytest.raises(MaskwrightError, match="--overwrite"):
        maskwright.predict(exported / "model.onnx", photos, tmp_path / "torch")


def test_what_a_model_in_onnx_cannot_do_is_refused(exported: Path, photos: Path, tmp_path: Path, monkeypatch):
    file = exported / "model.onnx"
    for settings, text in (
        ({"flip": True}, "--flip"),
        ({"in_context": True}, "--in-context"),
        ({"device": "cuda"}, "--device cuda"),
        ({"engine": "torch"}, "is a file in ONNX"),
    ):
        with pytest.raises(MaskwrightError, match=text):
            maskwright.predict(file, photos, tmp_path / "out", **settings)
    loaded = api.load_onnx(file)
    assert maskwright.predict(loaded, photos, tmp_path / "loaded").predicted == len(SIZES)
    with pytest.raises(MaskwrightError, match="loaded already"):
        maskwright.predict(loaded, photos, tmp_path / "out", engine="torch")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MaskwrightError, match="one process"):
        maskwright.predict(file, photos, tmp_path / "out")


def test_a_model_that_was_trained_on_is_noticed(exported: Path, tmp_path: Path):
    run = shutil.copytree(exported, tmp_path / "run")
    config = json.loads((run / "model" / "config.json").read_text())
    seal(run / "model", {**config, "categories": ["background", "blue", "red"]})
    with pytest.raises(WeightsError, match="export it again"):
        api.load_onnx(run)
    shutil.rmtree(run / "model")
    assert api.load_onnx(run).categories == CATEGORIES


def test_answers_that_differ_are_no_file(colours: SegmenterPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_writer, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(MaskwrightError, match="probability by"):
        export_predictor(colours, tmp_path / "new" / "colours.onnx")
    assert list((tmp_path / "new").iterdir()) == []


def test_where_a_file_is_written(exported: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["export", str(exported), "--out", str(tmp_path / "a.txt")]) == 1
    assert "must end in .onnx" in capsys.readouterr().err
    assert cli.main(["export", str(exported / "model")]) == 1
    assert "--out FILE.onnx" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "nothing")]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    assert cli.main(["predict", str(tmp_path), str(photos), "--out", str(tmp_path / "b"), "--engine", "onnx"]) == 1
    assert "there is no model.onnx yet; make it with `maskwright export" in capsys.readouterr().err


def test_colours_are_found_where_they_are(colours: SegmenterPredictor, tmp_path: Path):
    image = np.zeros((120, 200, 3), np.uint8)
    image[20:60, 30:90, 0] = 255
    image[70:110, 100:180, 2] = 255
    export_predictor(colours, tmp_path / "colours.onnx")
    (prediction,) = api.load_onnx(tmp_path / "colours.onnx").predict(image)
    expected = np.where(image[..., 0] > 0, 1, np.where(image[..., 2] > 0, 2, 0))
    assert (prediction.mask != expected).mean() < 0.06
    assert prediction.mask[40, 60] == 1
    assert prediction.mask[90, 140] == 2
