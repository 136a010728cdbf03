"""What the examples of one category show: all that is computed of them once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.methods.find.matching import Matcher, Sums, cells_of, shares_of
from maskwright.sam.sam import Embedding, Memory, Sam

REFERENCES = 5
"""Examples that SAM is shown at once."""

COARSE = 16
"""Cells along a side, at most, of the features that objects are likened by, one to one."""

CHUNK = 8
"""Examples that pass through SAM's memory encoder at once."""


@dataclass(frozen=True)
class Shown:
    """The examples of one category.

    Attributes:
        matcher: what they look like.
        memory: (R,) of the examples that show the category.
        whole: (R, C) mean features of these images, of length 1.
        prototype: (C,) mean feature of the objects, of length 1; ``ground`` that of the rest.
        examples: (E, C, h, w) features of these images, see :func:`coarse`; E is at most ``REFERENCES``.
        inside: (E, h, w) bool: the object.
    """

    matcher: Matcher
    memory: Memory
    whole: Tensor
    prototype: Tensor
    ground: Tensor
    examples: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Showing:
    """N examples of one category with all that is computed once: any choice of them is :meth:`shown` without encoding anything again.

    Attributes:
        memory: (R,) of the examples that show the category.
        low: (N, C, h, w) features, see :func:`coarse`.
        shares, rest: (N, h, w) of each cell, the object's and the others'.
        whole: (N, C) mean features of the images, of length 1.
    """

    sums: Sums
    memory: Memory
    low: Tensor
    shares: Tensor
    rest: Tensor
    whole: Tensor

    @staticmethod
    @torch.inference_mode()
    def of(sam: Sam, embedding: Embedding, masks: Tensor, known: Tensor) -> Showing:
        """Of N examples, with or without the object.

        Args:
            masks: (N, S, S) bool, the object; one example at least must show it.
            known: (N, S, S) bool: labelled.
        """
        sums = Sums.of(cells_of(embedding), shares_of(masks), shares_of(known))
        shows = sums.shows.nonzero()[:, 0]
        low = coarse(embedding)
        shares, counted = (F.adaptive_avg_pool2d(each[:, None].float(), low.shape[-1])[:, 0] for each in (masks, known))
        memory = [sam.remember(embedding[some], masks[some, None].to(sam.dtype))[:, 0] for some in shows.split(CHUNK)]
        return Showing(sums, Memory.cat(memory), low, shares, (1 - shares) * counted, mean_feature(embedding))

    @torch.inference_mode()
    def shown(self, chosen: Tensor | None = None) -> Shown:
        """All examples, or those that are chosen, (N,) bool."""
        every = torch.ones_like(self.sums.shows) if chosen is None else chosen
        shows = (self.sums.shows & every).nonzero()[:, 0]
        few = shows[:REFERENCES]
        peak = self.shares[few].flatten(1).amax(1)[:, None, None]
        return Shown(
            Matcher.fit(self.sums, every),
            self.memory[every[self.sums.shows]],
            self.whole[shows],
            F.normalize(torch.einsum("nchw,nhw->c", self.low[every], self.shares[every]), dim=0),
            F.normalize(torch.einsum("nchw,nhw->c", self.low[every], self.rest[every]), dim=0),
            self.low[few],
            self.shares[few] >= peak.clamp(max=0.5),
        )


def coarse(embedding: Embedding) -> Tensor:
    """(B, C, h, w) the level ``low`` on at most ``COARSE`` cells, of length 1 in each."""
    low = embedding.low.float()
    low = F.adaptive_avg_pool2d(low, COARSE) if low.shape[-1] > COARSE else low
    return F.normalize(low, dim=1)


def mean_feature(embedding: Embedding) -> Tensor:
    """(B, C) of whole images, of length 1."""
    return F.normalize(embedding.low.float().mean((2, 3)), dim=1)
