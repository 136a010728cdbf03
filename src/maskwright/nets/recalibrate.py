"""SRM, the semantic recalibration module: it decides whether a place is foreground or background.

Huang et al., "AlignSAM", CVPR 2024, section 3.3. A small network, trained on few images while the agent clicks. It has two branches,
and a task uses one of them:

- implicit, for targets without a name (salient, blurred or glass objects): its input is ``F ⊙ M``, the image embedding F multiplied
  by the last mask M;
- explicit, for targets with a name: its input is also ``F ⊙ A``, with the map A of that name by ``nets.clip_surgery``.

Ours: with ``unmasked`` F itself is a further input. ``F ⊙ M`` hides foreground that the last mask has missed (M near 0), so nothing
could find it again. With ``fine`` SAM's features at half the stride are beside F, for small things and for shapes.

Nothing is normalised over the batch, and attention stays within an image: the output for an image does not depend on the others.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.schema import Fields, OneOf, Truth, Whole
from maskwright.nets.losses import dice_loss, pseudo_mask_loss
from maskwright.sam.sam import Embedding

Branch = Literal["implicit", "explicit"]

GROUPS = 8
"""Groups of channels that are normalised together."""

DESCRIPTION = Fields(
    {
        "width": Whole(8, 4096),
        "branch": OneOf(get_args(Branch)),
        "hidden": Whole(8, 1024),
        "heads": Whole(1, 64),
        "unmasked": Truth(),
        "fine": Truth(),
    },
    # Earlier models lack them: none of those has either.
    optional=frozenset({"unmasked", "fine"}),
)
"""What ``SemanticRecalibration.description`` gives."""


class SemanticRecalibration(nn.Module):
    """The network.

    Args:
        width: C of the image embedding.
        branch: which of the two.
        hidden: channels within, a multiple of 8 and of ``heads``.
        heads: of the attention.
        unmasked: F is an input too, and the implicit branch has the explicit one's attention, to compare its places.
        fine: see :meth:`features`.
    """

    def __init__(
        self,
        width: int,
        branch: Branch,
        hidden: int = 32,
        heads: int = 2,
        unmasked: bool = False,
        fine: bool = False,
    ) -> None:
        super().__init__()
        if branch not in get_args(Branch):
            raise ValueError(f"unknown branch {branch!r}; choose one of {', '.join(get_args(Branch))}")
        self.width, self.branch, self.hidden, self.heads = width, branch, hidden, heads
        self.unmasked, self.fine = unmasked, fine
        channels = width * (1 + fine)
        if branch == "implicit" and not unmasked:
            self.before = nn.Sequential(_block(channels, hidden), _block(hidden, hidden))
            self.attention, self.after = nn.Identity(), nn.Identity()
        else:
            # The network is trained for several steps after every click, so it has to be fast. Reducing the channels of F once, before
            # the products F ⊙ A and F ⊙ M, gives the same result as reducing those of each product, for an eighth of the work.
            self.project = nn.Conv2d(channels, hidden, 1, bias=False)
            products = 1 + unmasked + (branch == "explicit")
            self.before = nn.Sequential(
                _block(products * hidden, hidden), _block(hidden, hidden), _block(hidden, hidden)
            )
            self.attention = SelfAttention(hidden, heads)
            self.after = nn.Sequential(_block(hidden, hidden), _block(hidden, hidden))
        self.mask = nn.Conv2d(hidden, 1, 1)

    def description(self) -> dict[str, int | str | bool]:
        """The arguments that make this network again, as JSON."""
        return {name: getattr(self, name) for name in ("width", "branch", "hidden", "heads", "unmasked", "fine")}

    def features(self, embedding: Embedding, images: Tensor | slice = slice(None)) -> Tensor:
        """What the network reads of an embedding, or of some of its images: (B, C, h, w) in float32, F alone. With ``fine``
        (B, 2C, h, w): behind F the level of half its stride, each 2 x 2 of whose places are channels of one."""
        # Only the levels that are read are gathered: this is done at every click.
        low = embedding.low[images].float()
        return torch.cat([low, F.pixel_unshuffle(embedding.high1[images].float(), 2)], 1) if self.fine else low

    def forward(self, features: Tensor, mask: Tensor, semantic: Tensor | None = None) -> Tensor:
        """Logits of the foreground.

        Args:
            features: (B, C, h, w) image embedding F, or with ``fine`` (B, 2C, h, w), as :meth:`features` gives it; any h and w.
            mask: (B, h, w) in 0..1, the last mask's probability M at that size.
            semantic: (B, h, w) in 0..1, the name's map A; for the explicit branch, and for it alone.

        Returns:
            (B, h, w); a place is foreground where its sigmoid is above 0.5.

        Raises:
            ValueError: a map that the branch does not take, or one that it lacks.
        """
        if (semantic is None) != (self.branch == "implicit"):
            raise ValueError(
                f"the {self.branch} branch {'takes no' if semantic is not None else 'needs a'} semantic map"
            )
        if semantic is None and not self.unmasked:
            inputs = features * mask[:, None]
        else:
            projected = self.project(features)
            maps = [map for map in (semantic, mask) if map is not None]
            inputs = torch.cat([projected] * self.unmasked + [projected * map[:, None] for map in maps], 1)
        return self.mask(self.after(self.attention(self.before(inputs))))[:, 0]


class SelfAttention(nn.Module):
    """Self-attention over the places of each image, with a residual connection: (B, C, h, w) → the same shape."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # One token for each place of an image, and one row of the batch for each image. Attention is slow on strided tensors.
        tokens = self.project(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(3, 4).contiguous()
        mixed = F.scaled_dot_product_attention(*tokens.unbind(1))
        return x + self.out(mixed.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[-2:]))


def recalibration_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice + binary cross-entropy, the mean over images.

    Args:
        logits: (B, h, w).
        target: (B, h, w) share of each place that is foreground, 0..1, or 255 where that is unknown.
    """
    return dice_loss(logits, target) + pseudo_mask_loss(logits[:, None], target)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(GROUPS, outputs), nn.GELU())
