"""How good is a mask? A head that guesses the Dice of an answer, so that a worse one can be refused.

SAM's own guess (its predicted IoU) is one of the inputs; the others are what a person would look at: does the mask stop
where the picture changes, is it in one piece, do the clicks agree with it, how far is it from the answer before. The
head also says which cells it believes to be the object: that belief, laid over the mask, is a first estimate already.
After training the guesses are calibrated on images that were held out (``calibrate``).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

from maskwright.nets.prompter import STATE_MAPS, Trunk, state_maps
from maskwright.sam.prompts import NEGATIVE, POSITIVE

KNOTS = 17
"""Points of the piecewise linear calibration."""

SCALARS = 14
"""Numbers that ``_scalars`` gives of each mask."""


@dataclass(frozen=True)
class Answers:
    """Masks to be judged: N answers of SAM, with all prompts that led to them.

    Attributes:
        logits: (N, h, w) of the masks; h = S/4.
        before: (N, h, w) logits of the answer they would replace.
        points: (N, C, 2) x y of the prompts in pixels of the canvas.
        labels: (N, C) SAM's labels: 1 on the object, 0 off it, 2 and 3 the corners of a box, -1 padding.
        iou: (N,) SAM's predicted IoU.
        stability: (N,) its stability score: IoU of the masks at two thresholds around 0.
    """

    logits: Tensor
    before: Tensor
    points: Tensor
    labels: Tensor
    iou: Tensor
    stability: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Tensor | slice) -> Answers:
        """Some of the masks."""
        return Answers(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Judgement:
    """What the head says of N masks.

    Attributes:
        dice: (N,) in 0..1.
        truth: (N, g, g) logits: does the cell lie on the object?
    """

    dice: Tensor
    truth: Tensor


class QualityHead(nn.Module):
    """Guesses the true Dice of masks.

    Args:
        width: C of SAM's embeddings.
        hidden: channels within.
    """

    knots: Tensor
    levels: Tensor

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        self.trunk = Trunk(width, hidden, STATE_MAPS + 1)
        self.truth = nn.Conv2d(hidden, 1, 1)
        self.judge = nn.Sequential(
            nn.Linear(3 * hidden + SCALARS, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
        )
        self.register_buffer("knots", torch.linspace(0, 1, KNOTS))
        self.register_buffer("levels", torch.linspace(0, 1, KNOTS))

    def description(self) -> dict[str, int]:
        """The arguments that make this network again, as JSON."""
        return {"width": self.width, "hidden": self.hidden}

    def forward(self, features: Tensor, answers: Answers) -> Judgement:
        """Judge N masks; not calibrated.

        Args:
            features: (N, hidden, g, g) of their images, by ``trunk.image_features``; masks of one image share them.
        """
        grid = features.shape[-1]
        maps = state_maps(answers.logits, answers.points, answers.labels, grid)
        before = F.adaptive_avg_pool2d(answers.before.float().sigmoid()[:, None], grid)
        seen, pooled = self.trunk(features, torch.cat([maps, before], 1))
        truth = self.truth(seen)[:, 0]
        inside = maps[:, :1]
        within = (seen * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1)
        scalars = _scalars(answers, maps, before, truth.detach().sigmoid())
        return Judgement(self.judge(torch.cat([pooled, within, scalars], 1))[:, 0].sigmoid(), truth)

    def calibrated(self, dice: Tensor) -> Tensor:
        """Guesses, of any shape, as they turned out on the images held out: a piecewise linear, monotonous map."""
        place = torch.searchsorted(self.knots, dice.contiguous()).clamp(1, KNOTS - 1)
        low, high = self.knots[place - 1], self.knots[place]
        share = ((dice - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
        return self.levels[place - 1] + share * (self.levels[place] - self.levels[place - 1])

    def calibrate(self, guesses: NDArray[np.floating], dice: NDArray[np.floating]) -> None:
        """Learn the map from guesses (N,) and true Dice (N,) of images that were not trained on: isotonic regression.

        Evenly many guesses lie around each inner knot, which takes the mean of the regression there; beyond the last one
        guesses go on with slope 1. It rises everywhere: two masks that the head tells apart stay told apart.
        """
        order = np.argsort(guesses, kind="stable")
        ordered = guesses[order].astype(np.float64)
        levels = isotonic_regression(dice[order].astype(np.float64)).x
        bounds = np.linspace(0, len(order), KNOTS - 1).astype(int)
        parts = [slice(min(low, len(order) - 1), max(high, low + 1)) for low, high in itertools.pairwise(bounds)]
        means = np.array([[ordered[part].mean(), levels[part].mean()] for part in parts])
        knots, values = means.T
        values = np.clip(values + 1e-3 * (knots - 0.5), 1e-3, 1 - 1e-3)
        low, high = max(0.0, values[0] - knots[0]), min(1.0, values[-1] + 1 - knots[-1])
        self.knots.copy_(torch.from_numpy(np.concatenate([[0.0], knots, [1.0]])))
        self.levels.copy_(torch.from_numpy(np.concatenate([[low], values, [high]])))


def quality_loss(
    judgement: Judgement, dice: Tensor, truth: Tensor, group: Tensor, delta: float = 0.1
) -> dict[str, Tensor]:
    """Huber loss on the Dice, ranking between masks of one object, and cross-entropy on the cells.

    Args:
        judgement: of N masks.
        dice: (N,) true Dice.
        truth: (N, g, g) share of each cell that lies on the object.
        group: (N,) long; masks of the same number belong to the same object and are ranked against each other.
        delta: where the Huber loss turns from square to linear.

    Returns:
        ``huber``, ``rank`` and ``truth``, scalars. Pairs whose true Dice differ by less than 0.01 are not ranked.
    """
    huber = F.huber_loss(judgement.dice, dice, delta=delta) / delta
    better = dice[:, None] - dice[None]
    pairs = (group[:, None] == group[None]) & (better > 0.01)
    # A margin in proportion: of masks that differ much the guesses shall differ much.
    lead = judgement.dice[:, None] - judgement.dice[None]
    rank = (F.softplus((0.5 * better - lead) * 20) / 20 * pairs).sum() / pairs.sum().clamp(min=1)
    cells = F.binary_cross_entropy_with_logits(judgement.truth, truth)
    return {"huber": huber, "rank": rank, "truth": cells}


def _scalars(answers: Answers, maps: Tensor, before: Tensor, belief: Tensor) -> Tensor:
    """(N, 14) numbers in about -1..1 of each mask; ``belief`` (N, g, g) is the head's own view of the object."""
    logits = answers.logits.float()
    probability, mask = maps[:, 0], (logits > 0).float()
    area, mass = mask.mean((1, 2)), probability.mean((1, 2))
    both = (probability * belief).mean((1, 2))
    same = torch.minimum(probability, before[:, 0]).mean((1, 2))
    union = torch.maximum(probability, before[:, 0]).mean((1, 2))
    agreed = (maps[:, 3] * probability).amax((1, 2)) - (maps[:, 4] * probability).amax((1, 2))
    labels = answers.labels
    return torch.stack(
        [
            answers.iou.float(),
            answers.stability.float(),
            torch.tanh(logits.abs().mean((1, 2)) / 4),
            area,
            area.clamp(min=1e-4).log() / 5,
            mass,
            euler_number(mask).clamp(-10, 10) / 10,
            maps[:, 2].mean((1, 2)),
            same / union.clamp(min=1e-4),
            2 * both / (mass + belief.mean((1, 2))).clamp(min=1e-4),
            both / mass.clamp(min=1e-4),
            belief.mean((1, 2)),
            agreed,
            ((labels == POSITIVE) | (labels == NEGATIVE)).float().sum(1) / 5,
        ],
        1,
    )


def euler_number(mask: Tensor) -> Tensor:
    """Pieces minus holes of masks (N, h, w) of 0 and 1, pieces hanging together over corners: (N,).

    Counted from the corners of 2 x 2 pixels (Gray 1971, "Local properties of binary images in two dimensions").
    """
    padded = F.pad(mask, (1, 1, 1, 1))
    a, b, c, d = padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
    count = a + b + c + d
    diagonal = ((count == 2) & (a == d)).float().sum((1, 2))
    return ((count == 1).float().sum((1, 2)) - (count == 3).float().sum((1, 2)) - 2 * diagonal) / 4
