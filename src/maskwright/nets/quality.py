"""A head that estimates the Dice of masks without the truth, so that a mask worse than the current one can be rejected.

The prompter gives each cell a probability of lying on the object, the belief. The Dice of a mask with that belief is a first
estimate of its true Dice. The belief depends on the state alone: all masks that are compared are compared with the same one.
The head corrects this estimate by further features: SAM's predicted IoU and stability score, the number of pieces and holes,
the area that the mask adds to the current mask and removes from it, and the mean image features inside and outside. After
training the estimates are calibrated on images that were held out (``calibrate``).
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

from maskwright.data.schema import Fields, Whole
from maskwright.nets.prompter import Advice

KNOTS = 17
"""Points of the piecewise linear calibration."""

SCALARS = 16
"""Numbers that ``_scalars`` gives of each mask."""


@dataclass(frozen=True)
class Answers:
    """Masks whose Dice is to be estimated: M for each of B states, the state's current mask first.

    Attributes:
        logits: (B, M, h, w); h = S/4.
        iou: (B, M) SAM's predicted IoU.
        stability: (B, M) its stability score: IoU of the masks at two thresholds around 0.
        clicks: (B,) number of clicks that led to the state's current mask.
    """

    logits: Tensor
    iou: Tensor
    stability: Tensor
    clicks: Tensor


DESCRIPTION = Fields({"hidden": Whole(1, 1024)})
"""What ``QualityHead.description`` gives."""


class QualityHead(nn.Module):
    """Estimates the true Dice of masks from a prompter's output for the state.

    Args:
        hidden: channels of the prompter's features.
    """

    knots: Tensor
    levels: Tensor

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.hidden = hidden
        self.narrow = nn.Conv2d(hidden, 24, 1)
        self.judge = nn.Sequential(
            nn.Linear(4 * 24 + SCALARS, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
        )
        self.register_buffer("knots", torch.linspace(0, 1, KNOTS))
        self.register_buffer("levels", torch.linspace(0, 1, KNOTS))
        for parameter in self.judge[-1].parameters():
            nn.init.zeros_(parameter)

    def description(self) -> dict[str, int]:
        """The arguments that make this network again, as JSON."""
        return {"hidden": self.hidden}

    def forward(self, advice: Advice, answers: Answers) -> Tensor:
        """(B, M) guesses of Dice in 0..1, not calibrated.

        Args:
            advice: of the B states.
            answers: M for each of them.
        """
        grid = advice.truth.shape[-1]
        belief = advice.truth.sigmoid()[:, None]
        masks = F.adaptive_avg_pool2d((answers.logits > 0).float(), grid)
        scalars, estimate = _scalars(answers, masks, belief)
        features = self.narrow(advice.features)
        current = masks[:, :1]
        regions = torch.stack([masks, 1 - masks, (masks - current).clamp(min=0), (current - masks).clamp(min=0)], 2)
        mass = regions.sum((3, 4))
        means = torch.einsum("bchw,bmkhw->bmkc", features, regions) / (mass[..., None] + 1)
        added = self.judge(torch.cat([means.flatten(2), scalars], 2))[..., 0]
        return (torch.logit(estimate, eps=0.01) + added).sigmoid()

    def calibrated(self, dice: Tensor) -> Tensor:
        """Calibrated estimates, of the same shape: the piecewise linear, increasing map that ``calibrate`` has fitted."""
        place = torch.searchsorted(self.knots, dice.contiguous()).clamp(1, KNOTS - 1)
        low, high = self.knots[place - 1], self.knots[place]
        share = ((dice - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
        return self.levels[place - 1] + share * (self.levels[place] - self.levels[place - 1])

    def calibrate(self, guesses: NDArray[np.floating], dice: NDArray[np.floating]) -> None:
        """Learn the map from guesses (N,) and true Dice (N,) of images that were not trained on: isotonic regression.

        The guesses are sorted and cut into parts of equal number. Each part gives one inner knot: the mean guess and the mean
        of the regression. Beyond the first and the last of them the map has slope 1, within 0..1. It rises strictly everywhere, so that
        calibration never changes the order of two masks.
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


