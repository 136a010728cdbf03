"""All recipes train on crops where whole images would lose their objects, say so, and slide over images afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskwright import api
from maskwright.api import evaluate, load, predict, train
from maskwright.api.curate import _semantic
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.engine.base_predictor import BasePredictor
from maskwright.errors import DataError, MaskwrightError
from maskwright.recipes.samix import Config
from tests.data.large import files
from tests.recipes.frames import SIDE, write_frames

SIZE = 64
LENGTH: dict[str, dict[str, Any]] = {
    "samix": {"steps": 4, "size": SIZE, "pseudo": "none", "batch": 4, "workers": 0},
    "s4m": {"steps": 2, "size": SIZE, "stage": "teacher", "decoder": "queries", "queries": 5, "batch": 2, "workers": 0},
    "alignsam": {"steps": 2, "shots": 4, "clicks": 2, "views": 1, "srm_updates": 2, "size": SIZE},
    "clicks": {"steps": 2, "batch": 4, "tries": 4, "looks": 2, "size": SIZE},
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames") / "data")


@pytest.mark.parametrize("recipe", LENGTH)
def test_training_on_crops(recipe: str, frames: Path, tmp_path: Path, tiny_sam_folder: Path, capfd: Any) -> None:
    run = train(recipe, data=frames, out=tmp_path / "run", sam=str(tiny_sam_folder), device="cpu", **LENGTH[recipe])
    said = capfd.readouterr().err
    assert "crops of 64 pixels: the usual object is 14 pixels across, and 2.9 on the canvas of 64" in said
    assert "in a crop it has 14 (--crop 0 squashes whole images)" in said
    if recipe != "s4m":  # which takes crops of whole images, unless these are much larger
        assert "crops of 4 images" in said
    config = json.loads((run / "model/config.json").read_text())
    assert config["crop"] == 64
    model = load(run)
    assert model.crop == 64
    assert evaluate(model, frames)["split"] == "test"
    image = frames / "images/5.png"
    options: dict[str, Any] = {"click": [(150.0, 150.0)]} if recipe == "clicks" else {}
    (found,) = model.predict(image, **options)
    assert found.mask.shape == (SIDE, SIDE)
    if recipe == "clicks":
        rows, columns = np.nonzero(found.mask)
        assert len(rows) == 0 or (
            rows.min() >= 118 and rows.max() < 182 and columns.min() >= 118 and columns.max() < 182
        )
        return
    summary = predict(run, image, tmp_path / "large", write=("tiff", "geojson"))
    assert (summary.predicted, summary.problems) == (1, [])


def test_whole_images_where_nothing_is_lost_or_where_it_is_said(
    frames: Path, tmp_path: Path, tiny_sam_folder: Path, capfd: Any
) -> None:
    settings = {"data": frames, "sam": str(tiny_sam_folder), "device": "cpu", **LENGTH["samix"]}
    run = train("samix", out=tmp_path / "whole", crop=0, **settings)
    assert "crop" not in json.loads((run / "model/config.json").read_text())
    large = train("samix", out=tmp_path / "large", **{**settings, "size": 256, "steps": 1})
    assert "crop" not in json.loads((large / "model/config.json").read_text())
    assert "crops" not in capfd.readouterr().err
    run = train("samix", out=tmp_path / "scaled", scale=0.5, **settings)
    assert json.loads((run / "model/config.json").read_text())["crop"] == 128
    again = train("samix", out=tmp_path / "scaled", scale=0.5, **{**settings, "steps": 4}, resume=True)
    assert again == run


def test_refused_settings(tmp_path: Path) -> None:
    paths: dict[str, Any] = {"data": tmp_path, "out": tmp_path / "run"}
    with pytest.raises(MaskwrightError, match=r"--crop 20: must be 0 \(whole images\) or at least 32 pixels"):
        Config(**paths, crop=20)
    with pytest.raises(MaskwrightError, match="--scale 0: must be above 0"):
        Config(**paths, scale=0)
    with pytest.raises(MaskwrightError, match="give one of the two"):
        Config(**paths, scale=1, crop=64)


def test_images_too_large_to_be_squashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_sam_folder: Path
) -> None:
    for module in ("maskwright.data.large.opening", "maskwright.data.image_files"):
        monkeypatch.setattr(f"{module}.MAX_PIXELS", 100_000)
    files.pyramid(tmp_path / "a.tif", files.picture(400, 300))
    rows = [{"id": "a", "image": "a.tif", "labels": {"tags": ["x"]}}]
    content = {"version": 1, "categories": ["background", "x"], "samples": rows}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a\.tif: too large to be squashed to 64 pixels; give --crop 64"):
        train("samix", data=tmp_path, out=tmp_path / "run", sam=str(tiny_sam_folder), device="cpu", **LENGTH["samix"])
    assert not (tmp_path / "run").exists()


def test_a_click_agent_corrects_objects_one_by_one(frames: Path, tmp_path: Path, tiny_sam_folder: Path) -> None:
    settings = {"sam": str(tiny_sam_folder), "device": "cpu", **LENGTH["clicks"]}
    agent = load(train("clicks", data=frames, out=tmp_path / "agent", **settings))
    (tmp_path / "given").mkdir()
    mask = (read_mask(frames / "masks/5.png") > 0).astype(np.uint8)
    write_mask(tmp_path / "given/5.png", mask)
    (found,) = agent.predict(frames / "images/5.png", masks=tmp_path / "given")
    assert found.mask.shape == mask.shape
    assert set(np.unique(found.mask)) <= {0, 1}


def test_what_squashes_whole_images_refuses_a_model_of_crops(
    frames: Path, tmp_path: Path, tiny_sam_folder: Path
) -> None:
    settings = {"sam": str(tiny_sam_folder), "device": "cpu", **LENGTH["samix"]}
    run = train("samix", data=frames, out=tmp_path / "run", **settings)
    with pytest.raises(
        MaskwrightError, match="learnt from crops of 64 pixels and slides them over images, which a file in ONNX"
    ):
        api.export_model(run, "onnx")
    with pytest.raises(MaskwrightError, match="learnt from crops of 64 pixels, and whole images are looked at here"):
        _semantic(run, "cpu")
    assert isinstance(load(run), BasePredictor)
