"""Training of the click agent, in the order in which ``main`` calls it.

- ``fit``: ``practise``: the prompter learns the value of clicks, the quality head to judge masks, both from the same decodes.
  States are those that the agent itself visits more and more (DAgger, Ross et al. 2011), the moves of an expert fading out.
  In the last share of the time ``reinforce``: GRPO on whole roll-outs, close to the policy that the values give.
- ``settle``: on training images held out, guesses are calibrated, and margins and policy chosen.

All random numbers are functions of (seed, stream, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import IntEnum
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Sample
from maskwright.engine.budget import Budget
from maskwright.engine.session import Session, Trainable
from maskwright.errors import DataError
from maskwright.methods.clicks.agent import (
    CandidateClicks,
    ClickAgent,
    ClickRules,
    allowed_cells,
    contradictions,
    observe,
    peaks_of_both,
)
from maskwright.methods.clicks.beginnings import begin
from maskwright.methods.clicks.episodes import Episodes
from maskwright.methods.clicks.visited import VisitedStates
from maskwright.nets.prompter import Advice, Observation, Prompter
from maskwright.nets.quality import QualityHead, belief_loss, quality_loss, value_loss
from maskwright.recipes.clicks.calibration import settle
from maskwright.recipes.clicks.config import Config
from maskwright.recipes.clicks.reinforcement import RollOuts
from maskwright.rl.bank import MIN_SHARE, Bank
from maskwright.rl.clicks import SLOTS, ClickState, counterfactual, dice, oracle_click
from maskwright.sam.click_grid import cells_of, places_of
from maskwright.sam.sam import Sam

VISITED = 0.1
"""Share of the memory for states that were visited."""

BEGINNINGS = 4
"""Targets that roll-outs of one step of reinforcement begin with."""

CALIBRATED = 96
"""Held-out targets that guesses are calibrated on, at most."""


class Stream(IntEnum):
    """Purposes of the run's random numbers; see ``Session.generator``."""

    HELD_OUT = 0
    PRACTICE = 1
    REINFORCEMENT = 2
    CALIBRATION = 3
    VALIDATION = 4
    GIVEN_MASKS = 5
    VISITED = 6


