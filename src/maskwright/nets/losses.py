"""Losses for dense, weak and pseudo labels, and for SAM-style training: pure functions on logits.

Shared conventions
    - Letters: B images, C categories, K objects, M masks per object, H × W pixels of the training canvas.
    - Everything is computed in float32, whatever dtype or autocast the logits come from, and without a loop over the
      batch.
    - ``IGNORE`` (255) in a target marks pixels that count nowhere, such as padding.
    - ``valid`` (B,) holds weights of the images, bool or float ≥ 0, None = all 1. A loss is the weighted mean over the
      images that have anything to say; where none has, it is 0 and still carries (zero) gradients.
    - A binary target is 0..1 (soft targets are welcome), of any dtype.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.labels import IGNORE

# ---------------------------------------------------------------------------------------------------- dense masks


def structure_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None, window: int = 31) -> Tensor:
    """Cross-entropy and IoU that weigh pixels near a contour up to six times (F³Net, Wei et al., AAAI 2020, sec. 3.3).

    The weight is ``1 + 5·|mean of the target in a window − target|``; with nothing ignored this is PraNet's loss
    exactly, zero padding at the borders included. Ignored pixels are left out of the windows.

    Args:
        logits: (B,H,W) or (B,1,H,W).
        target: the same shape or without the channel, 0..1 or 255.
        valid: (B,) weights.
        window: side in pixels, odd.
    """
    logits, target, known = _binary(logits, target)
    unknown = 1.0 - known
    near = _window_mean(target, window) / (1.0 - _window_mean(unknown, window)).clamp_min(1e-6)
    weight = (1.0 + 5.0 * (near - target).abs()) * known
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    bce = (weight * bce).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1e-6)
    probability = logits.sigmoid()
    intersection = (probability * target * weight).sum((-2, -1))
    total = ((probability + target) * weight).sum((-2, -1))
    iou = 1.0 - (intersection + 1.0) / (total - intersection + 1.0)
    return _mean(bce + iou, _present(known, valid))


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """``1 − (2·Σpy + 1) / (Σp + Σy + 1)`` per image.

    Args:
        logits: (B,H,W) or (B,1,H,W).
        target: the same shape or without the channel, 0..1 or 255.
        valid: (B,) weights.
    """
    logits, target, known = _binary(logits, target)
    return _mean(_dice(logits.sigmoid(), target, known), _present(known, valid))


def mask_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """:func:`structure_loss` + :func:`dice_loss`, SAMIX's loss on labelled masks. Arguments as there."""
    return structure_loss(logits, target, valid) + dice_loss(logits, target, valid)


