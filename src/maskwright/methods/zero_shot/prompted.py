"""A SAM's answers to prompts about a batch of objects: the exact box, and clicks of an oracle that correct."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskwright.data.geometry import on_canvas
from maskwright.data.shapes import tight_boxes
from maskwright.methods.zero_shot.baselines import iou
from maskwright.rl.oracle import next_click
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
    """Answers to T clicks on each of N objects.

    Attributes:
        points: ``(N, T, 2)`` x y on the canvas.
        labels: ``(N, T)`` 1 = on the object, 0 = off it, -1 = no click, as nothing was wrong any more.
        masks: ``(N, S, S)`` bool, after the last click.
        iou, predicted: ``(N, T)`` the true IoU and SAM's own guess after each click.
    """

    points: Tensor
    labels: Tensor
    masks: Tensor
    iou: Tensor
    predicted: Tensor


def ask_boxes(sam: Sam, embedding: Embedding, truths: Tensor, valid: Tensor) -> BoxAnswers:
    """Prompt N objects, one in each row of ``embedding``, with the boxes of their masks ``(N, S, S)`` bool."""
    boxes = tight_boxes(truths)
    answers = sam.decode(embedding, Prompts.of_boxes(boxes[:, None]))
    masks = on_canvas(answers.best[:, 0], sam.size)
    return BoxAnswers(boxes, masks, iou(masks, truths, valid), answers.best_iou[:, 0].float())


def ask_clicks(sam: Sam, embedding: Embedding, truths: Tensor, valid: Tensor, clicks: int) -> ClickAnswers:
    """Click on N objects, one in each row of ``embedding``, and correct.

    The first click is on an empty answer; of its three candidates the one with the highest predicted IoU counts. Each
    further one is given with all clicks so far and the logits before. An object without an error left gets no click
    and keeps its answer. Pixels that are not ``valid``, those to be ignored, are never wrong.
    """
    count, device = len(truths), truths.device
    number = torch.arange(count, device=device)
    masks, clicks_so_far = torch.zeros_like(truths), torch.zeros_like(truths)
    logits, predicted = torch.empty(0, device=device), torch.zeros(count, device=device)
    prompts = Prompts(
        torch.zeros(count, 1, 0, 2, device=device), torch.zeros(count, 1, 0, dtype=torch.long, device=device)
    )
    ious, guesses = [], []
    for click in range(clicks):
        points, labels, is_click = next_click(torch.where(valid, masks, truths), truths, clicks_so_far)
        column, row = points.long().unbind(1)
        clicks_so_far[number, row, column] |= is_click
        labels = torch.where(is_click, labels, PADDING)
        prompts = prompts.join(Prompts.of_points(points[:, None, None], labels[:, None, None]))
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
    return ClickAnswers(
        prompts.points[:, 0], prompts.labels[:, 0], masks, torch.stack(ious, dim=1), torch.stack(guesses, dim=1)
    )
