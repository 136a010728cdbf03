"""The agent learns: in a world where a click paints a disc it gets nearly all that an oracle gets, on images it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskwright.api import evaluate, load
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Labels, Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.recipes import clicks
from maskwright.sam.frozen import FrozenDecoder

SIZE, RADIUS = 128, 14.0
"""Pixels along a side of the canvas (twice that of the images), and radius of a disc on it."""


def bright_boxes(folder: Path, **splits: int) -> Path:
    """Images of 64 pixels that show one bright rectangle before a dark ground."""
    generator, samples = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    for split, count in splits.items():
        for number in range(count):
            width, height = generator.integers(18, 40, 2)
            x, y = generator.integers(0, 64 - width), generator.integers(0, 64 - height)
            mask = np.zeros((64, 64), np.uint8)
            mask[y : y + height, x : x + width] = 1
            picture = 60 + 120 * mask[..., None] + generator.integers(0, 40, (64, 64, 3))
            name = f"{split}-{number}"
            Image.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"{name}.png")
            write_mask(folder / "masks" / f"{name}.png", mask)
            samples.append(Sample(name, f"images/{name}.png", split, Labels(mask=Mask(f"masks/{name}.png"))))
    Dataset(folder, ("background", "box"), tuple(samples)).save()
    return folder


def paint(
    self: FrozenDecoder,
    cells: object,
    images: Tensor,
    points: Tensor,
    labels: Tensor,
    previous: Tensor | None = None,
    multimask: bool = False,
) -> tuple[Tensor, Tensor]:
    """Instead of SAM: every click of label 1 paints a disc, one of label 0 rubs it out."""
    side = SIZE // 4
    count, sets = labels.shape[:2]
    answer = torch.full((count, sets, side, side), -6.0)
    if previous is not None:
        answer = previous[:, None].expand_as(answer).clone()
    centres = (torch.arange(side) + 0.5) * 4
    for slot in range(labels.shape[2]):
        x, y = points[:, :, slot].unbind(-1)
        near = (centres - x[..., None])[:, :, None].square() + (centres - y[..., None])[..., None].square() < RADIUS**2
        for label, value in ((1, 6.0), (0, -6.0)):
            answer = torch.where(near & (labels[:, :, slot] == label)[..., None, None], value, answer)
    return answer, torch.full((count, sets), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", [False, True])
def test_it_gains_nine_tenths_of_what_the_oracle_gains(
    fusion: bool, tiny_sam_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(FrozenDecoder, "decode", paint)
    data = bright_boxes(tmp_path / "data", train=100, val=10, test=40)
    run = clicks.main(
        clicks.Config(
            data=data,
            out=tmp_path / "run",
            sam=str(tiny_sam_folder),
            size=SIZE,
            steps=120,
            batch=12,
            tries=12,
            rl_share=0.0 if fusion else 0.1,
            fusion=fusion,
            device="cpu",
        )
    )
    scores = evaluate(load(run, device="cpu"), Dataset.load(data), "test")
    agent, oracle = scores["curves"]["agent"], scores["curves"]["oracle"]
    assert oracle["dice"][-1] - oracle["dice"][0] > 0.15
    assert scores["head_room"] >= 0.9
    assert agent["lost"] <= 0.05
    assert all(after >= before - 1e-3 for before, after in zip(agent["dice"][:-1], agent["dice"][1:]))