def semantic_mask_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy plus soft Dice over the foreground categories that the image's target holds.

    A category that an image lacks has no Dice term there (one stray pixel would cost as much as a missed object);
    cross-entropy takes care of it.

    Args:
        logits: (B,C,H,W), category 0 = background.
        target: (B,H,W) category ids or 255.
        valid: (B,) weights.
    """
    logits = logits.float()
    known = target != IGNORE
    pixels = known.sum((-2, -1))
    entropy = F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="none")
    entropy = entropy.sum((-2, -1)) / pixels.clamp_min(1)
    categories = torch.arange(1, logits.shape[1], device=logits.device)
    truth = target.unsqueeze(1) == categories.view(1, -1, 1, 1)
    dice = _dice(logits.softmax(1)[:, 1:], truth.float(), known.unsqueeze(1).float())
    held = truth.flatten(2).any(-1)
    dice = (dice * held).sum(1) / held.sum(1).clamp_min(1)
    return _mean(entropy + dice, _present(known, valid))


def foreground_logit(logits: Tensor, category: int | Tensor) -> Tensor:
    """The logit of one category against all others, so that its sigmoid is the category's softmax probability.

    Args:
        logits: (B,C,H,W) with C ≥ 2.
        category: one id, or (B,) ids.

    Returns:
        (B,H,W) ``logits_c − logsumexp(logits of the others)``, float32.
    """
    if logits.shape[1] < 2:
        raise ValueError("one category has no others to be set against: logits need at least 2 channels")
    logits = logits.float()
    index = torch.as_tensor(category, device=logits.device).expand(len(logits)).view(-1, 1, 1, 1)
    is_category = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1) == index
    others = logits.masked_fill(is_category, -torch.inf).logsumexp(1)
    return logits.masked_fill(~is_category, 0.0).sum(1) - others


# ----------------------------------------------------------------------------------------------------- weak labels


def box_projection_loss(
    logits: Tensor,
    boxes: Tensor,
    valid: Tensor | None = None,
    canvas: Tensor | None = None,
    background: Tensor | None = None,
    *,
    cut: Tensor | None = None,
    per_box: bool = False,
) -> Tensor:
    """A mask must fill its box from side to side and stay inside it (mask-to-box, WeakPolyp, Wei et al., MICCAI 2023).

    Inside the box each pixel's logit is replaced by the smaller one of its row's and its column's maximum: every row and
    every column of the box needs some foreground pixel, but the loss does not say which. Outside, the logits stay as they
    are, and the mask has to be empty. The result is compared with the filled box by cross-entropy and Dice.

    Args:
        logits: (B,K,H,W), one foreground logit per box.
        boxes: (B,K,4) half-open ``x0 y0 x1 y1`` in canvas pixels; a pixel is inside if its centre is.
        valid: (B,K) weights; padded boxes are 0. A box without a pixel counts as padding.
        canvas: (B,H,W) bool, False on padding. None = all of it.
        background: (B,1,H,W) or (B,K,H,W) bool, where outside the box the mask has to be empty. None = outside of all
            valid boxes of the image, which is right where the boxes of an image are complete.
        cut: (B,K,2) bool, boxes of objects that a crop cut along x, and along y. Along x every column still needs some foreground,
            but what reached into a row may have been cut off; along both nothing is known inside. None = none is cut.
        per_box: no mean.

    Returns:
        The weighted mean over the boxes; ``per_box``: (B,K), 0 for what is no box.
    """
    logits = logits.float()
    inside = _filled(boxes, *logits.shape[-2:])
    if canvas is not None:
        inside = inside & canvas.unsqueeze(1)
    weight = torch.ones_like(boxes[..., 0]) if valid is None else valid
    weight = weight.float() * inside.flatten(2).any(-1)
    if background is None:
        background = ~(inside & (weight > 0)[..., None, None]).any(1, keepdim=True)
    if canvas is not None:
        background = background & canvas.unsqueeze(1)
    lowest = torch.finfo(torch.float32).min
    within = logits.masked_fill(~inside, lowest)
    rows, columns, is_known = within.amax(-1, keepdim=True), within.amax(-2, keepdim=True), inside
    if cut is not None:
        across, down = cut[..., None, None].unbind(2)
        rows, columns = rows.masked_fill(across, -lowest), columns.masked_fill(down, -lowest)
        is_known = inside & ~(across & down)
    projected = torch.minimum(rows, columns)
    mixed = torch.where(is_known, projected, logits)
    target, known = inside.float(), (is_known | background).float()
    bce = F.binary_cross_entropy_with_logits(mixed, target, reduction="none")
    bce = (bce * known).sum((-2, -1)) / known.sum((-2, -1)).clamp_min(1.0)
    loss = bce + _dice(mixed.sigmoid(), target, known)
    return loss.where(weight > 0, torch.zeros_like(loss)) * weight if per_box else _mean(loss, weight)


def partial_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy on the drawn pixels of points and scribbles: mean over an image's drawn pixels, then over images.

    Args:
        logits: (B,C,H,W).
        target: (B,H,W) category ids where something is drawn (0 = drawn as background), 255 elsewhere.
        valid: (B,) weights.
    """
    known = target != IGNORE
    entropy = F.cross_entropy(logits.float(), target.long(), ignore_index=IGNORE, reduction="none")
    return _mean(entropy.sum((-2, -1)) / known.sum((-2, -1)).clamp_min(1), _present(known, valid))


