"""Training the policy that chooses references (SAMIX), and measuring it against heuristics and an oracle.

One round, for N queries: SPNet draws groups of reference sets; SAM answers each distinct set once, all of them in one batch; the
answers are rewarded; ``rl.grpo`` makes the better sets of a group more probable.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskwright.engine.state import flatten_optimizer, unflatten_optimizer
from maskwright.engine.weights import load_state, load_tensors
from maskwright.methods.in_context.judging import REWARDS, Judge, PredictMasks, answer_groups, most_promising, oracle
from maskwright.nets.selector import select
from maskwright.nets.selector_names import Heuristic
from maskwright.nets.spnet import Entries, Query, Shortlist, SPNet, make_shortlist
from maskwright.rl.grpo import Diagnostics, advantages, descent, update


@dataclass(frozen=True)
class PolicySettings:
    """How a policy chooses references, and how it learns to.

    Attributes:
        references: T, references of a query.
        groups: G, sets that are tried for a query in a round of learning.
        shortlist_size: K, candidates of a query.
        explored: candidates that are drawn at random while learning, at most.
        looks: sets that SAM answers before one of them is chosen, see ``ReferencePolicy.choose``; below 2 the policy chooses without an
            answer of SAM.
        lr, weight_decay: of AdamW.
        kl: weight of the divergence from the untrained SPNet; it keeps a policy that learns from few masks close to choosing by similarity.
        epochs, clip: see ``rl.grpo.update``.
        at_once: sets that SAM answers in one batch.

    Raises:
        ValueError: a number is out of range; all that are wrong are named.
    """

    references: int = 4
    groups: int = 8
    shortlist_size: int = 48
    explored: int = 8
    looks: int = 16
    lr: float = 1e-4
    weight_decay: float = 1e-4
    kl: float = 0.1
    epochs: int = 2
    clip: float = 0.2
    at_once: int = 64

    def __post_init__(self) -> None:
        least = dict.fromkeys(("references", "groups", "shortlist_size", "epochs", "at_once"), 1)
        least |= dict.fromkeys(("explored", "looks", "lr", "weight_decay", "kl", "clip"), 0)
        problems = [
            f"{name} {getattr(self, name)} must be at least {low}"
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if problems:
            raise ValueError(f"policy settings: {'; '.join(problems)}")


@dataclass(frozen=True)
class ReferenceChoice:
    """References chosen for N queries.

    Attributes:
        places: (N, T) in the pool, or among the candidates that the policy was given.
        probability: (N, T) of each reference, given those before it; None where it was not asked for, or a heuristic chose.
        logits: (N, h, w) SAM's answer with these references, and iou: (N,) its predicted IoU; None where SAM was not asked before.
    """

    places: Tensor
    probability: Tensor | None = None
    logits: Tensor | None = None
    iou: Tensor | None = None


@dataclass(frozen=True)
class Round:
    """The result of one round of learning.

    Attributes:
        places: (N, T) the best set of every query's group, by advantage.
        decided: (N,) bool, the queries in whose group any set was better than another.
        logits: (N, h, w) the answer to the best set, and iou: (N,) its predicted IoU.
        scalars: for the log; without those that this round did not measure.
    """

    places: Tensor
    decided: Tensor
    logits: Tensor
    iou: Tensor
    scalars: dict[str, float]


class ReferencePolicy:
    """SPNet with its optimiser, and the untrained SPNet that it is kept close to.

    Args:
        channels: C, of the pooled image features.
        memory_channels: M, of the pooled memory.
        settings: left out, the defaults.
        seed: of the initial weights; PyTorch's global generator is left as it is.
        device: of the networks.
    """

    def __init__(
        self,
        channels: int,
        memory_channels: int = 64,
        settings: PolicySettings | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.channels, self.memory_channels = channels, memory_channels
        self.settings = settings = settings or PolicySettings()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = SPNet(channels, memory_channels).to(device)
        self.anchor = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)

    def shortlist(
        self, query: Query, pool: Entries, allowed: Tensor, generator: torch.Generator | None = None
    ) -> Shortlist:
        """The queries with their candidates; some of these at random where there is a ``generator``, else none."""
        size = self.settings.shortlist_size
        random = min(self.settings.explored, size) if generator is not None else 0
        return make_shortlist(query, pool, allowed, generator or torch.Generator(), size, random)

    @torch.no_grad()
    def choose(
        self,
        query: Query,
        pool: Entries,
        allowed: Tensor,
        predict_masks: PredictMasks | None = None,
        with_probability: bool = False,
    ) -> ReferenceChoice:
        """The policy's choice, which depends on nothing but the query and the pool.

        Args:
            query, pool: see ``step``.
            allowed: (N, E) bool, at least one per row.
            predict_masks: SAM's answers to these N queries. With it SAM answers the policy's greedy set and sets
                drawn from the policy, ``looks`` in all, and the set of most ``promise`` is chosen. None: the greedy set.
            with_probability: also tell how probable the choice was, at the price of one more pass of the decoder.
        """
        settings = self.settings
        shortlist = self.shortlist(query, pool, allowed)
        encoded = self.net.encode(shortlist)
        chosen, answer = self.net.choose(encoded, settings.references), ()
        if predict_masks is not None and settings.looks >= 2:
            generator = torch.Generator().manual_seed(0)
            samples, _ = self.net.sample(encoded, settings.looks - 1, settings.references, generator, alike=True)
            sets = torch.cat([chosen[:, None], samples], 1)
            best, *answer = most_promising(predict_masks, shortlist.places(sets), settings.at_once)
            chosen = sets[torch.arange(len(best), device=best.device), best]
        probability = self.net.score(encoded, chosen[:, None])[:, 0].exp() if with_probability else None
        return ReferenceChoice(shortlist.places(chosen), probability, *answer)

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
        settings = self.settings
        shortlist = self.shortlist(query, pool, allowed, generator)
        sequences, total = self.net.sample(shortlist, settings.groups, settings.references, generator)
        valid = total > -torch.inf
        places = shortlist.places(sequences)
        rewards, number, logits = answer_groups(predict_masks, places, judge, settings.at_once)
        present = judge.present()
        advantage = advantages(rewards, present, valid)
        decided = ((advantage != 0) & valid).any(1)
        active = bool(decided.any())
        diagnostics = update(
            self.net,
            shortlist,
            sequences,
            advantage,
            descend or descent(self.optimizer),
            epochs=settings.epochs,
            clip=settings.clip,
            reference=self.anchor,
            kl=settings.kl,
            valid=valid,
            active=agree(active) if agree else active,
        )
        best = advantage.masked_fill(~valid, -torch.inf).argmax(1)
        row = torch.arange(len(best), device=best.device)
        scalars = _reward_scalars(rewards, present, valid, judge) | _learning_scalars(diagnostics)
        # The first set of a group is an exact draw, so this estimates the entropy, per choice.
        scalars["policy_entropy"] = float(-total[:, 0].mean() / settings.references)
        scalars["policy_temperature"] = float(self.net.log_temperature.detach().exp())
        return Round(places[row, best], decided, logits[number[row, best]], rewards[1, row, best], scalars)

    def step_without_queries(self, descend: Callable[[Tensor], None], agree: Callable[[bool], bool]) -> None:
        """Take part in a round of several processes without a query in this one: as many steps, with gradients of zero.

        Args:
            descend, agree: as in ``step``.
        """
        if agree(False):
            for _ in range(self.settings.epochs):
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
        """Mean true Dice of the policy, of a heuristic and of the oracle, on queries with a truth; see ``with_head_room``."""
        settings = self.settings
        similar = select(
            heuristic,
            query.whole,
            query.foreground,
            pool.whole,
            pool.foreground,
            allowed,
            settings.references,
            generator,
        )
        sets = torch.stack([similar, self.choose(query, pool, allowed, predict_masks).places], 1)
        dice = answer_groups(predict_masks, sets, judge, settings.at_once)[0][0].mean(0)
        shortlist = self.shortlist(query, pool, allowed)
        _, dice_of_oracle = oracle(
            predict_masks, judge, shortlist.index, shortlist.allowed, settings.references, settings.at_once
        )
        return {
            "policy_dice": float(dice[1]),
            "heuristic_dice": float(dice[0]),
            "oracle_dice": float(dice_of_oracle[:, -1].mean()),
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
            "references": self.settings.references,
            "shortlist": self.settings.shortlist_size,
            "looks": self.settings.looks,
        }


def load_policy(
    description: Mapping[str, int], weights: str | Path, device: torch.device | str = "cpu"
) -> ReferencePolicy:
    """A trained policy, to choose with.

    Args:
        description: what ``ReferencePolicy.description`` gave; other ``references`` or ``looks`` may stand in it.
        weights: a safetensors file of the policy's network.

    Raises:
        KeyError, TypeError, ValueError: no policy can be built from the description.
        WeightsError: the weights do not fit.
    """
    fields = dict(description)
    channels, memory_channels = fields.pop("channels"), fields.pop("memory_channels", 64)
    if "shortlist" in fields:
        fields["shortlist_size"] = fields.pop("shortlist")
    policy = ReferencePolicy(channels, memory_channels, PolicySettings(**fields), device=device)
    load_state(policy.net, load_tensors(weights), weights)
    return policy


def _reward_scalars(rewards: Tensor, present: Tensor, valid: Tensor, judge: Judge) -> dict[str, float]:
    """Mean of every reward where it counts, and how r_a and r_b correlate with the true Dice inside the groups."""
    scalars: dict[str, float] = {}
    for name, values, is_present in zip(REWARDS, rewards, present):
        counts = is_present[:, None] & valid
        if counts.any():
            scalars[f"policy_{name}"] = float(values[counts].mean())
    has_truth = judge.has_truth[:, None] & valid
    for number, name in ((1, "iou"), (2, "view")):
        if number == 2 and judge.view is None:
            continue
        value = correlation(rewards[0], rewards[number], has_truth)
        if value is not None:
            scalars[f"policy_{name}_correlation"] = value
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


def _learning_scalars(diagnostics: list[Diagnostics]) -> dict[str, float]:
    if not diagnostics:
        return {"policy_groups": 0.0}
    last = diagnostics[-1]
    return {
        "policy_groups": float(last.groups),
        "policy_clipped": float(last.clip_fraction),
        "policy_kl": float(last.kl),
        "policy_ratio": float(last.ratio_max),
    }


def head_room_captured(heuristic: float, policy: float, oracle: float) -> float | None:
    """Share of the way from heuristic to oracle that the policy goes; None where there is no way to go."""
    return (policy - heuristic) / (oracle - heuristic) if oracle > heuristic else None


def with_head_room(assessments: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the scores of ``ReferencePolicy.assess`` over several processes, and ``head_room_captured``, where it is defined."""
    if not assessments:
        return {}
    means = {name: sum(one[name] for one in assessments) / len(assessments) for name in assessments[0]}
    captured = head_room_captured(means["heuristic_dice"], means["policy_dice"], means["oracle_dice"])
    return means if captured is None else means | {"head_room_captured": captured}
