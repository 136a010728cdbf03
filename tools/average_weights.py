"""Average two sets of weights of one training run, tensor by tensor.

    python tools/average_weights.py EARLY LATE --share 0.6 --out OUT

Weights from one trajectory that do well on different data often do well on both when averaged (Wortsman et al., "Robust fine-tuning
of zero-shot models", CVPR 2022). EARLY and LATE are folders in Hugging Face format; ``--share`` is LATE's part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tyro.conf import Positional

from maskwright.sam.sam import Sam


@dataclass
class Config:
    early: Positional[Path]
    late: Positional[Path]
    out: Path
    share: float = 0.5
    """0..1, how much of LATE."""


def main(config: Config) -> None:
    early, late = Sam.load(config.early).model, Sam.load(config.late).model
    with torch.no_grad():
        for mine, theirs in zip(late.parameters(), early.parameters(), strict=True):
            mine.lerp_(theirs, 1 - config.share)
    late.half().save_pretrained(config.out)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
