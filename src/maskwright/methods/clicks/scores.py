"""How good a click agent is: Dice after each click, with intervals, against no further click and against an oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskwright.data.dataset import Dataset
from maskwright.engine.metrics import paired_bootstrap
from maskwright.engine.scoring import ScoreTable
from maskwright.methods.clicks.agent import ClickAgent, ClickRules, observe
from maskwright.methods.clicks.own_size import OwnSize
from maskwright.nets.answer_maps import doubled
from maskwright.rl.bank import MIN_SHARE, Bank
from maskwright.rl.clicks import SLOTS, ClickState, canvas_dice, click, first_click, oracle_click, start
from maskwright.rl.oracle import NOC_GOALS, NOC_MOST

Measure = Callable[[Bank, torch.Tensor, torch.Tensor], torch.Tensor]
"""Bank, rows (B,) and logits (B, h, w) → Dice (B,): ``rl.clicks.canvas_dice``, or ``OwnSize.dice``."""

LOST = 0.02
"""A target that ends this much Dice below its first answer counts as lost."""


@dataclass(frozen=True)
class Curve:
    """Scores of N targets.

    Attributes:
        images: (N,) numbers of the images that the targets lie in.
        dice: (N, T + 1) of the agent's answer after 0, 1, ... T clicks of its own.
        sam: (N, T + 1) the same of SAM's masks; ``sam[:, 0]`` is SAM's answer to the user's prompt, with which all are compared.
        clicks: (N,) clicks that the agent placed.
        kept: (N, T + 1) those of them that were not undone, so far.
    """

    images: NDArray[np.int64]
    dice: NDArray[np.float64]
    sam: NDArray[np.float64]
    clicks: NDArray[np.int64]
    kept: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.float64]:
        """(N,) Dice of SAM's answer to the user's prompt."""
        return self.sam[:, 0]

    def until(self, clicks: int) -> Curve:
        """The scores of an agent that places no more than so many clicks."""
        first = {name: getattr(self, name)[:, : clicks + 1] for name in ("dice", "sam", "kept")}
        return replace(self, **first, clicks=self.clicks.clip(max=clicks))

    def of_sam(self) -> Curve:
        """The scores of an agent that answers with SAM's masks."""
        return replace(self, dice=self.sam)

    @staticmethod
    def cat(parts: Sequence[Curve]) -> Curve:
        """The scores of all targets, one part after the other."""
        joined = {each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Curve)}
        # No two parts show the same image: each bank counts its own from 0.
        offsets = np.cumsum([0, *(int(part.images.max(initial=-1)) + 1 for part in parts[:-1])])
        images = [part.images + offset for part, offset in zip(parts, offsets)]
        return Curve(**joined | {"images": np.concatenate(images)})

    def summary(self) -> dict[str, Any]:
        """JSON-able: the mean curve, the gain over SAM's first answer with its 95 % interval over images, and what it cost."""
        first, last = self.first, self.dice[:, -1]
        gain, low, high = paired_bootstrap(last, first, images=self.images)
        return {
            "targets": len(first),
            "first": float(first.mean()),
            "dice": [float(value) for value in self.dice.mean(0)],
            "intervals": [list(paired_bootstrap(column, first, images=self.images)) for column in self.dice.T],
            "gain": [gain, low, high],
            "lost": float((last < first - LOST).mean()),
            "clicks": float(self.clicks.mean()),
            "kept": float(self.kept[:, -1].mean()),
        }


def first_answers(agent: ClickAgent, bank: Bank, rows: torch.Tensor, clicks: int) -> ClickState:
    """SAM's answers to the oracle's first click on each target, with room for ``clicks`` more."""
    place, label, _ = first_click(bank, rows)
    return start(agent.sam, bank, rows, place, label, slots=max(SLOTS, clicks + 2))


