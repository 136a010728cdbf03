"""A frozen SAM that prompts itself (AlignSAM, Huang et al., CVPR 2024): it needs no click, no box and no truth.

A policy chooses where to click, SRM (semantic recalibration) says whether that place is foreground, and SAM answers all clicks so far.
All images of a bank are processed in one batch; the answer for an image does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.schema import Fields, OneOf, Truth, Whole
from maskwright.methods.clicks.agent import mask_logits
from maskwright.nets.clip_surgery import ClipSurgery
from maskwright.nets.place_policy import PlacePolicy
from maskwright.nets.recalibrate import SemanticRecalibration
from maskwright.rl.bank import LOGIT_STRIDE, Bank
from maskwright.rl.clicks import ClickState, click, start, start_mask
from maskwright.sam.click_grid import cells_of, places_of
from maskwright.sam.sam import Sam

OPENING = 2
"""Clicks before the policy's first: one on, one off the foreground."""

Places = Literal["policy", "disagreement", "srm", "random"]
Labels = Literal["srm", "srm_first", "clip", "mask", "positive"]


@dataclass(frozen=True)
class SelfPromptRules:
    """How masks are made.

    Attributes:
        clicks: T, clicks after the opening.
        places: of these clicks, each the cell with the highest score that has not been clicked on. ``policy``: the policy's logits;
            ``disagreement``: how far SRM's and SAM's probabilities lie apart; ``srm``: SRM's probability of foreground, what the policy is
            rewarded for; ``random``: a baseline.
        labels: source of the clicks' labels: SRM, given the last mask (``srm``) or as it was before the first click (``srm_first``); the
            map of CLIP Surgery (foreground above 0.5); the last mask; or all ``positive``, the first clicks too. The last three are
            baselines.
        absence: where SRM takes no place for foreground the answer is an empty mask, and nothing is clicked on. Without it every
            image gets a click that says "here it is".
    """

    clicks: int = 15
    places: Places = "policy"
    labels: Labels = "srm"
    absence: bool = False


RULES = Fields(
    {
        "clicks": Whole(0, 1000),
        "places": OneOf(get_args(Places)),
        "labels": OneOf(get_args(Labels)),
        "absence": Truth(),
    }
)
"""``SelfPromptRules`` as JSON."""


@dataclass(frozen=True)
class Trace:
    """The answers for B images, click by click.

    Attributes:
        states: after the opening and after each of the T clicks, T + 1 in all.
        recalibrated: (B, h, w) probabilities of SRM before the first click.
        semantic: (B, h, w) in 0..1, how well each place matches the text; None without a text.
        answer: the final answer: the last state, or with ``SelfPromptRules.absence`` an empty mask without clicks.
    """

    states: list[ClickState]
    recalibrated: Tensor
    semantic: Tensor | None
    answer: ClickState

    @property
    def last(self) -> ClickState:
        """After the last of the T clicks."""
        return self.states[-1]

    @property
    def presence(self) -> Tensor:
        """(B,) in 0..1: how sure SRM is, before the first click, that the image shows any foreground."""
        return self.recalibrated.flatten(1).amax(1)

    def __getitem__(self, rows: Tensor | slice) -> Trace:
        """Some of the images."""
        semantic = None if self.semantic is None else self.semantic[rows]
        return Trace([state[rows] for state in self.states], self.recalibrated[rows], semantic, self.answer[rows])


class Recalibrator:
    """SRM on the images of a bank; as a function, the ``ClickLabeller`` of a click environment.

    Args:
        srm: may be in training.
        semantic: (M, h, w) in 0..1, how well each place of the bank's images matches the text; None for the implicit branch.
    """

    def __init__(self, srm: SemanticRecalibration, semantic: Tensor | None) -> None:
        self.srm, self.semantic = srm, semantic

    def logits(self, bank: Bank, rows: Tensor, mask: Tensor) -> Tensor:
        """(B, h, w) logits of the foreground for targets (B,) with their last masks (B, h, w); see ``last_mask``."""
        image = bank.image[rows]
        features = self.srm.features(bank.embedding, image)
        return self.srm(features, mask, None if self.semantic is None else self.semantic[image])

    @torch.no_grad()
    def __call__(self, bank: Bank, state: ClickState, place: Tensor) -> Tensor:
        """(B,) 1 where SRM takes the places (B, 2) for foreground, else 0."""
        return (value_at(self.logits(bank, state.rows, last_mask(bank, state)), place, bank.size) > 0).long()


