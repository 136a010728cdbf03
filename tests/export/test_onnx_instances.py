"""A dense instance segmenter in ONNX against the same in PyTorch: maps, objects, and a folder of predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskwright
from maskwright import api
from maskwright.engine.model import describe
from maskwright.engine.weights import save_model
from maskwright.errors import MaskwrightError
from maskwright.export.onnx_models import picture
from maskwright.methods.instances import dense_views
from maskwright.methods.instances.dense_detections import logits_of
from maskwright.methods.instances.dense_views import OVERLAP, maps_by
from maskwright.nets import instance
from maskwright.nets.dense_instances import create
from maskwright.sam.sam import Sam
from tests.helpers import TINY_SIZE, tiny_config, tiny_lite_config

pytestmark = pytest.mark.slow  # the trunk takes a while to be traced

NAMES = ("background", "one", "two")


@pytest.fixture(scope="module", params=["lite", "hiera"])
def exported(request: pytest.FixtureRequest, made_once: Callable[..., Path]) -> Path:
    """A run with an untrained segmenter, sharpened so that it sees objects, and its model in ONNX. Leave it as it is."""

    def make(run: Path) -> None:
        torch.manual_seed(0)
        sam = Sam.from_config({"lite": tiny_lite_config, "hiera": tiny_config}[request.param]())
        network = create(sam, len(NAMES), TINY_SIZE, 1.5).requires_grad_(False)
        for head in (network.foreground, network.distance):
            head.weight.mul_(4)
        config = describe("s4m", NAMES, TINY_SIZE, segmenter=network.description(), crop=None)
        save_model(run / "model", network.state_dict(), config, "# card")
        assert api.export_model(run).differences["logits"] < 1e-4

    return made_once(f"instances-{request.param}", make)


def test_objects_are_those_of_pytorch(exported: Path):
    images = [picture(size, number) for number, size in enumerate([(64, 64), (50, 97), (200, 31), (1, 1)])]
    torch_model, onnx_model = maskwright.load(exported, device="cpu"), api.load_onnx(exported)
    assert onnx_model.holds_instances
    count = 0
    for one, other in zip(
        onnx_model.predict(images, threshold=0.1), torch_model.predict(images, threshold=0.1), strict=True
    ):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
        assert (one.mask == other.mask).mean() > 0.99
        count += int(one.mask.max())
    assert count > 3


def test_a_large_image_is_looked_at_in_the_same_tiles(exported: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dense_views, "LARGEST_SIDE", 2 * OVERLAP + 32)
    image, network = picture((250, 310)), maskwright.load(exported, device="cpu").network
    largest = 2 * OVERLAP + 32
    onnx_model = api.load_onnx(exported)
    found = maps_by(onnx_model._look, image, network.zoom, largest)
    expected = maps_by(lambda view: logits_of(network, view), image, network.zoom, largest)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_folder_has_its_coco_results(exported: Path, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture((80, 90))).save(tmp_path / "photos" / "a.png")
    for engine in ("onnx", "torch"):
        maskwright.predict(exported, tmp_path / "photos", tmp_path / engine, engine=engine, threshold=0.1, device="cpu")
    ours, theirs = (json.loads((tmp_path / engine / "coco.json").read_text()) for engine in ("onnx", "torch"))
    assert ours["categories"] == theirs["categories"]
    assert len(ours["annotations"]) == len(theirs["annotations"]) > 0


def test_a_segmenter_of_queries_is_refused(tmp_path: Path):
    network = instance.create("sam", Sam.from_config(tiny_lite_config()), len(NAMES), TINY_SIZE, 8)
    config = describe("s4m", NAMES, TINY_SIZE, segmenter=network.description(), crop=None)
    save_model(tmp_path / "run" / "model", network.state_dict(), config, "# card")
    with pytest.raises(MaskwrightError, match="segmenter of queries is not exported"):
        api.export_model(tmp_path / "run")
