"""Group-relative policy optimisation, for any policy that samples and scores sequences of choices.

GRPO (Shao et al. 2024, "DeepSeekMath", sec. 4.1) needs no value network: several answers to the same question are compared with each
other. The answers of a group are drawn without replacement by stochastic beam search (Kool et al. 2019, "Stochastic Beams and Where to
Find Them"), so that no reward is computed twice for the same answer.

One round, for B questions (queries), G answers each and T choices per answer::

    sequences, log_probabilities = policy.sample(observation, G, T, generator)
    valid = log_probabilities > -torch.inf
    rewards, present = ...                                  # (R, B, G), (R, B)
    update(policy, observation, sequences, advantages(rewards, present, valid), descent(optimizer), valid=valid)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ObservationT = TypeVar("ObservationT", contravariant=True)
"""A policy's input for the queries. GRPO passes it on without reading it, so that a policy may use any type."""


class Policy(Protocol[ObservationT]):
    """The interface of policies that GRPO can train. Both methods must be deterministic given their arguments: no dropout."""

    def sample(
        self, observation: ObservationT, /, groups: int, length: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw ``groups`` distinct sequences per query, usually by ``beam_search``.

        Returns:
            (B, G, T) long, in descending order of their perturbed log-probabilities: the first is an exact draw from the policy; and
            (B, G) log-probabilities of the whole sequences. -inf marks a place that could not be filled, because fewer than G
            sequences exist; it repeats the first one.
        """
        ...

    def score(self, observation: ObservationT, /, sequences: Tensor) -> Tensor:
        """(B, G, T) sequences → (B, G, T) log-probability of every choice given those before it, differentiable."""
        ...


class Diagnostics(NamedTuple):
    """Of one inner epoch, over the choices of the groups that were used; scalars without gradient.

    Attributes:
        loss: the objective that was descended.
        ratio_mean, ratio_max: new over old probability of a choice.
        clip_fraction: share of the choices whose ratio lies outside 1 ± clip.
        kl: estimated divergence from the reference policy; 0 without one.
        groups: how many groups were used.
    """

    loss: Tensor
    ratio_mean: Tensor
    ratio_max: Tensor
    clip_fraction: Tensor
    kl: Tensor
    groups: Tensor


# ---------------------------------------------------------------------------------------------------------- drawing


@torch.no_grad()
def beam_search(
    logits: Callable[[Tensor], Tensor],
    batch: int,
    width: int,
    length: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    alike: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sequences without replacement by Gumbel-top-k over whole sequences (Kool et al. 2019, algorithm 1), or an ordinary beam search.

    Exact although it never looks at more than ``width`` prefixes: the Gumbel noise of a prefix is the maximum of that of its
    continuations, so these are drawn given that maximum. The first sequence is distributed as the policy says, the second as the
    policy says given that it is not the first, and so on.

    Args:
        logits: (B, W, t) prefixes, W <= ``width`` → (B, W, K) unnormalised log-probabilities of the next choice. -inf = impossible;
            at least one choice must be possible after every prefix.
        batch: B.
        width: G, how many sequences.
        length: T.
        generator: of the noise, on the CPU or elsewhere; None: no noise, the usual search for the most probable (1 wide: greedy).
        device: of the prefixes.
        alike: the same noise for every row, so that what a row draws does not depend on the rows beside it.

    Returns:
        (B, G, T) long, distinct within a row and best first; and (B, G) log-probabilities, -inf where fewer than G sequences exist:
        such places repeat the first sequence.
    """
    prefix = torch.zeros(batch, 1, 0, dtype=torch.long, device=device)
    total = torch.zeros(batch, 1, device=device)
    perturbed = total
    for _ in range(length):
        children = total[..., None] + logits(prefix).float().log_softmax(-1)
        ranked = children if generator is None else _gumbel_below(children, perturbed, generator, alike)
        best = ranked.flatten(1).topk(min(width, ranked[0].numel()), dim=1)
        parent, item = best.indices // children.shape[-1], best.indices % children.shape[-1]
        perturbed, total = best.values, children.flatten(1).gather(1, best.indices)
        prefix = prefix.gather(1, parent[..., None].expand(-1, -1, prefix.shape[-1]))
        prefix = torch.cat([prefix, item[..., None]], -1)
        # An impossible prefix stays impossible; the first prefix replaces it because ``logits`` needs one that can be continued.
        prefix = torch.where(total[..., None] > -torch.inf, prefix, prefix[:, :1])
    shortfall = width - prefix.shape[1]
    prefix = torch.cat([prefix, prefix[:, :1].expand(-1, shortfall, -1)], 1)
    return prefix, F.pad(total, (0, shortfall), value=-torch.inf)


def _gumbel_below(log_probabilities: Tensor, maximum: Tensor, generator: torch.Generator, alike: bool) -> Tensor:
    """Gumbel variables (B, W, K) with these locations, given that the largest over K is ``maximum`` (B, W).

    In the numerically stable form of Kool et al. 2019, appendix B.3; -inf stays -inf.
    """
    shape = log_probabilities.shape[1:] if alike else log_probabilities.shape
    noise = torch.empty(shape, device=generator.device).exponential_(generator=generator)
    free = log_probabilities - noise.to(log_probabilities).log()
    below = free - free.amax(-1, keepdim=True)
    rest = torch.where(below > -0.69, (-torch.expm1(below)).log(), torch.log1p(-below.exp()))
    v = maximum[..., None] - free + rest
    conditional = maximum[..., None] - v.relu() - torch.log1p(torch.exp(-v.abs()))
    return torch.where(log_probabilities > -torch.inf, conditional, -torch.inf)


# ---------------------------------------------------------------------------------------------------------- judging


def standardise(rewards: Tensor, valid: Tensor | None = None, floor: float = 1e-3) -> Tensor:
    """Rewards relative to their group: (r - mean) / standard deviation (Shao et al. 2024, sec. 4.1.2).

    Args:
        rewards: (B, G).
        valid: (B, G) bool, which members count; None = all.
        floor: a group whose (population) standard deviation is below it becomes all zero: dividing by so small a number would scale
            mere noise up to size one.

    Returns:
        (B, G) float; zero where not valid; sums to zero over every group.
    """
    rewards = rewards.float()
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    members = valid.sum(1, keepdim=True).clamp(min=1)
    mean = rewards.masked_fill(~valid, 0).sum(1, keepdim=True) / members
    centred = (rewards - mean).masked_fill(~valid, 0)
    deviation = (centred.square().sum(1, keepdim=True) / members).sqrt()
    spread = deviation >= floor
    return torch.where(spread, centred / torch.where(spread, deviation, 1), 0)


def advantages(rewards: Tensor, present: Tensor, valid: Tensor | None = None, floor: float = 1e-3) -> Tensor:
    """Sum of several rewards, each standardised by itself, so that none outweighs another by its scale.

    Args:
        rewards: (R, B, G); may be anything, NaN included, where not present or not valid.
        present: (R, B) bool, which rewards a query has; an absent one does not count.
        valid: (B, G) bool, which members of the groups count; None = all.
        floor: see ``standardise``.

    Returns:
        (B, G) float; sums to zero over every group, and is all zero for a group whose rewards do not differ.

    Raises:
        ValueError: a reward that counts is NaN or infinite.
    """
    counts = present[..., None].expand(rewards.shape)
    if valid is not None:
        counts = counts & valid
    if not bool((rewards.isfinite() | ~counts).all()):
        reward, query, member = (~rewards.isfinite() & counts).nonzero()[0].tolist()
        raise ValueError(f"reward {reward} of query {query}, group member {member}, is not finite")
    each = standardise(rewards.flatten(0, 1), counts.flatten(0, 1), floor)
    return each.view(rewards.shape).sum(0)


# ---------------------------------------------------------------------------------------------------------- learning


def grpo_loss(
    new: Tensor,
    old: Tensor,
    advantages: Tensor,
    clip: float = 0.2,
    reference: Tensor | None = None,
    kl: float = 0.0,
    valid: Tensor | None = None,
) -> tuple[Tensor, Diagnostics]:
    """The clipped-ratio objective of GRPO (Shao et al. 2024, eq. 3), to be minimised.

    Averaged over the choices of a sequence, the valid sequences of a group, and the groups that are used: those with an advantage other
    than zero. A group that is not used adds nothing at all, not even its divergence from the reference.

    Args:
        new: (B, G, T) log-probability of every choice under the policy that learns, with gradient.
        old: (B, G, T) the same under the policy that drew the sequences.
        advantages: (B, G).
        clip: largest distance of a ratio from 1 up to which a further change still lowers the loss.
        reference: (B, G, T) the same under a policy to stay close to.
        kl: weight of the divergence from it, estimated without bias by ``r - log r - 1`` with r = reference / new (eq. 4).
        valid: (B, G) bool, which members of the groups exist; None = all.

    Returns:
        The loss, a scalar that stays connected to ``new`` even where no group is used, and diagnostics.
    """
    valid = torch.ones_like(advantages, dtype=torch.bool) if valid is None else valid
    used = ((advantages != 0) & valid).any(1)
    member = (valid & used[:, None]).float()
    weight = member / (member.sum(1, keepdim=True) * used.sum()).clamp(min=1) / new.shape[-1]
    counts = (member[..., None] > 0).expand(new.shape)
    # Cleared before the exponential, because the gradient of an unused infinity would be NaN.
    ratio = (new - old).masked_fill(~counts, 0).exp()
    gain = torch.minimum(ratio * advantages[..., None], ratio.clamp(1 - clip, 1 + clip) * advantages[..., None])
    divergence = torch.zeros_like(ratio)
    if reference is not None:
        away = (reference - new).masked_fill(~counts, 0)
        divergence = torch.expm1(away) - away
    loss = ((kl * divergence - gain) * weight[..., None]).sum()
    with torch.no_grad():
        choices = counts.sum().clamp(min=1)
        diagnostics = Diagnostics(
            loss=loss.detach(),
            ratio_mean=(ratio * counts).sum() / choices,
            ratio_max=(ratio * counts).amax(),
            clip_fraction=(((ratio - 1).abs() > clip) & counts).sum() / choices,
            kl=(divergence * weight[..., None]).sum(),
            groups=used.sum(),
        )
    return loss, diagnostics


def update(
    policy: Policy[ObservationT],
    observation: ObservationT,
    sequences: Tensor,
    advantages: Tensor,
    descend: Callable[[Tensor], None],
    *,
    epochs: int = 2,
    clip: float = 0.2,
    old: Tensor | None = None,
    reference: Policy[ObservationT] | None = None,
    kl: float = 0.0,
    valid: Tensor | None = None,
    active: bool | None = None,
) -> list[Diagnostics]:
    """Learn from one batch of groups, ``epochs`` times over.

    Args:
        policy: what learns.
        observation: without gradients of its own (it is scored once per epoch).
        sequences: (B, G, T) from ``policy.sample``.
        advantages: (B, G).
        descend: takes one optimiser step on a loss (``descent``, or a trainer's function for several processes).
        epochs: how often the sequences are used.
        clip, kl: see ``grpo_loss``.
        old: (B, G, T) scores by the policy that drew the sequences; None: ``policy`` is that policy and has not learnt since, so that
            the ratios of the first epoch are exactly 1.
        reference: a policy to stay close to; not evaluated where ``kl`` is 0.
        valid: (B, G) bool, which members of the groups exist; None = all.
        active: whether to step at all; None: where any group is used. Momentum and weight decay would move the parameters even
            without a gradient. With many processes, tell each whether ANY of them has a group, so that all step equally often.

    Returns:
        Diagnostics of every epoch; empty where nothing was learnt.
    """
    valid = torch.ones_like(advantages, dtype=torch.bool) if valid is None else valid
    if active is None:
        active = bool(((advantages != 0) & valid).any())
    if not active:
        return []
    anchor = None
    if reference is not None and kl > 0:
        with torch.no_grad():
            anchor = reference.score(observation, sequences)
    diagnostics: list[Diagnostics] = []
    for _ in range(epochs):
        new = policy.score(observation, sequences)
        old = new.detach() if old is None else old
        loss, of_epoch = grpo_loss(new, old, advantages, clip, anchor, kl, valid)
        descend(loss)
        diagnostics.append(of_epoch)
    return diagnostics


def descent(optimizer: torch.optim.Optimizer, max_norm: float = 1.0) -> Callable[[Tensor], None]:
    """One step of ``optimizer`` per call, gradients clipped to ``max_norm`` over all its parameters: for a single process."""

    def descend(loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
        optimizer.step()

    return descend
