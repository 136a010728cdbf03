"""The agent's own answer: what it is before training, what it can learn, and its loss by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from maskwright.nets.answer_maps import doubled
from maskwright.nets.fusion import LOGIT_LIMIT, Fusion, answer_loss
from maskwright.nets.prompter import Advice, Observation
from maskwright.sam.sam import Embedding

WIDTH, HIDDEN, GRID = 32, 8, 8


def states(count: int, seed: int) -> tuple[Observation, Advice]:
    """States of a canvas of 64 pixels, and a prompter's advice on them, all at random."""
    made = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    embedding = Embedding(noise(count, WIDTH // 8, 16, 16), noise(count, WIDTH // 4, 8, 8), noise(count, WIDTH, 4, 4))
    observation = Observation(
        embedding, 8 * noise(count, 16, 16), torch.zeros(count, 1, 2), torch.ones(count, 1, dtype=torch.long)
    )
    truth, features = 3 * noise(count, GRID, GRID), noise(count, HIDDEN, GRID, GRID)
    nothing = torch.zeros(count)
    return observation, Advice(noise(count, 2, GRID, GRID), noise(count, 129), truth, nothing, features)


@pytest.fixture
def fusion() -> Fusion:
    torch.manual_seed(0)
    return Fusion(WIDTH, HIDDEN, 8)


def test_before_training_it_is_the_belief_tipped_by_sam(fusion: Fusion):
    observation, advice = states(3, 0)
    found = fusion(observation, advice)
    expected = doubled(advice.truth[:, None])[:, 0] + 0.1 * observation.logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    assert found.shape == (3, 16, 16)
    assert torch.allclose(found, expected, atol=1e-5)
    assert Fusion(**fusion.description()).description() == fusion.description()


def test_a_state_does_not_depend_on_its_neighbours(fusion: Fusion):
    torch.nn.init.normal_(fusion.correction[-1].weight)
    observation, advice = states(4, 1)
    whole = fusion(observation, advice)
    for row in range(4):
        one = slice(row, row + 1)
        assert torch.allclose(fusion(observation[one], advice[one])[0], whole[row], atol=1e-4)


def test_it_learns_from_the_finest_features_what_neither_mask_says(fusion: Fusion):
    optimizer = torch.optim.Adam(fusion.parameters(), 0.02)
    for step in range(60):
        observation, advice = states(8, step)
        optimizer.zero_grad()
        answer_loss(fusion(observation, advice), (observation.embedding.high0[:, 0] > 0).float()).backward()
        optimizer.step()
    observation, advice = states(8, 1000)
    truth = observation.embedding.high0[:, 0] > 0
    assert ((fusion(observation, advice) > 0) == truth).float().mean() > 0.95


def test_the_loss_by_hand():
    logits = torch.tensor([[[math.log(3.0), -math.log(3.0)]]])  # probabilities .75 and .25
    area = torch.tensor([[[1.0, 0.0]]])
    dice = 2 * 0.75 / (1.0 + 1.0)
    expected = 2 * -math.log(0.75) + 0.5 * (1 - dice)
    assert float(answer_loss(logits, area)) == pytest.approx(expected, abs=1e-6)
    assert float(answer_loss(logits.mul(100), area)) == pytest.approx(0, abs=1e-6)
    assert torch.equal(doubled(logits[None]), F.interpolate(logits[None], (2, 4), mode="bilinear"))
