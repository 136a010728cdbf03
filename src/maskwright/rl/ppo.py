"""Proximal policy optimisation for episodes of one length that run side by side.

Schulman et al., "Proximal Policy Optimization Algorithms", 2017. The defaults are AlignSAM's plain form (Huang et al., CVPR 2024): the
advantage is ``r + γ V(s') − V(s)``, not normalised, and there is no bonus for entropy; other forms are options.

An epoch is one step of the optimiser on the whole rollout; cutting it into chunks bounds the memory and does not change the step. In the
first epoch every action is therefore exactly as likely as when it was taken: the ratio is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Settings:
    """How to learn from one collection of episodes.

    Attributes:
        epochs: steps of the optimiser.
        clip: largest distance of the ratio from 1 up to which a further change still lowers the loss.
        gamma: discount.
        smoothing: λ of generalised advantage estimation (Schulman et al. 2016); 0 looks one step ahead.
        entropy: weight of the policy's entropy.
        value: weight of the critic's squared error.
        normalise: bring the advantages to mean 0 and deviation 1.
        chunk: transitions evaluated at once; bounds the memory and has no other effect.
        max_norm: gradients are clipped to this length.
        max_kl: no further epoch once the policy has moved so far, in nats, from the one that acted; None: all epochs. Beyond the clip
            an epoch moves only the critic and what the clip does not hold, at the full price.
    """

    epochs: int = 20
    clip: float = 0.2
    gamma: float = 0.99
    smoothing: float = 0.0
    entropy: float = 0.0
    value: float = 0.5
    normalise: bool = False
    chunk: int = 256
    max_norm: float = 1.0
    max_kl: float | None = None


@dataclass(frozen=True)
class Rollout:
    """N episodes of T steps each. Tensors are (T, N).

    Attributes:
        states: (T, N, ...) inputs of the policy.
        allowed: (T, N, A) bool, the actions that it could choose from.
        actions: int64, the actions taken.
        log_probs: log-probabilities of the actions under the policy that took them.
        values: the critic's values of the states at that time.
        rewards: of the actions.
    """

    states: Tensor
    allowed: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor

    @staticmethod
    def stack(steps: list[dict[str, Tensor]]) -> Rollout:
        """From T steps, each with the fields as (N, ...)."""
        return Rollout(**{name: torch.stack([step[name] for step in steps]) for name in steps[0]})


def advantages(rewards: Tensor, values: Tensor, gamma: float, smoothing: float) -> Tensor:
    """``Σ (γλ)^k δ_{t+k}`` with ``δ_t = r_t + γ V_{t+1} − V_t``; the value after the last step is 0.

    Args:
        rewards, values: (T, N).

    Returns:
        (T, N).
    """
    following = F.pad(values[1:], (0, 0, 0, 1))
    delta = rewards + gamma * following - values
    result = torch.zeros_like(delta)
    running = torch.zeros_like(delta[0])
    for step in reversed(range(len(delta))):
        running = delta[step] + gamma * smoothing * running
        result[step] = running
    return result


def log_probabilities(logits: Tensor, allowed: Tensor) -> Tensor:
    """(..., A) log-probabilities of the allowed actions; -inf for the others."""
    return logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)


def update(net: nn.Module, optimizer: torch.optim.Optimizer, rollout: Rollout, settings: Settings) -> dict[str, float]:
    """Learn from a rollout.

    Args:
        net: states (n, ...) → logits (n, A) and values (n,). Its output for a state must not depend on the others of the batch.
        optimizer: of the net.
        rollout: collected with the net as it is now.
        settings: see ``Settings``.

    Returns:
        Numbers to be logged: ``policy_loss`` and ``value_loss`` of the first epoch, ``entropy`` at its start, ``ratio_first``: the largest
        distance of a ratio from 1 in the first epoch, ``clipped``: share of ratios beyond the clip in the last, ``kl``: the estimate
        of the distance there, mean of ``ratio − 1 − log ratio`` (Schulman, "Approximating KL divergence", 2020), and ``ppo_epochs``.
    """
    steps, episodes = rollout.actions.shape
    total = steps * episodes
    gain = advantages(rollout.rewards, rollout.values, settings.gamma, settings.smoothing)
    target = (gain + rollout.values).flatten()
    gain = gain.flatten()
    if settings.normalise:
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
    states, allowed = rollout.states.flatten(0, 1), rollout.allowed.flatten(0, 1)
    actions, old = rollout.actions.flatten(), rollout.log_probs.flatten()
    scalars: dict[str, Tensor] = {}
    for epoch in range(settings.epochs):
        optimizer.zero_grad(set_to_none=True)
        zero = gain.new_zeros(())
        sums, worst = dict.fromkeys(("policy_loss", "value_loss", "entropy", "clipped", "kl"), zero), zero
        for start in range(0, total, settings.chunk):
            part = slice(start, start + settings.chunk)
            logits, values = net(states[part])
            log_probs = log_probabilities(logits, allowed[part])
            log_ratio = log_probs.gather(1, actions[part][:, None])[:, 0] - old[part]
            ratio = log_ratio.exp()
            bounded = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            policy_loss = -torch.minimum(ratio * gain[part], bounded * gain[part]).sum() / total
            value_loss = (values - target[part]).square().sum() / total
            spread = -(log_probs.exp() * log_probs.masked_fill(~allowed[part], 0.0)).sum() / total
            (policy_loss + settings.value * value_loss - settings.entropy * spread).backward()
            of_part = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": spread}
            of_part["clipped"] = (ratio != bounded).sum() / total
            of_part["kl"] = (ratio - 1 - log_ratio).sum() / total
            sums = {name: value + of_part[name].detach() for name, value in sums.items()}
            worst = torch.maximum(worst, (ratio.detach() - 1).abs().max())
        scalars |= {"clipped": sums["clipped"], "kl": sums["kl"], "ppo_epochs": zero + epoch}
        if settings.max_kl is not None and float(sums["kl"]) > settings.max_kl:
            break
        nn.utils.clip_grad_norm_(net.parameters(), settings.max_norm)
        optimizer.step()
        scalars["ppo_epochs"] = zero + epoch + 1
        if epoch == 0:
            scalars |= {name: sums[name] for name in ("policy_loss", "value_loss", "entropy")} | {"ratio_first": worst}
    # The device is waited for once.
    return dict(zip(scalars, torch.stack([*scalars.values()]).tolist()))


Sampler = Callable[[Tensor], Tensor]
"""Chooses actions (N,) from log-probabilities (N, A)."""


def sampler(generator: torch.Generator) -> Sampler:
    """Draws actions at random; the generator is on the CPU, so that every device draws the same actions."""

    def draw(log_probs: Tensor) -> Tensor:
        noise = torch.rand(log_probs.shape, generator=generator).clamp(1e-10, 1 - 1e-7).to(log_probs.device)
        return (log_probs - (-noise.log()).log()).argmax(-1)

    return draw
