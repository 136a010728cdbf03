"""PPO: advantages by a slow reading, a ratio of 1 before anything is learnt, the same step however it is cut, and learning."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maskwright.nets.place_policy import PlacePolicy
from maskwright.rl.ppo import Rollout, Settings, advantages, log_probabilities, sampler, update


@settings(max_examples=30, deadline=None)
@given(gamma=st.floats(0, 1), smoothing=st.floats(0, 1), steps=st.integers(1, 6), seed=st.integers(0, 99))
def test_advantages_are_the_sum_they_stand_for(gamma: float, smoothing: float, steps: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, steps, 3, generator=g, dtype=torch.float64)
    found = advantages(rewards, values, gamma, smoothing)
    for episode in range(3):
        r, v = rewards[:, episode].tolist(), [*values[:, episode].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(steps)]
        for t in range(steps):
            expected = sum((gamma * smoothing) ** k * delta[t + k] for k in range(steps - t))
            assert float(found[t, episode]) == pytest.approx(expected, abs=1e-9)
    # The paper's form: Q − V with Q = r + γ V(s').
    plain = rewards + gamma * torch.cat([values[1:], torch.zeros(1, 3)]) - values
    torch.testing.assert_close(advantages(rewards, values, gamma, 0.0), plain)


def collect(net: nn.Module, states: torch.Tensor, reward, seed: int = 0) -> Rollout:
    """Episodes over given states (T, N, ...); ``reward(step, actions)`` pays. Some actions are not allowed."""
    draw, steps = sampler(torch.Generator().manual_seed(seed)), []
    for step, state in enumerate(states):
        with torch.no_grad():
            logits, values = net(state)
        allowed = torch.ones_like(logits, dtype=torch.bool)
        allowed[::2, 1] = False
        log_probs = log_probabilities(logits, allowed)
        actions = draw(log_probs)
        taken = log_probs.gather(1, actions[:, None])[:, 0]
        entry = {"states": state, "allowed": allowed, "actions": actions, "log_probs": taken, "values": values}
        steps.append(entry | {"rewards": reward(step, actions)})
    return Rollout.stack(steps)


def policy(seed: int = 0) -> PlacePolicy:
    torch.manual_seed(seed)
    net = PlacePolicy(8, 4, 8)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize("chunk", [1, 7, 30, 256])
def test_the_first_ratio_is_one_and_the_cut_does_not_matter(chunk: int) -> None:
    states = torch.randn(5, 6, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    rollout = collect(policy(), states, lambda _, actions: actions.float() / 8 - 1)
    whole, parts = policy(), policy()
    # Not Adam, which makes large steps of rounding errors where a gradient is zero.
    expected = update(whole, torch.optim.SGD(whole.parameters(), 0.1), rollout, Settings(epochs=3, entropy=0.01))
    found = update(
        parts, torch.optim.SGD(parts.parameters(), 0.1), rollout, Settings(epochs=3, entropy=0.01, chunk=chunk)
    )
    assert found["ratio_first"] < 1e-5
    assert found == pytest.approx(expected, abs=1e-4)
    for name, value in parts.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], atol=1e-4, rtol=1e-3)


def test_ratios_move_and_are_clipped() -> None:
    states = torch.randn(5, 6, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    net = policy()
    rollout = collect(net, states, lambda _, actions: actions.float() / 8 - 1)
    told = update(net, torch.optim.Adam(net.parameters(), 0.05), rollout, Settings(epochs=10))
    assert told["ratio_first"] < 1e-5
    assert 0.05 < told["clipped"] <= 1.0


def test_a_policy_that_has_moved_far_enough_moves_no_further() -> None:
    states = torch.randn(5, 6, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    rollout = collect(policy(), states, lambda _, actions: actions.float() / 8 - 1)

    def moved(epochs: int, max_kl: float | None) -> tuple[nn.Module, dict[str, float]]:
        net = policy()
        told = update(net, torch.optim.Adam(net.parameters(), 0.02), rollout, Settings(epochs=epochs, max_kl=max_kl))
        return net, told

    _, free = moved(10, None)
    assert free["ppo_epochs"] == 10
    held, told = moved(10, 0.1)
    stopped = int(told["ppo_epochs"])
    assert 0 < stopped < 10
    assert told["kl"] > 0.1
    # The same as the whole update with so many epochs, the last of which was within the bound.
    same, before = moved(stopped, None)
    assert all(torch.equal(a, b) for a, b in zip(held.parameters(), same.parameters(), strict=True))
    assert before["kl"] <= 0.1
    # By the definition, of the network as it is now.
    with torch.no_grad():
        logits, _ = held(rollout.states.flatten(0, 1))
    now = log_probabilities(logits, rollout.allowed.flatten(0, 1)).gather(1, rollout.actions.flatten()[:, None])[:, 0]
    log_ratio = now - rollout.log_probs.flatten()
    assert told["kl"] == pytest.approx(float((log_ratio.exp() - 1 - log_ratio).mean()), rel=1e-4)


def test_the_losses_by_hand() -> None:
    """One step, two episodes, a net that says the same of every state."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits, self.value = nn.Parameter(torch.tensor([0.0, 1.0])), nn.Parameter(torch.tensor(0.5))

        def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.logits.expand(len(state), 2), self.value.expand(len(state))

    net = Constant()
    probability = torch.tensor([0.0, 1.0]).softmax(0)
    # The first action was twice as unlikely when it was taken: its ratio of 2 is clipped, as it was paid for.
    rollout = Rollout(
        states=torch.zeros(1, 2, 1),
        allowed=torch.ones(1, 2, 2, dtype=torch.bool),
        actions=torch.tensor([[0, 1]]),
        log_probs=torch.stack([(probability[0] / 2).log(), probability[1].log()])[None],
        values=torch.tensor([[0.5, 0.5]]),
        rewards=torch.tensor([[1.5, -0.5]]),
    )
    before = copy.deepcopy(net)
    told = update(net, torch.optim.SGD(net.parameters(), 0.0), rollout, Settings(epochs=1, clip=0.2))
    # Advantages 1 and −1; ratios 2 (clipped to 1.2) and 1.
    assert told["policy_loss"] == pytest.approx(-(1.2 * 1.0 + 1.0 * -1.0) / 2, rel=1e-5)
    assert told["value_loss"] == pytest.approx(((0.5 - 1.5) ** 2 + (0.5 + 0.5) ** 2) / 2)
    assert told["entropy"] == pytest.approx(float(-(probability * probability.log()).sum()), rel=1e-5)
    assert told["clipped"] == pytest.approx(0.5)
    assert torch.equal(before.logits, net.logits)


