from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index

from maskwright.nets.losses import (
    box_projection_loss,
    consistency_loss,
    dice_loss,
    focal_loss,
    foreground_logit,
    iou_regression,
    mask_loss,
    partial_cross_entropy,
    pseudo_mask_loss,
    sam_loss,
    semantic_mask_loss,
    soft_iou,
    structure_loss,
    tag_loss,
)

torch.set_num_threads(1)
B, C, H, W = 3, 4, 12, 10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def category_target(seed: int = 0, ignore: bool = True) -> Tensor:
    target = torch.randint(0, C, (B, H, W), generator=seeded(seed))
    target[:, :2, :3] = 255 if ignore else 0
    return target


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows)[None]


def published_structure_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """F3Net and PraNet as printed: (B,1,H,W) float."""
    weight = 1 + 5 * (F.avg_pool2d(mask, 31, stride=1, padding=15) - mask).abs()
    bce = (weight * F.binary_cross_entropy_with_logits(logits, mask, reduction="none")).sum((2, 3)) / weight.sum((2, 3))
    p = logits.sigmoid()
    intersection, union = (p * mask * weight).sum((2, 3)), ((p + mask) * weight).sum((2, 3))
    return (bce + 1 - (intersection + 1) / (union - intersection + 1)).mean()


# ------------------------------------------------------------------------------------- what holds for all of them

# each entry: loss of (logits (B,C,H,W), valid (B,)), with its labels fixed
TARGET = category_target()
BINARY = torch.where(TARGET == 255, 255, (TARGET > 1).long())
DRAWN = torch.where(torch.rand(B, H, W, generator=seeded(5)) < 0.1, TARGET, 255)
TAGS = torch.tensor([[-1, 1, 0, -1], [-1, 0, 0, 1], [-1, 1, 1, 1]])
BOXES = torch.tensor([[2.0, 3.0, 7.5, 9.0], [0.0, 0.0, 3.0, 2.0]]).expand(B, 2, 4)


def per_object(valid: Tensor, count: int) -> Tensor:
    return valid[:, None].expand(-1, count).contiguous()


