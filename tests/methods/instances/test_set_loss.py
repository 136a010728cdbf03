"""The set loss against the criterion of transformers, and what must hold for any batch."""

from __future__ import annotations

import pytest
import torch
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from maskwright.data.instances import Instances
from maskwright.methods.instances.set_loss import SetLoss

WEIGHTS = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}


def answers(layers=2, batch=3, queries=9, categories=4, grid=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(layers, batch, queries, categories, generator=generator).requires_grad_()
    # Smooth maps: sampled at other points they give nearly the same loss.
    coarse = 3 * torch.randn(layers, batch * queries, 3, 3, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (grid, grid), mode="bicubic")
    return classes, masks.unflatten(1, (batch, queries)).detach().requires_grad_()


def objects(counts=(4, 0, 2), categories=3, size=64, seed=1) -> Instances:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(sum(counts), size, size, dtype=torch.bool)
    for mask in masks:
        x, y = torch.randint(0, size // 2, (2,), generator=generator).tolist()
        mask[y : y + size // 2, x : x + size // 2] = True
    rows = torch.cat([torch.full((count,), row) for row, count in enumerate(counts)])
    return Instances(masks, rows, torch.randint(1, categories + 1, (len(masks),), generator=generator))


def test_equal_to_transformers():
    classes, masks = answers()
    truth = objects()
    near = torch.nn.functional.interpolate(truth.masks[None].float() * 8 - 4, (16, 16), mode="area")[0]
    with torch.no_grad():  # clear enough that the draw of the points cannot change who is matched with whom
        for number, (row, query) in enumerate(((0, 1), (0, 4), (0, 5), (0, 7), (2, 0), (2, 8))):
            masks[:, row, query] += 2 * near[number]
            classes[:, row, query, truth.categories[number] - 1] += 4
    config = Mask2FormerConfig(num_labels=3, train_num_points=12544)
    criterion = Mask2FormerLoss(config, WEIGHTS)
    labels = [truth.masks[truth.rows == row].float() for row in range(3)]
    kinds = [truth.categories[truth.rows == row] - 1 for row in range(3)]
    torch.manual_seed(0)
    # As many cells as transformers takes points, so that both take as many.
    dense = torch.nn.functional.interpolate(masks.flatten(0, 1), (112, 112), mode="bilinear").unflatten(0, (2, 3))
    auxiliary = [{"masks_queries_logits": dense[0], "class_queries_logits": classes[0]}]
    wanted = criterion(dense[1], classes[1], labels, kinds, auxiliary)
    wanted = {k: v * next(w for name, w in WEIGHTS.items() if k.startswith(name)) for k, v in wanted.items()}
    found = SetLoss()(classes, dense, truth, torch.Generator().manual_seed(0))
    assert found["class"].item() == pytest.approx(wanted["loss_cross_entropy"].item(), rel=1e-5)
    assert found["mask"].item() == pytest.approx(wanted["loss_mask"].item(), rel=0.05)
    assert found["dice"].item() == pytest.approx(wanted["loss_dice"].item(), rel=0.05)
    earlier = sum(v.item() for k, v in wanted.items() if k.endswith("_0"))
    assert found["auxiliary"].item() == pytest.approx(earlier, rel=0.05)


def test_the_right_answer_is_matched_and_costs_nothing():
    truth = objects((3, 1))
    grid = truth.masks.float() * 200 - 100
    masks, classes = torch.full((1, 2, 5, 64, 64), -100.0), torch.zeros(1, 2, 5, 4)
    classes[..., 3] = 50
    places = [(0, 4), (0, 1), (0, 2), (1, 3)]
    for number, (row, query) in enumerate(places):
        masks[0, row, query] = grid[number]
        classes[0, row, query] = 0
        classes[0, row, query, truth.categories[number] - 1] = 50
    layer, row, query, target = SetLoss().match(classes, masks, truth, torch.Generator().manual_seed(0))
    found = {int(t): (int(r), int(q)) for r, q, t in zip(row, query, target)}
    assert found == dict(enumerate(places))
    assert (layer == 0).all()
    parts = SetLoss(important=0.0)(classes, masks, truth, torch.Generator().manual_seed(0))
    assert parts["class"] < 1e-6
    assert parts["dice"] < 0.3  # only what bilinear sampling does at borders
    assert parts["auxiliary"] == 0


def test_no_object_at_all_teaches_that_there_is_none():
    classes, masks = answers()
    parts = SetLoss()(classes, masks, Instances.none(64, 64), torch.Generator().manual_seed(0))
    assert parts["mask"] == 0
    assert parts["dice"] == 0
    assert parts["class"] > 0
    torch.stack(list(parts.values())).sum().backward()
    assert classes.grad is not None
    assert masks.grad is not None  # zero, but there: every process has a gradient of everything
    assert masks.grad.abs().sum() == 0


def test_one_object_that_covers_everything_and_400_objects():
    classes, masks = answers(batch=1)
    whole = Instances(torch.ones(1, 64, 64, dtype=torch.bool), torch.tensor([0]), torch.tensor([1]))
    assert all(torch.isfinite(v) for v in SetLoss()(classes, masks, whole, torch.Generator()).values())
    ids = torch.arange(400).view(20, 20).repeat_interleave(4, 0).repeat_interleave(4, 1)
    many = Instances(
        torch.stack([ids == k for k in range(400)]), torch.zeros(400, dtype=torch.long), torch.ones(400).long()
    )
    layer, _, query, target = SetLoss().match(classes, masks, many, torch.Generator().manual_seed(0))
    assert len(query) == 2 * 9  # every query is matched, no object twice
    for one in (0, 1):
        assert len(set(query[layer == one].tolist())) == 9
        assert len(set(target[layer == one].tolist())) == 9
    assert all(torch.isfinite(v) for v in SetLoss()(classes, masks, many, torch.Generator()).values())


def test_two_processes_together_are_one():
    classes, masks = answers(batch=4)
    truth = objects((4, 1, 0, 2))
    loss = SetLoss(important=0.0, points=10**6)
    dense = torch.nn.functional.interpolate(masks.flatten(0, 1), (64, 64), mode="bilinear").unflatten(0, (2, 4))
    alone = loss(classes, dense, truth, torch.Generator().manual_seed(0))
    halves = []
    for rows in ((0, 1), (2, 3)):
        mine = (truth.rows >= rows[0]) & (truth.rows <= rows[1])
        part = Instances(truth.masks[mine], truth.rows[mine] - rows[0], truth.categories[mine])
        sums: list[torch.Tensor] = []
        # First what this half would contribute, then with the mean over both.
        loss(
            classes[:, rows],
            dense[:, rows],
            part,
            torch.Generator(),
            lambda value, sums=sums: sums.append(value) or value,
        )
        halves.append((rows, part, sums))
    means = [(a + b) / 2 for a, b in zip(halves[0][2], halves[1][2])]
    parts = []
    for rows, part, _ in halves:
        given = iter(means)
        parts.append(
            loss(classes[:, rows], dense[:, rows], part, torch.Generator(), lambda value, given=given: next(given))
        )
    for name in alone:
        both = (parts[0][name] + parts[1][name]).item() / 2
        assert both == pytest.approx(alone[name].item(), rel=1e-5 if name == "class" else 0.05), name
