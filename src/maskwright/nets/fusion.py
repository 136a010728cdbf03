"""The agent's own answer: SAM's mask and the prompter's belief become one mask, at the resolution of SAM's logits.

SAM follows outlines and knows nothing of the task; the belief has learnt what the objects of the training images look like, on a grid
of half the resolution. The answer is a sum of both logits, whose weights are learnt, and of a correction that a few convolutions read
from the embedding's finest level, the prompter's features, and where the two agree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.schema import Fields, Whole
from maskwright.nets.answer_maps import answer_maps, doubled
from maskwright.nets.prompter import Advice, Observation
from maskwright.nets.quality import expected_dice

LOGIT_LIMIT = 10.0
"""SAM's logits are clipped to this size: beyond it they say no more, and in a sum they would outweigh everything."""

MAPS = 4
"""Channels of what the convolutions see of the two masks."""

DESCRIPTION = Fields({"width": Whole(8, 4096), "hidden": Whole(8, 1024), "channels": Whole(8, 1024)})
"""What ``Fusion.description`` gives."""


class Fusion(nn.Module):
    """The network. Before training it answers with the belief, which a tenth of SAM's logits tips where it is unsure.

    Args:
        width: C of SAM's embeddings.
        hidden: channels of the prompter's features.
        channels: of the convolutions, a multiple of 8.
    """

    def __init__(self, width: int, hidden: int = 48, channels: int = 32) -> None:
        super().__init__()
        self.width, self.hidden, self.channels = width, hidden, channels
        self.features = nn.Conv2d(hidden, channels, 1)
        self.fine = nn.Conv2d(width // 8, channels, 1)
        self.maps = nn.Conv2d(MAPS, channels, 3, padding=1)
        self.correction = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, 1, 1),
        )
        self.shares = nn.Parameter(torch.tensor([0.1, 1.0]))
        for parameter in self.correction[-1].parameters():
            nn.init.zeros_(parameter)

    def description(self) -> dict[str, int]:
        """The arguments that make this network again, as JSON."""
        return {name: getattr(self, name) for name in ("width", "hidden", "channels")}

    def forward(self, observation: Observation, advice: Advice) -> Tensor:
        """(B, h, w) logits of the object, h = S/4.

        Args:
            observation: of the B states.
            advice: the prompter's, on them.
        """
        sam = observation.logits.float().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        belief = doubled(advice.truth[:, None])[:, 0]
        probability, squashed, entropy = answer_maps(sam).unbind(1)
        maps = torch.stack([probability, squashed, torch.tanh(belief / 4), entropy], 1)
        seen = (
            doubled(self.features(advice.features)) + self.fine(observation.embedding.high0.float()) + self.maps(maps)
        )
        return self.shares[0] * sam + self.shares[1] * belief + self.correction(seen)[:, 0]


def answer_loss(logits: Tensor, area: Tensor) -> Tensor:
    """Cross-entropy and Dice loss of answers.

    Args:
        logits: (B, h, w).
        area: (B, h, w) in 0..1, share of the object in each low-resolution pixel.
    """
    overlap = expected_dice(area[:, None], logits.sigmoid()[:, None])
    return 2 * F.binary_cross_entropy_with_logits(logits, area) + 0.5 * (1 - overlap).mean()
