"""Training the policy that chooses references (SAMIX), and measuring it against heuristics and an oracle.

One round, for N queries: SPNet draws groups of reference sets; SAM answers each distinct set once, all of them in one batch; the
answers are rewarded; ``rl.grpo`` makes the better sets of a group more probable. Nothing here knows where queries come from, or a
recipe's loop: how SAM answers is a ``PredictMasks``, what its answers are held against is a ``Judge``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskwright.engine.metrics import soft_dice
from maskwright.engine.state import flatten_optimizer, unflatten_optimizer
from maskwright.engine.weights import load_state, load_tensors
from maskwright.nets.selector import Heuristic, select
from maskwright.nets.spnet import Entries, Observation, Query, SPNet, candidates
from maskwright.rl.grpo import Diagnostics, advantages, descent, update

PredictMasks = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""What SAM answers: (R,) rows of the queries, (R, T) places in the pool → (R, h, w) logits and (R,) predicted IoU in 0..1."""

REWARDS = ("true", "iou", "view", "weak")
"""True Dice; predicted IoU (r_a); Dice with the segmenter's mask (r_b); minus the loss against the weak label (r_g)."""


@dataclass(frozen=True)
class Judge:
    """What the answers to N queries are held against.

    Attributes:
        known: (N,) bool, the queries whose true mask is known. It is their only reward; the other queries have the others.
        truth: (N, h, w) in 0..1; anything where not ``known``.
        counted: (N, h, w) in 0..1, the pixels that count; None: all.
        view: (N, h, w) bool, the segmenter's mask; None before there is one.
        weak: (R,) rows, (R, h, w) logits → (R,) losses against the rows' own weak labels; None where there are no such labels.
        labelled: (N,) bool, the queries that ``weak`` has something to say of; needed with it.
    """

    known: Tensor
    truth: Tensor
    counted: Tensor | None = None
    view: Tensor | None = None
    weak: Callable[[Tensor, Tensor], Tensor] | None = None
    labelled: Tensor | None = None

    def dice(self, rows: Tensor, logits: Tensor) -> Tensor:
        """(R,) rows, (R, h, w) logits → (R,) true Dice; says nothing of rows that are not ``known``."""
        return soft_dice(logits > 0, self.truth[rows], None if self.counted is None else self.counted[rows])

    def rewards(self, rows: Tensor, logits: Tensor, iou: Tensor) -> Tensor:
        """All four for every answer: (R,) rows, (R, h, w) logits, (R,) predicted IoU → (4, R) in the order of ``REWARDS``.

        Those that ``present`` denies hold any number.
        """
        view, weak = torch.zeros_like(iou), torch.zeros_like(iou)
        if self.view is not None:
            view = soft_dice(logits > 0, self.view[rows])
        if self.weak is not None:
            weak = -self.weak(rows, logits).to(iou)
        return torch.stack([self.dice(rows, logits), iou, view, weak])

    def present(self) -> Tensor:
        """(4, N) bool: which rewards count for which query."""
        no = torch.zeros_like(self.known)
        view = no if self.view is None else ~self.known
        weak = no if self.weak is None or self.labelled is None else ~self.known & self.labelled
        return torch.stack([self.known, ~self.known, view, weak])


@dataclass(frozen=True)
class Round:
    """What one round of learning came to.

    Attributes:
        places: (N, T) the best set of every query's group, by advantage.
        decided: (N,) bool, the queries in whose group any set was better than another.
        logits: (N, h, w) the answer to the best set, and iou: (N,) its predicted IoU.
        scalars: for the log; what is not known this time is left out.
    """

    places: Tensor
    decided: Tensor
    logits: Tensor
    iou: Tensor
    scalars: dict[str, float]


# ------------------------------------------------------------------------------------------------------- answering


@torch.no_grad()
def answer_groups(
    predict_masks: PredictMasks, places: Tensor, judge: Judge, at_once: int = 64
) -> tuple[Tensor, Tensor, Tensor]:
    """Answer and reward groups of reference sets. SAM does not mind the order of references, so each distinct set is answered once.

    Args:
        predict_masks: see ``PredictMasks``.
        places: (N, G, T) in the pool.
        judge: of the N queries.
        at_once: sets in one batch, to bound the memory.

    Returns:
        (4, N, G) rewards, (N, G) places of the answers among the D distinct ones, and those answers, (D, h, w) logits.
    """
    rows, logits, iou, back = _answer_distinct(predict_masks, places, at_once)
    parts = zip(rows.split(at_once), logits.split(at_once), iou.split(at_once))
    rewards = torch.cat([judge.rewards(*part) for part in parts], 1)
    return rewards[:, back], back, logits


