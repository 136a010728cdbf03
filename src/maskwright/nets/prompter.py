"""Where to click next, and with which label: a fully convolutional actor-critic over a grid of places.

Its inputs are those of SAM's mask decoder, at the same resolution: the image's embedding, the logits of the last mask and
the prompts so far. For each cell of its grid (half of the logits' resolution: 32 x 32 for a canvas of 256) and each label
it predicts how much a click there would change the Dice of the mask, and a policy over these clicks and "stop". Two more
outputs let it learn from few images: the true mask, cell by cell, and the value of the whole state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.schema import Fields, Real, Whole
from maskwright.nets.answer_maps import answer_maps
from maskwright.sam.click_grid import SPREAD
from maskwright.sam.prompts import BOTTOM_RIGHT, NEGATIVE, POSITIVE, TOP_LEFT
from maskwright.sam.sam import Embedding

STATE_MAPS = 8
"""Channels of ``state_maps``."""

SIMILARITIES = 4
"""Channels of ``similarities``."""


@dataclass(frozen=True)
class Observation:
    """What a prompter sees of B states.

    Attributes:
        embedding: of B images.
        logits: (B, h, w) of the last answer; h = S/4.
        points: (B, C, 2) x y of all prompts in pixels of the canvas.
        labels: (B, C) SAM's labels: 1 on the object, 0 off it, 2 and 3 the corners of a box, -1 padding.
    """

    embedding: Embedding
    logits: Tensor
    points: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Tensor | slice) -> Observation:
        """Some of the states."""
        return Observation(self.embedding[index], self.logits[index], self.points[index], self.labels[index])


@dataclass(frozen=True)
class Advice:
    """What a prompter says about B states.

    Attributes:
        values: (B, L, g, g) expected change of Dice by a click in the cell; label 0 is negative, 1 positive.
        policy: (B, L·g·g + 1) unnormalised log-probabilities of the clicks, in the order of ``values``, then of "stop".
        truth: (B, g, g) logits: does the cell lie on the object?
        critic: (B,) value of the state.
        features: (B, hidden, g, g) of image and state together, for other heads.
    """

    values: Tensor
    policy: Tensor
    truth: Tensor
    critic: Tensor
    features: Tensor

    def __getitem__(self, index: Tensor | slice) -> Advice:
        """The outputs for some of the states."""
        return Advice(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


DESCRIPTION = Fields(
    {
        "width": Whole(8, 4096),
        "hidden": Whole(8, 1024),
        "labels": Whole(1, 2),
        "temperature": Real(1e-6, 1000),
        "stop_value": Real(-1000, 1000),
    }
)
"""What ``Prompter.description`` gives."""


class Prompter(nn.Module):
    """The network. Normalised by groups of channels, never over the batch: the output for a state depends on that state alone.

    The policy is a softmax of ``values / temperature`` plus a correction that is 0 before training: a network that was
    trained on values alone already has a usable policy.

    Args:
        width: C of SAM's embeddings.
        hidden: channels at the grid (S/8); twice as many at half of it.
        labels: L, how many labels a click can have: 2, or 1 where something else decides on the label.
        temperature: of the values in the policy, in units of Dice.
        stop_value: value of "stop" in the untrained policy, in units of Dice: the cost of a click.
    """

    def __init__(
        self, width: int, hidden: int = 48, labels: int = 2, temperature: float = 0.02, stop_value: float = 0.0
    ) -> None:
        super().__init__()
        self.width, self.hidden, self.labels = width, hidden, labels
        self.temperature, self.stop_value = temperature, stop_value
        self.low = nn.Conv2d(width, hidden, 1)
        self.fine = nn.ModuleList([nn.Conv2d(width // 4, hidden, 1), nn.Conv2d(width // 8, hidden, 1)])
        self.normed = nn.GroupNorm(8, hidden)
        self.state = nn.Conv2d(STATE_MAPS + SIMILARITIES, hidden, 3, padding=1)
        self.down = nn.Sequential(nn.GroupNorm(8, hidden), nn.GELU(), nn.Conv2d(hidden, 2 * hidden, 3, 2, 1))
        self.blocks = nn.ModuleList(_Residual(2 * hidden, dilation) for dilation in (1, 2, 1))
        self.pooled = nn.Linear(6 * hidden, 2 * hidden)
        self.up = nn.Conv2d(2 * hidden, hidden, 1)
        self.join = nn.Sequential(
            nn.GroupNorm(8, hidden),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GroupNorm(8, hidden),
            nn.GELU(),
        )
        self.heads = nn.Conv2d(hidden, labels + 1, 1)
        self.critic = nn.Linear(2 * hidden, 1)
        self.actor = nn.Conv2d(hidden, labels, 3, padding=1)
        self.stop = nn.Linear(2 * hidden, 1)
        for head in (self.heads, self.critic, self.actor, self.stop):
            for parameter in head.parameters():
                nn.init.zeros_(parameter)

    def description(self) -> dict[str, float]:
        """The arguments that make this network again, as JSON."""
        names = ("width", "hidden", "labels", "temperature", "stop_value")
        return {name: getattr(self, name) for name in names}

    def policy_parameters(self) -> list[nn.Parameter]:
        """The parameters that only the policy uses: training them does not change values, truth and features."""
        return [*self.actor.parameters(), *self.stop.parameters()]

    def forward(self, observation: Observation) -> Advice:
        """Judge B states."""
        image = self.image_features(observation.embedding)
        maps = state_maps(observation.logits, observation.points, observation.labels, image.shape[-1])
        features, pooled = self._seen(image, maps)
        values, truth = self.heads(features).split([self.labels, 1], 1)
        # A click usually changes the Dice by some tenths, while the outputs of a layer are around 1.
        values = 0.1 * values
        clicks = (values.detach() / self.temperature + self.actor(features)).flatten(1)
        stop = self.stop_value / self.temperature + self.stop(pooled)
        return Advice(values, torch.cat([clicks, stop], 1), truth[:, 0], self.critic(pooled)[:, 0], features)

    def image_features(self, embedding: Embedding) -> Tensor:
        """(B, hidden, g, g) all levels of the embedding at the grid, g = S/8. They do not depend on the state."""
        high1, high0 = embedding.high1.float(), embedding.high0.float()
        fine = self.fine[0](high1) + self.fine[1](F.avg_pool2d(high0, 2))
        low = F.interpolate(self.low(embedding.low.float()), fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.normed(low + fine)

    def _seen(self, image: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Image features (B, hidden, g, g) and state maps (B, 8, g, g) → (B, hidden, g, g), (B, 2·hidden)."""
        fine = image + self.state(torch.cat([maps, similarities(image, maps)], 1))
        x = self.down(fine)
        for block in self.blocks:
            x = block(x)
        inside = F.avg_pool2d(maps[:, :1], 2)
        pooled = torch.cat([x.mean((2, 3)), _mean_where(x, inside), _mean_where(x, 1 - inside)], 1)
        pooled = F.gelu(self.pooled(pooled))
        x = self.up(x + pooled[..., None, None])
        return self.join(fine + F.interpolate(x, fine.shape[-2:], mode="bilinear", align_corners=False)), pooled


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels // 2, 1),
            nn.GroupNorm(8, channels // 2),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels // 2, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(8, channels // 2),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def state_maps(logits: Tensor, points: Tensor, labels: Tensor, grid: int) -> Tensor:
    """Maps of B states on the grid: probability, squashed logit, entropy, positive clicks, negative clicks, box, x, y.

    Args:
        logits, points, labels: see ``Observation``.

    Returns:
        (B, 8, g, g); the places x and y in -1..1, all else in 0..1 but for the logit.
    """
    answer = F.adaptive_avg_pool2d(answer_maps(logits.float()), grid)
    size = 4 * logits.shape[-1]
    spots = click_maps(points, labels, size, grid)
    centres = (torch.arange(grid, device=logits.device) + 0.5) / grid * 2 - 1
    across = centres.expand(len(logits), 1, grid, grid)
    return torch.cat([answer, spots, across, across.transpose(2, 3)], 1)


def click_maps(points: Tensor, labels: Tensor, size: int, grid: int) -> Tensor:
    """(B, 3, g, g): a spot of height 1 at each positive click, at each negative one, and 1 within the box, if there is one."""
    centres = (torch.arange(grid, device=points.device) + 0.5) * (size / grid)
    offset = points.float()[..., None] - centres  # (B, C, 2, g)
    spread = 2 * (SPREAD * size) ** 2
    across, down = (-offset.square() / spread).exp().unbind(2)
    spots = down[..., :, None] * across[..., None, :]
    kinds = torch.stack([labels == POSITIVE, labels == NEGATIVE], 1)[..., None, None]
    clicks = (
        torch.where(kinds, spots[:, None], 0).amax(2)
        if labels.shape[1]
        else spots.new_zeros(len(labels), 2, grid, grid)
    )
    return torch.cat([clicks, _box_map(points, labels, centres)[:, None]], 1)


def _box_map(points: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """(B, g, g): 1 where a cell's centre lies in the box of the prompts."""
    first = torch.where((labels == TOP_LEFT)[..., None], points, 0).sum(1)
    last = torch.where((labels == BOTTOM_RIGHT)[..., None], points, 0).sum(1)
    within = (centres >= first[..., None]) & (centres <= last[..., None])
    boxed = (labels == TOP_LEFT).any(1)[:, None, None]
    return (within[:, 1, :, None] & within[:, 0, None, :] & boxed).float()


def similarities(features: Tensor, maps: Tensor) -> Tensor:
    """(B, 4, g, g): cosine of every cell with the mean feature inside the answer, outside of it, and at both kinds of click.

    0 where there is no such click.
    """
    weights = torch.cat([maps[:, :1], 1 - maps[:, :1], maps[:, 3:5]], 1)
    mass = weights.sum((2, 3))
    means = torch.einsum("bchw,bkhw->bkc", features, weights) / mass[..., None].clamp(min=1e-6)
    cosine = torch.einsum("bchw,bkc->bkhw", F.normalize(features, dim=1), F.normalize(means, dim=2))
    return cosine * (mass > 0.1)[..., None, None]


def _mean_where(x: Tensor, weight: Tensor) -> Tensor:
    """Mean over places (B, C) of x (B, C, g, g), weighted by (B, 1, g, g); nearly 0 where nothing has weight."""
    return (x * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1)