class SelfPrompter(nn.Module):
    """SAM with the networks that prompt it.

    Args:
        sam: frozen.
        srm: trained for this SAM.
        policy: trained for this SAM; None where no rules ask for its places.
        clip, names: for SRM's explicit branch, the foreground in words. Several names are one foreground: the union of their regions.
        rules: see there.
        grid: g, cells to click on along a side of the canvas; with a policy its own.
    """

    def __init__(
        self,
        sam: Sam,
        srm: SemanticRecalibration,
        policy: PlacePolicy | None,
        clip: ClipSurgery | None = None,
        names: Sequence[str] = (),
        rules: SelfPromptRules | None = None,
        grid: int = 10,
    ) -> None:
        super().__init__()
        if (srm.branch == "explicit") != (clip is not None and len(names) > 0):
            raise ValueError("the explicit branch, and it alone, needs a CLIP and names")
        self.sam, self.srm, self.policy, self.clip = sam, srm, policy, clip
        self.names, self.rules = tuple(names), rules or SelfPromptRules()
        self.grid = grid if policy is None else policy.grid

    @torch.no_grad()
    def semantic(self, bank: Bank, batch: int = 32) -> Tensor | None:
        """(M, h, w) in 0..1 at the embedding's size: how well each place of the bank's images matches any of the names; None
        without names."""
        if self.clip is None:
            return None
        maps = [self.semantic_of(pixels.float() / 255) for pixels in bank.pixels.split(batch)]
        return torch.cat([part for part in maps if part is not None])

    @torch.no_grad()
    def semantic_of(self, images: Tensor) -> Tensor | None:
        """The same of canvases (B, 3, S, S) in 0..1."""
        if self.clip is None:
            return None
        # Each name by itself, so that its map does not depend on the other names; then the maximum over the names.
        maps = self.clip.maps(images, self.names, "empty").amax(1)
        side = self.sam.size // 16
        return resized(maps, (side, side))

    @torch.no_grad()
    def segment(
        self,
        bank: Bank,
        rules: SelfPromptRules | None = None,
        generator: torch.Generator | None = None,
        semantic: Tensor | None = None,
    ) -> Trace:
        """Segment the foreground of every image; the bank's truth, if there is one, is not used.

        Args:
            bank: with one target for each image.
            rules: left out, those of this ``SelfPrompter``.
            generator: on the CPU, for ``places="random"``.
            semantic: what :meth:`semantic` gives, if it has been computed before.
        """
        rules = rules or self.rules
        rows = torch.arange(len(bank), device=bank.device)
        maps = self.semantic(bank) if semantic is None else semantic
        recalibrator = Recalibrator(self.srm, maps)
        semantic = None if maps is None else maps[bank.image]
        # In place of the mask before the first: 1 everywhere, as in SRM's training.
        blank = torch.ones(len(bank), *bank.embedding.low.shape[-2:], device=bank.device)
        first = recalibrator.logits(bank, rows, blank)
        recalibrated = first.sigmoid()
        free = torch.ones(len(bank), self.grid**2, dtype=torch.bool, device=bank.device)
        if rules.labels == "positive":
            scores = self.place_scores(bank, rows, blank, recalibrated, rules.places, generator)
            cells = scores.topk(OPENING, 1).indices
            places, labels = places_of(cells, bank.size, self.grid)[0], torch.ones_like(cells)
        else:
            places, labels = extremes(
                semantic if rules.labels == "clip" and semantic is not None else recalibrated, bank.size
            )
        state = start_with_clicks(self.sam, bank, rows, places, labels, OPENING + rules.clicks)
        free = free.scatter(1, cells_of(places, torch.zeros_like(labels), bank.size, self.grid), False)
        states, now = [state], first
        for _ in range(rules.clicks):
            mask = last_mask(bank, state)
            if rules.labels == "srm":
                now = recalibrator.logits(bank, rows, mask)
            scores = self.place_scores(bank, rows, mask, now.sigmoid(), rules.places, generator)
            # Once every cell has been clicked on, all are free again.
            free = free | ~free.any(1, keepdim=True)
            cell = scores.masked_fill(~free, -torch.inf).argmax(1)
            free = free.scatter(1, cell[:, None], False)
            place, _ = places_of(cell, bank.size, self.grid)
            state = click(self.sam, bank, state, place, self._label(bank, state, place, now, semantic, rules.labels))
            states.append(state)
        trace = Trace(states, recalibrated, semantic, state)
        if not rules.absence:
            return trace
        nothing = as_answer(self.sam, bank, rows, recalibrated, state.labels.shape[1])
        return replace(trace, answer=nothing.where(trace.presence <= 0.5, state))

    def place_scores(
        self,
        bank: Bank,
        rows: Tensor,
        mask: Tensor,
        recalibrated: Tensor,
        places: Places,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, g·g) scores of the cells; the highest is clicked on next.

        Args:
            mask, recalibrated: (B, h, w) in 0..1, the last mask of SAM, and SRM's map.
            generator: for random places.
        """
        if places == "random":
            return torch.rand(len(rows), self.grid**2, generator=generator).to(bank.device)
        if places == "policy":
            if self.policy is None:
                raise ValueError("this agent has no policy to ask for places (preset strong); choose other places")
            features = bank.embedding.low[bank.image[rows]].float()
            return self.policy(self.policy.state(features, mask))[0]
        scores = recalibrated if places == "srm" else (recalibrated - mask).abs()
        return resized(scores, (self.grid, self.grid)).flatten(1)

    @staticmethod
    def _label(
        bank: Bank, state: ClickState, place: Tensor, logits: Tensor, semantic: Tensor | None, labels: Labels
    ) -> Tensor:
        """(B,) 1 where a place (B, 2) is foreground, else 0, by SRM's logits (B, h, w) or another source."""
        if labels == "positive":
            return torch.ones_like(state.rows)
        if labels == "mask":
            return (value_at(state.logits, place, bank.size) > 0).long()
        if labels == "clip":
            if semantic is None:
                raise ValueError("labels by CLIP need a text")
            return (value_at(semantic, place, bank.size) > 0.5).long()
        return (value_at(logits, place, bank.size) > 0).long()


