"""The smallest models that tests can predict with: a random SAM encoder, and a network that sees nothing but colour."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.engine.model import Model, describe, weights_beside
from maskwright.engine.weights import CHECKSUMS, checksums, save_model
from maskwright.methods.clicks.agent import ClickRules
from maskwright.methods.semantic.predictor import SegmenterPredictor
from maskwright.nets.prompter import Prompter
from maskwright.nets.segmenter import SamSegmenter, Segmenter
from maskwright.sam.sam import Sam
from tests.helpers import TINY_SIZE, tiny_config

CATEGORIES = ("background", "red", "blue")


def tiny_segmenter(seed: int = 0, categories: int = len(CATEGORIES)) -> SamSegmenter:
    torch.manual_seed(seed)
    return SamSegmenter.of(Sam.from_config(tiny_config(), seed=seed), categories, TINY_SIZE)


def model_config(segmenter: Segmenter, **changed: Any) -> dict[str, Any]:
    return describe("samix", CATEGORIES, segmenter.size, segmenter=segmenter.description()) | changed


def predictor(segmenter: Segmenter) -> SegmenterPredictor:
    """A segmenter at work that never was in a folder."""
    return SegmenterPredictor(segmenter, Model(Path("model"), model_config(segmenter), "0" * 16))


def save_run(folder: Path, segmenter: Segmenter | None = None, **changed: Any) -> Path:
    """A run directory with nothing in it but the model."""
    segmenter = segmenter or tiny_segmenter()
    save_model(folder / "model", segmenter.state_dict(), model_config(segmenter, **changed), "# card")
    return folder


def seal(folder: Path, config: dict[str, Any] | None = None) -> None:
    """Write a model folder's configuration with checksums of what is there now; left out, the one that is there."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if config is None else config
    path.write_text(json.dumps(config | {CHECKSUMS: checksums(folder, config)}))


class Colours(Segmenter):
    """Category 1 where it is red, 2 where it is blue, else background; sharp, so that a pixel's colour decides."""

    def __init__(self, size: int = 64) -> None:
        super().__init__(len(CATEGORIES), size)
        self.sharpness = nn.Parameter(torch.tensor(100.0))

    def logits(self, pixels: Tensor) -> Tensor:
        red, _, blue = F.avg_pool2d(pixels * self.std + self.mean, 4).unbind(1)
        return self.sharpness * torch.stack([torch.zeros_like(red), red - blue - 0.5, blue - red - 0.5], 1)

    def description(self) -> dict[str, Any]:
        return {"type": "colours"}


def save_agent(folder: Path, sam: Path, **rules: Any) -> Path:
    """A run directory of the recipe ``clicks`` with nothing in it but an untrained agent, for the SAM of a folder.

    Args:
        rules: of :class:`maskwright.methods.clicks.agent.ClickRules`; left out, two clicks that are always kept.
    """
    torch.manual_seed(0)
    own = Sam.load(str(sam))
    prompter = Prompter(own.width, hidden=16)
    nn.init.normal_(prompter.heads.weight, std=0.5)
    chosen = ClickRules(**({"clicks": 2, "looks": 1, "accept": "always", "stop": False} | rules))
    parts = {"learner": "own", "prompter": prompter.description(), "quality": None, "rules": asdict(chosen)}
    weights = weights_beside(str(sam), own.size, own.signature())
    config = describe("clicks", ("background", "thing"), own.size, sam=weights, **parts, settled={})
    save_model(folder / "model", prompter.state_dict(), config, "# card")
    return folder
