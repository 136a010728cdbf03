"""A SAM that prompts itself, with untrained networks: what may depend on what, and what is never looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.scenes import render
from maskwright.engine.metrics import BinaryMetrics
from maskwright.errors import DataError
from maskwright.methods.autoprompt.agent import (
    OPENING,
    Recalibrator,
    SelfPrompter,
    SelfPromptRules,
    extremes,
    last_mask,
    resized,
    value_at,
)
from maskwright.methods.autoprompt.scores import (
    foreground_bank,
    foreground_of,
    labels_right,
    places_on,
    scores_on_canvas,
)
from maskwright.nets.place_policy import PlacePolicy
from maskwright.nets.recalibrate import SemanticRecalibration
from maskwright.recipes.alignsam.report import film
from maskwright.rl.bank import Bank, Truth
from maskwright.sam.click_grid import cells_of
from maskwright.sam.sam import Sam

GRID, CLICKS = 4, 5


@pytest.fixture
def bank(tiny_sam: Sam) -> Bank:
    return Bank.of_scenes(tiny_sam, render(5, tiny_sam.size, seed=3, difficulty=0.2))


@pytest.fixture
def agent(tiny_sam: Sam) -> SelfPrompter:
    torch.manual_seed(0)
    srm = SemanticRecalibration(tiny_sam.width, "implicit", 8)
    policy = PlacePolicy(tiny_sam.width, GRID, 8)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return SelfPrompter(tiny_sam, srm, policy, rules=SelfPromptRules(clicks=CLICKS))


def same(a, b) -> None:
    for first, second in zip(a.states, b.states, strict=True):
        assert torch.equal(first.points, second.points)
        assert torch.equal(first.labels, second.labels)
        torch.testing.assert_close(first.logits, second.logits, atol=1e-3, rtol=1e-3)


def test_an_image_is_answered_alone_and_without_its_truth(agent, bank) -> None:
    trace = agent.segment(bank)
    assert [state.clicks.tolist() for state in trace.states] == [[OPENING + n] * 5 for n in range(CLICKS + 1)]
    same(agent.segment(replace(bank, truth=None)), trace)
    for row in range(len(bank)):
        same(agent.segment(bank.select(torch.tensor([row]))), trace[row : row + 1])


def test_order_changes_neither_answers_nor_pictures(agent, bank) -> None:
    trace, order = agent.segment(bank), torch.tensor([3, 0, 4])
    part = bank.select(order)
    same(agent.segment(part), trace[order])
    shown = film(part, [trace[order].last], 0)
    image = bank.pixels[bank.image[3]].permute(1, 2, 0).numpy()
    beside = ~bank.known_truth.canvas[3].numpy()
    assert np.array_equal(shown[: bank.size, : bank.size][beside], image[beside])


def test_opening_is_where_srm_is_surest_and_no_cell_comes_twice(agent, bank) -> None:
    trace = agent.segment(bank)
    rows = torch.arange(len(bank))
    nothing = torch.ones(len(bank), *bank.embedding.low.shape[-2:])
    scores = Recalibrator(agent.srm, None).logits(bank, rows, nothing).detach()
    first = trace.states[0]
    for row in rows.tolist():
        best, worst = (value_at(scores[row : row + 1], first.points[row : row + 1, slot], bank.size) for slot in (0, 1))
        assert float(best) == pytest.approx(float(scores[row].max()), abs=1e-5)
        assert float(worst) == pytest.approx(float(scores[row].min()), abs=1e-5)
    assert first.labels[:, :2].tolist() == [[1, 0]] * 5
    points = trace.last.points[:, OPENING : OPENING + CLICKS]
    cells = cells_of(points, torch.zeros(points.shape[:2], dtype=torch.long), bank.size, GRID)
    assert all(len(set(row)) == CLICKS for row in cells.tolist())
    # More clicks than cells: all cells are used, then used again.
    again = agent.segment(bank, SelfPromptRules(clicks=2 * GRID * GRID)).last.points[:, OPENING:]
    cells = cells_of(again, torch.zeros(again.shape[:2], dtype=torch.long), bank.size, GRID)
    assert all(set(row) == set(range(GRID * GRID)) for row in cells.tolist())


def test_labels_come_from_where_the_rules_say(agent, bank) -> None:
    judge, rows = Recalibrator(agent.srm, None), torch.arange(len(bank))
    for labels in ("srm", "mask", "positive"):
        trace = agent.segment(bank, SelfPromptRules(CLICKS, labels=labels))
        for number, before in enumerate(trace.states[:-1]):
            place, given = trace.last.points[:, OPENING + number], trace.last.labels[:, OPENING + number]
            expected = {
                "srm": judge(bank, before, place),
                "mask": (value_at(before.logits, place, bank.size) > 0).long(),
                "positive": torch.ones_like(rows),
            }[labels]
            assert torch.equal(given, expected)
    assert agent.segment(bank, SelfPromptRules(0, labels="positive")).last.labels.tolist() == [[1, 1]] * 5
    with pytest.raises(ValueError, match="labels by CLIP need a text"):
        agent.segment(bank, SelfPromptRules(CLICKS, labels="clip"))


def test_the_policy_decides_on_the_places(agent, bank) -> None:
    """A policy that sees nothing but a bias for one cell goes there first; random places depend on the generator alone."""
    trace = agent.segment(bank)
    state = trace.states[0]
    features = bank.embedding.low[bank.image].float()
    logits, _ = agent.policy(agent.policy.state(features, last_mask(bank, state)))
    opening = cells_of(state.points[:, :2], torch.zeros(5, 2, dtype=torch.long), bank.size, GRID)
    first = trace.states[1].points[:, OPENING]
    expected = logits.scatter(1, opening, -torch.inf).argmax(1)
    assert torch.equal(cells_of(first, torch.zeros(5, dtype=torch.long), bank.size, GRID), expected)
    rules = SelfPromptRules(CLICKS, places="random")
    draws = [agent.segment(bank, rules, torch.Generator().manual_seed(seed)).last.points for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("places", ["srm", "disagreement"])
def test_places_by_srm_need_no_policy(agent, bank, places) -> None:
    plain = SelfPrompter(agent.sam, agent.srm, None, grid=GRID)
    trace = plain.segment(bank, SelfPromptRules(CLICKS, places=places))
    judge, rows, taken = Recalibrator(agent.srm, None), torch.arange(len(bank)), torch.zeros(5, GRID**2).bool()
    for number, before in enumerate(trace.states[:-1]):
        opening = before.points[:, : OPENING + number]
        cells = cells_of(opening, torch.zeros(opening.shape[:2], dtype=torch.long), bank.size, GRID)
        taken = taken.scatter(1, cells, True)
        mask = last_mask(bank, before)
        srm = judge.logits(bank, rows, mask).detach().sigmoid()
        scores = resized(srm if places == "srm" else (srm - mask).abs(), (GRID, GRID)).flatten(1)
        found = cells_of(trace.last.points[:, OPENING + number], torch.zeros(5, dtype=torch.long), bank.size, GRID)
        torch.testing.assert_close(
            scores.gather(1, found[:, None])[:, 0], scores.masked_fill(taken, -1).amax(1), atol=1e-6, rtol=0
        )
    with pytest.raises(ValueError, match="this agent has no policy to ask for places"):
        plain.segment(bank, SelfPromptRules(CLICKS))


def test_labels_before_the_first_click_ignore_the_masks(agent, bank) -> None:
    first = Recalibrator(agent.srm, None).logits(bank, torch.arange(5), torch.ones(5, 4, 4)).detach()
    last = agent.segment(bank, SelfPromptRules(CLICKS, labels="srm_first")).last
    for slot in range(OPENING, OPENING + CLICKS):
        assert torch.equal(last.labels[:, slot], (value_at(first, last.points[:, slot], bank.size) > 0).long())


def test_where_nothing_is_seen_nothing_is_said(agent, bank) -> None:
    """An SRM that is nowhere sure of foreground, and one that always is somewhere."""
    for bias, empty in ((-50.0, True), (50.0, False)):
        torch.nn.init.constant_(agent.srm.mask.bias, bias)
        trace = agent.segment(bank, SelfPromptRules(CLICKS, absence=True))
        assert (trace.presence > 0.5).tolist() == [not empty] * 5
        assert (trace.answer.clicks == (0 if empty else OPENING + CLICKS)).all()
        assert (trace.answer.logits < 0).all() == empty
        if not empty:
            torch.testing.assert_close(trace.answer.logits, trace.last.logits)


def test_small_parts_by_hand() -> None:
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    assert value_at(maps, torch.tensor([[4.0, 4.0]]), 16).tolist() == [0.0]  # the centre of the first of 2 x 2 cells
    assert value_at(maps, torch.tensor([[8.0, 4.0]]), 16).tolist() == [0.5]
    assert value_at(maps, torch.tensor([[16.0, 16.0]]), 16).tolist() == [3.0]
    places, labels = extremes(maps, 16)
    assert places.tolist() == [[[12.0, 12.0], [4.0, 4.0]]]
    assert labels.tolist() == [[1, 0]]
    assert resized(torch.arange(16.0).view(1, 4, 4), (2, 2)).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    assert resized(maps, (4, 4)).shape == (1, 4, 4)


def test_a_branch_and_its_text_belong_together(tiny_sam: Sam) -> None:
    policy = PlacePolicy(tiny_sam.width, GRID, 8)
    with pytest.raises(ValueError, match="explicit branch, and it alone"):
        SelfPrompter(tiny_sam, SemanticRecalibration(tiny_sam.width, "explicit", 8), policy)


# ---------------------------------------------------------------------------------------------------------- datasets


def test_which_categories_are_meant(scene_folder) -> None:
    dataset = Dataset.load(scene_folder)
    assert foreground_of(dataset, ()).names == ("disc", "figure")
    assert foreground_of(dataset, (), ("figure",)).ids == (2,)
    assert foreground_of(dataset, (), ("round thing",)).name == "disc + figure"
    assert foreground_of(dataset, ("disc",), ("figure",)).ids == (1,)
    with pytest.raises(DataError, match=r"'cow': the dataset has 'disc', 'figure'[\s\S]*'disc' is named twice"):
        foreground_of(dataset, ("cow", "disc", "disc"))


def test_bank_of_a_foreground(scene_folder, tiny_sam: Sam) -> None:
    dataset = Dataset.load(scene_folder / "full.json").split("train")
    both, disc = (foreground_of(dataset, names) for names in ((), ("disc",)))
    bank = foreground_bank(tiny_sam, dataset, both)
    assert len(bank) == 12
    assert bank.names == tuple(sample.id for sample in dataset)
    share = bank.known_truth.canvas.flatten(1).float().mean(1)
    discs = foreground_bank(tiny_sam, dataset, disc).known_truth.canvas
    assert (discs & ~bank.known_truth.canvas).sum() == 0
    shown = foreground_bank(tiny_sam, dataset, disc, both=True)
    assert len(shown) == int((discs.flatten(1).float().mean(1) >= 2.5e-4).sum()) < 12
    assert len(foreground_bank(tiny_sam, dataset, disc, both=True, limit=3)) == 3
    assert 0 < share.max() < 1


def test_places_and_labels_against_the_truth(agent, bank) -> None:
    trace, truth = agent.segment(bank), bank.known_truth
    known = truth.known.clone()
    known[:, :, 40:] = False
    half = replace(bank, truth=Truth.of(truth.canvas, known))
    on, right = places_on(half, trace), labels_right(half, trace)
    assert on.shape == (5, CLICKS)
    assert right.shape == (5, OPENING + CLICKS)
    for row in range(5):
        for slot, (x, y) in enumerate(trace.last.points[row].long().tolist()):
            value, label = bool(truth.canvas[row, y, x]), int(trace.last.labels[row, slot])
            expected = float("nan") if x >= 40 else float(label == value)
            assert right[row, slot].item() == pytest.approx(expected, nan_ok=True)
            if slot >= OPENING:
                assert on[row, slot - OPENING].item() == pytest.approx(
                    float("nan") if x >= 40 else float(value), nan_ok=True
                )


def test_scores_are_those_of_the_last_masks(agent, bank) -> None:
    scores = scores_on_canvas(agent, bank, batch=2)
    trace = agent.segment(bank)
    metrics = BinaryMetrics()
    logits = torch.nn.functional.interpolate(trace.last.logits[:, None], (64, 64), mode="bilinear", align_corners=False)
    for row in range(len(bank)):
        on = places_on(bank, trace)[row].numpy()
        metrics.update(logits[row, 0].sigmoid().numpy(), bank.known_truth.canvas[row].numpy(), bank.names[row], on)
    expected = metrics.compute()
    for name in ("miou", "mae", "f", "e", "s", "fr", "ber"):
        assert scores[name] == pytest.approx(expected[name], abs=1e-4), name