def tag_loss(
    logits: Tensor, present: Tensor, valid: Tensor | None = None, canvas: Tensor | None = None, top_k: int = 1
) -> Tensor:
    """Multiple-instance loss of image tags: the pixel with the highest probability of a category stands for the whole image.

    Args:
        logits: (B,C,H,W) with C ≥ 2.
        present: (B,C), 1 = in the image, 0 = not, −1 = unknown (the background's column, normally).
        valid: (B,) weights.
        canvas: (B,H,W) bool, False on padding. None = all of it.
        top_k: mean of the logits of that many pixels instead of the maximum alone.

    Returns:
        Cross-entropy of the maximal foreground logit: mean over an image's known categories, then over images.
    """
    flat = logits.float().flatten(2)
    batch, categories, pixels = flat.shape
    with torch.no_grad():
        ranked = flat.log_softmax(1)
        if canvas is not None:
            ranked = ranked.masked_fill(~canvas.flatten(1).unsqueeze(1), -torch.inf)
        index = ranked.topk(min(top_k, pixels), dim=-1).indices  # (B,C,k)
    at = flat.transpose(1, 2).gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, categories))
    at = at.view(batch, categories, -1, categories)  # all logits of the chosen pixels: (B,C,k,C)
    is_category = torch.eye(categories, dtype=torch.bool, device=flat.device)[None, :, None]
    best = at.masked_fill(~is_category, 0.0).sum(-1) - at.masked_fill(is_category, -torch.inf).logsumexp(-1)
    known = present >= 0
    bce = F.binary_cross_entropy_with_logits(best.mean(-1), present.clamp(0, 1).float(), reduction="none")
    return _mean((bce * known).sum(1) / known.sum(1).clamp_min(1), _weights(known.any(1), valid))


# --------------------------------------------------------------------------------------------- unlabelled images


def consistency_loss(student_logits: Tensor, teacher_logits: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared difference of student's and teacher's probabilities; no gradient flows to the teacher.

    Args:
        student_logits, teacher_logits: (B,C,H,W); softmax over C, or sigmoid where C is 1.
        weight: (B,) or (B,H,W), ≥ 0; the mean is weighted by it.
    """
    difference = (_probability(student_logits) - _probability(teacher_logits.detach())).square().mean(1)
    weight = torch.ones_like(difference) if weight is None else _per_pixel(weight).expand_as(difference)
    return (difference * weight).sum() / weight.sum().clamp_min(1e-6)


def pseudo_mask_loss(logits: Tensor, pseudo: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy against a pseudo-mask, scaled by the confidence in it.

    The mean is over all known pixels, not over their weights: a pseudo-mask of little confidence pulls little, even if
    it is the only one.

    Args:
        logits: (B,C,H,W), or (B,1,H,W) of a foreground.
        pseudo: hard (B,H,W) category ids or 255, or soft (B,C,H,W) probabilities; for one channel (B,H,W) or (B,1,H,W),
            0..1 or 255.
        weight: (B,) or (B,H,W) confidence, 0..1.

    Returns:
        Mean over an image's known pixels, then over the images that have a known pixel of a weight above 0.
    """
    if logits.shape[1] == 1:
        flat, target, known = _binary(logits, pseudo)
        loss = F.binary_cross_entropy_with_logits(flat, target, reduction="none")
    elif pseudo.ndim == logits.ndim:
        known = torch.ones_like(logits[:, 0], dtype=torch.float32)
        loss = F.cross_entropy(logits.float(), pseudo.float(), reduction="none")
    else:
        known = (pseudo != IGNORE).float()
        loss = F.cross_entropy(logits.float(), pseudo.long(), ignore_index=IGNORE, reduction="none")
    scale = known if weight is None else known * _per_pixel(weight)
    return _mean((loss * scale).sum((-2, -1)) / known.sum((-2, -1)).clamp_min(1.0), _present(scale, None))


# ------------------------------------------------------------------------------------------------ SAM's own training


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of each mask: the mean over its known pixels.

    Args:
        logits: (..., H, W).
        target: broadcastable to it, 0..1 or 255.
        alpha: weight of the foreground; the background has ``1 − alpha``.

    Returns:
        (...), not reduced further.
    """
    logits, target, known = logits.float(), *_split(target)
    probability = logits.sigmoid()
    hit = probability * target + (1.0 - probability) * (1.0 - target)
    balance = alpha * target + (1.0 - alpha) * (1.0 - target)
    target = target.expand_as(logits)
    loss = balance * (1.0 - hit) ** gamma * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    known = known.expand_as(logits)
    return (loss * known).sum((-2, -1)) / known.sum((-2, -1)).clamp_min(1.0)


def iou_regression(predicted: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """L1 distance of each predicted IoU to the true IoU of its mask.

    Args:
        predicted: (...), IoU as the model estimates it.
        logits: (..., H, W); the mask is where they are above 0. No gradient flows to them.
        target: broadcastable to it, 0..1 (thresholded at 0.5) or 255.

    Returns:
        (...), not reduced further. Two empty masks have an IoU of 1.
    """
    target, known = _split(target)
    mask, truth = (logits > 0).float() * known, (target > 0.5).float() * known
    return (predicted.float() - soft_iou(mask, truth)).abs()


def sam_loss(logits: Tensor, iou: Tensor, target: Tensor, valid: Tensor | None = None, alpha: float = 0.25) -> Tensor:
    """SAM 2's training loss (Ravi et al. 2024, appendix on training): 20 · focal + dice + L1 of the IoU.

    Focal and dice are those of the best of the M masks, the one with the smallest sum; the IoU is learnt on all of
    them.

    Args:
        logits: (B,K,M,H,W).
        iou: (B,K,M), predicted.
        target: (B,K,H,W), 0..1 or 255, at the logits' size.
        valid: (B,K) weights; padded objects are 0.
        alpha: see :func:`focal_loss`. SAM 2's value of 0.25 makes the masks of a model that is unsure too small: at pixels
            that are foreground half of the time, the loss is lowest for a probability well below one half.

    Returns:
        The weighted mean over the objects.
    """
    target = target.unsqueeze(2)
    soft, known = _split(target)
    dice = _dice(logits.float().sigmoid(), soft, known)
    masks = (20.0 * focal_loss(logits, target, alpha) + dice).amin(-1)
    per_object = masks + iou_regression(iou, logits, target).mean(-1)
    return _mean(per_object, _weights(known.flatten(2).any(-1), valid))


def soft_iou(a: Tensor, b: Tensor) -> Tensor:
    """``Σab / Σ(a + b − ab)`` over the last two dimensions of maps in 0..1 (..., H, W): IoU where they are binary.

    Two empty maps have an IoU of 1. Shapes broadcast; returns (...), float32.
    """
    a, b = a.float(), b.float()
    product = a * b
    intersection, union = product.sum((-2, -1)), (a + b - product).sum((-2, -1))
    return torch.where(union > 0, intersection / union.clamp_min(1e-12), torch.ones_like(union))


# ------------------------------------------------------------------------------------------------------------ helpers


def _split(target: Tensor) -> tuple[Tensor, Tensor]:
    """Target with 0 in the place of 255, and 1 where it is known; both float32."""
    known = target != IGNORE
    return target.float().masked_fill(~known, 0.0), known.float()


def _binary(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, target and known pixels of a binary loss as (B,H,W) float32."""
    logits = logits.squeeze(1) if logits.ndim == 4 else logits
    target = target.squeeze(1) if target.ndim == 4 else target
    if logits.shape != target.shape or logits.ndim != 3:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} must both be (B,H,W) or (B,1,H,W)"
        )
    return logits.float(), *_split(target)


