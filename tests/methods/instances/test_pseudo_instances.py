"""What becomes a pseudo-label, where SAM is clicked for it, and how weak labels join in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.instances import InstanceLoader, Instances
from maskwright.data.labels import Box, Labels, Point, Sample
from maskwright.methods.instances.pseudo_labels import (
    candidates,
    preferring,
    prompted,
    refine,
    refining_points,
    without_duplicates,
)
from maskwright.nets.instance import Queries
from maskwright.sam.sam import Sam


def queries(probabilities: list[float], area: list[float], grid: int = 8) -> Queries:
    """One image with a query of class 1 for each probability; the soft area of its mask is as given."""
    count = len(probabilities)
    classes = torch.zeros(1, 1, count, 3)
    for q, p in enumerate(probabilities):
        classes[0, 0, q] = torch.log(torch.tensor([p, (1 - p) / 2, (1 - p) / 2], dtype=torch.float64)).float()
    masks = torch.full((1, 1, count, grid, grid), -200.0)
    for q, a in enumerate(area):
        cells = masks[0, 0, q].view(-1)
        cells[: int(a)] = 200.0
        rest = a - int(a)
        if rest:
            cells[int(a)] = torch.logit(torch.tensor(rest, dtype=torch.float64)).float()
    return Queries(classes, masks, torch.zeros(1, 4, grid, grid))


def test_thresholds_are_exact():
    # Above, at and below either threshold; .75 and 5 are exact in binary.
    found = candidates(queries([0.75, 0.76, 0.74], [9, 9, 9]), certain=torch.tensor(0.75).item())
    assert len(found) <= 2
    assert found.scores.min() > 0.75
    kept = candidates(queries([0.9, 0.9, 0.9], [5, 5.5, 4.5]), 0.7)
    assert len(kept) == 1
    assert kept.logits.sigmoid().sum().item() == pytest.approx(5.5, abs=1e-4)


def test_exactly_at_the_probability_is_not_enough():
    classes = torch.zeros(1, 1, 1, 3)
    classes[0, 0, 0, 0] = 2.0
    probability = classes.softmax(-1)[0, 0, 0, 0].item()
    q = queries([0.9], [20])
    q = Queries(classes, q.masks, q.features)
    assert len(candidates(q, certain=probability)) == 0
    assert len(candidates(q, certain=probability - 1e-6)) == 1


def test_no_object_is_no_label():
    q = queries([0.99], [20])
    classes = q.classes.flip(-1)  # sure that it is nothing
    assert len(candidates(Queries(classes, q.masks, q.features), 0.7)) == 0


def test_classes_become_category_ids_and_masks_reach_the_canvas():
    found = candidates(queries([0.9], [32]), 0.7)
    assert found.categories.tolist() == [1]
    assert found.rows.tolist() == [0]
    drawn = found.instances(32)
    assert drawn.masks.shape == (1, 32, 32)
    assert 0.4 < drawn.masks.float().mean() < 0.6


def test_clicks_lie_inside_the_mask_without_replacement():
    logits = torch.full((2, 8, 8), -3.0)
    logits[0, 2:5, 3:6] = 4.0
    logits[1, 0, 0] = 1.0
    seen = set()
    for seed in range(60):
        prompts = refining_points(logits, torch.Generator().manual_seed(seed))
        assert prompts.shape == (2, 1)
        assert prompts.labels[0, 0].tolist() == [1, 1, 1]
        places = [tuple(p) for p in prompts.points[0, 0].tolist()]
        assert len(set(places)) == 3
        assert all(3 < x < 6 and 2 < y < 5 and x % 1 == 0.5 and y % 1 == 0.5 for x, y in places)
        seen |= set(places)
        # A mask of one cell gets one click; the rest is padding.
        assert sorted(prompts.labels[1, 0].tolist()) == [-1, -1, 1]
        assert prompts.points[1, 0][prompts.labels[1, 0] == 1].tolist() == [[0.5, 0.5]]
    assert len(seen) == 9


def test_the_official_way_leaks_out_of_the_mask():
    logits = torch.full((1, 16, 16), -0.5)
    logits[0, :2, :2] = 0.5
    inside = []
    for seed in range(40):
        points = refining_points(logits, torch.Generator().manual_seed(seed), official=True).points
        inside.append((points < 2).all(-1).float().mean().item())
    assert sum(inside) / len(inside) < 0.5


def test_likelier_cells_are_clicked_more_often():
    logits = torch.full((1, 1, 2), 0.1)
    logits[0, 0, 1] = 8.0  # probabilities .52 and 1
    first = [refining_points(logits, torch.Generator().manual_seed(s), 1).points[0, 0, 0, 0].item() for s in range(400)]
    assert first.count(1.5) / 400 == pytest.approx(1 / 1.525, abs=0.07)


@torch.no_grad()
def test_refinement_keeps_classes_and_batches_over_images(tiny_sam: Sam):
    embedding = tiny_sam.encode(torch.rand(2, 3, 64, 64))
    q = queries([0.9, 0.8], [20, 40], grid=16)
    double = Queries(q.classes.repeat(1, 2, 1, 1), q.masks.repeat(1, 2, 1, 1, 1), q.features)
    found = candidates(double, 0.7)
    refined = refine(found, tiny_sam, embedding, 64, torch.Generator().manual_seed(0))
    assert refined.masks.shape == (4, 64, 64)
    assert refined.rows.tolist() == [0, 0, 1, 1]
    assert refined.categories.tolist() == found.categories.tolist()
    teacher = found.instances(64)
    # An IoU of 1.1 is never reached: the teacher's outlines stay.
    kept = refine(found, tiny_sam, embedding, 64, torch.Generator().manual_seed(0), accept=1.1)
    assert torch.equal(kept.masks, teacher.masks)
    shown = refine(found, tiny_sam, embedding, 64, torch.Generator().manual_seed(0), show="all")
    assert shown.masks.shape == (4, 64, 64)
    assert not torch.equal(shown.masks, refined.masks)
    nothing = refine(found[:0], tiny_sam, embedding, 64, torch.Generator())
    assert len(nothing) == 0


def boxes_and_clicks(folder: Path) -> Dataset:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "a.png")
    labels = Labels(
        boxes=(Box(4, 4, 40, 36, 1),),
        points=(Point(10.5, 10.5, 1), Point(10.5, 10.5, 2), Point(50.5, 50.5, 1), Point(60.5, 4.5, 0)),
    )
    return Dataset(folder, ("background", "x", "y"), (Sample("a", "a.png", labels=labels), Sample("b", "a.png")))


@torch.no_grad()
def test_weak_labels_are_prompts(tmp_path: Path, tiny_sam: Sam):
    batch = InstanceLoader(boxes_and_clicks(tmp_path), 64, 2).take([0, 1])
    found = prompted(batch, tiny_sam, tiny_sam.encode(batch.images), 64)
    assert (found.rows == 0).all()  # nothing is known of the second
    assert sorted(found.categories.tolist()) in ([1, 1, 2], [1, 2], [1, 1], [1], [2])
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[4:36, 4:40] = False
    assert not (found.masks[0] & outside).any() or found.categories[0] == 2


def square(x: int, category: int = 1, row: int = 0, side: int = 4) -> Instances:
    masks = torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[0, :side, x : x + side] = True
    return Instances(masks, torch.tensor([row]), torch.tensor([category]))


def test_duplicates_go_by_score_and_category():
    several = Instances.cat([square(0), square(0), square(0, category=2), square(8), square(0, row=1)])
    scores = torch.tensor([0.8, 0.9, 0.7, 0.8, 0.71])
    kept = without_duplicates(several, scores, 0.5)
    assert len(kept) == 4
    ties = without_duplicates(Instances.cat([square(0), square(0)]), torch.tensor([0.8, 0.8]), 0.5)
    assert len(ties) == 1


def test_weak_labels_are_preferred_to_what_the_teacher_says_of_the_same_object():
    both = preferring(square(0, category=2), Instances.cat([square(0), square(8), square(0, row=1)]))
    assert both.rows.tolist() == [0, 0, 1]
    assert both.categories.tolist() == [2, 1, 1]
    assert len(preferring(Instances.none(16, 16), square(0))) == 1
    assert len(preferring(square(0), Instances.none(16, 16))) == 1
