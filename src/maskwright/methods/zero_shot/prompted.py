"""A SAM's answers to prompts about a batch of objects: the exact box, also with a closer look, and clicks of an oracle that correct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.geometry import on_canvas
from maskwright.data.shapes import tight_boxes
from maskwright.methods.zero_shot.baselines import iou
from maskwright.methods.zero_shot.objects import View
from maskwright.rl.oracle import next_click
from maskwright.sam.closer_look import look_closer, look_closer_at_clicks
from maskwright.sam.prompts import PADDING, Prompts
from maskwright.sam.sam import Embedding, Sam


@dataclass(frozen=True)
class BoxAnswers:
    """Answers to the exact boxes of N objects.

    Attributes:
        boxes: ``(N, 4)`` x0 y0 x1 y1 on the canvas.
        masks: ``(N, S, S)`` bool.
        iou, predicted: ``(N,)`` the true IoU and SAM's own guess.
    """

    boxes: Tensor
    masks: Tensor
    iou: Tensor
    predicted: Tensor


@dataclass(frozen=True)
class ClickAnswers:
    """Answers to T clicks on each of N objects, and how good those to further clicks were.

    Attributes:
        points: ``(N, T, 2)`` x y on the canvas.
        labels: ``(N, T)`` 1 = on the object, 0 = off it, -1 = no click, as nothing was wrong any more.
        masks: ``(N, S, S)`` bool, after the last click.
        iou, predicted: ``(N, T)`` the true IoU and SAM's own guess after each click.
        all_iou: ``(N, T + F)`` the true IoU also after F further clicks.
    """

    points: Tensor
    labels: Tensor
    masks: Tensor
    iou: Tensor
    predicted: Tensor
    all_iou: Tensor


def ask_boxes(sam: Sam, embedding: Embedding, truths: Tensor, valid: Tensor) -> BoxAnswers:
    """Prompt N objects, one in each row of ``embedding``, with the boxes of their masks ``(N, S, S)`` bool."""
    boxes = tight_boxes(truths)
    answers = sam.decode(embedding, Prompts.of_boxes(boxes[:, None]))
    masks = on_canvas(answers.best[:, 0], sam.size)
    return BoxAnswers(boxes, masks, iou(masks, truths, valid), answers.best_iou[:, 0].float())


def look_at_boxes(
    sam: Sam, views: Sequence[View], rows: Sequence[int], boxes: Tensor, truths: Tensor, valid: Tensor
) -> BoxAnswers:
    """The same boxes ``(N, 4)`` on the canvas, asked again with a closer look at the originals of ``views[rows]``.

    The answer ends with the box, which is exact here.
    """
    masks, predicted = torch.zeros_like(truths), boxes.new_zeros(len(boxes))
    # Image by image: originals differ in size.
    for row in dict.fromkeys(rows):
        places = torch.tensor([n for n, other in enumerate(rows) if other == row], device=boxes.device)
        image = torch.from_numpy(views[row].original).to(boxes.device).permute(2, 0, 1)[None].float() / 255
        height, width = image.shape[-2:]
        enlarged = boxes[places] * (boxes.new_tensor([width, height] * 2) / sam.size)
        looks = look_closer(sam, image, torch.zeros_like(places), enlarged, margin=0.0)
        masks[places] = looks.resized((width, height), sam.size).on_image((sam.size, sam.size)) > 0
        predicted[places] = looks.iou
    return BoxAnswers(boxes, masks, iou(masks, truths, valid), predicted)


def ask_clicks(
    sam: Sam, embedding: Embedding, truths: Tensor, valid: Tensor, clicks: int, further: int = 0
) -> ClickAnswers:
    """Click on N objects, one in each row of ``embedding``, and correct: ``clicks`` times, and ``further`` times more for their IoU.

    The first click is on an empty answer; of its three candidates the one with the highest predicted IoU counts. Each
    further one is given with all clicks so far and the logits before. An object without an error left gets no click
    and keeps its answer. Pixels that are not ``valid``, those to be ignored, are never wrong.
    """
    count, device = len(truths), truths.device
    masks, clicks_so_far = torch.zeros_like(truths), torch.zeros_like(truths)
    logits, predicted = torch.empty(0, device=device), torch.zeros(count, device=device)
    prompts = _no_clicks(count, device)
    ious, guesses, kept = [], [], masks
    for click in range(clicks + further):
        prompts, is_click = _clicked(prompts, masks, truths, valid, clicks_so_far)
        if click == 0:
            answers = sam.decode(embedding, prompts, multimask=True)
            logits, predicted = answers.best, answers.best_iou[:, 0].float()
        else:
            answers = sam.decode(embedding, prompts, previous=logits)
            logits = torch.where(is_click[:, None, None, None], answers.best, logits)
            predicted = torch.where(is_click, answers.best_iou[:, 0].float(), predicted)
        masks = on_canvas(logits[:, 0], sam.size)
        ious.append(iou(masks, truths, valid))
        guesses.append(predicted)
        if click == clicks - 1:
            kept = masks
    every = torch.stack(ious, dim=1)
    return ClickAnswers(
        points=prompts.points[:, 0, :clicks],
        labels=prompts.labels[:, 0, :clicks],
        masks=kept,
        iou=every[:, :clicks],
        predicted=torch.stack(guesses[:clicks], dim=1),
        all_iou=every,
    )


def look_at_clicks(
    sam: Sam,
    views: Sequence[View],
    rows: Sequence[int],
    embedding: Embedding,
    truths: Tensor,
    valid: Tensor,
    clicks: int,
) -> ClickAnswers:
    """The clicks of :func:`ask_clicks`, each answered on a crop of the original around SAM's answer before it.

    The answer to the first click on the whole canvas only says where to look.

    Args:
        views, rows: the N objects are on ``views[rows]``.
        embedding: of their canvases, one in each row.
    """
    count, device, side = len(truths), truths.device, sam.size
    masks, so_far = torch.zeros_like(truths), torch.zeros_like(truths)
    logits, predicted = torch.zeros(truths.shape, device=device), torch.zeros(count, device=device)
    prompts = _no_clicks(count, device)
    ious, guesses = [], []
    for click in range(clicks):
        prompts, is_click = _clicked(prompts, masks, truths, valid, so_far)
        if click == 0:
            first = sam.decode(embedding, prompts, multimask=True).best[:, 0].float()
            logits = F.interpolate(first[:, None], side, mode="bilinear", align_corners=False)[:, 0]
        # Image by image: originals differ in size.
        for row in dict.fromkeys(rows):
            places = torch.tensor([n for n, other in enumerate(rows) if other == row and is_click[n]], device=device)
            if not len(places):
                continue
            image = torch.from_numpy(views[row].original).to(device).permute(2, 0, 1)[None].float() / 255
            size = image.shape[-1], image.shape[-2]
            scale = logits.new_tensor(size) / side
            asked = Prompts(prompts.points[places] * scale, prompts.labels[places])
            before = logits[places] if click else None
            looks = look_closer_at_clicks(
                sam, image, torch.zeros_like(places), asked, logits[places], multimask=click == 0, previous=before
            )
            logits[places] = looks.resized(size, side).on_image((side, side))
            predicted[places] = looks.iou
        masks = logits > 0
        ious.append(iou(masks, truths, valid))
        guesses.append(predicted.clone())
    every = torch.stack(ious, dim=1)
    return ClickAnswers(prompts.points[:, 0], prompts.labels[:, 0], masks, every, torch.stack(guesses, dim=1), every)


def _no_clicks(count: int, device: torch.device) -> Prompts:
    """``(N, 1)`` prompts without a click."""
    return Prompts(
        torch.zeros(count, 1, 0, 2, device=device), torch.zeros(count, 1, 0, dtype=torch.long, device=device)
    )


def _clicked(
    prompts: Prompts, masks: Tensor, truths: Tensor, valid: Tensor, clicks_so_far: Tensor
) -> tuple[Prompts, Tensor]:
    """The oracle's next click on each of N answers: all prompts with it, and ``(N,)`` whether there was anything to click on.

    ``clicks_so_far`` ``(N, S, S)`` bool is marked in place. Pixels that are not ``valid`` are never wrong.
    """
    points, labels, is_click = next_click(torch.where(valid, masks, truths), truths, clicks_so_far)
    column, row = points.long().unbind(1)
    clicks_so_far[torch.arange(len(truths), device=truths.device), row, column] |= is_click
    labels = torch.where(is_click, labels, PADDING)
    return prompts.join(Prompts.of_points(points[:, None, None], labels[:, None, None])), is_click
