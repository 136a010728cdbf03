"""Run by ``test_device.py`` in a process of its own."""

from __future__ import annotations

import torch

from maskwright.methods.find.candidates import propose
from maskwright.methods.find.clues import FEATURES
from maskwright.methods.find.scorer import Scorer, ScorerNet
from maskwright.methods.find.showing import Showing
from maskwright.methods.find.verdicts import Calibration
from maskwright.sam.sam import Sam
from tests.helpers import tiny_config
from tests.pretend_device import pretend_device


def main() -> None:
    torch.manual_seed(0)
    presence, known = ScorerNet(2 * len(FEATURES) + 1, 0), Calibration.of([], [])
    scorer = Scorer(ScorerNet(len(FEATURES)).eval(), presence.eval(), {1: known}, "none")
    with pretend_device() as device, torch.inference_mode():
        sam = Sam.from_config(tiny_config()).to(device).eval().requires_grad_(False)
        images = torch.rand(3, 3, 2 * sam.size, 2 * sam.size).to(device)
        masks = torch.zeros(3, sam.size, sam.size, dtype=torch.bool)
        masks[:2, 8:40, 8:40] = True
        embedding = sam.encode(images)
        showing = Showing.of(sam, embedding, masks.to(device), torch.ones_like(masks).to(device))
        found = propose(sam, images, showing.shown())
        best, _, score = scorer.judge(found.features)
        chosen = found.chosen(best)
        assert chosen.device == score.device == device
        assert chosen.shape == (3, sam.size, sam.size)
    print("searched")
