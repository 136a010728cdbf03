"""The agent's moves against clicks made one by one, and what its rules promise."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.data.scenes import render
from maskwright.methods.clicks.agent import (
    CandidateClicks,
    ClickAgent,
    ClickRules,
    allowed_cells,
    mask_logits,
    peaks,
)
from maskwright.methods.clicks.scores import Curve, belief_dice, curve, head_room, ious_by_user_clicks
from maskwright.methods.zero_shot.prompted import ask_clicks
from maskwright.nets.fusion import Fusion
from maskwright.nets.prompter import Prompter
from maskwright.nets.quality import QualityHead
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import (
    ClickState,
    canvas_dice,
    click,
    counterfactual,
    dice,
    first_click,
    oracle_click,
    start,
    start_mask,
)
from maskwright.sam.click_grid import cells_of
from maskwright.sam.sam import Sam


@pytest.fixture
def bank(tiny_sam: Sam) -> Bank:
    return Bank.of_scenes(tiny_sam, render(4, tiny_sam.size, seed=3, difficulty=0.2))


@pytest.fixture
def agent(tiny_sam: Sam) -> ClickAgent:
    torch.manual_seed(0)
    prompter, quality = Prompter(tiny_sam.width, hidden=16), QualityHead(hidden=16)
    torch.nn.init.normal_(prompter.heads.weight, std=0.5)
    fusion = Fusion(tiny_sam.width, hidden=16, channels=8)
    return ClickAgent(tiny_sam, prompter, quality, ClickRules(clicks=3, looks=4, spread=0.5), fusion)


def started(sam: Sam, bank: Bank) -> ClickState:
    rows = torch.arange(len(bank))
    place, label, _ = first_click(bank, rows)
    return start(sam, bank, rows, place, label)


def test_clicks_neither_go_beside_old_ones_nor_where_the_answer_is_sure(tiny_sam: Sam, bank: Bank):
    state = started(tiny_sam, bank)
    logits = torch.zeros_like(state.logits)
    logits[:, :8], logits[:, 8:] = 20.0, -20.0
    state = replace(state, logits=logits)
    allowed = allowed_cells(state, bank.size)
    negative, positive = allowed[:, 0], allowed[:, 1]
    assert not positive[:, :4].any()
    assert not negative[:, 4:].any()
    assert negative[:, :4].any()
    for row in range(len(bank)):
        column, line = (state.points[row, 0] / 8).long().tolist()
        assert not allowed[row, :, line, column].any()
    nothing = replace(state, logits=torch.full_like(logits, torch.nan))
    assert allowed_cells(nothing, bank.size).flatten(1).any(1).all()


def test_peaks_are_different_places_the_highest_first():
    scores = torch.zeros(1, 2, 8, 8)
    scores[0, 1, 2, 2], scores[0, 1, 2, 3], scores[0, 0, 6, 6] = 5.0, 4.9, 3.0
    allowed = torch.ones(1, 2, 8, 8, dtype=torch.bool)
    found = peaks(scores, allowed, 2)[0].tolist()
    assert found == [64 + 2 * 8 + 2, 6 * 8 + 6]  # not the neighbour of the first, though it is higher
    allowed[0, 1] = False
    assert peaks(scores, allowed, 1)[0].tolist() == [6 * 8 + 6]
    assert len(set(peaks(torch.zeros(1, 2, 8, 8), allowed, 40)[0].tolist())) == 40


def test_taking_a_look_is_making_the_click(tiny_sam: Sam, bank: Bank):
    state = started(tiny_sam, bank)
    places = torch.rand(len(bank), 3, 2, generator=torch.Generator().manual_seed(0)) * bank.size
    labels = torch.tensor([[1, 0, 1]]).expand(len(bank), -1)
    looks = CandidateClicks(places, labels, *counterfactual(tiny_sam, bank, state, places, labels))
    taken = looks.take(state, torch.full((len(bank),), 1))
    clicked = click(tiny_sam, bank, state, places[:, 1], labels[:, 1])
    for name in ClickState.__dataclass_fields__:
        assert torch.allclose(getattr(taken, name).float(), getattr(clicked, name).float(), atol=1e-4), name
    given = looks.answers(state)
    assert torch.equal(given.logits[:, 0], state.logits)
    assert torch.equal(given.logits[:, 2], taken.logits)
    assert torch.allclose(given.stability[:, 2], taken.stability)


def test_the_oracle_kept_always_is_the_oracle_clicked_by_hand(agent: ClickAgent, bank: Bank):
    state = begun = started(agent.sam, bank)
    done = agent.refine(bank, begun, ClickRules(clicks=3, looks=1, places="oracle", accept="always", stop=False))
    for after in done.states[1:]:
        place, label, wrong = oracle_click(bank, state)
        state = click(agent.sam, bank, state, place, label, active=wrong)
        assert torch.allclose(after.logits, state.logits, atol=1e-4)
    assert len(done.states) == 4
    assert torch.equal(done.states[0].logits, begun.logits)


@pytest.mark.parametrize("places", ["policy", "random", "entropy"])
def test_by_its_own_judgement_nothing_gets_worse_and_what_is_undone_is_as_before(
    agent: ClickAgent, bank: Bank, places: str
):
    begun = started(agent.sam, bank)
    rules = ClickRules(clicks=4, looks=3, places=places, accept="quality", stop=False)  # type: ignore[arg-type]
    judged = []
    done = agent.refine(
        bank,
        begun,
        rules,
        torch.Generator().manual_seed(0),
        watch=lambda state, looks, guesses: judged.append((looks, guesses)),
    )
    assert len(judged) == 4
    for before, after in zip(done.states[:-1], done.states[1:]):
        kept = after.tokens > before.tokens
        assert torch.equal(after.logits[~kept], before.logits[~kept])
        assert torch.equal(after.points[~kept], before.points[~kept])
    assert torch.equal(done.kept, done.last.tokens - begun.tokens)
    assert (done.kept <= done.clicks).all()
    # Guesses of one state's candidates are comparable: what was kept was the best of them and better than staying.
    _, guesses = judged[0]
    best = agent.quality.calibrated(guesses)
    better = best[:, 1:].amax(1) > best[:, 0]
    assert torch.equal(done.states[1].tokens > begun.tokens, better)


def test_some_of_the_looks_contradict_the_answer_all_over_the_image(agent: ClickAgent, tiny_sam: Sam, bank: Bank):
    seen: list[tuple[ClickState, CandidateClicks]] = []
    state = started(tiny_sam, bank)
    for spread in (0.0, 0.5):
        rules = replace(agent.rules, clicks=1, looks=8, spread=spread)
        agent.refine(bank, state, rules, watch=lambda *found: seen.append(found[:2]))
    (_, favourites), (_, mixed) = seen
    assert torch.equal(mixed.places[:, :4], favourites.places[:, :4])  # the policy's best are among them
    cells = cells_of(mixed.places, mixed.labels, bank.size, tiny_sam.size // 8)
    assert all(len(set(row)) == 8 for row in cells.tolist())
    for row in range(len(bank)):
        for (x, y), label in zip(mixed.places[row, 4:].long().tolist(), mixed.labels[row, 4:].tolist()):
            on = torch.sigmoid(state.logits[row])[y // 8 * 2 : y // 8 * 2 + 2, x // 8 * 2 : x // 8 * 2 + 2].mean() > 0.5
            assert label == (0 if on else 1)


def test_what_was_undone_is_not_tried_again(agent: ClickAgent, bank: Bank):
    tried: list[torch.Tensor] = []
    rules = ClickRules(clicks=4, looks=3, accept="iou", margin=2.0, stop=False)  # no IoU rises by 2
    done = agent.refine(
        bank,
        started(agent.sam, bank),
        rules,
        watch=lambda state, looks, _: tried.append(cells_of(looks.places, looks.labels, bank.size, 8)),
    )
    cells = torch.cat(tried, 1)
    assert all(len(set(row)) == 12 for row in cells.tolist())
    assert not done.kept.any()
    stopped = agent.refine(bank, started(agent.sam, bank), replace(rules, stop=True))
    assert (stopped.clicks <= 1).all()


def test_a_target_does_not_depend_on_its_neighbours(agent: ClickAgent, bank: Bank):
    whole = agent.refine(bank, started(agent.sam, bank))
    for row in range(len(bank)):
        alone = bank.select(torch.tensor([row]))
        single = agent.refine(alone, started(agent.sam, alone))
        assert torch.allclose(single.last.logits[0], whole.last.logits[row], atol=1e-3)
        assert single.clicks[0] == whole.clicks[row]


def test_an_agent_without_the_network_that_its_rules_need_says_so(tiny_sam: Sam, bank: Bank):
    bare = ClickAgent(tiny_sam, None, None, ClickRules())
    with pytest.raises(ValueError, match="no prompter"):
        bare.refine(bank, started(tiny_sam, bank))
    with pytest.raises(ValueError, match="no quality head"):
        bare.refine(bank, started(tiny_sam, bank), ClickRules(places="entropy"))
    done = bare.refine(bank, started(tiny_sam, bank), ClickRules(places="entropy", accept="iou"))
    assert (done.last.iou >= done.states[0].iou).all()


def test_scores_are_those_of_the_states(agent: ClickAgent, bank: Bank):
    told = []
    found = curve(agent, bank, batch=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(3, len(bank)), (len(bank), len(bank))]
    done = agent.refine(bank, started(agent.sam, bank))
    for number, state in enumerate(done.states):
        expected = canvas_dice(bank, state.rows, state.logits)
        assert torch.allclose(torch.from_numpy(found.dice[:, number]).float(), expected, atol=1e-2)
    summary = found.summary()
    assert summary["targets"] == len(bank)
    assert summary["gain"][0] == pytest.approx(summary["dice"][-1] - summary["dice"][0])
    assert summary["gain"][1] <= summary["gain"][0] <= summary["gain"][2]


def test_an_answer_is_sams_mask_or_the_fused_one_and_a_mask_that_no_click_improved(agent: ClickAgent, bank: Bank):
    done = agent.refine(bank, started(agent.sam, bank))
    logits, dice_of_sam = agent.conclude(bank, done)
    assert torch.equal(logits, done.last.logits)
    assert torch.equal(dice_of_sam, done.quality)
    fused = replace(agent.rules, answer="fused")
    logits, expected_dice = agent.conclude(bank, done, fused)
    assert torch.equal(logits, agent.answer(bank, done.last).logits)
    assert not torch.allclose(logits, done.last.logits)
    assert ((expected_dice >= 0) & (expected_dice <= 1)).all()
    found = curve(agent, bank, fused)
    assert torch.allclose(
        torch.from_numpy(found.dice[:, -1]).float(), canvas_dice(bank, done.last.rows, logits), atol=1e-2
    )
    assert found.of_sam().dice.tolist() == curve(agent, bank).dice.tolist()
    assert found.first.tolist() == found.of_sam().dice[:, 0].tolist()
    # A mask that was given is answered to the bit, unless a click improved it.
    given = start_mask(agent.sam, bank, torch.arange(len(bank)), mask_logits(bank.known_truth.area))
    kept = agent.refine(bank, given, replace(fused, mask_margin=2.0))
    assert torch.equal(agent.conclude(bank, kept, fused)[0], given.logits)
    unchanged = curve(agent, bank, replace(fused, mask_margin=2.0), begin=lambda rows: given[rows])
    assert (unchanged.dice == unchanged.first[:, None]).all()
    agent.fusion = None
    with pytest.raises(ValueError, match="no network that fuses"):
        agent.conclude(bank, done, fused)


def test_fewer_clicks_are_the_beginning_of_the_same_curve(agent: ClickAgent, bank: Bank):
    rules = replace(agent.rules, answer="fused", stop=False)
    whole, short = curve(agent, bank, rules), curve(agent, bank, replace(rules, clicks=1))
    for name in ("dice", "sam", "clicks", "kept"):
        assert getattr(whole.until(1), name).tolist() == getattr(short, name).tolist()
    assert curve(agent, bank, replace(rules, clicks=0)).dice.shape == (len(bank), 1)


def test_masks_have_a_number_of_clicks_of_their_own(agent: ClickAgent, bank: Bank):
    rules = replace(agent.rules, clicks=0, mask_clicks=2, stop=False)
    given = start_mask(agent.sam, bank, torch.arange(len(bank)), mask_logits(bank.known_truth.area))
    assert agent.refine(bank, given, rules).clicks.tolist() == [2] * len(bank)
    assert agent.refine(bank, started(agent.sam, bank), rules).clicks.tolist() == [0] * len(bank)


def test_a_users_clicks_without_an_agent_are_those_of_the_zero_shot_scores(agent: ClickAgent, bank: Bank):
    rules = replace(agent.rules, clicks=0, answer="sam")
    found = ious_by_user_clicks(agent, bank, rules, goal=2.0, most=4, batch=3)
    truth = bank.known_truth
    for row in range(len(bank)):
        alone = truth.canvas[row : row + 1]
        embedding = bank.embed(torch.tensor([row]))
        expected = ask_clicks(agent.sam, embedding, alone, torch.ones_like(alone), 4).iou[0]
        assert found[row] == pytest.approx(expected.tolist(), abs=0.02)


def test_a_content_user_clicks_no_more(agent: ClickAgent, bank: Bank):
    seen = []
    found = ious_by_user_clicks(agent, bank, goal=0.0, most=5, progress=lambda done, total: seen.append((done, total)))
    assert (found == found[:, :1]).all()
    assert seen == [(len(bank), len(bank))]
    assert (ious_by_user_clicks(agent, bank, goal=2.0, most=2)[:, 0] == found[:, 0]).all()


def test_with_the_truth_as_judge_no_target_gets_worse(agent: ClickAgent, bank: Bank):
    oracle = replace(agent.rules, places="oracle", looks=1, accept="always", stop=False)
    undoing = replace(oracle, accept="truth")
    looking = replace(agent.rules, places="random", looks=6, accept="truth", stop=False)
    state = started(agent.sam, bank)
    for rules in (undoing, looking):
        done = agent.refine(bank, state, rules, torch.Generator().manual_seed(0))
        scores = torch.stack([dice(bank, each.rows, each.logits) for each in done.states], 1)
        assert bool((scores.diff(dim=1) >= 0).all())
        assert torch.equal(scores.diff(dim=1).gt(0).sum(1), done.kept)


def test_the_belief_is_scored_as_a_mask(agent: ClickAgent, monkeypatch):
    truth = torch.zeros(3, 64, 64, dtype=torch.bool)
    truth[0, 16:48, 16:48], truth[1, :32], truth[2, 8:24, 40:] = True, True, True
    bank = Bank.of_images(agent.sam, torch.zeros(3, 3, 64, 64), truth=truth)
    cells = F.avg_pool2d(truth[:, None].float(), 8)[:, 0] * 16 - 8
    cells[2] = -cells[2]  # the last one believes the contrary
    told = iter(cells.split(2))
    monkeypatch.setattr(agent, "prompter", lambda observation: SimpleNamespace(truth=next(told)))
    found = belief_dice(agent, bank, batch=2)
    assert found.shape == (3,)
    assert found[:2].min() > 0.95
    assert found[2] < 0.05
    monkeypatch.setattr(agent, "prompter", None)
    with pytest.raises(ValueError, match="no prompter"):
        belief_dice(agent, bank)


def test_parts_of_a_curve_keep_their_images_apart(agent: ClickAgent, bank: Bank):
    found = curve(agent, bank)
    assert found.images.tolist() == bank.image.tolist()
    twice = Curve.cat([found, found])
    assert twice.images.tolist() == [*found.images, *(found.images + found.images.max() + 1)]
    assert twice.dice.shape == (2 * len(bank), found.dice.shape[1])


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_head_room_is_the_share_of_the_oracles_gain(first: float, share: float):
    import numpy as np

    def made(last: float) -> Curve:
        one = np.zeros(1, int)
        dice = np.array([[first, last]])
        return Curve(one, dice, dice, one, np.zeros((1, 2), int))

    found = head_room(made(first + 0.5 * share), made(first + 0.5))
    assert found == pytest.approx(share, abs=1e-6)
    assert head_room(made(first), made(first)) is None


def test_a_given_mask_becomes_logits_with_the_same_border():
    area = torch.tensor([0.0, 0.49, 0.51, 1.0])
    assert torch.equal(mask_logits(area) > 0, area > 0.5)
    assert mask_logits(area).abs().max() == 8
