"""SAM in ONNX against the four verbs in PyTorch: embeddings, clicks, boxes and earlier answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from maskwright import api
from maskwright.errors import DataError, WeightsError
from maskwright.export.onnx_models import picture
from maskwright.export.onnx_sam import OnnxSam
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam

pytestmark = pytest.mark.slow  # the decoder takes a while to be traced

SIZE = (96, 160)  # (H, W)


@pytest.fixture(scope="module")
def exported(tiny_sam_onnx: Path) -> Path:
    return tiny_sam_onnx


@pytest.fixture
def sam(tiny_sam_folder: Path) -> Sam:
    return Sam.load(str(tiny_sam_folder)).requires_grad_(False)


def masks_of(logits: torch.Tensor) -> np.ndarray:
    return (F.interpolate(logits[None, None], SIZE, mode="bilinear", align_corners=False)[0, 0] > 0).numpy()


@pytest.mark.parametrize("kind", ["click", "clicks", "box", "previous"])
def test_answers_are_those_of_the_four_verbs(exported: Path, sam: Sam, kind: str):
    # An image of the canvas' own size, so that both see the same pixels; the prompts are in another frame, which only they are told.
    onnx, image = OnnxSam(exported), picture((64, 64), 3)
    encoded = onnx.encode(image)
    embedding = sam.encode(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    for name, value in encoded.features.items():
        np.testing.assert_allclose(value, getattr(embedding, name), atol=1e-4)
    clicks = torch.tensor([[[[20.0, 30.0], [50.0, 8.0]]]])
    labels = torch.tensor([[[1, 0]]])
    earlier = torch.linspace(-3, 3, 256).reshape(1, 1, 16, 16)
    if kind == "click":
        answer = onnx.decode(encoded, [(20, 30)], [1])
        masks = sam.decode(embedding, Prompts.of_points(clicks[:, :, :1], labels[:, :, :1]), multimask=True)
        expected = masks.best[0, 0]
    elif kind == "clicks":
        answer = onnx.decode(encoded, [(20, 30), (50, 8)], [1, 0])
        expected = sam.decode(embedding, Prompts.of_points(clicks, labels)).logits[0, 0, 0]
    elif kind == "box":
        answer = onnx.decode(encoded, box=(5, 6, 40, 50))
        expected = sam.decode(embedding, Prompts.of_boxes(torch.tensor([[[5.0, 6, 40, 50]]]))).logits[0, 0, 0]
    else:
        answer = onnx.decode(encoded, [(20, 30)], [1], previous=earlier[0, 0].numpy())
        expected = sam.decode(embedding, Prompts.of_points(clicks[:, :, :1], labels[:, :, :1]), earlier).logits[0, 0, 0]
    np.testing.assert_allclose(answer.logits, expected, atol=1e-4)
    assert answer.mask.shape == (64, 64)
    assert 0 <= answer.iou <= 1


def test_prompts_are_in_pixels_of_the_image(exported: Path, sam: Sam):
    """The same scene at another size, and prompts that move with it."""
    onnx = OnnxSam(exported)
    small = picture((64, 64), 3)
    large = np.asarray(Image.fromarray(small).resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR))
    clicks = [(20.0, 30.0), (50.0, 8.0)]
    one = onnx.decode(onnx.encode(small), clicks, [1, 0])
    other = onnx.decode(onnx.encode(large), [(x * SIZE[1] / 64, y * SIZE[0] / 64) for x, y in clicks], [1, 0])
    assert other.mask.shape == SIZE
    assert np.abs(one.logits - other.logits).max() < 0.05
    assert (other.mask == masks_of(torch.from_numpy(other.logits))).mean() > 0.999


def test_a_process_that_clicks_needs_no_pytorch(exported: Path):
    program = (
        "import sys, json, numpy\nfrom maskwright.export.onnx_sam import OnnxSam\nsam = OnnxSam(sys.argv[1])\n"
        "image = sam.encode(numpy.zeros((40, 30, 3), numpy.uint8))\n"
        "print(json.dumps([sam.decode(image, [(3, 4)], [1]).mask.shape, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program, exported], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[40, 30], False]


def test_what_is_wrong_is_said(exported: Path, tiny_sam_folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match="is there already"):
        api.sam_export(tiny_sam_folder, exported)
    (tmp_path / "half").mkdir()
    with pytest.raises(WeightsError, match=r"encoder\.onnx: there is no such file"):
        OnnxSam(tmp_path / "half")
    onnx = OnnxSam(exported)
    with pytest.raises(ValueError, match="a label for each click"):
        onnx.decode(onnx.encode(picture((8, 8))), [(1, 1)], [])