class Trainer(Trainable):
    """Networks, data and optimisers of one run. Methods in the order in which ``main`` calls them."""

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session, self.device = config, session, session.device
        dataset = session.dataset
        self.categories = dataset.categories
        train = dataset.split("train")
        masked = [sample for sample in train if sample.labels.mask is not None]
        if len(masked) < 4:
            found = f"{len(masked)} of {len(train)} images of split 'train' have a mask"
            raise DataError([f"{found}, and at least 4 are needed to learn from and to hold out"], str(config.data))
        torch.manual_seed(config.seed)
        self.sam = Sam.load(config.sam, size=config.size).to(self.device).requires_grad_(False)
        self.grid = self.sam.size // 8
        # By original image, before any mirroring: no image is on both sides.
        order = torch.randperm(len(masked), generator=self.session.generator(Stream.HELD_OUT, 0)).tolist()
        grown = config.held_out + (1 - config.held_out) * (1 + config.mirror)
        bank = self._bank(train, [masked[i] for i in order], 1 / grown)
        if bank is None or len(bank.pixels) < 4:
            shown = 0 if bank is None else len(bank.pixels)
            found = f"{shown} of {len(train)} images of split 'train' show an object of at least {MIN_SHARE:.3%} of the image"
            found += f" and fit into --memory {config.memory:g} GiB"
            raise DataError([f"{found}, and at least 4 are needed to learn from and to hold out"], str(config.data))
        held = max(1, round(config.held_out * len(bank.pixels)))
        self.held, bank = (bank.select(rows.nonzero()[:, 0]) for rows in (bank.image < held, bank.image >= held))
        self.images, self.unused = len(bank.pixels), len(masked) - held - len(bank.pixels)
        self.bank = bank.mirrored(self.sam) if config.mirror else bank
        val = [sample for sample in dataset.split("val") if sample.labels.mask is not None]
        self.val = self._bank(dataset, val, config.held_out)
        self.prompter = Prompter(self.sam.width, stop_value=config.cost).to(self.device)
        self.quality = QualityHead(self.prompter.hidden).to(self.device)
        self.reference: Prompter | None = None
        self.learning = [*self.prompter.parameters(), *self.quality.parameters()]
        self.optimizer = torch.optim.AdamW(self.learning, lr=config.lr, weight_decay=config.weight_decay)
        self.rl_optimizer = torch.optim.AdamW(self.prompter.policy_parameters(), lr=config.rl_lr, weight_decay=0.0)
        self.stage = session.stage("fit", "training", Budget(steps=config.steps, minutes=config.minutes))
        self.visited = VisitedStates(int(VISITED * config.memory * 2**30), 0, {})
        self.episodes = Episodes(config.batch, config.clicks, self.device)
        self.rules = ClickRules(
            clicks=config.clicks,
            looks=config.looks,
            spread=config.spread,
            accept="quality" if config.quality else "always",
            stop=config.stop,
        )
        self.settled: dict[str, Any] = {}
        self.reliability: tuple[np.ndarray, np.ndarray] | None = None

    # ------------------------------------------------------------------------------------------------ set-up

    def _bank(self, dataset: Dataset, samples: Sequence[Sample], share: float) -> Bank | None:
        """As many of the samples that show an object as a share of the memory for images holds, from the first on; None: none does."""
        # The shares of training, held out and validation images add up to 1 + held_out.
        memory = int((1 - VISITED) * share / (1 + self.config.held_out) * self.config.memory * 2**30)
        some, objects = dataset.with_samples(samples), self.config.objects or None
        return next(Bank.parts(self.sam, some, objects=objects, memory=memory, may_be_empty=True), None)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "prompter": self.prompter,
            "quality": self.quality,
            "optimizer": self.optimizer,
            "rl_optimizer": self.rl_optimizer,
            "visited": self.visited,
            "episodes": self.episodes,
        }
        return parts if self.reference is None else parts | {"reference": self.reference}

    def values(self) -> dict[str, Any]:
        return {"has_reference": self.reference is not None}

    def restore(self, values: Mapping[str, Any]) -> None:
        if values["has_reference"]:
            self.reference = copy.deepcopy(self.prompter).requires_grad_(False)

    # ------------------------------------------------------------------------------------------------ learning

    def fit(self) -> None:
        """Visit, try, learn; in the last share of the time, reinforce."""
        supervised = 1 - self.config.rl_share
        for _ in self.session.steps(self.stage):
            fraction = self.stage.fraction
            if fraction < supervised:
                self.practise(fraction / supervised)
            else:
                self.reinforce((fraction - supervised) / self.config.rl_share)

    def practise(self, fraction: float) -> None:
        """One step of supervised learning: try clicks from the live states, learn from the answers, move on."""
        config = self.config
        generator = self.session.generator(Stream.PRACTICE, self.stage.step)
        state = self.episodes.states(lambda count: self._begin(count, generator))
        advice = self.prompter(observe(self.bank, state))
        looks = self._look(state, advice, generator)
        with torch.no_grad():
            now, after = dice(self.bank, state.rows, state.logits), dice(self.bank, state.rows, looks.logits)
            cells = cells_of(looks.places, looks.labels, self.bank.size, self.grid)
        self.visited.add(
            self.session.generator(Stream.VISITED, self.stage.step),
            rows=state.rows,
            points=state.points,
            labels=state.labels,
            logits=state.logits.clamp(-30, 30),
            dice=now,
            cells=cells,
            gains=after - now[:, None],
        )
        for group in self.optimizer.param_groups:
            decay = 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * fraction))
            group["lr"] = config.lr * min(1.0, (self.stage.step + 1) / 20) * decay
        # The states at hand are judged, and their truth is learnt too; values come from all states so far.
        losses = {"belief": belief_loss(advice.truth, self.bank.known_truth.area[state.rows])}
        judged = None
        if config.quality:
            judged = self.quality(advice, looks.answers(state))
            found = quality_loss(judged, torch.cat([now[:, None], after], 1))
            losses |= {"quality": found["huber"], "rank": 8 * found["rank"]}
            judged = judged.detach()
        for update in range(config.updates):
            found = self._prompter_losses(generator)
            terms = [*found.values(), *(losses.values() if update == 0 else ())]
            self.session.descend(torch.stack(terms).sum(), self.optimizer, self.learning)
            losses |= found
        self.session.average(**losses)
        self._move(state, looks, judged, now, after, fraction, generator)

    def _begin(self, count: int, generator: torch.Generator) -> ClickState:
        """The first states of new episodes, of targets drawn at random."""
        rows = torch.randint(len(self.bank), (count,), generator=generator).to(self.device)
        return begin(self.sam, self.bank, rows, generator, slots=self.slots)

    @property
    def slots(self) -> int:
        return max(SLOTS, self.config.clicks + 2)

    @torch.no_grad()
    def _look(self, state: ClickState, advice: Advice, generator: torch.Generator) -> CandidateClicks:
        """Try clicks: half of them where the prompter wants to, one where the oracle does, the others anywhere."""
        own = self.config.tries // 2
        allowed = allowed_cells(state, self.bank.size)
        scores = advice.policy[:, :-1].unflatten(1, (2, self.grid, self.grid))
        anywhere = torch.rand(allowed.shape, generator=generator).to(self.device)
        # Half of the states get others that contradict their answer, as useful clicks mostly do.
        against = torch.rand(len(state), 1, 1, 1, generator=generator).to(self.device) < 0.5
        anywhere = anywhere + against * contradictions(state, "random", generator)
        cells = peaks_of_both(scores, own, anywhere, self.config.tries - own - 1, allowed)
        places, labels = places_of(cells, self.bank.size, self.grid)
        place, label, _ = oracle_click(self.bank, state)
        places, labels = torch.cat([places, place[:, None]], 1), torch.cat([labels, label[:, None]], 1)
        return CandidateClicks(places, labels, *counterfactual(self.sam, self.bank, state, places, labels))

    def _prompter_losses(self, generator: torch.Generator, batch: int = 32) -> dict[str, Tensor]:
        """On states drawn from all that were visited."""
        drawn = {name: values.to(self.device) for name, values in self.visited.draw(batch, generator).items()}
        observation = Observation(self.bank.embed(drawn["rows"]), drawn["logits"], drawn["points"], drawn["labels"])
        advice = self.prompter(observation)
        losses = {
            "truth": belief_loss(advice.truth, self.bank.known_truth.area[drawn["rows"]]),
            "critic": F.huber_loss(advice.critic, drawn["dice"], delta=0.1) * 2,
        }
        if self.config.learn == "imitation":
            losses["imitation"] = 0.3 * F.cross_entropy(advice.policy, drawn["cells"][:, -1])
        else:
            losses["value"] = value_loss(advice.values, drawn["cells"], drawn["gains"])
        return losses

    def _move(
        self,
        state: ClickState,
        looks: CandidateClicks,
        judged: Tensor | None,
        now: Tensor,
        after: Tensor,
        fraction: float,
        generator: torch.Generator,
    ) -> None:
        """Go on by one of the clicks that were tried: the expert's, the agent's, or any."""
        batch, own = len(state), looks.labels.shape[1] // 2
        number = min(int(fraction * self.config.rounds), self.config.rounds - 1)
        expert = 0.5**number if self.config.rounds > 1 else 1.0
        draw = torch.rand(batch, 3, generator=generator).to(self.device)
        # The expert is the one-step look-ahead with the truth at hand; the agent has the quality head in its place.
        best = after.argmax(1)
        mine = torch.zeros_like(best) if judged is None else judged[:, 1 : own + 1].argmax(1)
        anyone = (draw[:, 2] * looks.labels.shape[1]).long()
        chosen = torch.where(draw[:, 0] < 0.15, anyone, torch.where(draw[:, 1] < expert, best, mine))
        rows = torch.arange(batch, device=self.device)
        lead = float((after[rows, mine] - now).mean())
        self.session.average(lead=lead, expert_lead=(after[rows, best] - now).mean())
        self.session.show(lead=lead)
        self.episodes.advance(looks.take(state, chosen))

    def reinforce(self, fraction: float) -> None:
        """One round of GRPO: roll-outs from a few beginnings, compared with each other."""
        if self.reference is None:
            self.reference = copy.deepcopy(self.prompter).requires_grad_(False)
        # Values, belief and features stay: the quality head was trained on them.
        self.prompter.requires_grad_(False)
        for parameter in self.prompter.policy_parameters():
            parameter.requires_grad_(True)
        for group in self.rl_optimizer.param_groups:
            group["lr"] = self.config.rl_lr * (1 - 0.9 * fraction)
        generator = self.session.generator(Stream.REINFORCEMENT, self.stage.step)
        with torch.no_grad():
            first = self._begin(BEGINNINGS, generator)
        rollouts = RollOuts(self.sam, self.bank, self.prompter, self.reference, self.config)

        def descend(loss: Tensor) -> None:
            self.session.descend(loss, self.rl_optimizer, self.prompter.policy_parameters())

        scalars = rollouts.learn(first, generator, descend)
        self.session.average(**scalars)
        self.session.show(reward=scalars["reward"])

    # ------------------------------------------------------------------------------------------------ calibration

    def settle(self) -> None:
        """On the images held out: calibrate, choose the policy before or after reinforcement, and the margins."""
        self.session.save(force=True)
        candidates = {"values": self.reference} if self.reference is not None else {}
        candidates["reinforced" if self.reference is not None else "values"] = self.prompter
        bank, generator = self.held, self.session.generator
        chosen = torch.randperm(len(bank), generator=generator(Stream.CALIBRATION, 0))[:CALIBRATED]
        settlement = settle(
            {name: self.agent(prompter) for name, prompter in candidates.items()},
            bank.select(chosen.to(self.device)),
            self.slots,
            lambda: generator(Stream.GIVEN_MASKS, 0),
        )
        self.prompter = candidates[settlement.policy]
        self.rules, self.reliability, self.settled = settlement.rules, settlement.reliability, settlement.summary()

    def agent(self, prompter: Prompter | None = None) -> ClickAgent:
        return ClickAgent(
            self.sam, prompter or self.prompter, self.quality if self.config.quality else None, self.rules
        )

    def exported(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Tensor]] | None]:
        """What the model folder needs to make the agent again: its description, tensors, and those of a second file."""
        quality = self.config.quality
        description = {
            "learner": "own",
            "prompter": self.prompter.description(),
            "quality": self.quality.description() if quality else None,
            "rules": asdict(self.rules),
        }
        return description, self.prompter.state_dict(), {"quality": self.quality.state_dict()} if quality else None