@torch.no_grad()
def curve(
    agent: ClickAgent,
    bank: Bank,
    rules: ClickRules | None = None,
    *,
    begin: Callable[[torch.Tensor], ClickState] | None = None,
    measure: Measure = canvas_dice,
    seed: int = 0,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """Let an agent improve the answers of all targets of a bank, and score them with the truth.

    Args:
        rules: left out, the agent's own.
        begin: rows (B,) → their first answers; left out: to the oracle's first click.
        measure: how good an answer is; left out, its Dice on the canvas.
        seed: of random clicks; they depend on it and on ``batch``.
        batch: targets at a time.
        progress: called as ``progress(done, total)``.
    """
    rules = rules or agent.rules
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in torch.arange(len(bank), device=bank.device).split(batch):
        state = begin(rows) if begin else first_answers(agent, bank, rows, rules.clicks)
        refinement = agent.refine(bank, state, rules, generator)
        sam = torch.stack([measure(bank, rows, each.logits) for each in refinement.states], 1)
        dice = sam
        if rules.answer == "fused":
            fused = [agent.answer(bank, each).logits for each in refinement.states]
            dice = torch.stack([measure(bank, rows, logits) for logits in fused], 1)
        kept = torch.stack([each.tokens - state.tokens for each in refinement.states], 1)
        parts.append((dice, sam, refinement.clicks, kept))
        if progress:
            progress(int(rows[-1]) + 1, len(bank))
    dice, sam, clicks, kept = (torch.cat(column).cpu().numpy() for column in zip(*parts))
    return Curve(bank.image.cpu().numpy(), dice.astype(np.float64), sam.astype(np.float64), clicks, kept)


@torch.no_grad()
def belief_dice(
    agent: ClickAgent, bank: Bank, *, measure: Measure = canvas_dice, batch: int = 16
) -> NDArray[np.float64]:
    """(N,) Dice of the agent's belief alone, after the oracle's first click: what it has learnt about objects,
    without any of SAM's further answers. Raises ValueError where the agent has no belief.
    """
    if agent.prompter is None:
        raise ValueError("this agent has no prompter whose belief could be scored")
    parts = []
    for rows in torch.arange(len(bank), device=bank.device).split(batch):
        belief = agent.prompter(observe(bank, first_answers(agent, bank, rows, 0))).truth[:, None]
        parts.append(measure(bank, rows, doubled(belief)[:, 0]))
    return torch.cat(parts).cpu().numpy().astype(np.float64)


@torch.no_grad()
def ious_by_user_clicks(
    agent: ClickAgent,
    bank: Bank,
    rules: ClickRules | None = None,
    *,
    goal: float = max(NOC_GOALS),
    most: int = NOC_MOST,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """IoU of what a user sees after each of their own clicks, where the agent corrects SAM's answer after every one of them.

    The user is RITM's oracle: each click goes into the middle of what is most wrong in the agent's answer. SAM is given the user's
    clicks; those of the agent are its own each time, as in ``predict --click``.

    Args:
        rules: left out, the agent's own. With ``ClickRules(clicks=0)`` there is no agent: SAM alone.
        goal: of the IoU; a user who sees it is content.
        most: clicks of the user, at most.
        progress: called as ``progress(done, total)``.

    Returns:
        (N, most) on the canvas. After the user is content the IoU stays as it is.
    """
    rules = rules or agent.rules
    parts = []
    for rows in torch.arange(len(bank), device=bank.device).split(batch):
        ious = torch.zeros(len(rows), most, device=bank.device)
        place, label, _ = first_click(bank, rows)
        users = start(agent.sam, bank, rows, place, label, slots=most + rules.most_clicks)
        going = torch.arange(len(rows), device=bank.device)
        for number in range(most):
            part = users[going]
            logits, _ = agent.conclude(bank, agent.refine(bank, part, rules), rules)
            dice = canvas_dice(bank, part.rows, logits)
            ious[going, number:] = (dice / (2 - dice))[:, None]
            place, label, is_wrong = oracle_click(bank, replace(part, logits=logits))
            goes_on = (ious[going, number] < goal) & is_wrong
            if number + 1 == most or not bool(goes_on.any()):
                break
            going = going[goes_on]
            users = users.put(going, click(agent.sam, bank, users[going], place[goes_on], label[goes_on]))
        parts.append(ious)
        if progress:
            progress(int(rows[-1]) + 1, len(bank))
    return torch.cat(parts).cpu().numpy().astype(np.float64)


def curves_by_rules(
    agent: ClickAgent,
    dataset: Dataset,
    rules: Mapping[str, ClickRules],
    *,
    memory: int,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Curve], list[str], int]:
    """The curves of several ways to act, on all targets of a dataset, scored on the images' own pixels.

    Args:
        dataset: images with masks.
        rules: how the agent acts, by name.
        memory: bytes of images, embeddings and masks that are held at a time.
        batch: targets at a time.
        progress: called as ``progress(done, total)`` in images; one counts as done by the share of its rules that are.

    Returns:
        The curves by name of the rules, the names of the targets, and the number of targets that are too small to be scored
        (``rl.bank.MIN_SHARE``).
    """
    parts: dict[str, list[Curve]] = {name: [] for name in rules}
    targets: list[str] = []
    images = tiny = 0
    measure = OwnSize(dataset).dice
    for bank in Bank.parts(agent.sam, dataset, memory=memory):
        for number, (name, each) in enumerate(rules.items()):
            # Targets of this part by one of the rules → images.
            first, share = images + len(bank.pixels) * number / len(rules), len(bank.pixels) / len(rules) / len(bank)
            advance = partial(_advance, progress, len(dataset), first, share)
            parts[name].append(curve(agent, bank, each, measure=measure, batch=batch, progress=advance))
        targets += bank.names
        images += len(bank.pixels)
        tiny += bank.tiny
    return {name: Curve.cat(each) for name, each in parts.items()}, targets, tiny


def _advance(
    progress: Callable[[int, int], None] | None, total: int, first: float, share: float, done: int, _: int
) -> None:
    if progress:
        progress(round(first + share * done), total)


def head_room(agent: Curve, oracle: Curve) -> float | None:
    """(agent - first answer) / (oracle - first answer) of the mean Dice after the last click; None without head-room."""
    first, best = float(oracle.first.mean()), float(oracle.dice[:, -1].mean())
    return None if best - first < 1e-6 else (float(agent.dice[:, -1].mean()) - first) / (best - first)


def curve_table(curves: Mapping[str, Mapping[str, Any]], captured: float | None, tiny: int) -> ScoreTable:
    """Dice by clicks, a column for each way to place them. One with fewer clicks than the others ends with its last answer.

    Args:
        curves: what ``Curve.summary`` gives, by name.
        captured: what ``head_room`` gives.
        tiny: targets that were too small to be scored.
    """
    count = max(len(each["dice"]) for each in curves.values())
    names = ["SAM's first answer", *clicks_named(count), "gain", "gain, from", "gain, to", "lost", "clicks placed"]
    columns = [
        [each["first"], *padded(each["dice"], count), *each["gain"], each["lost"], each["clicks"]]
        for each in curves.values()
    ]
    rows = [[name, *values] for name, *values in zip(names, *columns)]
    targets = next(iter(curves.values()))["targets"]
    note = f"{targets} targets, the first click is an oracle's, in the middle of the object. Then: after so many of the column's own. "
    note += (
        f"Gain over SAM's first answer with its 95 % interval. Lost: share of targets that end more than {LOST} lower."
    )
    if tiny:
        objects = f"{tiny} smaller {'object was' if tiny == 1 else 'objects were'}"
        note += f" {objects} left out: they take less than {MIN_SHARE:.3%} of the canvas."
    if captured is not None:
        note += f" The agent captures {captured:.0%} of what the oracle, which sees the truth, gains."
    return ScoreTable(["Dice", *curves], rows, note)


def clicks_named(count: int) -> list[str]:
    """Heads of the columns of a curve of ``count`` values."""
    return [f"{clicks} click{'' if clicks == 1 else 's'}" for clicks in range(count)]


def padded(values: Sequence[float], count: int) -> list[float]:
    """A curve that goes on with its last value."""
    return [*values, *[values[-1]] * (count - len(values))]
