"""Training of the click agent, in the order in which ``main`` calls it.

- ``fit``: ``practise``: the prompter learns the value of clicks, the quality head to judge masks, both from the same decodes.
  More and more of the states are those that the agent itself visits, fewer those of an expert (DAgger, Ross et al. 2011).
  With ``--rl-share`` in the last part of the training ``reinforce``: GRPO on whole roll-outs, close to the policy that the values give.
- ``calibrate``: on held-out training images guesses are calibrated, and policy, margins, answer and number of clicks chosen.

All random numbers are functions of (seed, stream, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Sample
from maskwright.engine.best import Best
from maskwright.engine.origin import Origin
from maskwright.engine.scoring import evenly_spread
from maskwright.engine.session import Session, Trainable
from maskwright.engine.timer import Part, Validations
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
from maskwright.methods.clicks.episodes import Episodes
from maskwright.methods.clicks.openings import draw_openings
from maskwright.methods.clicks.scores import curve
from maskwright.methods.clicks.visited_states import VisitedStates
from maskwright.nets.fusion import Fusion, answer_loss
from maskwright.nets.prompter import Advice, Observation, Prompter
from maskwright.nets.quality import QualityHead, belief_loss, quality_loss, value_loss
from maskwright.recipes.clicks.calibration import calibrate
from maskwright.recipes.clicks.config import Config
from maskwright.recipes.clicks.reinforcement import RollOuts
from maskwright.rl.bank import MIN_SHARE, Bank
from maskwright.rl.clicks import SLOTS, ClickState, counterfactual, dice, oracle_click
from maskwright.sam.click_grid import cells_of, places_of
from maskwright.sam.sam import Sam

VISITED_SHARE = 0.1
"""Share of ``--memory`` for visited states."""

ROLL_OUT_TARGETS = 4
"""Targets from which the roll-outs of one step of reinforcement start."""

CALIBRATION_TARGETS = 96
"""Held-out targets of the calibration, at most."""

CALIBRATION_SHARE = 0.25
"""By the clock: share of the time that calibration may take; of more held-out targets a random part is used."""

VALIDATION_TARGETS = 32
"""Targets of a validation during the training, at most."""

VALIDATION_COST = 0.15
"""Time of a target in a validation relative to a step: an estimate, to bound the time of validations."""


class Stream(IntEnum):
    """Purposes of the run's random numbers; see ``Session.generator``."""

    HELD_OUT = 0
    PRACTICE = 1
    REINFORCEMENT = 2
    CALIBRATION = 3
    VALIDATION = 4
    MASKS_TO_REFINE = 5
    VISITED = 6


