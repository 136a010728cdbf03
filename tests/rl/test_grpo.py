"""GRPO on policies small enough to enumerate."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from maskwright.rl.grpo import advantages, beam_search, descent, grpo_loss, standardise, update


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Tabular(nn.Module):
    """Ordered choices without repetition: a logit per item, and one per pair of an item chosen and an item to come."""

    def __init__(self, items: int, scale: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.Parameter(scale * torch.randn(items, generator=seeded(seed)))
        self.after = nn.Parameter(scale * torch.randn(items, items, generator=seeded(seed + 1)))

    def logits(self, prefix: Tensor) -> Tensor:
        """(..., t) → (..., K)."""
        chosen = nn.functional.one_hot(prefix, len(self.first)).sum(-2)
        return (self.first + self.after[prefix].sum(-2)).masked_fill(chosen > 0, -torch.inf)

    def sample(
        self, observation: int, groups: int, length: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return beam_search(self.logits, observation, groups, length, generator)

    def score(self, observation: int, sequences: Tensor) -> Tensor:
        steps = [self.logits(sequences[..., :t]).log_softmax(-1) for t in range(sequences.shape[-1])]
        return torch.stack(steps, -2).gather(-1, sequences[..., None])[..., 0]


def table(policy: Tabular, length: int) -> dict[tuple[int, ...], float]:
    """Every sequence with its probability."""
    every = list(itertools.permutations(range(len(policy.first)), length))
    return dict(zip(every, policy.score(1, torch.tensor(every)[None])[0].sum(-1).exp().tolist()))


# ---------------------------------------------------------------------------------------------------------- drawing


@settings(max_examples=50, deadline=None)
@given(
    items=st.integers(1, 6),
    length=st.integers(1, 4),
    groups=st.integers(1, 30),
    batch=st.integers(1, 3),
    noisy=st.booleans(),
)
def test_sequences_are_distinct_and_score_as_they_were_drawn(
    items: int, length: int, groups: int, batch: int, noisy: bool
):
    length = min(length, items)
    policy = Tabular(items, scale=3.0, seed=items)
    sequences, total = policy.sample(batch, groups, length, seeded(groups) if noisy else None)
    assert sequences.shape == (batch, groups, length)
    there = min(groups, math.perm(items, length))
    assert ((total > -torch.inf).sum(1) == there).all()
    for row in sequences.tolist():
        assert len({tuple(s) for s in row}) == there
        assert all(len(set(s)) == length for s in row)
        assert all(s == row[0] for s in row[there:])
    score = policy.score(batch, sequences).sum(-1)
    torch.testing.assert_close(total[:, :there], score[:, :there], rtol=1e-4, atol=1e-4)


def test_first_and_second_draw_follow_the_policy():
    policy = Tabular(4, scale=0.8)
    with torch.no_grad():
        truth = table(policy, 2)
    draws = 20_000
    sequences, _ = policy.sample(draws, 3, 2, seeded(1))
    keys = list(truth)
    position = {key: i for i, key in enumerate(keys)}
    first, second = (torch.tensor([position[tuple(s)] for s in sequences[:, g].tolist()]) for g in (0, 1))
    p = torch.tensor([truth[key] for key in keys], dtype=torch.double)
    # Without replacement: the second is drawn from what the first has left.
    pair = p[:, None] * p[None] / (1 - p)[:, None]
    for found, expected in ((first, p), (second, pair.fill_diagonal_(0).sum(0))):
        count = torch.bincount(found, minlength=len(keys))
        chi_square = ((count - draws * expected).square() / (draws * expected)).sum()
        # 11 degrees of freedom: 31.3 is exceeded with probability 0.001.
        assert chi_square < 31.3


def test_queries_of_a_batch_are_drawn_independently():
    sequences, _ = Tabular(5).sample(400, 1, 1, seeded())
    assert torch.bincount(sequences.flatten(), minlength=5).min() > 50


def test_improbable_sequences_stay_in_order():
    """Float32 must not turn tiny probabilities into ties or NaN."""
    slope = torch.tensor([0.0, -30.0, -60.0, -200.0])
    sequences, total = beam_search(lambda prefix: slope.expand(*prefix.shape[:2], 4), 50, 4, 1, seeded())
    assert (sequences[..., 0] == torch.arange(4)).all()
    torch.testing.assert_close(total, slope.expand(50, 4))


def test_without_noise_it_is_the_usual_beam_search():
    policy = Tabular(5, scale=1.0)
    with torch.no_grad():
        truth = table(policy, 2)
    wide, total = policy.sample(1, 20, 2, None)
    best = sorted(truth, key=lambda s: -truth[s])
    assert [tuple(s) for s in wide[0].tolist()] == best
    torch.testing.assert_close(total[0].exp(), torch.tensor([truth[s] for s in best]))
    greedy = policy.sample(1, 1, 2, None)[0][0, 0].tolist()
    assert greedy[0] == int(policy.first.argmax())


# ---------------------------------------------------------------------------------------------------------- judging


def test_standardise_by_hand():
    found = standardise(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [0.0, 5e-4, 0.0]]))
    root = math.sqrt(1.5)
    torch.testing.assert_close(found, torch.tensor([[-root, 0.0, root], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_standardise_leaves_out_what_is_not_valid():
    found = standardise(torch.tensor([[1.0, 3.0, torch.nan]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, 0.0]]))


def test_absent_rewards_do_not_count():
    rewards = torch.tensor([[[1.0, 3.0], [1.0, 3.0]], [[700.0, 300.0], [torch.nan, torch.nan]]])
    found = advantages(rewards, torch.tensor([[True, True], [True, False]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [-1.0, 1.0]]))


def test_a_reward_that_counts_must_be_finite():
    rewards = torch.zeros(2, 2, 3)
    rewards[1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match="reward 1 of query 0, group member 2"):
        advantages(rewards, torch.ones(2, 2, dtype=torch.bool))


@settings(max_examples=60, deadline=None)
@given(
    rewards=st.integers(1, 3),
    batch=st.integers(1, 4),
    groups=st.integers(1, 8),
    seed=st.integers(0, 999),
    scale=st.floats(0.01, 100),
)
@example(
    rewards=2, batch=2, groups=3, seed=151, scale=2.0
)  # a spread below the usual floor that the scale lifts above it
def test_advantages_sum_to_zero_and_ignore_scale_and_offset(
    rewards: int, batch: int, groups: int, seed: int, scale: float
):
    generator = seeded(seed)
    values = torch.rand(rewards, batch, groups, generator=generator)
    present = torch.rand(rewards, batch, generator=generator) < 0.7
    valid = torch.rand(batch, groups, generator=generator) < 0.8
    found = advantages(values, present, valid)
    assert found.sum(1).abs().max() < 1e-4
    assert (found[~valid] == 0).all()
    assert (found[~present.any(0)] == 0).all()
    # The floor is in the rewards' own unit and moves with their scale; rounding may take a spread that is on it to either side.
    floor = 0.05
    lower, upper = (advantages(values, present, valid, floor * factor) for factor in (0.99, 1.01))
    assume(lower.equal(upper))
    moved = advantages(values * scale + 3, present, valid, floor * scale)
    torch.testing.assert_close(moved, lower, rtol=1e-2, atol=1e-2)


# ---------------------------------------------------------------------------------------------------------- learning


def test_clipped_loss_by_hand():
    # Ratios 1.5 (paid as 1.2), 0.5 (paid in full, as the advantage is positive); 0.5 (paid as 0.8), 1.5 (paid in full).
    new = torch.tensor([[[1.5, 0.5], [0.5, 1.5]]]).log().requires_grad_()
    loss, found = grpo_loss(new, torch.zeros(1, 2, 2), torch.tensor([[2.0, -2.0]]))
    gains = (2 * (1.2 + 0.5) / 2, -2 * (0.8 + 1.5) / 2)
    assert loss.item() == pytest.approx(-sum(gains) / 2)
    assert found.ratio_mean.item() == pytest.approx(1.0)
    assert found.ratio_max.item() == pytest.approx(1.5)
    assert found.clip_fraction.item() == 1.0
    assert found.groups.item() == 1
    loss.backward()
    # Clipped choices pull no more; the others by ratio · advantage / (T · G).
    torch.testing.assert_close(new.grad, torch.tensor([[[0.0, -0.25], [0.0, 0.75]]]))


def test_divergence_by_hand():
    new = torch.zeros(1, 2, 1, requires_grad=True)
    reference = torch.tensor([[[2.0], [0.5]]]).log()
    loss, found = grpo_loss(new, torch.zeros(1, 2, 1), torch.tensor([[1.0, -1.0]]), reference=reference, kl=0.1)
    expected = ((2 - math.log(2) - 1) + (0.5 - math.log(0.5) - 1)) / 2
    assert found.kl.item() == pytest.approx(expected)
    assert loss.item() == pytest.approx(0.1 * expected, rel=1e-5)


def test_what_is_not_used_leaves_no_trace():
    """A group without spread, and places that no sequence fills, whatever their probabilities."""
    new = torch.tensor([[[0.1], [0.2]], [[5.0], [-torch.inf]], [[0.3], [9.0]]], requires_grad=True)
    old = torch.tensor([[[0.0], [0.0]], [[-torch.inf], [0.0]], [[0.0], [-torch.inf]]])
    judged = torch.tensor([[1.0, -1.0], [0.0, 0.0], [1.0, 0.0]])
    valid = torch.tensor([[True, True], [True, True], [True, False]])
    loss, found = grpo_loss(new, old, judged, reference=torch.zeros_like(old), kl=0.5, valid=valid)
    loss.backward()
    assert new.grad is not None
    assert new.grad.isfinite().all()
    assert (new.grad[1] == 0).all()
    assert new.grad[2, 1] == 0
    assert (new.grad[0] != 0).all()
    assert found.groups == 2
    assert found.ratio_max.item() == pytest.approx(math.exp(0.3))
    alone, _ = grpo_loss(
        new[[0, 2]], old[[0, 2]], judged[[0, 2]], reference=torch.zeros(2, 2, 1), kl=0.5, valid=valid[[0, 2]]
    )
    assert loss.item() == pytest.approx(alone.item())


def test_ratio_is_exactly_one_at_first_and_moves_then():
    policy = Tabular(5, scale=0.5)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    sequences, _ = policy.sample(4, 6, 3, seeded())
    judged = standardise(sequences[..., 0].float())
    first, second, third = update(policy, 4, sequences, judged, descent(optimizer), epochs=3)
    assert first.ratio_mean == 1
    assert first.ratio_max == 1
    assert first.clip_fraction == 0
    assert second.ratio_max > 1
    assert third.ratio_max > second.ratio_max


def test_a_group_without_spread_changes_no_parameter():
    policy = Tabular(5, scale=0.5)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.5)
    sequences, _ = policy.sample(2, 4, 2, seeded())
    # Momentum and weight decay would move on.
    update(policy, 2, sequences, standardise(sequences[..., 0].float()), descent(optimizer))
    before = [p.clone() for p in policy.parameters()]
    assert update(policy, 2, sequences, standardise(torch.full((2, 4), 0.7)), descent(optimizer)) == []
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters()))
    # One such group beside a useful one adds nothing to the gradient.
    judged = standardise(torch.stack([sequences[0, :, 0].float(), torch.full((4,), 0.7)]))
    together, _ = grpo_loss(policy.score(2, sequences), policy.score(2, sequences).detach(), judged)
    alone, _ = grpo_loss(policy.score(1, sequences[:1]), policy.score(1, sequences[:1]).detach(), judged[:1])
    parameters = list(policy.parameters())
    for a, b in zip(torch.autograd.grad(together, parameters), torch.autograd.grad(alone, parameters)):
        assert torch.equal(a, b)


def test_a_process_without_groups_steps_where_others_have_some():
    policy = Tabular(4)
    sequences, _ = policy.sample(2, 3, 2, seeded())
    losses: list[Tensor] = []
    found = update(policy, 2, sequences, torch.zeros(2, 3), losses.append, epochs=2, active=True)
    assert len(found) == len(losses) == 2
    losses[0].backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in policy.parameters())


def test_reference_holds_the_policy_back():
    def distance(kl: float) -> float:
        policy, anchor = Tabular(4), Tabular(4)
        optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
        sequences, _ = policy.sample(8, 6, 2, seeded())
        judged = standardise((sequences[..., 0] == 0).float())
        update(policy, 8, sequences, judged, descent(optimizer), epochs=10, reference=anchor, kl=kl)
        return float(policy.first.detach().abs().max())

    assert distance(2.0) < 0.7 * distance(0.0)


def test_old_scores_of_an_earlier_policy_are_kept():
    policy = Tabular(4, scale=1.0)
    sequences, _ = policy.sample(1, 4, 2, seeded())
    old = policy.score(1, sequences).detach() - math.log(2)
    found = update(policy, 1, sequences, torch.tensor([[1.0, -1.0, 0.0, 0.0]]), lambda loss: None, epochs=1, old=old)
    assert found[0].ratio_mean.item() == pytest.approx(2.0)


@pytest.mark.parametrize(("seed", "kl", "enough"), [(1, 0.0, 0.99), (0, 0.03, 0.9), (1, 0.03, 0.9)])
def test_finds_the_best_set(seed: int, kl: float, enough: float):
    """3 of 7 items with a hidden reward of items and pairs, so that the best set is not the three best items.

    Seed 0 is hard: the second-best set is nearly as good and shares one item with the best. Without a reference the policy
    settles on it, however the groups are drawn; held close to where it began, it finds the way out.
    """
    generator = seeded(seed)
    item, pair = torch.rand(7, generator=generator), torch.randn(7, 7, generator=generator).triu(1)

    def worth(sequences: Tensor) -> Tensor:
        first, second, third = sequences.sort(-1).values.unbind(-1)
        return item[sequences].sum(-1) + pair[first, second] + pair[first, third] + pair[second, third]

    every = torch.tensor(list(itertools.combinations(range(7), 3)))
    best = every[worth(every).argmax()]
    assert set(best.tolist()) != set(item.topk(3).indices.tolist())
    policy = Tabular(7)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(120):
        sequences, total = policy.sample(16, 8, 3, generator)
        valid = total > -torch.inf
        judged = advantages(worth(sequences)[None], torch.ones(1, 16, dtype=torch.bool), valid)
        update(policy, 16, sequences, judged, descent(optimizer), reference=Tabular(7), kl=kl, valid=valid)
    orders = torch.tensor(list(itertools.permutations(best.tolist())))[None]
    assert policy.score(1, orders).sum(-1).exp().sum().item() > enough
