"""Clicks: an agent that places corrective clicks for a frozen SAM, and never makes the mask worse.

After "SAM2 Click Agent", which learns by PPO from its own reward and takes its masks down. Here the truth of the
training images is used in full: from every state that is visited, many clicks are tried in one decode, and the true
change of Dice of each is a target (no credit to assign). Read from ``main`` downwards.

- ``fit``: the prompter learns the value of clicks, the quality head to judge masks, both from the same decodes. States
  are those that the agent itself visits more and more (DAgger, Ross et al. 2011), the moves of an expert fading out.
- ``reinforce``: GRPO on whole roll-outs, close to the policy that the values give.
- ``settle``: on training images held out, guesses are calibrated, and margin and policy chosen.

All randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one exactly.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from maskwright.data.check import require_clean
from maskwright.data.labels import Dataset, Sample
from maskwright.engine.budget import Budget, progress
from maskwright.engine.devices import find_device
from maskwright.engine.run import Run, settings_of
from maskwright.engine.state import flatten_optimizer, seeded, unflatten_optimizer
from maskwright.engine.weights import load_state
from maskwright.errors import DataError, RunError, canvas_rule, require
from maskwright.methods.clicks.agent import (
    CandidateClicks,
    ClickAgent,
    ClickRules,
    allowed_cells,
    contradictions,
    observe,
    peaks,
    peaks_of_both,
)
from maskwright.methods.clicks.beginnings import begin, somebodys_masks
from maskwright.methods.clicks.scores import curve, first_answers
from maskwright.methods.clicks.visited import VisitedStates
from maskwright.nets.prompter import Advice, Observation, Prompter
from maskwright.nets.quality import QualityHead, belief_loss, quality_loss, value_loss
from maskwright.recipes.clicks.report import validate, write_model, write_report
from maskwright.rl import grpo
from maskwright.rl.bank import MIN_SHARE, Bank
from maskwright.rl.clicks import (
    SLOTS,
    ClickState,
    click,
    counterfactual,
    dice,
    oracle_click,
    start_mask,
)
from maskwright.sam.click_grid import cells_of, places_of
from maskwright.sam.sam import Sam

VISITED = 0.1
"""Share of the memory for states that were visited."""

MARGINS = (0.0, 0.005, 0.01, 0.02, 0.04)
"""Margins of acceptance that are tried on the images held out."""

MASK_MARGINS = (0.01, 0.02, 0.04, 0.08, 0.15, 1.0)
"""The same for masks to refine. The last leaves every mask as it is: better that than a loss."""


@dataclass
class Config:
    """Train an agent that corrects masks by clicks."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Dataset with masks: a folder, or its manifest (see `maskwright data check`)."""
    out: Path
    """Run directory."""
    sam: str = "nano"
    """SAM 2: `nano` (bundled), a Hugging Face id such as facebook/sam2.1-hiera-tiny, a folder, or an official .pt file. Stays as it is."""
    size: int | None = None
    """Side of the square canvas, a multiple of 32; left out, the weights' own."""
    steps: int | None = None
    """Length of the training in steps."""
    minutes: float | None = None
    """Length of the training by the clock."""
    learner: Literal["own", "sb3"] = "own"
    """`sb3`: Stable-Baselines3's PPO on pixels with the settings of the published agent, as a baseline; it ignores what follows but for
    clicks, batch (environments), steps or minutes (one step is one of every environment), held_out, mirror and seed."""
    learn: Literal["values", "imitation"] = "values"
    """What teaches where to click: the true change of Dice of every click that is tried, or the oracle's click alone."""
    rounds: int = 4
    """Rounds of DAgger: in each the expert makes half as many moves as in the one before. 1: all states are the expert's."""
    quality: bool = True
    """Learn to judge masks, and undo clicks that made them worse. `--no-quality`: every click is kept."""
    stop: bool = True
    """The agent may stop before its clicks are used up."""
    rl_share: float = 0.15
    """Last share of the training in which the policy learns by reinforcement (GRPO); 0: not at all."""
    clicks: int = 4
    """Corrective clicks after the first prompt."""
    looks: int = 24
    """Clicks that are tried, in one decode, for each one that is placed."""
    spread: float = 0.5
    """Share of these clicks that lie all over the image, contradicting the mask at hand, instead of where the policy wants to click."""
    batch: int = 16
    """Episodes side by side."""
    tries: int = 16
    """Clicks that are tried from each state that is visited in training."""
    updates: int = 2
    """Updates of the prompter for each step, from all states so far."""
    lr: float = 1.5e-3
    """Learning rate (AdamW)."""
    rl_lr: float = 2e-4
    """Learning rate of the policy in `reinforce`."""
    groups: int = 8
    """Roll-outs from each beginning that are compared with each other."""
    kl: float = 0.05
    """Weight of the divergence from the policy before `reinforce`."""
    cost: float = 0.003
    """What a click costs, in units of Dice."""
    weight_decay: float = 1e-2
    memory: float = 8.0
    """GiB for images, their embeddings and masks, and for the states visited (a tenth): of more training images those are used that
    fit, drawn by the seed."""
    objects: int = 8
    """Objects of one image that are learnt from, at most. 0: all."""
    held_out: float = 0.12
    """Share of the training images that nothing learns from: guesses are calibrated on them."""
    mirror: bool = True
    """Also train on the mirror images, left to right."""
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"
    checkpoint_seconds: float = 60.0
    """Time between checkpoints: what a killed run loses at most."""
    resume: bool = False
    """Continue a run that was stopped."""
    overwrite: bool = False
    """Delete a run that is already in the folder."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            self.minutes = 10.0
        rules = {
            **canvas_rule("size", self.size),
            f"--rounds {self.rounds}: must be at least 1": self.rounds >= 1,
            f"--clicks {self.clicks}: must be at least 1": self.clicks >= 1,
            f"--looks {self.looks}: must be at least 1": self.looks >= 1,
            f"--spread {self.spread}: must lie in 0..1": 0 <= self.spread <= 1,
            f"--tries {self.tries}: must be at least 4": self.tries >= 4,
            f"--batch {self.batch}: must be at least 1": self.batch >= 1,
            f"--groups {self.groups}: must be at least 2": self.groups >= 2,
            f"--rl-share {self.rl_share}: must lie in 0..0.9": 0 <= self.rl_share <= 0.9,
            f"--memory {self.memory}: must be above 0": self.memory > 0,
            f"--objects {self.objects}: must be 0 (all) or more": self.objects >= 0,
            f"--held-out {self.held_out}: must lie in 0.02..0.5": 0.02 <= self.held_out <= 0.5,
        }
        require(rules)

    def settings(self) -> dict[str, Any]:
        """What decides the result, for ``config.json``."""
        free = ("out", "resume", "overwrite", "device", "checkpoint_seconds")
        return settings_of(self, *free)


def main(config: Config) -> Path:
    """Train and return the run directory."""
    torch.set_flush_denormal(True)
    dataset = Dataset.load(config.data)
    require_clean(dataset)
    trainer = _trainer(config, dataset)
    # Last of the set-up, so that a mistake in the settings leaves no run behind, and deletes none.
    trainer.run = Run.create(config.out, config.settings(), resume=config.resume, overwrite=config.overwrite)
    trainer.resume()
    trainer.fit()
    trainer.settle()
    trainer.finish()
    trainer.run.close()
    return config.out


def _trainer(config: Config, dataset: Dataset) -> Trainer:
    if config.learner == "own":
        return Trainer(config, dataset)
    if config.resume:
        raise RunError("a training with --learner sb3 cannot be continued; start it anew with --overwrite")
    from maskwright.recipes.clicks.sb3 import Sb3Trainer  # seconds to import, and only the baseline needs it

    return Sb3Trainer(config, dataset)


@dataclass(frozen=True)
class Played:
    """Roll-outs: B beginnings, G of each, T moves.

    Attributes:
        observations: T of B·G states.
        cells: T times (B·G, M), the clicks there were to choose from.
        actions: (B, G, T) which of them; M is "stop", also where it came before.
        reward, gain, clicks: (B, G).
    """

    observations: list[Observation]
    cells: list[Tensor]
    actions: Tensor
    reward: Tensor
    gain: Tensor
    clicks: Tensor


class Trainer:
    """Networks, data and optimisers of one run. Methods in the order in which ``main`` calls them, after it has set ``run``."""

    run: Run

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.config = config
        self.device = find_device(config.device)
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
        order = torch.randperm(len(masked), generator=self.generator(0, 0)).tolist()
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
        networks = [*self.prompter.parameters(), *self.quality.parameters()]
        self.optimizer = torch.optim.AdamW(networks, lr=config.lr, weight_decay=config.weight_decay)
        self.rl_optimizer = torch.optim.AdamW(self.prompter.policy_parameters(), lr=config.rl_lr, weight_decay=0.0)
        self.budget = Budget(steps=config.steps, minutes=config.minutes)
        self.visited = VisitedStates(int(VISITED * config.memory * 2**30), 0, {})
        self.live: ClickState | None = None
        self.age = torch.full((config.batch,), config.clicks, device=self.device)
        self.rules = ClickRules(
            clicks=config.clicks,
            looks=config.looks,
            spread=config.spread,
            accept="quality" if config.quality else "always",
            stop=config.stop,
        )
        self.settled: dict[str, Any] = {}
        self.reliability: tuple[np.ndarray, np.ndarray] | None = None
        self.step, self.used_minutes = 0, 0.0
        self.saved = self.started = time.monotonic()
        self.means: dict[str, list[float]] = defaultdict(list)

    # ------------------------------------------------------------------------------------------------ set-up

    def _bank(self, dataset: Dataset, samples: Sequence[Sample], share: float) -> Bank | None:
        """As many of the samples that show an object as a share of the memory for images holds, from the first on; None: none does."""
        # The shares of training, held out and validation images add up to 1 + held_out.
        memory = int((1 - VISITED) * share / (1 + self.config.held_out) * self.config.memory * 2**30)
        some, objects = dataset.with_samples(samples), self.config.objects or None
        return next(Bank.parts(self.sam, some, objects=objects, memory=memory, may_be_empty=True), None)

    def generator(self, stream: int, step: int) -> torch.Generator:
        """Randomness that depends on nothing but seed, purpose and step."""
        return seeded(self.config.seed, stream, step)

    # ------------------------------------------------------------------------------------------------ checkpoints

    def resume(self) -> None:
        checkpoint = self.run.load_checkpoint()
        if checkpoint is None:
            return
        tensors, state = checkpoint.tensors, checkpoint.state
        load_state(self.prompter, tensors["prompter"], "prompter")
        load_state(self.quality, tensors["quality"], "quality")
        unflatten_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])
        unflatten_optimizer(self.rl_optimizer, tensors["rl_optimizer"], state["rl_optimizer"])
        if "reference" in tensors:
            self.reference = copy.deepcopy(self.prompter).requires_grad_(False)
            load_state(self.reference, tensors["reference"], "reference")
        self.visited.load_state_dict(dict(tensors["memory"]))
        live = dict(tensors["live"])
        self.age = live.pop("age").to(self.device)
        self.live = ClickState(**{name: tensor.to(self.device) for name, tensor in live.items()}) if live else None
        self.means.update(state["means"])
        self.step, self.used_minutes = state["step"], state["minutes"]

    def save(self, *, force: bool = False) -> None:
        """A checkpoint, every ``checkpoint_seconds``."""
        if not force and time.monotonic() - self.saved < self.config.checkpoint_seconds:
            return
        optimizer, optimizer_state = flatten_optimizer(self.optimizer)
        rl_optimizer, rl_state = flatten_optimizer(self.rl_optimizer)
        live = {} if self.live is None else {n: getattr(self.live, n) for n in ClickState.__dataclass_fields__}
        tensors = {
            "prompter": self.prompter.state_dict(),
            "quality": self.quality.state_dict(),
            "optimizer": optimizer,
            "rl_optimizer": rl_optimizer,
            "memory": self.visited.state_dict(),
            "live": live | {"age": self.age},
        }
        if self.reference is not None:
            tensors["reference"] = self.reference.state_dict()
        state = {
            "optimizer": optimizer_state,
            "rl_optimizer": rl_state,
            "means": dict(self.means),
            "step": self.step,
            "minutes": self.minutes(),
        }
        self.run.save_checkpoint(self.step, tensors, state)
        self.saved = time.monotonic()

    def minutes(self) -> float:
        return self.used_minutes + (time.monotonic() - self.started) / 60

    # ------------------------------------------------------------------------------------------------ learning

    def fit(self) -> None:
        """Visit, try, learn; in the last share of the time, reinforce."""
        config = self.config
        # The clock starts when the data is ready.
        self.started = begun = time.monotonic()
        budget = self.budget.resumed(self.used_minutes) if config.minutes else self.budget
        length, completed = budget.bar(self.step, begun)
        with progress(length, "training", completed=completed) as advance:
            while not budget.done(self.step, begun):
                fraction = budget.progress(self.step, begun)
                supervised = 1 - config.rl_share
                if fraction < supervised:
                    self.practise(fraction / supervised)
                else:
                    self.reinforce((fraction - supervised) / config.rl_share)
                self.step += 1
                if self.step % 10 == 0:
                    means = {name: sum(values) / len(values) for name, values in self.means.items()}
                    self.run.log(self.step, **means)
                    self.means.clear()
                shown = {name: self.means[name][-1] for name in ("lead", "reward") if name in self.means}
                advance(budget.stride(fraction, budget.progress(self.step, begun)), **shown)
                self.save()

    def practise(self, fraction: float) -> None:
        """One step of supervised learning: try clicks from the live states, learn from the answers, move on."""
        config = self.config
        generator = self.generator(1, self.step)
        state = self._begin_anew(generator)
        advice = self.prompter(observe(self.bank, state))
        looks = self._look(state, advice, generator)
        with torch.no_grad():
            now, after = dice(self.bank, state.rows, state.logits), dice(self.bank, state.rows, looks.logits)
            cells = cells_of(looks.places, looks.labels, self.bank.size, self.grid)
        self.visited.add(
            self.generator(6, self.step),
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
            group["lr"] = config.lr * min(1.0, (self.step + 1) / 20) * decay
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
            self._descend(torch.stack(terms).sum(), self.optimizer)
            losses |= found
        for name, value in losses.items():
            self.means[name].append(float(value.detach()))
        self._move(state, looks, judged, now, after, fraction, generator)

    def _begin_anew(self, generator: torch.Generator) -> ClickState:
        """The live states; episodes that are over begin again."""
        over = (self.age >= self.config.clicks).nonzero()[:, 0]
        if len(over):
            rows = torch.randint(len(self.bank), (len(over),), generator=generator).to(self.device)
            fresh = begin(self.sam, self.bank, rows, generator, slots=self.slots)
            self.live = fresh if self.live is None else self.live.put(over, fresh)
            self.age[over] = 0
        assert self.live is not None
        return self.live

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

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()

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
        self.means["lead"].append(float((after[rows, mine] - now).mean()))
        self.means["expert_lead"].append(float((after[rows, best] - now).mean()))
        self.live = looks.take(state, chosen)
        self.age = self.age + 1

    # ------------------------------------------------------------------------------------------------ reinforcement

    def reinforce(self, fraction: float) -> None:
        """One round of GRPO: roll-outs from a few beginnings, compared with each other."""
        config = self.config
        if self.reference is None:
            self.reference = copy.deepcopy(self.prompter).requires_grad_(False)
        # Values, belief and features stay: the quality head was trained on them.
        self.prompter.requires_grad_(False)
        for parameter in self.prompter.policy_parameters():
            parameter.requires_grad_(True)
        generator = self.generator(2, self.step)
        rows = torch.randint(len(self.bank), (4,), generator=generator).to(self.device)
        with torch.no_grad():
            first = begin(self.sam, self.bank, rows, generator, slots=self.slots)
            played = self._roll_out(first, generator)
        for group in self.rl_optimizer.param_groups:
            group["lr"] = config.rl_lr * (1 - 0.9 * fraction)
        advantage = grpo.advantages(played.reward[None], torch.ones(1, len(rows), dtype=torch.bool, device=self.device))
        with torch.no_grad():
            anchor = self._score(self.reference, played)
        old, diagnostics = None, None
        for _ in range(2):
            new = self._score(self.prompter, played)
            old = new.detach() if old is None else old
            loss, diagnostics = grpo.grpo_loss(new, old, advantage, reference=anchor, kl=config.kl)
            if not int(diagnostics.groups):
                break
            self._descend(loss, self.rl_optimizer)
        self.means["reward"].append(float(played.reward.mean()))
        self.means["rl_gain"].append(float(played.gain.mean()))
        self.means["rl_clicks"].append(float(played.clicks.mean()))
        if diagnostics is not None:
            self.means["rl_kl"].append(float(diagnostics.kl))

    def _roll_out(self, first: ClickState, generator: torch.Generator) -> Played:
        """Let the policy act; ``groups`` roll-outs from each beginning."""
        config, reference = self.config, self.reference
        assert reference is not None
        groups = config.groups
        state = first[torch.arange(len(first), device=self.device).repeat_interleave(groups)]
        over = torch.zeros(len(state), dtype=torch.bool, device=self.device)
        best = now = before = dice(self.bank, state.rows, state.logits)
        clicks = torch.zeros(len(state), device=self.device)
        observations, cells, actions = [], [], []
        for _ in range(config.clicks):
            observation = observe(self.bank, state)
            allowed = allowed_cells(state, self.bank.size)
            scores = reference(observation).policy[:, :-1].unflatten(1, (2, self.grid, self.grid))
            choices = peaks(scores, allowed, config.tries)
            logits = self._choices(self.prompter, observation, choices)
            noise = torch.rand(logits.shape, generator=generator).to(self.device).clamp(1e-9, 1 - 1e-9)
            action = (logits - (-noise.log()).log()).argmax(1)
            over = over | (action == choices.shape[1])
            action = torch.where(over, choices.shape[1], action)
            observations.append(observation)
            cells.append(choices)
            actions.append(action)
            chosen = choices.gather(1, action.clamp(max=choices.shape[1] - 1)[:, None])
            places, labels = places_of(chosen[:, 0], self.bank.size, self.grid)
            state = click(self.sam, self.bank, state, places, labels, active=~over)
            clicks = clicks + (~over)
            now = dice(self.bank, state.rows, state.logits)
            best = torch.maximum(best, now)
        reward = (now - before) - config.cost * clicks - (best - now)
        shape = (len(first), groups)
        return Played(
            observations,
            cells,
            torch.stack(actions, 1).view(*shape, -1),
            reward.view(shape),
            (now - before).view(shape),
            clicks.view(shape),
        )

    def _choices(self, prompter: Prompter, observation: Observation, cells: Tensor) -> Tensor:
        """(N, M + 1) unnormalised log-probabilities of the cells (N, M), and of "stop"."""
        policy = prompter(observation).policy
        stop = policy[:, -1:] if self.config.stop else torch.full_like(policy[:, -1:], -1e9)
        return torch.cat([policy[:, :-1].gather(1, cells), stop], 1)

    def _score(self, prompter: Prompter, played: Played) -> Tensor:
        """(B, G, T) log-probabilities of what was played; 0 after the end, where there was nothing to choose."""
        scores = []
        over = torch.zeros(played.actions.shape[:2], dtype=torch.bool, device=self.device)
        for move, (seen, cells) in enumerate(zip(played.observations, played.cells)):
            action = played.actions[..., move]
            found = self._choices(prompter, seen, cells).log_softmax(1).gather(1, action.reshape(-1, 1))
            scores.append(found.view(action.shape).masked_fill(over, 0))
            over = over | (action == cells.shape[1])
        return torch.stack(scores, -1)

    # ------------------------------------------------------------------------------------------------ the end

    def agent(self, prompter: Prompter | None = None) -> ClickAgent:
        return ClickAgent(
            self.sam, prompter or self.prompter, self.quality if self.config.quality else None, self.rules
        )

    def settle(self, limit: int = 96) -> None:
        """On the images held out: calibrate, choose the policy before or after reinforcement, and the margin."""
        self.save(force=True)
        held = self.held.select(torch.randperm(len(self.held), generator=self.generator(3, 0))[:limit].to(self.device))
        candidates = {"values": self.reference} if self.reference is not None else {}
        candidates["reinforced" if self.reference is not None else "values"] = self.prompter
        with torch.no_grad():
            if self.config.quality:
                self._calibrate(held)
            trials = []
            for name, prompter in candidates.items():
                for margin in MARGINS if self.config.quality else (0.0,):
                    rules = replace(self.rules, margin=margin)
                    found = curve(self.agent(prompter), held, rules)
                    trials.append({"policy": name, "margin": margin, **found.summary()})

        chosen = max(trials, key=lambda trial: _worth(trial, 0.25, 0.1))
        if chosen["policy"] == "values" and self.reference is not None:
            self.prompter = self.reference
        self.rules = replace(self.rules, margin=chosen["margin"])
        masks = self._mask_trials(held) if self.config.quality else []
        mask_margin = max(masks, key=lambda trial: _worth(trial, 0.5, 0.1))["margin"] if masks else 0.0
        self.rules = replace(self.rules, mask_margin=mask_margin)
        self.settled = {
            "trials": trials + masks,
            "policy": chosen["policy"],
            "margin": chosen["margin"],
            "mask_margin": mask_margin,
            "held_out": len(held),
        }

    @torch.no_grad()
    def _mask_trials(self, held: Bank) -> list[dict[str, Any]]:
        """What refining masks gains with every margin: of poor masks, and of good ones that are easily made worse."""
        trials = []
        for margin in MASK_MARGINS:
            generator = self.generator(5, 0)

            def begun(rows: Tensor, generator: torch.Generator = generator) -> ClickState:
                spoilt = torch.where(rows % 2 == 0, 1.0, 0.4)
                logits = somebodys_masks(held, rows, generator, spoilt)
                return start_mask(self.sam, held, rows, logits, slots=self.slots)

            found = curve(self.agent(), held, replace(self.rules, mask_margin=margin), begin=begun)
            trials.append({"policy": "masks refined", "margin": margin, **found.summary()})
        return trials

    def _calibrate(self, held: Bank) -> None:
        guesses, true = [], []

        def watch(state: ClickState, looks: CandidateClicks, judged: Tensor | None) -> None:
            assert judged is not None
            guesses.append(judged.flatten())
            own = dice(held, state.rows, state.logits)[:, None]
            true.append(torch.cat([own, dice(held, state.rows, looks.logits)], 1).flatten())

        rules = replace(self.rules, stop=False)
        for rows in torch.arange(len(held), device=self.device).split(16):
            self.agent().refine(held, first_answers(self.agent(), held, rows, rules.clicks), rules, watch=watch)
        self.reliability = torch.cat(guesses).cpu().numpy(), torch.cat(true).cpu().numpy()
        self.quality.calibrate(*self.reliability)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Tensor]] | None]:
        """What the model folder needs to make the agent again: its description, tensors, and those of a second file."""
        quality = self.config.quality
        description = {
            "learner": "own",
            "prompter": self.prompter.description(),
            "quality": self.quality.description() if quality else None,
            "rules": asdict(self.rules),
        }
        return description, self.prompter.state_dict(), {"quality": self.quality.state_dict()} if quality else None

    def finish(self) -> None:
        """Write the model to take home and the report."""
        scores = validate(self)
        if scores:
            self.run.log_once(
                self.step,
                val_first=scores["agent"]["dice"][0],
                val_dice=scores["agent"]["dice"][-1],
                val_oracle=scores["oracle"]["dice"][-1],
            )
        write_model(self, scores)
        write_report(self, scores)


def _worth(trial: dict[str, Any], doubt: float, loss: float) -> float:
    """The mean gain less what its uncertainty could hide, and less the targets that lose: where little is known, caution wins."""
    gain, low, high = trial["gain"]
    return gain - doubt * (high - low) - loss * trial["lost"]
