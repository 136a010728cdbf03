"""The click agent: it proposes clicks, has SAM answer them, keeps an answer that is better and undoes one that is not. In the end it
answers with SAM's mask, or with that and what it has learnt about the objects.

Only ``places="oracle"`` and ``accept="truth"`` use the truth; they are there to compare the agent with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.schema import Fields, Maybe, OneOf, Real, Truth, Whole
from maskwright.nets.fusion import Fusion
from maskwright.nets.prompter import Advice, Observation, Prompter
from maskwright.nets.quality import Answers, QualityHead
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, counterfactual, entropy, oracle_click, stability
from maskwright.rl.clicks import dice as true_dice
from maskwright.sam.click_grid import cells_of, near, places_of, unsure
from maskwright.sam.sam import Sam

Places = Literal["policy", "random", "entropy", "oracle"]
Accept = Literal["always", "iou", "quality", "truth"]
Answer = Literal["sam", "fused"]


@dataclass(frozen=True)
class ClickRules:
    """How an agent acts.

    Attributes:
        clicks: how many it may place after a user's clicks or box.
        mask_clicks: the same on a mask of another source, where nothing is answered without a click; None: ``clicks``.
        looks: candidates that SAM answers, in one decode, for each click; the best is placed. 1: no look-ahead.
        places: source of the candidates. ``random`` and ``entropy`` contradict the present mask: positive off it, negative on
            it. ``oracle`` needs the truth.
        accept: when an answer is kept: ``always``; if SAM's own predicted IoU rises (``iou``); if the quality
            head's calibrated guess rises by more than ``margin`` (``quality``); if the true Dice rises (``truth``). A click whose
            answer is not kept is undone.
        margin: in units of Dice.
        mask_margin: the same for targets that start from a mask of another source, which may be better than any answer of SAM.
        stop: end when no candidate was kept, or, with ``accept="always"``, when the policy prefers to stop. Else other places
            are tried until the clicks are used up.
        spread: share of the candidates that lie all over the image, contradicting the answer, instead of where the policy is
            highest: among more diverse answers the quality head finds better ones.
        answer: what the agent answers with: the mask that SAM gave to the last click (``sam``), or that mask and the prompter's
            belief in one (``fused``, see ``nets/fusion.py``).
    """

    clicks: int = 4
    looks: int = 12
    places: Places = "policy"
    accept: Accept = "quality"
    margin: float = 0.0
    mask_margin: float = 0.0
    stop: bool = True
    spread: float = 0.0
    answer: Answer = "sam"
    mask_clicks: int | None = None

    @property
    def most_clicks(self) -> int:
        """Clicks for which there must be room."""
        return max(self.clicks, self.clicks_on_masks)

    @property
    def clicks_on_masks(self) -> int:
        """``mask_clicks``, or where that is None ``clicks``."""
        return self.clicks if self.mask_clicks is None else self.mask_clicks

    @property
    def candidates(self) -> int:
        """Answers of SAM to each click that is placed: where every click is kept there is nothing to compare."""
        return 1 if self.accept == "always" else self.looks


RULES = Fields(
    {
        "clicks": Whole(0, 1000),
        "looks": Whole(1, 100_000),
        "places": OneOf(get_args(Places)),
        "accept": OneOf(get_args(Accept)),
        "margin": Real(-1e6, 1e6),
        "mask_margin": Real(-1e6, 1e6),
        "stop": Truth(),
        "spread": Real(0, 1),
        "answer": OneOf(get_args(Answer)),
        "mask_clicks": Maybe(Whole(0, 1000)),
    },
    optional=frozenset({"answer", "mask_clicks"}),
)
"""``ClickRules`` as JSON."""


@dataclass(frozen=True)
class CandidateClicks:
    """M clicks tried from each of B states, and SAM's answers to them.

    Attributes:
        places: (B, M, 2) x y in pixels of the canvas.
        labels: (B, M) 1 = on the object, 0 = off it.
        logits: (B, M, h, w), and iou: (B, M) predicted IoU, of the answers.
    """

    places: Tensor
    labels: Tensor
    logits: Tensor
    iou: Tensor

    def take(self, state: ClickState, choice: Tensor) -> ClickState:
        """The states after one of the clicks each, ``choice`` (B,)."""
        rows = torch.arange(len(state), device=choice.device)
        slot, logits = state.tokens, self.logits[rows, choice]
        points, labels = state.points.clone(), state.labels.clone()
        points[rows, slot], labels[rows, slot] = self.places[rows, choice], self.labels[rows, choice].to(labels)
        return replace(
            state,
            points=points,
            labels=labels,
            logits=logits,
            iou=self.iou[rows, choice],
            stability=stability(logits),
        )

    def answers(self, state: ClickState) -> Answers:
        """The input of the quality head: for each state its own answer first, then the M others."""
        logits = torch.cat([state.logits[:, None], self.logits], 1)
        iou = torch.cat([state.iou[:, None], self.iou], 1)
        return Answers(logits, iou, stability(logits), state.clicks)


@dataclass(frozen=True)
class Refinement:
    """What became of B targets, click by click.

    Attributes:
        states: after 0, 1, ... clicks of the agent, with SAM's masks; ``ClickAgent.answer`` gives the agent's own.
        quality: (B,) the quality head's calibrated Dice, 0..1, of the last of these masks; 0 without a quality head, or without a click.
        clicks: (B,) clicks that were placed; ``kept``: (B,) those that were not undone.
    """

    states: list[ClickState]
    quality: Tensor
    clicks: Tensor
    kept: Tensor

    @property
    def last(self) -> ClickState:
        return self.states[-1]


@dataclass(frozen=True)
class AgentAnswer:
    """The fused answer for B targets.

    Attributes:
        logits: (B, h, w).
        guesses: (B,) the quality head's guesses of their Dice before calibration; 0 without a quality head.
    """

    logits: Tensor
    guesses: Tensor


class ClickAgent:
    """A trained agent.

    Args:
        sam: frozen; makes the masks.
        prompter, quality, fusion: trained for this SAM; ``quality`` may be None unless ``rules.accept`` is ``quality``, and
            ``fusion`` unless ``rules.answer`` is ``fused``.
    """

    def __init__(
        self,
        sam: Sam,
        prompter: Prompter | None,
        quality: QualityHead | None,
        rules: ClickRules,
        fusion: Fusion | None = None,
    ) -> None:
        self.sam, self.prompter, self.quality, self.rules, self.fusion = sam, prompter, quality, rules, fusion

    def conclude(self, bank: Bank, refinement: Refinement, rules: ClickRules | None = None) -> tuple[Tensor, Tensor]:
        """What the agent answers by the rules: logits (B, h, w), and the quality head's calibrated Dice (B,), 0 without a quality head."""
        state, dice = refinement.last, refinement.quality
        if (rules or self.rules).answer == "sam":
            return state.logits, dice
        answer = self.answer(bank, state)
        guesses = answer.guesses if self.quality is None else self.quality.calibrated(answer.guesses)
        return answer.logits, torch.where(state.tokens > 0, guesses, dice)

    @torch.no_grad()
    def answer(self, bank: Bank, state: ClickState) -> AgentAnswer:
        """SAM's mask and the belief, fused, in B states, whatever the rules say of ``answer``; a given mask without a click stays as it is.

        Raises:
            ValueError: it has no network for that.
        """
        if self.prompter is None or self.fusion is None:
            raise ValueError("this agent has no network that fuses SAM's answer and a belief")
        observation = observe(bank, state)
        advice = self.prompter(observation)
        is_clicked = (state.tokens > 0)[:, None, None]
        logits = torch.where(is_clicked, self.fusion(observation, advice).to(state.logits), state.logits)
        guesses = torch.zeros_like(state.iou)
        if self.quality is not None:
            both = torch.stack([state.logits, logits], 1)
            iou = state.iou[:, None].expand(-1, 2)
            guesses = self.quality(advice, Answers(both, iou, stability(both), state.clicks))[:, 1]
        return AgentAnswer(logits, guesses)

    @torch.no_grad()
    def refine(
        self,
        bank: Bank,
        state: ClickState,
        rules: ClickRules | None = None,
        generator: torch.Generator | None = None,
        watch: Callable[[ClickState, CandidateClicks, Tensor | None], None] | None = None,
    ) -> Refinement:
        """Improve the answers of B states, each by itself: the result of one does not depend on the others.

        Args:
            bank: with the targets of ``state``; its truth is looked at only for ``places="oracle"`` and ``accept="truth"``.
            state: with as many free slots as there are clicks.
            rules: left out, the agent's own.
            generator: for ``places="random"``.
            watch: is called with the states that go on, the M candidates of each, and the quality head's guesses
                (B, M + 1) before calibration, the state's own answer first (None without a quality head).
        """
        rules = rules or self.rules
        count, device = len(state), state.rows.device
        history = [state]
        clicks = kept = torch.zeros(count, dtype=torch.long, device=device)
        barred = self._no_cells(state)
        is_over = state.done.clone()
        is_mask = state.tokens == 0
        margins = torch.where(is_mask, rules.mask_margin, rules.margin)
        most = torch.where(is_mask, rules.clicks_on_masks, rules.clicks)
        quality = torch.zeros(count, device=device)
        for number in range(int(most.max()) if count else 0):
            index = (~is_over & (number < most)).nonzero()[:, 0]
            if len(index):
                part = state[index]
                advice = self.prompter(observe(bank, part)) if self.prompter else None
                places, labels, cells, should_stop = self._propose(bank, part, advice, barred[index], rules, generator)
                answers = counterfactual(self.sam, bank, part, places, labels)
                candidates = CandidateClicks(places, labels, *answers)
                best, is_better, guesses = self._judge(bank, part, candidates, advice, margins[index], rules)
                if watch:
                    watch(part, candidates, guesses)
                is_better = is_better & ~should_stop
                after = candidates.take(part, best).where(is_better, part)
                state = state.put(index, after)
                clicks = clicks.index_add(0, index, (~should_stop).long())
                kept = kept.index_add(0, index, is_better.long())
                if guesses is not None and self.quality is not None:
                    dice = self.quality.calibrated(guesses)
                    dice_of_best = dice.gather(1, (best + 1)[:, None])[:, 0]
                    quality = quality.index_copy(0, index, torch.where(is_better, dice_of_best, dice[:, 0]))
                # A click that was undone is not proposed again from the same state.
                cells_so_far = torch.zeros_like(barred[index]).scatter(1, cells, True) | barred[index]
                barred = barred.index_copy(0, index, cells_so_far & ~is_better[:, None])
                if rules.stop:
                    is_over = is_over.index_copy(0, index, is_over[index] | should_stop | ~is_better)
            history.append(state)
        return Refinement(history, quality, clicks, kept)

    # ------------------------------------------------------------------------------------------------ one click

    def _no_cells(self, state: ClickState) -> Tensor:
        grid = state.logits.shape[-1] // 2
        return torch.zeros(len(state), 2 * grid * grid, dtype=torch.bool, device=state.rows.device)

    def _propose(
        self,
        bank: Bank,
        state: ClickState,
        advice: Advice | None,
        barred: Tensor,
        rules: ClickRules,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Places (B, M, 2), labels (B, M), their cells (B, M), and (B,) bool, whether to stop instead."""
        should_stop = torch.zeros_like(state.done)
        grid = state.logits.shape[-1] // 2
        if rules.places == "oracle":
            places, labels, has_error = oracle_click(bank, state)
            return places[:, None], labels[:, None], cells_of(places, labels, bank.size, grid)[:, None], ~has_error
        allowed = allowed_cells(state, bank.size) & ~barred.unflatten(1, (2, grid, grid))
        if rules.places == "policy":
            if advice is None:
                raise ValueError("this agent has no prompter to ask for places")
            scores = advice.policy[:, :-1].unflatten(1, (2, grid, grid))
            best = scores.masked_fill(~allowed, -torch.inf).flatten(1).amax(1)
            # Else the answers of SAM decide on stopping: they are better evidence than the policy's expectation.
            if rules.stop and rules.accept == "always":
                should_stop = advice.policy[:, -1] > best
        else:
            scores = contradictions(state, rules.places, generator)
        count = rules.candidates
        spread = int(count * rules.spread) if rules.places == "policy" else 0
        if spread:
            cells = peaks_of_both(scores, count - spread, contradictions(state, "spread", None), spread, allowed)
        else:
            cells = peaks(scores, allowed, count)
        places, labels = places_of(cells, bank.size, grid)
        return places, labels, cells, should_stop

    def _judge(
        self,
        bank: Bank,
        state: ClickState,
        candidates: CandidateClicks,
        advice: Advice | None,
        margins: Tensor,
        rules: ClickRules,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The best (B,) of the candidates, whether it is kept (B,), and the guesses (B, M + 1) before calibration, if there are any."""
        if rules.accept == "always":
            return torch.zeros_like(state.rows), torch.ones_like(state.done), None
        if rules.accept == "iou":
            best = candidates.iou.max(1)
            return best.indices, best.values > state.iou + margins, None
        if rules.accept == "truth":
            best = true_dice(bank, state.rows, candidates.logits).max(1)
            return best.indices, best.values > true_dice(bank, state.rows, state.logits) + margins, None
        if self.quality is None or advice is None:
            raise ValueError("this agent has no quality head to accept by")
        guesses = self.quality(advice, candidates.answers(state))
        dice = self.quality.calibrated(guesses)
        best = dice[:, 1:].max(1)
        return best.indices, best.values > dice[:, 0] + margins, guesses


def observe(bank: Bank, state: ClickState) -> Observation:
    """The prompter's input for B states."""
    return Observation(bank.embed(state.rows), state.logits, state.points, state.labels)


def mask_logits(area: Tensor) -> Tensor:
    """The share 0..1 of each cell that a mask covers → logits of the magnitude of SAM's."""
    return 8 * (2 * area.clamp(0, 1) - 1)


# ----------------------------------------------------------------------------------------------------------- places


def allowed_cells(state: ClickState, size: int) -> Tensor:
    """(B, 2, g, g) bool: neither beside an earlier click, nor where the answer is sure. At least one is allowed."""
    grid = state.logits.shape[-1] // 2
    beside = near(state.points.flatten(0, 1), size, grid).unflatten(0, state.labels.shape)
    is_clicked = (beside & state.is_click[..., None, None]).any(1)
    allowed = unsure(state.logits, grid) & ~is_clicked[:, None]
    return allowed | ~allowed.flatten(1).any(1)[:, None, None, None]


def contradictions(
    state: ClickState, places: Literal["random", "spread", "entropy"], generator: torch.Generator | None
) -> Tensor:
    """(B, 2, g, g) scores of clicks that contradict the answer: at random, at the same random places for every state, or by the
    answer's entropy.
    """
    on = F.avg_pool2d(state.logits[:, None].sigmoid(), 2) > 0.5
    if places == "random":
        scores = torch.rand(on.shape, generator=generator).to(on.device)
    elif places == "spread":
        scores = torch.rand(on.shape[1:], generator=torch.Generator().manual_seed(0)).to(on.device).expand_as(on)
    else:
        scores = F.avg_pool2d(entropy(state.logits)[:, None], 2)
    return torch.cat([torch.where(on, scores, scores - 2), torch.where(on, scores - 2, scores)], 1)


def peaks(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
    """The ``count`` best cells (B, count) of scores (B, 2, g, g): local maxima first, so that they lie apart."""
    scores = scores.masked_fill(~allowed, -1e4)
    highest = scores >= F.max_pool2d(scores, 3, 1, 1)
    ranked = torch.where(highest & allowed, scores, scores - 1e3).flatten(1)
    return ranked.topk(min(count, ranked.shape[1]), 1).indices


def peaks_of_both(first: Tensor, count: int, second: Tensor, further: int, allowed: Tensor) -> Tensor:
    """The ``count`` best cells of the ``first`` scores (B, 2, g, g), then the ``further`` best of the ``second`` among the others:
    (B, count + further).
    """
    cells = peaks(first, allowed, count)
    others = allowed & torch.ones_like(allowed).flatten(1).scatter(1, cells, False).view_as(allowed)
    return torch.cat([cells, peaks(second, others, further)], 1)
