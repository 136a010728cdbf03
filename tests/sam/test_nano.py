"""The bundled weights answer to their prompts: on scenes they have never seen, and differently for different prompts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import Sam2VideoModel

from maskwright.data.scenes import render
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam
from maskwright.sam.sources import NANO
from maskwright.sam.store import weights_signature
from maskwright.sam.weights import EARLIER, nano_config


@pytest.fixture(scope="module")
def answers():
    """For 32 scenes and the two largest objects of each: truth (B,2,h,w), logits for a box, for the OTHER object's box, for a click."""
    sam = Sam.load("nano", size=128)
    scenes = render(32, 128, seed=424_242, difficulty=0.3)
    ids = scenes.instances
    area = torch.stack([(ids == k).flatten(1).sum(1) for k in range(1, int(ids.max()) + 1)], 1)
    largest = area.topk(2, 1)
    keep = largest.values[:, 1] > 150
    targets = (ids[:, None] == (largest.indices + 1)[:, :, None, None])[keep]
    rows, columns = targets.any(3), targets.any(2)

    def span(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return line.float().argmax(-1), line.shape[-1] - line.flip(-1).float().argmax(-1)

    (y0, y1), (x0, x1) = span(rows), span(columns)
    boxes = torch.stack([x0, y0, x1, y1], -1).float()
    depth = F.avg_pool2d(targets.float(), 9, 1, 4) * targets
    index = depth.flatten(2).argmax(-1)
    clicks = torch.stack([index % 128 + 0.5, index // 128 + 0.5], -1)[:, :, None]
    with torch.no_grad():
        embedding = sam.encode(scenes.images[keep])
        box = sam.decode(embedding, Prompts.of_boxes(boxes)).best
        other = sam.decode(embedding, Prompts.of_boxes(boxes.flip(1))).best
        click = sam.decode(
            embedding, Prompts.of_points(clicks, torch.ones(*clicks.shape[:3], dtype=torch.long)), multimask=True
        ).best
    truth = F.interpolate(targets.float(), box.shape[-2:], mode="area") > 0.5
    return truth, box, other, click


def mean_iou(logits: torch.Tensor, truth: torch.Tensor) -> float:
    answer = logits > 0
    return float(((answer & truth).sum((2, 3)) / (answer | truth).sum((2, 3)).clamp(min=1)).mean())


def test_boxes_and_clicks_are_answered(answers):
    truth, box, _, click = answers
    assert len(truth) >= 12
    assert mean_iou(box, truth) > 0.6
    assert mean_iou(click, truth) > 0.38


def test_another_prompt_gives_another_answer(answers):
    truth, box, other, _ = answers
    assert mean_iou(other, truth) < 0.5 * mean_iou(box, truth)


def test_small_enough_to_ship():
    assert (NANO / "model.safetensors").stat().st_size <= 12e6


def test_it_stands_on_a_pretrained_trunk_as_its_architecture_says():
    model = Sam.load("nano").model
    assert type(model.vision_encoder.backbone).__name__ == "EfficientNetLiteModel"
    with torch.device("meta"):
        built = Sam2VideoModel(nano_config())
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in built.state_dict().items()}


def test_models_trained_for_earlier_weights_are_known_by_them():
    assert weights_signature(Sam.load("nano").model) not in EARLIER