def _dice(probability: Tensor, target: Tensor, known: Tensor) -> Tensor:
    probability, target = probability * known, target * known
    overlap = (probability * target).sum((-2, -1))
    return 1.0 - (2.0 * overlap + 1.0) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1.0)


def _window_mean(maps: Tensor, window: int) -> Tensor:
    """Mean of each pixel's window, zeros beyond the border. Separable, which is 15 times less work."""
    half = window // 2
    rows = F.avg_pool2d(maps.unsqueeze(1), (window, 1), stride=1, padding=(half, 0))
    return F.avg_pool2d(rows, (1, window), stride=1, padding=(0, half)).squeeze(1)


def _filled(boxes: Tensor, height: int, width: int) -> Tensor:
    """(B,K,4) boxes as bool masks (B,K,H,W)."""
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    x0, y0, x1, y1 = boxes.float().unsqueeze(-1).unbind(-2)  # each (B,K,1)
    columns, rows = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    return rows.unsqueeze(-1) & columns.unsqueeze(-2)


def _probability(logits: Tensor) -> Tensor:
    return logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(1)


def _per_pixel(weight: Tensor) -> Tensor:
    return weight.float() if weight.ndim == 3 else weight.float().view(-1, 1, 1)


def _present(known: Tensor, valid: Tensor | None) -> Tensor:
    """Weights (B,) of the images that have a known pixel in (B,H,W)."""
    return _weights(known.flatten(1).any(1), valid)


def _weights(present: Tensor, valid: Tensor | None) -> Tensor:
    return present.float() if valid is None else present.float() * valid.float()


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean; 0 where all weights are 0. Values of weight 0 may be NaN or infinite."""
    values = values.where(weight > 0, torch.zeros_like(values))
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)