class Trainer(Trainable):
    """Networks, data and optimisers of one run. Methods in the order in which ``main`` calls them."""

    recipe = "clicks"
    networks: ClassVar = {"model": "prompter", "quality": "quality", "fusion": "fusion"}

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session, self.device = config, session, session.device
        torch.manual_seed(config.seed)
        self.sam = Sam.load(config.sam, size=config.size).to(self.device).requires_grad_(False)
        session.crop_images(self.sam.size)
        dataset = session.dataset
        self.categories = dataset.categories
        train = dataset.split("train")
        masked = [sample for sample in train if sample.labels.mask is not None]
        if len(masked) < 4:
            count = f"{len(masked)} of {len(train)} images of split 'train' have a mask"
            raise DataError([f"{count}, and at least 4 are needed to learn from and to hold out"], str(config.data))
        self.grid = self.sam.size // 8
        # Split before mirroring, so that no image is in both parts.
        order = torch.randperm(len(masked), generator=self.session.generator(Stream.HELD_OUT, 0)).tolist()
        size_with_mirrors = config.held_out + (1 - config.held_out) * (1 + config.mirror)
        bank = self._bank(train, [masked[i] for i in order], 1 / size_with_mirrors)
        if bank is None or len(bank.pixels) < 4:
            usable = 0 if bank is None else len(bank.pixels)
            count = f"{usable} of {len(train)} images of split 'train' show an object of at least {MIN_SHARE:.3%} of the image"
            count += f" and fit into --memory {config.memory:g} GiB"
            raise DataError([f"{count}, and at least 4 are needed to learn from and to hold out"], str(config.data))
        count = max(1, round(config.held_out * len(bank.pixels)))
        self.held_out, bank = (bank.select(rows.nonzero()[:, 0]) for rows in (bank.image < count, bank.image >= count))
        self.images, self.unused = len(bank.pixels), len(masked) - count - len(bank.pixels)
        self.bank = bank.mirrored(self.sam) if config.mirror else bank
        val = dataset.with_samples([sample for sample in dataset.split("val") if sample.labels.mask is not None])
        self.val = self._bank(dataset, list(evenly_spread(val, config.validation_images)), config.held_out)
        self.prompter = Prompter(self.sam.width, stop_value=config.cost).to(self.device)
        self.quality = QualityHead(self.prompter.hidden).to(self.device)
        self.fusion = Fusion(self.sam.width, self.prompter.hidden).to(self.device)
        session.precision.lower([*self.sam.networks(), self.prompter, self.quality, self.fusion])
        self.reference: Prompter | None = None
        learning = (self.prompter, self.quality, self.fusion)
        self.supervised_parameters = [parameter for network in learning for parameter in network.parameters()]
        self.optimizer = torch.optim.AdamW(self.supervised_parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.rl_optimizer = torch.optim.AdamW(self.prompter.policy_parameters(), lr=config.rl_lr, weight_decay=0.0)
        length = replace(config.length, steps_per_epoch=math.ceil(len(self.bank) / config.batch))
        (self.stage,) = session.plan(length, Part("fit", "training"))
        self.validations = Validations(config.validations, VALIDATION_COST * len(self._val_part()))
        self.calibration_targets = CALIBRATION_TARGETS
        modules = {"prompter": self.prompter, "quality": self.quality, "fusion": self.fusion}
        self.best = Best(modules, config.keep, config.patience, lambda: self.reference is not None)
        self.visited_states = VisitedStates(int(VISITED_SHARE * config.memory * 2**30), 0, {})
        self.episodes = Episodes(config.batch, config.clicks, self.device)
        self.rules = ClickRules(
            clicks=config.clicks,
            looks=config.looks,
            spread=config.spread,
            accept="quality" if config.quality else "always",
            stop=config.stop,
            answer="fused" if config.fusion else "sam",
        )
        self.calibration: dict[str, Any] = {}
        self.reliability: tuple[np.ndarray, np.ndarray] | None = None

    # ------------------------------------------------------------------------------------------------ set-up

    def _bank(self, dataset: Dataset, samples: Sequence[Sample], share: float) -> Bank | None:
        """The first of the samples that show an object, as many as fit into a share of the memory for images; None: none shows any."""
        # The shares of training, held out and validation images add up to 1 + held_out.
        memory = int((1 - VISITED_SHARE) * share / (1 + self.config.held_out) * self.config.memory * 2**30)
        part, objects = dataset.with_samples(samples), self.config.objects or None
        return next(Bank.parts(self.sam, part, objects=objects, memory=memory, may_be_empty=True), None)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "prompter": self.prompter,
            "quality": self.quality,
            "fusion": self.fusion,
            "optimizer": self.optimizer,
            "rl_optimizer": self.rl_optimizer,
            "visited": self.visited_states,
            "episodes": self.episodes,
            "best": self.best,
        }
        return parts if self.reference is None else parts | {"reference": self.reference}

    def values(self) -> dict[str, Any]:
        return {"has_reference": self.reference is not None}

    def start_from(self, origin: Origin) -> None:
        """Prompter, quality head and fusion, where there are any; the calibration is fitted anew at the end."""
        if origin.config.get("learner", "own") != "own":
            raise origin.refuse("was trained with --learner sb3, whose network is another; give a run of --learner own")
        then = origin.config.get("sam", {}).get("signature")
        origin.require_sam(self.config.sam, self.sam.signature(configured=origin.config.get("version", 1) > 1), then)
        origin.fill(self.prompter, "model", flags="--size")
        if self.config.quality and "quality" in origin.tensors:
            origin.fill(self.quality, "quality", flags="--quality", fresh=("knots", "levels"))
        if self.config.fusion and "fusion" in origin.tensors:
            origin.fill(self.fusion, "fusion", flags="--fusion")

    def restore(self, values: Mapping[str, Any]) -> None:
        if values["has_reference"]:
            self.reference = copy.deepcopy(self.prompter).requires_grad_(False)

    # ------------------------------------------------------------------------------------------------ learning

    def fit(self) -> None:
        """Supervised learning, and in the last ``--rl-share`` of the training reinforcement."""
        supervised = 1 - self.config.rl_share
        for _ in self.session.steps(self.stage, then=self._validate_if_due, stop=self.best.is_exhausted):
            fraction = self.stage.fraction
            if fraction < supervised:
                self.practise(fraction / supervised)
            else:
                self.reinforce((fraction - supervised) / self.config.rl_share)

    def practise(self, fraction: float) -> None:
        """One step of supervised learning: try clicks from the present states, learn from SAM's answers, go on by one of the clicks."""
        config = self.config
        generator = self.session.generator(Stream.PRACTICE, self.stage.step)
        state = self.episodes.states(lambda count: self._first_states(count, generator))
        advice = self.prompter(observe(self.bank, state))
        candidates = self._try_clicks(state, advice, generator)
        with torch.no_grad():
            dice_before = dice(self.bank, state.rows, state.logits)
            dice_after = dice(self.bank, state.rows, candidates.logits)
            cells = cells_of(candidates.places, candidates.labels, self.bank.size, self.grid)
        self.visited_states.add(
            self.session.generator(Stream.VISITED, self.stage.step),
            rows=state.rows,
            points=state.points,
            labels=state.labels,
            logits=state.logits.clamp(-30, 30),
            dice=dice_before,
            cells=cells,
            gains=dice_after - dice_before[:, None],
        )
        for group in self.optimizer.param_groups:
            decay = 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * fraction))
            group["lr"] = config.lr * min(1.0, (self.stage.step + 1) / 20) * decay
        # Belief and quality learn from the present states, the values from all states so far.
        losses = {"belief": belief_loss(advice.truth, self.bank.known_truth.area[state.rows])}
        guesses = None
        if config.quality:
            guesses = self.quality(advice, candidates.answers(state))
            quality_losses = quality_loss(guesses, torch.cat([dice_before[:, None], dice_after], 1))
            losses |= {"quality": quality_losses["huber"], "rank": 8 * quality_losses["rank"]}
            guesses = guesses.detach()
        for update in range(config.updates):
            prompter_losses = self._prompter_losses(generator)
            terms = [*prompter_losses.values(), *(losses.values() if update == 0 else ())]
            self.session.descend(torch.stack(terms).sum(), self.optimizer, self.supervised_parameters)
            losses |= prompter_losses
        self.session.average(**losses)
        self._move(state, candidates, guesses, dice_before, dice_after, fraction, generator)

    def _first_states(self, count: int, generator: torch.Generator) -> ClickState:
        """The first states of new episodes, of targets drawn at random."""
        rows = torch.randint(len(self.bank), (count,), generator=generator).to(self.device)
        return draw_openings(self.sam, self.bank, rows, generator, slots=self.slots)

    @property
    def slots(self) -> int:
        return max(SLOTS, self.config.clicks + 2)

    @torch.no_grad()
    def _try_clicks(self, state: ClickState, advice: Advice, generator: torch.Generator) -> CandidateClicks:
        """Try clicks: half of them where the prompter's policy is highest, one at the oracle's place, the others anywhere."""
        of_policy = self.config.tries // 2
        allowed = allowed_cells(state, self.bank.size)
        scores = advice.policy[:, :-1].unflatten(1, (2, self.grid, self.grid))
        anywhere = torch.rand(allowed.shape, generator=generator).to(self.device)
        # For half of the states these contradict the answer, as most useful clicks do.
        against = torch.rand(len(state), 1, 1, 1, generator=generator).to(self.device) < 0.5
        anywhere = anywhere + against * contradictions(state, "random", generator)
        cells = peaks_of_both(scores, of_policy, anywhere, self.config.tries - of_policy - 1, allowed)
        places, labels = places_of(cells, self.bank.size, self.grid)
        place, label, _ = oracle_click(self.bank, state)
        places, labels = torch.cat([places, place[:, None]], 1), torch.cat([labels, label[:, None]], 1)
        return CandidateClicks(places, labels, *counterfactual(self.sam, self.bank, state, places, labels))

    def _prompter_losses(self, generator: torch.Generator, batch: int = 32) -> dict[str, Tensor]:
        """The losses on states drawn from all visited ones."""
        sample = {name: values.to(self.device) for name, values in self.visited_states.draw(batch, generator).items()}
        observation = Observation(self.bank.embed(sample["rows"]), sample["logits"], sample["points"], sample["labels"])
        advice = self.prompter(observation)
        losses = {
            "truth": belief_loss(advice.truth, self.bank.known_truth.area[sample["rows"]]),
            "critic": F.huber_loss(advice.critic, sample["dice"], delta=0.1) * 2,
        }
        if self.config.fusion:
            losses["answer"] = answer_loss(self.fusion(observation, advice), self.bank.known_truth.area[sample["rows"]])
        if self.config.learn == "imitation":
            losses["imitation"] = 0.3 * F.cross_entropy(advice.policy, sample["cells"][:, -1])
        else:
            losses["value"] = value_loss(advice.values, sample["cells"], sample["gains"])
        return losses

    def _move(
        self,
        state: ClickState,
        candidates: CandidateClicks,
        guesses: Tensor | None,
        dice_before: Tensor,
        dice_after: Tensor,
        fraction: float,
        generator: torch.Generator,
    ) -> None:
        """Go on by one of the candidates: the expert's choice, the agent's, or a random one."""
        batch, of_policy = len(state), candidates.labels.shape[1] // 2
        number = min(int(fraction * self.config.rounds), self.config.rounds - 1)
        expert_share = 0.5**number if self.config.rounds > 1 else 1.0
        draw = torch.rand(batch, 3, generator=generator).to(self.device)
        # The expert takes the candidate of the highest true Dice; the agent that of the highest guess, among its policy's.
        expert = dice_after.argmax(1)
        agent = torch.zeros_like(expert) if guesses is None else guesses[:, 1 : of_policy + 1].argmax(1)
        any_candidate = (draw[:, 2] * candidates.labels.shape[1]).long()
        choice = torch.where(draw[:, 1] < expert_share, expert, agent)
        choice = torch.where(draw[:, 0] < 0.15, any_candidate, choice)
        rows = torch.arange(batch, device=self.device)
        lead = (dice_after[rows, agent] - dice_before).mean()
        self.session.average(lead=lead, expert_lead=(dice_after[rows, expert] - dice_before).mean())
        self.session.show(lead=lead)
        self.episodes.advance(candidates.take(state, choice))

    def reinforce(self, fraction: float) -> None:
        """One round of GRPO: roll-outs from a few first states, compared with each other."""
        if self.reference is None:
            self.reference = copy.deepcopy(self.prompter).requires_grad_(False)
        # Values, belief and features are frozen: the quality head was trained on them.
        self.prompter.requires_grad_(False)
        for parameter in self.prompter.policy_parameters():
            parameter.requires_grad_(True)
        for group in self.rl_optimizer.param_groups:
            group["lr"] = self.config.rl_lr * (1 - 0.9 * fraction)
        generator = self.session.generator(Stream.REINFORCEMENT, self.stage.step)
        with torch.no_grad():
            first = self._first_states(ROLL_OUT_TARGETS, generator)
        rollouts = RollOuts(self.sam, self.bank, self.prompter, self.reference, self.config)

        def descend(loss: Tensor) -> None:
            self.session.descend(loss, self.rl_optimizer, self.prompter.policy_parameters())

        scalars = rollouts.learn(first, generator, descend)
        self.session.average(**scalars)
        self.session.show(reward=scalars["reward"])

    # ------------------------------------------------------------------------------------------------ validation

    def _val_part(self) -> Tensor:
        """Rows of the validation targets that are used during the training, evenly spread."""
        count = 0 if self.val is None else len(self.val)
        return torch.linspace(0, max(0, count - 1), min(count, VALIDATION_TARGETS)).round().long()

    def _validate_if_due(self) -> None:
        if self.val is not None:
            self.session.validate_if_due(self.stage, self.validations, self.best, self._validate, "agent_dice")

    def _validate(self) -> dict[str, float]:
        """Dice on a part of the validation targets after the agent's clicks, before it is calibrated."""
        assert self.val is not None
        found = curve(self.agent(), self.val.select(self._val_part().to(self.device)))
        return {"agent_dice": float(found.dice[:, -1].mean())}

    # ------------------------------------------------------------------------------------------------ calibration

    def calibrate(self) -> None:
        """On held-out images: calibrate the quality head, choose how the agent acts and what it answers with."""
        self.session.save(force=True)
        self.best.restore()
        if self.best.tensors and not self.best.kept_values:
            self.reference = None  # the agent that is kept is from before reinforcement
        candidates = {"values": self.reference} if self.reference is not None else {}
        candidates["reinforced" if self.reference is not None else "values"] = self.prompter
        bank, generator = self.held_out, self.session.generator
        index = torch.randperm(len(bank), generator=generator(Stream.CALIBRATION, 0))[: self.calibration_targets]
        calibration = calibrate(
            {name: self.agent(prompter) for name, prompter in candidates.items()},
            bank.select(index.to(self.device)),
            self.slots,
            self.config.cost,
            lambda: generator(Stream.MASKS_TO_REFINE, 0),
        )
        self.prompter = candidates[calibration.policy]
        self.rules, self.reliability = calibration.rules, calibration.reliability
        self.calibration = calibration.summary()

    def agent(self, prompter: Prompter | None = None) -> ClickAgent:
        quality = self.quality if self.config.quality else None
        fusion = self.fusion if self.config.fusion else None
        return ClickAgent(self.sam, prompter or self.prompter, quality, self.rules, fusion)

    def exported(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Tensor]] | None]:
        """The agent for a model folder: its description, its tensors, and those of further files by name."""
        further = {"quality": self.quality} if self.config.quality else {}
        further |= {"fusion": self.fusion} if self.config.fusion else {}
        description = {
            "learner": "own",
            "prompter": self.prompter.description(),
            "quality": self.quality.description() if "quality" in further else None,
            "fusion": self.fusion.description() if "fusion" in further else None,
            "rules": asdict(self.rules),
        }
        return (
            description,
            self.prompter.state_dict(),
            {name: part.state_dict() for name, part in further.items()} or None,
        )