def as_sam(logits: Tensor, valid: Tensor) -> Tensor:
    masks = logits.unflatten(1, (2, 2))
    target = torch.stack([BINARY, torch.where(BINARY == 255, 255, 1 - BINARY)], 1)
    return sam_loss(masks, torch.full((B, 2, 2), 0.7), target, per_object(valid, 2))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "structure": lambda logits, valid: structure_loss(logits[:, 0], BINARY, valid),
    "dice": lambda logits, valid: dice_loss(logits[:, :1], BINARY, valid),
    "mask": lambda logits, valid: mask_loss(logits[:, :1], BINARY[:, None], valid),
    "semantic": lambda logits, valid: semantic_mask_loss(logits, TARGET, valid),
    "box": lambda logits, valid: box_projection_loss(logits[:, :2], BOXES, per_object(valid, 2)),
    "partial": lambda logits, valid: partial_cross_entropy(logits, DRAWN, valid),
    "tag": lambda logits, valid: tag_loss(logits, TAGS, valid),
    "tag top 5": lambda logits, valid: tag_loss(logits, TAGS, valid, top_k=5),
    "consistency": lambda logits, valid: consistency_loss(logits, logits.detach().float().flip(1), valid),
    "pseudo": lambda logits, valid: pseudo_mask_loss(logits, TARGET, valid),
    "pseudo soft": lambda logits, valid: pseudo_mask_loss(logits, logits.detach().float().flip(1).softmax(1), valid),
    "pseudo binary": lambda logits, valid: pseudo_mask_loss(logits[:, :1], BINARY, valid),
    "sam": as_sam,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def random_logits(scale: float = 1.0, seed: int = 1) -> Tensor:
    return torch.randn(B, C, H, W, generator=seeded(seed)).mul(scale).requires_grad_()


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("valid", [[1.0, 1.0, 1.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
def test_value_and_gradient_are_finite(loss, scale: float, valid: list[float]) -> None:
    logits = random_logits(scale)
    value = loss(logits, torch.tensor(valid))
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert value >= 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if not any(valid):
        assert value == 0
        assert not logits.grad.any()


@every_loss
def test_an_image_without_weight_has_no_influence(loss) -> None:
    valid = torch.tensor([1.0, 0.0, 1.0])
    logits = random_logits()
    value = loss(logits, valid)
    value.backward()
    assert logits.grad is not None
    assert not logits.grad[1].any()
    assert logits.grad[0].any()
    other = logits.detach().clone()
    other[1] = 7.0
    assert torch.equal(loss(other, valid), value)


@pytest.mark.parametrize("name", LOSSES)
def test_the_weighted_mean_over_images(name: str) -> None:
    logits, loss = random_logits(), LOSSES[name]
    single = [loss(logits, one) for one in torch.eye(B)]
    torch.testing.assert_close(loss(logits, torch.ones(B)), torch.stack(single).mean())
    weighted = loss(logits, torch.tensor([0.75, 0.25, 0.0]))
    mean = 0.75 * single[0] + 0.25 * single[1]
    torch.testing.assert_close(
        weighted, mean / 2 if name.startswith("pseudo") else mean
    )  # a confidence scales the loss


@every_loss
def test_half_precision_is_computed_in_float32(loss) -> None:
    logits = random_logits().detach().bfloat16()
    value = loss(logits, torch.ones(B))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), torch.ones(B)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(logits.float(), torch.ones(B)), value)


@pytest.mark.parametrize("name", ["structure", "dice", "mask", "semantic", "partial", "pseudo", "pseudo binary", "sam"])
def test_ignored_pixels_have_no_influence(name: str) -> None:
    logits = random_logits()
    value = LOSSES[name](logits, torch.ones(B))
    value.backward()
    assert logits.grad is not None
    assert logits.grad.any()
    other = logits.detach().clone()
    assert not logits.grad.movedim(1, -1)[TARGET == 255].any()
    other.movedim(1, -1)[TARGET == 255] = 50.0
    assert torch.equal(LOSSES[name](other, torch.ones(B)), value)


@pytest.mark.parametrize("name", ["structure", "dice", "mask", "semantic", "partial", "pseudo", "pseudo binary"])
def test_the_truth_costs_next_to_nothing_and_its_opposite_much(name: str) -> None:
    right = F.one_hot(TARGET.clamp(max=C - 1), C).movedim(-1, 1).float()
    if name not in ("semantic", "partial", "pseudo"):
        right = (BINARY == 1)[:, None].expand(-1, C, -1, -1).float()
    logits = right * 60 - 30
    assert LOSSES[name](logits, torch.ones(B)) < 1e-3
    assert LOSSES[name](-logits, torch.ones(B)) > 0.9


# ---------------------------------------------------------------------------------------------------- dense masks


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), soft=st.booleans())
def test_structure_loss_equals_the_published_one(seed: int, soft: bool) -> None:
    generator = seeded(seed)
    logits = torch.randn(2, 1, 40, 33, generator=generator) * 3
    mask = torch.rand(2, 1, 40, 33, generator=generator)
    mask = mask if soft else (F.avg_pool2d(mask, 9, 1, 4) > 0.45).float()
    expected = published_structure_loss(logits, mask)
    torch.testing.assert_close(structure_loss(logits, mask), expected)
    torch.testing.assert_close(structure_loss(logits[:, 0], mask[:, 0]), expected)


def test_structure_loss_beside_ignored_pixels_sees_no_contour() -> None:
    logits = torch.zeros(1, 40, 80)
    whole = torch.ones(1, 40, 80)
    partly = whole.clone()
    partly[..., 40:] = 255
    far = structure_loss(logits[..., 20:60], whole[..., 20:60], window=1)  # no window, hence no contour weights
    torch.testing.assert_close(structure_loss(logits, partly, window=1), far)
    inner = torch.zeros(1, 40, 80)
    inner[..., 40:] = 255
    assert structure_loss(logits, inner) == structure_loss(logits, torch.where(inner == 255, 255, 0))
    # background beside unknown: all weights are 1, so BCE is ln 2, and IoU = 1 − 1 / (Σp + 1)
    assert structure_loss(logits, inner).item() == pytest.approx(math.log(2) + 1 - 1 / (0.5 * 40 * 40 + 1), rel=1e-5)


def test_dice_loss_by_hand() -> None:
    logits = torch.zeros(1, 2, 2)  # p = 1/2
    target = torch.tensor([[[1, 0], [0, 255]]])
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1.5 + 1 + 1))
    assert dice_loss(logits, torch.full((1, 2, 2), 255)) == 0
    assert dice_loss(torch.full((1, 2, 2), -30.0), torch.zeros(1, 2, 2)) == pytest.approx(0, abs=1e-6)


def test_binary_losses_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\).*\(2, 4, 4\)"):
        dice_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4))