def quality_loss(guesses: Tensor, dice: Tensor, delta: float = 0.1) -> dict[str, Tensor]:
    """Huber loss on the Dice, and ranking between the masks of one state.

    Args:
        guesses: (B, M) of M masks for each of B states.
        dice: (B, M) true Dice.
        delta: where the Huber loss turns from square to linear.

    Returns:
        ``huber`` and ``rank``, scalars. Pairs whose true Dice differ by less than 0.01 are not ranked.
    """
    huber = F.huber_loss(guesses, dice, delta=delta) / delta
    better = dice[:, :, None] - dice[:, None]
    pairs = better > 0.01
    # The margin is proportional to the true difference: the guesses are to differ by at least half of it.
    lead = guesses[:, :, None] - guesses[:, None]
    rank = (F.softplus((0.5 * better - lead) * 20) / 20 * pairs).sum() / pairs.sum().clamp(min=1)
    return {"huber": huber, "rank": rank}


def expected_dice(masks: Tensor, belief: Tensor) -> Tensor:
    """(B, M) Dice of masks (B, M, g, g) in 0..1 with the belief (B, 1, g, g), the probability in 0..1 of the object."""
    both = (masks * belief).sum((2, 3))
    return 2 * both / (masks.sum((2, 3)) + belief.sum((2, 3))).clamp(min=1e-3)


def belief_loss(belief: Tensor, area: Tensor) -> Tensor:
    """Cross-entropy and Dice loss of the belief, the predicted probability that a cell lies on the object.

    Args:
        belief: (B, g, g) logits.
        area: (B, 2g, 2g) in 0..1, share of the object in each low-resolution pixel.
    """
    truth = F.avg_pool2d(area[:, None], 2)
    overlap = expected_dice(truth, belief.sigmoid()[:, None])
    return 2 * F.binary_cross_entropy_with_logits(belief, truth[:, 0]) + 0.3 * (1 - overlap).mean()


def value_loss(values: Tensor, cells: Tensor, gains: Tensor) -> Tensor:
    """Huber loss of the predicted values of clicks.

    Args:
        values: (B, 2, g, g) predicted changes of Dice.
        cells: (B, M) int64, the clicks that were tried, as indices into a state's flattened values.
        gains: (B, M) their true changes of Dice.
    """
    return 20 * F.huber_loss(values.flatten(1).gather(1, cells), gains, delta=0.1)


def _scalars(answers: Answers, masks: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M, 16) numbers in about -1..1 of each mask (B, M, g, g), and its expected Dice (B, M)."""
    logits, current = answers.logits.float(), masks[:, :1]
    area = masks.mean((2, 3))
    estimate = expected_dice(masks, belief)
    more, less = (masks - current).clamp(min=0), (current - masks).clamp(min=0)
    unsure = 4 * belief * (1 - belief)
    numbers = [
        estimate,
        estimate - estimate[:, :1],
        (masks * belief).mean((2, 3)) / area.clamp(min=1e-3),
        belief.mean((2, 3)).expand_as(area),
        area,
        area.clamp(min=1e-4).log() / 5,
        more.mean((2, 3)),
        less.mean((2, 3)),
        (more * (2 * belief - 1)).sum((2, 3)) / (more.sum((2, 3)) + 1),
        (less * (1 - 2 * belief)).sum((2, 3)) / (less.sum((2, 3)) + 1),
        (unsure * masks).mean((2, 3)) / area.clamp(min=1e-3),
        answers.iou.float(),
        answers.stability.float(),
        torch.tanh(logits.abs().mean((2, 3)) / 4),
        euler_number((logits > 0).float().flatten(0, 1)).view_as(area).clamp(-10, 10) / 10,
        answers.clicks[:, None].expand_as(area) / 5,
    ]
    return torch.stack(numbers, 2), estimate


def euler_number(mask: Tensor) -> Tensor:
    """Number of pieces minus number of holes (N,) of masks (N, h, w) of 0 and 1; pixels that touch at a corner are connected.

    Counted from the corners of 2 x 2 pixels (Gray 1971, "Local properties of binary images in two dimensions").
    """
    padded = F.pad(mask, (1, 1, 1, 1))
    a, b, c, d = padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
    count = a + b + c + d
    diagonal = ((count == 2) & (a == d)).float().sum((1, 2))
    return ((count == 1).float().sum((1, 2)) - (count == 3).float().sum((1, 2)) - 2 * diagonal) / 4