def test_actions_that_are_not_allowed_are_never_taken() -> None:
    draw = sampler(torch.Generator().manual_seed(0))
    allowed = torch.tensor([True, False, True, True]).expand(4000, 4)
    log_probs = log_probabilities(torch.tensor([1.0, 9.0, 0.0, 0.0]).expand(4000, 4), allowed)
    shares = torch.bincount(draw(log_probs), minlength=4) / 4000
    expected = torch.tensor([1.0, 0.0, 0.0]).softmax(0)
    assert shares[1] == 0
    torch.testing.assert_close(shares[[0, 2, 3]], expected, atol=0.03, rtol=0)


@torch.no_grad()
def test_policy_knows_no_neighbours_and_any_size() -> None:
    net, state = policy(), torch.randn(5, 8, 4, 4)
    logits, values = net(state)
    assert logits.shape == (5, 16)
    alone = [net(row[None]) for row in state]
    torch.testing.assert_close(logits, torch.cat([a for a, _ in alone]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values, torch.cat([v for _, v in alone]), atol=1e-5, rtol=1e-5)
    features, mask = torch.randn(2, 8, 16, 16), torch.rand(2, 16, 16)
    pooled = (features * mask[:, None]).unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))
    torch.testing.assert_close(net.state(features, mask), pooled)
    assert net.state(torch.randn(2, 8, 9, 14), torch.rand(2, 9, 14)).shape == (2, 8, 4, 4)


def test_it_learns_to_find_the_marked_place() -> None:
    """Each state marks one of 16 places by a channel; acting there pays 1, elsewhere −1."""
    torch.manual_seed(0)
    net = PlacePolicy(8, 4, 16)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    g = torch.Generator().manual_seed(2)
    paid = []
    for episode in range(20):
        marked = torch.randint(16, (4, 24), generator=g)
        states = 0.3 * torch.randn(4, 24, 8, 16, generator=g)
        states[:, :, 3].scatter_(2, marked[..., None], 3.0)
        rollout = collect(
            net, states.unflatten(3, (4, 4)), lambda step, a, m=marked: (a == m[step]).float() * 2 - 1, episode
        )
        paid.append(float(rollout.rewards.mean()))
        told = update(net, optimizer, rollout, Settings(epochs=8, smoothing=0.0))
        assert told["ratio_first"] < 1e-5
    assert paid[0] < -0.7
    assert sum(paid[-3:]) / 3 > 0.5