def test_semantic_mask_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])).T.reshape(1, 3, 1, 2)
    target = torch.tensor([[[0, 1]]])
    entropy = -(math.log(0.5) + math.log(0.8)) / 2
    dice = 1 - (2 * 0.8 + 1) / (0.25 + 0.8 + 1 + 1)  # category 2 is not in the image and has no term
    assert semantic_mask_loss(logits, target).item() == pytest.approx(entropy + dice, rel=1e-5)
    background = torch.zeros(1, 1, 2, dtype=torch.long)
    assert semantic_mask_loss(logits, background).item() == pytest.approx(
        -(math.log(0.5) + math.log(0.1)) / 2, rel=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_foreground_logit_is_the_softmax_probability(scale: float) -> None:
    logits = random_logits(scale)
    for category in range(C):
        logit = foreground_logit(logits, category)
        torch.testing.assert_close(logit.sigmoid(), logits.softmax(1)[:, category])
        assert torch.equal(logit, foreground_logit(logits, torch.full((B,), category)))
    mixed = foreground_logit(logits, torch.tensor([2, 0, 3]))
    assert torch.equal(mixed[2], foreground_logit(logits, 3)[2])
    torch.testing.assert_close(foreground_logit(logits[:, :2], 1), logits[:, 1] - logits[:, 0])
    mixed.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    with pytest.raises(ValueError, match="at least 2"):
        foreground_logit(logits[:, :1], 0)


# ----------------------------------------------------------------------------------------------------- weak labels


def test_box_loss_is_content_with_any_mask_that_touches_all_sides() -> None:
    box = boxes((2, 3, 8, 9))
    filled, ring, small, leaking = (torch.full((1, 1, 12, 12), -20.0) for _ in range(4))
    filled[..., 3:9, 2:8] = 20
    ring[..., 3:9, 2:8] = 20
    ring[..., 4:8, 3:7] = -20
    small[..., 4:8, 3:7] = 20
    leaking[..., 3:9, 2:12] = 20
    assert box_projection_loss(filled, box) < 1e-3
    assert box_projection_loss(ring, box) < 1e-3
    diagonal = torch.where(torch.eye(12, dtype=torch.bool).roll(1, 0), 20.0, -20.0)[None, None]
    inside = torch.full_like(diagonal, -20.0)
    inside[..., 3:9, 2:8] = diagonal[..., 3:9, 2:8]
    assert box_projection_loss(inside, box) < 1e-3  # one pixel in every row and column is all that a box demands
    assert box_projection_loss(small, box) > 1
    assert box_projection_loss(leaking, box) > 1
    assert box_projection_loss(torch.full_like(filled, 20.0), box) > 1
    assert box_projection_loss(torch.full_like(filled, -20.0), box) > 1


def test_box_losses_one_by_one():
    logits = torch.randn(2, 3, 12, 10, generator=seeded())
    some = torch.tensor([[1.0, 1, 6, 7], [2, 3, 9, 9], [0, 0, 4, 4]]).expand(2, 3, 4)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    each = box_projection_loss(logits, some, valid, per_box=True)
    assert (each[~valid] == 0).all()
    torch.testing.assert_close(each[valid].mean(), box_projection_loss(logits, some, valid))
    alone = box_projection_loss(logits[1:, :1], some[1:, :1])
    torch.testing.assert_close(each[1, 0], alone)


def test_box_loss_by_hand() -> None:
    p = torch.tensor([[0.9, 0.2, 0.3], [0.1, 0.6, 0.7]])
    loss = box_projection_loss(p.logit()[None, None], boxes((0, 0, 2, 2)))
    # in the box: maxima of rows .9 .6, of columns .9 .6 → minima [[.9, .6], [.6, .6]]; outside: .3, .7 against nothing
    q = [0.9, 0.6, 0.6, 0.6]
    bce = -(sum(math.log(x) for x in q) + math.log(0.7) + math.log(0.3)) / 6
    dice = 1 - (2 * sum(q) + 1) / (sum(q) + 0.3 + 0.7 + 4 + 1)
    assert loss.item() == pytest.approx(bce + dice, rel=1e-5)


def test_box_loss_leaves_other_boxes_padding_and_unknown_places_alone() -> None:
    logits = torch.randn(1, 1, 12, 12, generator=seeded()).expand(1, 2, 12, 12).clone().requires_grad_()
    pair = boxes((1, 1, 5, 5), (7, 7, 11, 11))
    canvas = torch.ones(1, 12, 12, dtype=torch.bool)
    canvas[:, :, 10:] = False
    box_projection_loss(logits, pair, canvas=canvas).backward()
    assert logits.grad is not None
    assert not logits.grad[0, 0, 7:11, 7:11].any()  # the other's box: may be the same category
    assert not logits.grad[0, 1, 1:5, 1:5].any()
    assert not logits.grad[..., 10:].any()
    assert logits.grad[0, 0, 0, :10].all()
    logits.grad = None
    box_projection_loss(logits, pair, valid=torch.tensor([[1, 0]])).backward()
    assert not logits.grad[0, 1].any()
    assert logits.grad[0, 0, 7:11, 7:11].all()  # a padded box hides nothing
    logits.grad = None
    nowhere = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    box_projection_loss(logits, pair, background=nowhere).backward()
    assert not logits.grad[0, 0, 6:].any()


def test_boxes_without_a_pixel_are_padding() -> None:
    logits = random_logits()[:, :2]
    empty = torch.tensor([[0.0, 0, 0, 0], [3.6, 3.6, 4.4, 4.4]]).expand(B, 2, 4)
    assert box_projection_loss(logits, empty) == 0
    one = torch.tensor([[0.0, 0, 0, 0], [3.4, 3.4, 4.4, 4.4]]).expand(B, 2, 4)
    torch.testing.assert_close(box_projection_loss(logits, one), box_projection_loss(logits[:, 1:], one[:, 1:]))


def test_partial_cross_entropy_by_hand() -> None:
    logits = torch.log(torch.tensor([0.7, 0.3])).view(1, 2, 1, 1).expand(3, 2, 2, 2)
    target = torch.full((3, 2, 2), 255)
    target[0, 0, 0] = 1
    target[1, 0, :] = 0
    target[1, 1, 0] = 1
    images = [-math.log(0.3), -(2 * math.log(0.7) + math.log(0.3)) / 3]  # the third has nothing drawn
    assert partial_cross_entropy(logits, target).item() == pytest.approx(sum(images) / 2, rel=1e-5)


def test_tag_loss_by_hand_and_against_all_pixels() -> None:
    logits = random_logits()
    probability = torch.stack([foreground_logit(logits, c).flatten(1).amax(1).sigmoid() for c in range(C)], 1)
    expected = []
    for b in range(B):
        known = TAGS[b] >= 0
        expected.append(F.binary_cross_entropy(probability[b, known], TAGS[b, known].float()))
    torch.testing.assert_close(tag_loss(logits, TAGS), torch.stack(expected).mean())
    best = torch.stack([foreground_logit(logits, c).flatten(1).topk(3).values.mean(1) for c in range(C)], 1)
    known = TAGS >= 0
    bce = F.binary_cross_entropy_with_logits(best, TAGS.clamp(min=0).float(), reduction="none")
    torch.testing.assert_close(tag_loss(logits, TAGS, top_k=3), ((bce * known).sum(1) / known.sum(1)).mean())
    assert tag_loss(logits, torch.full((B, C), -1)) == 0
    assert tag_loss(logits, TAGS, top_k=10**6).isfinite()


def test_tag_loss_does_not_look_at_the_padding() -> None:
    logits = random_logits().detach()
    canvas = torch.ones(B, H, W, dtype=torch.bool)
    canvas[..., 6:] = False
    torch.testing.assert_close(tag_loss(logits, TAGS, canvas=canvas), tag_loss(logits[..., :6], TAGS))


# ------------------------------------------------------------------------------------------------ unlabelled images


def test_consistency_by_hand_and_no_gradient_to_the_teacher() -> None:
    student = torch.tensor([0.2, 0.4]).logit().view(1, 1, 1, 2).requires_grad_()
    teacher = torch.tensor([0.5, 0.5]).logit().view(1, 1, 1, 2).requires_grad_()
    assert consistency_loss(student, teacher).item() == pytest.approx((0.09 + 0.01) / 2)
    assert consistency_loss(student, teacher, torch.tensor([[[1.0, 0.0]]])).item() == pytest.approx(0.09)
    consistency_loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None
    several = random_logits()
    torch.testing.assert_close(
        consistency_loss(several, several.flip(1)), F.mse_loss(several.softmax(1), several.flip(1).softmax(1))
    )


def test_pseudo_mask_loss_scales_with_confidence() -> None:
    logits = random_logits()
    full = pseudo_mask_loss(logits, TARGET)
    entropy = F.cross_entropy(logits, TARGET, ignore_index=255, reduction="none").sum((1, 2)) / (TARGET != 255).sum(
        (1, 2)
    )
    torch.testing.assert_close(full, entropy.mean())
    torch.testing.assert_close(pseudo_mask_loss(logits, TARGET, torch.full((B,), 0.25)), full / 4)
    weight = torch.rand(B, H, W, generator=seeded())
    known = category_target(ignore=False)
    hard = F.one_hot(known, C).movedim(-1, 1)
    torch.testing.assert_close(pseudo_mask_loss(logits, hard, weight), pseudo_mask_loss(logits, known, weight))


def test_binary_pseudo_mask_equals_two_categories() -> None:
    logit = random_logits()[:, :1]
    two = torch.cat([torch.zeros_like(logit), logit], 1)
    torch.testing.assert_close(pseudo_mask_loss(logit, BINARY), pseudo_mask_loss(two, BINARY))
    soft = torch.rand(B, 1, H, W, generator=seeded())
    torch.testing.assert_close(pseudo_mask_loss(logit, soft), F.binary_cross_entropy_with_logits(logit, soft))


# ---------------------------------------------------------------------------------------------- SAM's own training


def test_focal_loss_by_hand() -> None:
    p = torch.tensor([[0.9, 0.2], [0.6, 0.5]])
    target = torch.tensor([[1, 0], [0, 255]])
    by_hand = (0.25 * 0.1**2 * -math.log(0.9) + 0.75 * 0.2**2 * -math.log(0.8) + 0.75 * 0.6**2 * -math.log(0.4)) / 3
    assert focal_loss(p.logit(), target).item() == pytest.approx(by_hand, rel=1e-5)
    torch.testing.assert_close(
        focal_loss(p.logit(), target.clamp(max=1), alpha=0.5, gamma=0.0),
        F.binary_cross_entropy(p, target.clamp(max=1).float()) / 2,
    )


def test_soft_iou_equals_the_jaccard_index() -> None:
    a = torch.rand(5, 6, 7, generator=seeded(1)) > 0.5
    b = torch.rand(5, 6, 7, generator=seeded(2)) > 0.5
    expected = torch.stack([binary_jaccard_index(x, y.long()) for x, y in zip(a.long(), b)])
    torch.testing.assert_close(soft_iou(a, b), expected)
    assert soft_iou(torch.zeros(2, 2), torch.zeros(2, 2)) == 1
    assert soft_iou(torch.tensor([[0.5]]), torch.tensor([[0.5]])).item() == pytest.approx(0.25 / 0.75)


def test_iou_regression_measures_known_pixels_and_leaves_the_masks_alone() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0, 1.0]]).requires_grad_()
    target = torch.tensor([[1.0, 0.0, 0.8, 255.0]])
    predicted = torch.tensor(0.75, requires_grad=True)
    loss = iou_regression(predicted, logits, target)
    assert loss.item() == pytest.approx(0.75 - 1 / 3)
    loss.backward()
    assert logits.grad is None
    assert predicted.grad == 1


