"""What the policy is queries while it learns: mask images pose as weakly labelled ones, and nothing of the truth leaks to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskwright.data.batch import Batch
from maskwright.data.labels import Kind
from maskwright.methods.in_context.labeller import Labeller
from maskwright.methods.in_context.policy_batch import draw_policy_batch
from maskwright.methods.in_context.selection import PolicySettings, ReferencePolicy
from maskwright.nets.spnet import Query
from maskwright.sam.sam import Sam
from tests.methods.in_context.batches import BOX_1, BOX_3, SIZE, C, batch_of

GRID = SIZE // 4
WEAK = [Kind.BOX, Kind.POINT, Kind.NONE]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masked_batch(first: int = 10) -> Batch:
    """The five images, all with masks now: category 1 above, category 2 below; they keep their boxes and clicks."""
    target = torch.zeros(5, SIZE, SIZE, dtype=torch.long)
    target[:, : SIZE // 4], target[:, SIZE // 2 :] = 1, 2
    present = torch.tensor([0, 1, 1]).expand(5, C)
    images = torch.rand(5, 3, SIZE, SIZE, generator=seeded(first))
    kinds = torch.full((5,), int(Kind.MASK))
    return batch_of(images=images, target=target, present=present, kinds=kinds, indices=torch.arange(first, first + 5))


@pytest.fixture
def labeller(tiny_sam: Sam) -> Labeller:
    """Its pool holds the five mask images."""
    made = Labeller(
        tiny_sam,
        C,
        selector="policy",
        references=2,
        blend=0.5,
        weak_weight=0.5,
        generator=lambda stream, step: seeded(stream + 16 * step),
        policy=ReferencePolicy(tiny_sam.width, settings=PolicySettings(references=2)),
    )
    with torch.no_grad():
        batch = masked_batch()
        made.absorb([made.visit(batch, tiny_sam.encode(batch.images), 0)[1]])
    assert len(made.pool) == 10
    return made


def test_a_mask_image_poses_as_a_weakly_labelled_one(labeller: Labeller):
    batch = masked_batch()
    embedding = labeller.sam.encode(batch.images)
    posed: set[int] = set()
    for seed in range(6):
        queries = draw_policy_batch(labeller, batch, embedding, seeded(seed), WEAK, most=6)
        assert queries is not None
        posed |= set(queries.query.kind.tolist())
        assert queries.judge.has_truth.all()
        assert not queries.judge.present()[1:].any()
        # Six of ten rows; four other images have each category.
        assert queries.candidates.allowed.sum(1).tolist() == [4] * 6
        above = queries.judge.truth[:, 0, 0] == 1
        assert (queries.judge.truth[above, : GRID // 4] == 1).all()
        assert (queries.judge.truth[~above, GRID // 2 :] == 1).all()
        places = queries.candidates.allowed.nonzero()[:, 1].view(6, 4)[:, :2]
        logits, iou = queries.predict_masks(torch.arange(6), places)
        assert logits.shape == (6, GRID, GRID)
        assert iou.shape == (6,)
    assert posed == set(WEAK)


def test_the_truth_of_a_query_changes_nothing_but_its_judge(labeller: Labeller):
    batch = masked_batch()
    embedding = labeller.sam.encode(batch.images)
    first = draw_policy_batch(labeller, batch, embedding, seeded(1), WEAK)
    second = draw_policy_batch(labeller, replace(batch, target=batch.target.flip(1)), embedding, seeded(1), WEAK)
    assert first is not None
    assert second is not None
    for name in ("whole", "foreground", "kind"):
        assert torch.equal(getattr(first.query, name), getattr(second.query, name))
    rows, places = torch.arange(8), first.candidates.allowed.nonzero()[:, 1].view(8, 4)[:, :2]
    assert torch.equal(first.predict_masks(rows, places)[0], second.predict_masks(rows, places)[0])
    assert not torch.equal(first.judge.truth, second.judge.truth)


def test_weak_images_are_judged_by_label_and_teacher(labeller: Labeller):
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=seeded()))
    embedding = labeller.sam.encode(batch.images)
    teacher = torch.zeros(5, C, GRID, GRID)
    teacher[:, 1] = 1
    queries = draw_policy_batch(labeller, batch, embedding, seeded(), WEAK, teacher, 1.0)
    assert queries is not None
    assert not queries.judge.has_truth.any()
    assert queries.judge.view is not None
    assert queries.judge.labelled is not None
    category_1 = queries.judge.view.flatten(1).all(1)
    assert torch.equal(category_1, queries.judge.view.flatten(1).any(1))
    labelled = dict(zip(queries.query.kind.tolist(), queries.judge.labelled.tolist()))
    assert labelled == {Kind.BOX: True, Kind.POINT: True, Kind.SCRIBBLE: True, Kind.TAG: False, Kind.NONE: False}
    without = draw_policy_batch(labeller, batch, embedding, seeded(), WEAK)
    assert without is not None
    assert without.judge.view is None


@torch.no_grad()
def test_the_policy_asks_with_the_prompts_of_a_visit(labeller: Labeller):
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=seeded()))
    embedding = labeller.sam.encode(batch.images)
    teacher = torch.rand(5, C, GRID, GRID, generator=seeded(1)).softmax(1)
    early, late = (draw_policy_batch(labeller, batch, embedding, seeded(), WEAK, teacher, m) for m in (0.5, 1.0))
    assert early is not None
    assert late is not None
    assert torch.equal(early.query.kind, late.query.kind)
    every = torch.arange(len(early.query.kind))
    places = early.candidates.allowed.int().argmax(1)[:, None]
    answers = [queries.predict_masks(every, places)[0] for queries in (early, late)]
    same = (answers[0] == answers[1]).flatten(1).all(1)
    # The mature teacher is the prompt of tagged and unlabelled images, and of no others.
    assert torch.equal(same, early.query.kind > Kind.TAG)


def test_an_answer_that_fits_its_label_loses_less(labeller: Labeller):
    target = torch.full((5, SIZE, SIZE), 255)
    target[1, 8:12, 8:12] = 1  # a click drawn
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=seeded()), target=target)
    queries = draw_policy_batch(labeller, batch, labeller.sam.encode(batch.images), seeded(), WEAK, most=99)
    assert queries is not None
    assert queries.judge.weak is not None
    filled = torch.full((GRID, GRID), -9.0)
    for box in (BOX_1, BOX_3):
        x0, y0, x1, y1 = (int(v / 4) for v in box)
        filled[y0:y1, x0:x1] = 9
    clicked = torch.full((GRID, GRID), -9.0)
    clicked[2, 2] = 9
    empty = torch.full((GRID, GRID), -9.0)
    kinds = queries.query.kind.tolist()
    # Rows come in random order: of the two boxed categories only one is filled by these boxes.
    boxed = torch.tensor([row for row, kind in enumerate(kinds) if kind == Kind.BOX])
    fits = queries.judge.weak(boxed, filled.expand(2, -1, -1))
    assert float(fits.min()) < 0.01 < 1 < float(fits.max())
    assert (queries.judge.weak(boxed, empty.expand(2, -1, -1)) > 1).all()
    points = torch.tensor([row for row, kind in enumerate(kinds) if kind == Kind.POINT])
    assert float(queries.judge.weak(points, clicked.expand(2, -1, -1)).min()) < 0.01
    assert (queries.judge.weak(points, empty.expand(2, -1, -1)) > 5).any()


def test_nothing_to_choose_from_is_no_question(labeller: Labeller):
    batch = masked_batch()
    embedding = labeller.sam.encode(batch.images)
    assert draw_policy_batch(labeller, replace(batch, present=torch.zeros(5, C)), embedding, seeded(), WEAK) is None
    labeller.pool.load_state_dict({})
    assert draw_policy_batch(labeller, batch, embedding, seeded(), WEAK) is None


@torch.no_grad()
def test_the_policy_chooses_what_a_visit_is_shown(labeller: Labeller):
    assert labeller.policy is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for head in (labeller.policy.net.query_shift, labeller.policy.net.candidate_shift):
            torch.nn.init.normal_(head.weight)
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=seeded()))
    embedding = labeller.sam.encode(batch.images)
    _, found = labeller.visit(batch, embedding, 0)
    whole = embedding.low.mean((2, 3))[3:4]
    query = Query(whole, whole, batch.kinds[3:4])
    allowed = labeller.pool.allowed(batch.indices[3:4], torch.tensor([1]), batch.kinds[3:4])
    chosen = labeller.policy.choose(query, labeller.pool.entries(), allowed).places
    assert found.masks[3].references == sorted(labeller.pool.tensors["sample"][chosen[0]].tolist())


def test_a_policy_is_needed_where_it_is_to_choose(tiny_sam: Sam):
    with pytest.raises(ValueError, match="needs a policy"):
        Labeller(
            tiny_sam, C, selector="policy", references=2, blend=0.5, weak_weight=0.5, generator=lambda a, b: seeded()
        )


@torch.no_grad()
def test_the_best_set_of_a_round_makes_the_pseudo_mask(labeller: Labeller):
    assert labeller.policy is not None
    batch = batch_of(images=torch.rand(5, 3, SIZE, SIZE, generator=seeded()))
    embedding = labeller.sam.encode(batch.images)
    teacher = torch.rand(5, C, GRID, GRID, generator=seeded(1)).softmax(1)
    with torch.enable_grad():
        queries = draw_policy_batch(labeller, batch, embedding, seeded(), WEAK, teacher, most=99)
        assert queries is not None
        entries = labeller.pool.entries()
        found = labeller.policy.step(
            queries.query, entries, queries.candidates.allowed, queries.predict_masks, queries.judge, seeded()
        )
    best = queries.best(found)
    assert 0 < len(best.rows) == int(found.decided.sum())
    _, visit = labeller.visit(batch, embedding, 0, teacher, best=best)
    samples = labeller.pool.tensors["sample"]
    whole = 0
    for image in set(best.rows.image.tolist()):
        shown = set(samples[best.places[best.rows.image == image]].flatten().tolist())
        assert shown <= set(visit.masks[image].references)
        if bool(found.decided[queries.rows.image == image].all()):
            assert shown == set(visit.masks[image].references)
            whole += 1
    assert whole
    logits = queries.predict_masks(torch.arange(len(queries.rows)), found.places)[0]
    torch.testing.assert_close(logits, found.logits, rtol=1e-3, atol=1e-3)


def test_only_weakly_labelled_rows_with_a_best_set_are_told(labeller: Labeller):
    assert labeller.policy is not None
    batch = masked_batch()
    queries = draw_policy_batch(labeller, batch, labeller.sam.encode(batch.images).detach(), seeded(), WEAK)
    assert queries is not None
    found = labeller.policy.step(
        queries.query,
        labeller.pool.entries(),
        queries.candidates.allowed,
        queries.predict_masks,
        queries.judge,
        seeded(),
    )
    assert found.decided.any()
    assert not len(queries.best(found).rows)
