"""Every recipe, and SAM by itself, on a device of its own: nothing stays behind on the CPU, in training, scoring and prediction.

Run by `test_devices.py`, or by hand: `pytest tests/recipes/device_rehearsal.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from maskwright import api
from maskwright.cli import main
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.engine import devices, predictor
from maskwright.methods.in_context import predictor as in_context
from tests.pretend_device import MixedDevices, pretend_device
from tests.recipes.instance_training import SMALLEST as INSTANCES
from tests.recipes.instance_training import instance_scenes
from tests.recipes.training import SMALLEST as SEMANTIC
from tests.recipes.training import binary_scenes


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    with pretend_device() as device:
        for module in (devices, predictor, in_context):
            monkeypatch.setattr(module, "find_device", lambda _: device)
        monkeypatch.setattr(Accelerator, "device", property(lambda _: device))
        yield device


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return binary_scenes(tmp_path / "data", shares={Kind.MASK: 1.0}, train=10, val=3)


def score(run: Path, data: Path, **options: object) -> None:
    """Score a model, and predict an image; ``options`` are of the prediction."""
    model, dataset = api.load(run), Dataset.load(data)
    assert model.device.type == "pretend"
    api.evaluate(model, dataset, "val")
    (prediction,) = model.predict(dataset.image_path(dataset.split("val")[0]), **options)
    assert isinstance(prediction.mask, np.ndarray)


def test_the_rehearsal_notices(device: torch.device):
    there, here = torch.zeros(3, device=device), torch.ones(3)
    assert (there + here.to(device)).cpu().tolist() == [1, 1, 1]
    assert there[torch.tensor([0, 2])].device == device
    with pytest.raises(MixedDevices):
        there + here
    with pytest.raises(MixedDevices):
        there.index_copy(0, torch.tensor([1]), torch.ones(1, device=device))
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize("learner", ["own", "sb3"])
def test_clicks(learner: str, device: torch.device, masks: Path, tmp_path: Path, tiny_sam_folder: Path):
    smallest = {"steps": 6, "batch": 3, "tries": 6, "looks": 3, "clicks": 2, "groups": 2, "rl_share": 0.4}
    api.train("clicks", data=masks, out=tmp_path / "run", sam=str(tiny_sam_folder), learner=learner, **smallest)
    score(tmp_path / "run", masks, click=[(5.0, 6.0)])
    score(tmp_path / "run", masks, box=(5, 6, 30, 40))


@pytest.mark.parametrize("preset", ["paper", "strong"])
def test_alignsam(preset: str, device: torch.device, masks: Path, tmp_path: Path, tiny_sam_folder: Path):
    smallest = {"shots": 6, "epochs": 2, "clicks": 2, "preset": preset, "views": 1, "srm_updates": 2}
    api.train("alignsam", data=masks, out=tmp_path / "run", sam=str(tiny_sam_folder), **smallest)
    score(tmp_path / "run", masks)


@pytest.mark.parametrize("selector", ["similar", "policy"])
def test_samix(selector: str, device: torch.device, tmp_path: Path, tiny_sam_folder: Path):
    data, run = binary_scenes(tmp_path / "data"), tmp_path / "run"
    smallest = SEMANTIC | {"device": "auto", "sam_every": 2, "selector": selector}
    api.train("samix", data=data, out=run, sam=str(tiny_sam_folder), **smallest)
    score(run, data, flip=True)
    api.evaluate(api.load(run, in_context=True), Dataset.load(data), "val")


def test_s4m(device: torch.device, tmp_path: Path, tiny_sam_folder: Path):
    data, run = instance_scenes(tmp_path / "data"), tmp_path / "run"
    smallest = INSTANCES | {"device": "auto", "certain": 0.0, "burn_in": 0.5}
    api.train("s4m", data=data, out=run, sam=str(tiny_sam_folder), **smallest)
    score(run, data)


@pytest.mark.parametrize("command", ["evaluate", "precompute", "info"])
def test_sam_itself(command: str, device: torch.device, masks: Path, tmp_path: Path, tiny_sam_folder: Path):
    words = {
        "evaluate": [tiny_sam_folder, masks, "--limit", 2, "--clicks", 2, "--report", tmp_path / "report.html"],
        "precompute": [tiny_sam_folder, masks, "--store", tmp_path / "store"],
        "info": [tiny_sam_folder],
    }
    assert main(["sam", command, *map(str, words[command])]) == 0