def test_sam_loss_takes_the_best_mask_and_scores_all() -> None:
    target = torch.zeros(1, 2, 8, 8)
    target[..., 2:6, 2:6] = 1
    logits = torch.stack([target[0, 0] * 40 - 20, -(target[0, 0] * 40 - 20), torch.zeros(8, 8)])[None, None]
    logits = logits.expand(1, 2, 3, 8, 8).clone().requires_grad_()
    iou = torch.tensor([1.0, 0.0, 0.5]).expand(1, 2, 3).clone().requires_grad_()
    valid = torch.tensor([[1, 0]])
    loss = sam_loss(logits, iou, target, valid)
    assert loss.item() == pytest.approx((0 + 0 + 0.5) / 3, abs=1e-4)  # an empty mask of IoU 0 claimed 0.5
    loss.backward()
    assert logits.grad is not None
    assert iou.grad is not None
    assert not logits.grad[0, 0, 1:].any()
    assert not logits.grad[0, 1].any()
    assert iou.grad[0, 0, 2] == pytest.approx(1 / 3)
    assert not iou.grad[0, 1].any()


def test_sam_loss_is_the_sum_of_its_terms() -> None:
    logits = torch.randn(2, 3, 1, 6, 6, generator=seeded())
    iou = torch.rand(2, 3, 1, generator=seeded(1))
    target = torch.randint(0, 2, (2, 3, 6, 6), generator=seeded(2))
    flat, truth = logits.flatten(0, 2), target.flatten(0, 1)
    terms = 20 * focal_loss(flat, truth).mean() + dice_loss(flat, truth)
    terms = terms + iou_regression(iou.flatten(), flat, truth).mean()
    torch.testing.assert_close(sam_loss(logits, iou, target), terms)
    assert sam_loss(logits, iou, torch.full_like(target, 255)) == 0