# ------------------------------------------------------------------------------------------------------ masks, clicks


def last_mask(bank: Bank, state: ClickState) -> Tensor:
    """M, the probability of the last mask at the embedding's size: (B, h, w) in 0..1."""
    return resized(state.logits.sigmoid(), bank.embedding.low.shape[-2:])


def as_answer(sam: Sam, bank: Bank, rows: Tensor, probabilities: Tensor, slots: int) -> ClickState:
    """SRM's own mask (B, h, w) in 0..1, as if SAM had given it: states without a click."""
    area = resized(probabilities, (bank.size // LOGIT_STRIDE, bank.size // LOGIT_STRIDE))
    return start_mask(sam, bank, rows, mask_logits(area), slots=max(1, slots))


def resized(maps: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Maps (B, H, W) at another size: by area where they get smaller, else bilinearly."""
    height, width = size[0], size[1]
    if maps.shape[-2] >= height and maps.shape[-1] >= width:
        return F.adaptive_avg_pool2d(maps, (height, width))
    return F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


def foreground_share(area: Tensor, counted: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """What SRM learns: (B, h, w) share of each place's labelled part that is foreground; 255 where less than half is labelled.

    Args:
        area, counted: (B, H, W) in 0..1, what is foreground, and what is labelled.
        size: h and w.
    """
    area, counted = resized(area, size), resized(counted, size)
    return torch.where(counted > 0.5, area / counted.clamp(min=1e-6), 255.0)


def value_at(maps: Tensor, place: Tensor, size: int) -> Tensor:
    """The values of maps (B, h, w) at places (B, 2) in pixels of a canvas of that size, between cells bilinearly: (B,)."""
    grid = (place.to(maps) * (2 / size) - 1)[:, None, None]
    return F.grid_sample(maps[:, None], grid, padding_mode="border", align_corners=False)[:, 0, 0, 0]


def extremes(scores: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The places (B, 2, 2) of the highest and the lowest of scores (B, h, w), and their labels (B, 2): 1 and 0."""
    side = scores.shape[-1]
    flat = scores.flatten(1)
    cells = torch.stack([flat.argmax(1), flat.argmin(1)], 1)
    labels = torch.tensor([1, 0], device=scores.device).expand(len(scores), 2)
    return places_of(cells, size, side)[0], labels


def start_with_clicks(sam: Sam, bank: Bank, rows: Tensor, places: Tensor, labels: Tensor, slots: int) -> ClickState:
    """SAM's answer to the first clicks: places (B, K, 2) with labels (B, K)."""
    state = start(sam, bank, rows, places[:, 0], labels[:, 0], slots=slots)
    for number in range(1, places.shape[1]):
        state = click(sam, bank, state, places[:, number], labels[:, number])
    return state
