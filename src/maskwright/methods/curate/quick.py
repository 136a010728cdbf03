"""Training a quick segmenter on frozen features, and its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maskwright.methods.curate.features import Features
from maskwright.nets.losses import semantic_mask_loss
from maskwright.nets.quick_segmenter import QuickSegmenter

RATE, WEIGHT_DECAY, BATCH = 4e-3, 0.05, 8

STEPS = 150
"""Of a training on few images."""

STEPS_AN_IMAGE = 0.6
"""More steps for more images, see ``steps_for``; more than ``MOST_STEPS`` gained nothing on polyps and on salient objects."""

MOST_STEPS = 400


def steps_for(images: int) -> int:
    """How long to train on so many images."""
    return int(min(MOST_STEPS, STEPS + STEPS_AN_IMAGE * images))


def train_quick(
    features: Features,
    targets: NDArray[np.uint8],
    categories: int,
    *,
    weights: NDArray[np.floating] | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> QuickSegmenter:
    """Learn from N images.

    Args:
        features: of the N images.
        targets: (N, g, g) category ids, 255 = unknown, on a grid at least as fine as that of the features.
        categories: C, background included.
        weights: (N,) how much each image counts; left out, all alike.
        steps: of ``BATCH`` images; left out, :func:`steps_for`.
        seed: of the first weights and of everything drawn.

    Returns:
        The segmenter, ready to answer.

    Raises:
        ValueError: no images.
    """
    if not len(features):
        raise ValueError("nothing to learn from: no images")
    steps = steps_for(len(features)) if steps is None else steps
    network = QuickSegmenter.seeded(features.channels, categories, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(8, steps), pct_start=0.25)
    truth = torch.from_numpy(targets)
    counts = None if weights is None else torch.from_numpy(np.asarray(weights, np.float32))
    network.train()
    # Dropout draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 2)
        for step in range(steps):
            rows = torch.randint(len(features), (BATCH,), generator=generator)
            levels, target = _turned(features.load(rows.numpy()), truth[rows], generator)
            logits = F.interpolate(network(levels), target.shape[-2:], mode="bilinear", align_corners=False)
            loss = semantic_mask_loss(logits, target, None if counts is None else counts[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(step + 1, steps)
    return network.eval()


@torch.inference_mode()
def answers(
    network: QuickSegmenter, features: Features, size: int | None = None, batch: int = 32
) -> Iterator[tuple[slice, Tensor]]:
    """Probabilities of all images, batch by batch: which images, and (B, C, g, g).

    Args:
        size: g; left out, the grid of the features.
    """
    for start in range(0, len(features), batch):
        which = slice(start, min(start + batch, len(features)))
        logits = network(features.load(which))
        if size is not None:
            logits = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
        yield which, logits.softmax(1)


def _turned(levels: dict[str, Tensor], target: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Mirrored along either axis, half of the time each. The encoder is nearly, not exactly, equivariant: that is the augmentation."""
    axes = [axis for axis in (-1, -2) if torch.rand((), generator=generator) < 0.5]
    if not axes:
        return levels, target
    return {name: level.flip(axes) for name, level in levels.items()}, target.flip(axes)