@torch.no_grad()
def promise(predict_masks: PredictMasks, places: Tensor, at_once: int = 64) -> Tensor:
    """How good the answers to reference sets look, with no truth at hand: SAM's own guess of the IoU, plus agreement.

    A reference that misleads SAM makes an answer that SAM is unsure of, or that the other references of the group do not support.

    Args:
        predict_masks: see ``PredictMasks``.
        places: (N, G, T) in the pool.
        at_once: sets in one batch, and about as many answers are held at a time.

    Returns:
        (N, G) predicted IoU + soft Dice with the mean answer of the group, in 0..2.
    """
    found: list[Tensor] = []
    for rows in torch.arange(len(places), device=places.device).split(max(1, at_once // places.shape[1])):
        _, logits, iou, back = _answer_distinct(
            lambda at, sets, rows=rows: predict_masks(rows[at], sets), places[rows], at_once
        )
        masks = logits.sigmoid()[back]
        mean = masks.mean(1, keepdim=True).expand_as(masks)
        found.append(iou[back] + soft_dice((masks > 0.5).flatten(0, 1), mean.flatten(0, 1)).view_as(back))
    return torch.cat(found)


def _answer_distinct(
    predict_masks: PredictMasks, places: Tensor, at_once: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of D distinct sets among (N, G, T): their (D,) rows, (D, h, w) logits, (D,) predicted IoU; and where each of (N, G) is there."""
    queries, groups, _ = places.shape
    row = torch.arange(queries, device=places.device)[:, None, None].expand(-1, groups, 1)
    keys = torch.cat([row, places.sort(-1).values], -1).flatten(0, 1)
    distinct, back = keys.unique(dim=0, return_inverse=True)
    answers = [predict_masks(part[:, 0], part[:, 1:]) for part in distinct.split(at_once)]
    logits, iou = (torch.cat(parts) for parts in zip(*answers))
    return distinct[:, 0], logits, iou, back.view(queries, groups)


@torch.no_grad()
def oracle(
    predict_masks: PredictMasks, judge: Judge, index: Tensor, allowed: Tensor, count: int, at_once: int = 64
) -> tuple[Tensor, Tensor]:
    """Choose with the truth at hand, greedily: always the reference that raises the Dice most, or lowers it least. Evaluation only.

    Args:
        predict_masks: see ``PredictMasks``.
        judge: all of its N queries must be ``known``.
        index: (N, K) places of the candidates in the pool.
        allowed: (N, K) bool, at least one per query; where there are fewer than T the last choice repeats.
        count: T.
        at_once: sets in one batch.

    Returns:
        (N, T) places; the first t of them are the choice of t references. (N, T) Dice after each choice.
    """
    if not bool(judge.known.all()):
        raise ValueError("the oracle needs the truth of every query")
    if not bool(allowed.any(1).all()):
        raise ValueError("a query without any allowed reference cannot be given one")
    free, chosen = allowed.clone(), index[:, :0]
    reached: list[Tensor] = []
    for _ in range(count):
        rows, columns = free.nonzero(as_tuple=True)
        sets = torch.cat([chosen[rows], index[rows, columns][:, None]], 1)
        found = [
            judge.dice(row, predict_masks(row, places)[0])
            for row, places in zip(rows.split(at_once), sets.split(at_once))
        ]
        score = torch.full(index.shape, -torch.inf, device=index.device)
        best = score.index_put((rows, columns), torch.cat(found)).max(1)
        reached.append(best.values)
        chosen = torch.cat([chosen, index.gather(1, best.indices[:, None])], 1)
        latest = torch.zeros_like(free).scatter(1, best.indices[:, None], True)
        free = free & ~latest
        free = torch.where(free.any(1, keepdim=True), free, latest)
    return chosen, torch.stack(reached, 1)


def head_room_captured(heuristic: float, policy: float, oracle: float) -> float | None:
    """Share of the way from heuristic to oracle that the policy goes; None where there is no way to go."""
    return (policy - heuristic) / (oracle - heuristic) if oracle > heuristic else None


def with_head_room(assessed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of what ``ReferencePolicy.assess`` said in several places, and ``head_room_captured``, where there is any."""
    if not assessed:
        return {}
    means = {name: sum(one[name] for one in assessed) / len(assessed) for name in assessed[0]}
    captured = head_room_captured(means["heuristic_dice"], means["policy_dice"], means["oracle_dice"])
    return means if captured is None else means | {"head_room_captured": captured}


# -------------------------------------------------------------------------------------------------------- learning


class ReferencePolicy:
    """SPNet with its optimiser, and the untrained SPNet that it must not stray too far from.

    Args:
        channels: C, of the pooled image features.
        memory_channels: M, of the pooled memory.
        references: T.
        groups: G, sets per query.
        shortlist: K, candidates per query; ``explored``: how many of them are drawn at random while learning.
        looks: sets that SAM answers before one is chosen, see ``choose``; below 2 the policy chooses unseen.
        lr, weight_decay: of AdamW.
        kl: weight of the divergence from the untrained SPNet; it keeps a policy that learns from few masks from forgetting similarity.
        epochs, clip: see ``rl.grpo.update``.
        at_once: sets that SAM answers in one batch.
        seed: of the weights; nothing else draws on it, and it leaves the global generator alone.
    """

    def __init__(
        self,
        channels: int,
        memory_channels: int = 64,
        *,
        references: int = 4,
        groups: int = 8,
        shortlist: int = 48,
        explored: int = 8,
        looks: int = 16,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        kl: float = 0.1,
        epochs: int = 2,
        clip: float = 0.2,
        at_once: int = 64,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.channels, self.memory_channels = channels, memory_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = SPNet(channels, memory_channels).to(device)
        self.anchor = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=lr, weight_decay=weight_decay)
        self.references, self.groups = references, groups
        self.shortlist, self.explored, self.looks = shortlist, explored, looks
        self.kl, self.epochs, self.clip, self.at_once = kl, epochs, clip, at_once

    def observe(
        self, query: Query, pool: Entries, allowed: Tensor, generator: torch.Generator | None = None
    ) -> Observation:
        """The queries with their candidates; some of these at random where there is a ``generator``, else none."""
        random = min(self.explored, self.shortlist) if generator is not None else 0
        return candidates(query, pool, allowed, generator or torch.Generator(), self.shortlist, random)

    @torch.no_grad()
    def choose(self, query: Query, pool: Entries, allowed: Tensor, predict_masks: PredictMasks | None = None) -> Tensor:
        """The policy's choice, which depends on nothing but the query and the pool: (N, T) places in the pool.

        Args:
            query, pool: see ``step``.
            allowed: (N, E) bool, at least one per row.
            predict_masks: SAM's answers to these N queries. With them the policy looks before it chooses: SAM answers its greedy set and
                draws of it, ``looks`` sets in all, and the one of most ``promise`` is taken. None: its greedy set.
        """
        seen = self.observe(query, pool, allowed)
        greedy = self.net.choose(seen, self.references)
        if predict_masks is None or self.looks < 2:
            return seen.places(greedy)
        generator = torch.Generator().manual_seed(0)
        drawn, _ = self.net.sample(seen, self.looks - 1, self.references, generator, alike=True)
        places = seen.places(torch.cat([greedy[:, None], drawn], 1))
        best = promise(predict_masks, places, self.at_once).argmax(1)
        return places[torch.arange(len(best), device=best.device), best]

    @torch.no_grad()
    def probability(self, query: Query, pool: Entries, allowed: Tensor, places: Tensor) -> Tensor:
        """(N, T) places that ``choose`` gave → (N, T) probability of each, given those before it."""
        seen = self.observe(query, pool, allowed)
        sequences = (seen.index[:, None] == places[..., None]).int().argmax(-1)
        return self.net.score(seen, sequences[:, None])[:, 0].exp()

    def step(
        self,
        query: Query,
        pool: Entries,
        allowed: Tensor,
        predict_masks: PredictMasks,
        judge: Judge,
        generator: torch.Generator,
        *,
        descend: Callable[[Tensor], None] | None = None,
        agree: Callable[[bool], bool] | None = None,
    ) -> Round:
        """One round of GRPO on N queries. Mask queries are rewarded with the true Dice; ``allowed`` must leave themselves out.

        Args:
            query, pool: vectors without gradients.
            allowed: (N, E) bool, at least one per row.
            predict_masks, judge: of these N queries.
            generator: on the CPU; of the random candidates and of the sets that are tried.
            descend: one optimiser step down a loss; None: of this process alone.
            agree: "does any process have a group to learn from?", asked once per round; None: this process is alone.
        """
        seen = self.observe(query, pool, allowed, generator)
        sequences, total = self.net.sample(seen, self.groups, self.references, generator)
        valid = total > -torch.inf
        rewards, place, logits = answer_groups(predict_masks, seen.places(sequences), judge, self.at_once)
        present = judge.present()
        advantage = advantages(rewards, present, valid)
        decided = ((advantage != 0) & valid).any(1)
        active = bool(decided.any())
        found = update(
            self.net,
            seen,
            sequences,
            advantage,
            descend or descent(self.optimizer),
            epochs=self.epochs,
            clip=self.clip,
            reference=self.anchor,
            kl=self.kl,
            valid=valid,
            active=agree(active) if agree else active,
        )
        best = advantage.masked_fill(~valid, -torch.inf).argmax(1)
        row = torch.arange(len(best), device=best.device)
        scalars = _scalars(rewards, present, valid, judge) | _learning(found)
        # The first set of a group is an exact draw, so this estimates the entropy, per choice.
        scalars["policy_entropy"] = float(-total[:, 0].mean() / self.references)
        scalars["policy_temperature"] = float(self.net.log_temperature.detach().exp())
        places = seen.places(sequences)[row, best]
        return Round(places, decided, logits[place[row, best]], rewards[1, row, best], scalars)

    def sit_out(self, descend: Callable[[Tensor], None], agree: Callable[[bool], bool]) -> None:
        """Take part in a round of many processes without a query of one's own: as many steps, and no gradient.

        Args:
            descend, agree: as in ``step``.
        """
        if agree(False):
            for _ in range(self.epochs):
                descend(torch.stack([p.sum() for p in self.net.parameters()]).sum() * 0)

    def assess(
        self,
        query: Query,
        pool: Entries,
        allowed: Tensor,
        predict_masks: PredictMasks,
        judge: Judge,
        heuristic: Heuristic,
        generator: torch.Generator,
    ) -> dict[str, float]:
        """Mean true Dice on known queries of the policy, of a heuristic and of the oracle; see ``with_head_room``."""
        rule = select(
            heuristic,
            query.whole,
            query.foreground,
            pool.whole,
            pool.foreground,
            allowed,
            self.references,
            generator,
        )
        sets = torch.stack([rule, self.choose(query, pool, allowed, predict_masks)], 1)
        reached = answer_groups(predict_masks, sets, judge, self.at_once)[0][0].mean(0)
        seen = self.observe(query, pool, allowed)
        best = oracle(predict_masks, judge, seen.index, seen.allowed, self.references, self.at_once)[1][:, -1].mean()
        return {
            "policy_dice": float(reached[1]),
            "heuristic_dice": float(reached[0]),
            "oracle_dice": float(best),
        }

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Tensors (groups ``policy`` and ``policy_optimizer``) and JSON, for a checkpoint.

        The untrained SPNet is not among them: it chooses the same whatever its random weights are.
        """
        flat, state = flatten_optimizer(self.optimizer)
        return {"policy": self.net.state_dict(), "policy_optimizer": flat}, state

    def load_state(self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """The counterpart of ``state``; WeightsError where it does not fit."""
        load_state(self.net, tensors["policy"], "policy")
        unflatten_optimizer(self.optimizer, tensors["policy_optimizer"], state)

    def description(self) -> dict[str, int]:
        """What ``load_policy`` needs besides the weights, as JSON."""
        return {
            "channels": self.channels,
            "memory_channels": self.memory_channels,
            "references": self.references,
            "shortlist": self.shortlist,
            "looks": self.looks,
        }


def load_policy(
    description: Mapping[str, int], weights: str | Path, device: torch.device | str = "cpu"
) -> ReferencePolicy:
    """A trained policy, to choose with, from ``description()`` and a safetensors file; WeightsError where they do not fit."""
    policy = ReferencePolicy(**description, device=device)
    load_state(policy.net, load_tensors(weights), weights)
    return policy


def _scalars(rewards: Tensor, present: Tensor, valid: Tensor, judge: Judge) -> dict[str, float]:
    """Mean of every reward where it counts, and how r_a and r_b correlate with the true Dice inside the groups."""
    scalars: dict[str, float] = {}
    for name, values, there in zip(REWARDS, rewards, present):
        counts = there[:, None] & valid
        if counts.any():
            scalars[f"policy_{name}"] = float(values[counts].mean())
    known = judge.known[:, None] & valid
    for number, name in ((1, "iou"), (2, "view")):
        if number == 2 and judge.view is None:
            continue
        found = correlation(rewards[0], rewards[number], known)
        if found is not None:
            scalars[f"policy_{name}_correlation"] = found
    return scalars


def correlation(a: Tensor, b: Tensor, counts: Tensor) -> float | None:
    """Pearson's, of (N, G) values, each relative to the mean of its group, where (N, G) ``counts``; None without any spread.

    Relative to the group, because that is all that GRPO looks at: that easy images score high in both says nothing.
    """
    weight = counts.float()
    members = weight.sum(1, keepdim=True).clamp(min=1)
    first, second = (
        (v.masked_fill(~counts, 0) - v.masked_fill(~counts, 0).sum(1, keepdim=True) / members) * weight for v in (a, b)
    )
    size = float((first.square().sum() * second.square().sum()).sqrt())
    return float((first * second).sum()) / size if size > 1e-9 else None


def _learning(found: list[Diagnostics]) -> dict[str, float]:
    if not found:
        return {"policy_groups": 0.0}
    last = found[-1]
    return {
        "policy_groups": float(last.groups),
        "policy_clipped": float(last.clip_fraction),
        "policy_kl": float(last.kl),
        "policy_ratio": float(last.ratio_max),
    }
