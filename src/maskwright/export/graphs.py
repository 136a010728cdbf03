"""What is exported: networks with what comes before and after them, from the bytes of decoded images on.

Each is a module of tensors alone, so that a graph of it holds for any number of images, and for images of any size.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.nets.dense_instances import DenseSegmenter
from maskwright.nets.segmenter import Segmenter
from maskwright.sam.prompts import BOTTOM_RIGHT, TOP_LEFT, Prompts
from maskwright.sam.sam import Embedding, Sam

_ROUNDING = 1e-3
# Of a level of brightness: what is cut off to whole levels must not fall by one for a rounding error.


def squashed(images: Tensor, side: int) -> Tensor:
    """Images on the square canvas, as :func:`maskwright.data.geometry.squash` draws them, but for a few pixels that are a level off.

    Args:
        images: (B, H, W, 3) uint8.
        side: S, of the canvas in pixels.

    Returns:
        (B, 3, S, S) float32 in 0..1.
    """
    pixels = images.permute(0, 3, 1, 2)
    # Pillow reduces what is too long and rounds; it enlarges what is too short and cuts off.
    least: Any = (torch.sym_min(pixels.shape[2], side), torch.sym_min(pixels.shape[3], side))
    reduced = F.interpolate(pixels, least, mode="bilinear", antialias=True, align_corners=False)
    levels = F.interpolate(reduced.float(), (side, side), mode="bilinear", align_corners=False)
    return (levels + _ROUNDING).floor() / 255


class GroupNorm(nn.Module):
    """Group normalisation in plain sums. PyTorch 2.8 exports its own for more than one image only."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        groups = x.unflatten(1, (self.norm.num_groups, -1))
        centred = groups - groups.mean((2, 3, 4), keepdim=True)
        scale = (centred.square().mean((2, 3, 4), keepdim=True) + self.norm.eps).rsqrt()
        return (centred * scale).flatten(1, 2) * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


N = TypeVar("N", bound=nn.Module)


def exportable(network: N) -> N:
    """A copy whose group normalisations are in plain sums; the network itself stays as it is."""
    network = copy.deepcopy(network)
    for parent in [module for module in network.modules() if not isinstance(module, GroupNorm)]:
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, GroupNorm(child))
    return network


class SegmenterGraph(nn.Module):
    """A semantic segmenter: images to the category of each of their pixels, and how sure that is."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = exportable(network)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, H, W, 3) uint8 → category ids (B, H, W) uint8 and the probability (B, H, W) of these, 0..1.

        Categories are taken one after the other, so that memory does not grow with their number.
        """
        logits = self.network(squashed(image, self.network.size)).float()
        best = self._enlarged(logits, 0, image)
        total, categories = torch.ones_like(best), torch.zeros_like(best, dtype=torch.uint8)
        for category in range(1, logits.shape[1]):
            value = self._enlarged(logits, category, image)
            number = torch.tensor(category, dtype=torch.uint8, device=value.device)
            categories = torch.where(value > best, number, categories)
            higher = torch.maximum(best, value)
            # The sum of exp(logit - best): of a softmax, the probability of the best is 1 / sum.
            total = total * (best - higher).exp() + (value - higher).exp()
            best = higher
        return categories, 1 / total

    @staticmethod
    def _enlarged(logits: Tensor, category: int, image: Tensor) -> Tensor:
        size = (image.shape[1], image.shape[2])
        return F.interpolate(logits[:, category : category + 1], size, mode="bilinear", align_corners=False)[:, 0]


class DenseGraph(nn.Module):
    """A dense instance segmenter: views at the scale of training to the logits of its maps."""

    def __init__(self, network: DenseSegmenter) -> None:
        super().__init__()
        self.network = exportable(network)
        self.eval()

    def forward(self, view: Tensor) -> Tensor:
        """Views (B, h, w, 3) uint8, sides multiples of 32 → logits (B, C, h/2, w/2): C - 1 categories, then the depth."""
        maps = self.network(view.permute(0, 3, 1, 2).float() / 255)
        return torch.cat([maps.foreground, maps.distance[:, None]], 1).float()


class EncoderGraph(nn.Module):
    """SAM's image encoder."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, H, W, 3) uint8 → ``high0``, ``high1`` and ``low`` of an :class:`Embedding`."""
        embedding = self.sam.encode(squashed(image, self.sam.size))
        return embedding.high0, embedding.high1, embedding.low


class DecoderGraph(nn.Module):
    """SAM's prompt encoder and mask decoder: prompts in pixels of the image to four answers each."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        self.eval()

    def forward(
        self,
        high0: Tensor,
        high1: Tensor,
        low: Tensor,
        size: Tensor,
        points: Tensor,
        labels: Tensor,
        previous: Tensor,
        has_previous: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts for K objects in each of B images.

        Args:
            high0, high1, low: what :class:`EncoderGraph` gave.
            size: (B, 2) float32, width and height of the images.
            points: (B, K, N, 2) float32, x and y in pixels of the image, the middle of the first at (0.5, 0.5).
            labels: (B, K, N) int64: 1 on the object, 0 off it, 2 and 3 the first and last corner of a half-open box, -1 nothing.
            previous: (B, K, S/4, S/4) logits of an earlier answer.
            has_previous: (B, K) bool: whether there is one.

        Returns:
            Logits (B, K, 4, S/4, S/4), which cover the image, above 0 on the object: the answer to several prompts first, then the
            three to choose from after a single click; the IoU (B, K, 4) that SAM expects of each, 0..1; and a logit (B, K) of whether
            the object is there at all.
        """
        onto = points * (self.sam.size / size)[:, None, None]
        # SAM names a box by the middles of its corner pixels.
        inwards = 0.5 * (labels == TOP_LEFT).float() - 0.5 * (labels == BOTTOM_RIGHT).float()
        prompts = Prompts(onto + inwards[..., None], labels)
        embedding = Embedding(high0, high1, low)
        # The two share all but the last step, and what is computed twice is found by whoever runs the graph.
        one, three = (self.sam.decode(embedding, prompts, previous, many, has_previous) for many in (False, True))
        return torch.cat([one.logits, three.logits], 2), torch.cat([one.iou, three.iou], 2), one.presence
