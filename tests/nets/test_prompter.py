"""The prompter's inputs against hand-worked places, and what its outputs promise."""

from __future__ import annotations

import pytest
import torch

from maskwright.nets.prompter import (
    STATE_MAPS,
    Observation,
    Prompter,
    click_maps,
    similarities,
    state_maps,
)
from maskwright.sam.sam import Embedding

SIZE, GRID = 64, 8


def observation(count: int = 3, width: int = 64, seed: int = 0) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    embedding = Embedding(
        torch.randn(count, width // 8, 16, 16, generator=generator),
        torch.randn(count, width // 4, 8, 8, generator=generator),
        torch.randn(count, width, 4, 4, generator=generator),
    )
    labels = torch.tensor([[1, 0, -1, -1]]).expand(count, -1)
    points = torch.rand(count, 4, 2, generator=generator) * SIZE
    return Observation(embedding, 3 * torch.randn(count, 16, 16, generator=generator), points, labels)


def test_a_click_is_a_spot_in_its_own_map_and_padding_is_nowhere():
    points = torch.tensor([[[12.0, 44.0], [52.0, 4.0], [30.0, 30.0]]])
    maps = click_maps(points, torch.tensor([[1, 0, -1]]), SIZE, GRID)
    # Cells are 8 pixels wide: x 12 is the middle of column 1, y 44 of row 5.
    assert maps.shape == (1, 3, GRID, GRID)
    assert (maps[0, 0].argmax(), maps[0, 1].argmax()) == (5 * GRID + 1, 0 * GRID + 6)
    assert torch.allclose(maps[0, :2].flatten(1).amax(1), torch.ones(2))
    assert maps[0, 0, 3, 3] < 1e-6
    assert not maps[0, 2].any()
    assert not click_maps(points, torch.full((1, 3), -1), SIZE, GRID).any()
    assert not click_maps(points[:, :0], torch.zeros(1, 0, dtype=torch.long), SIZE, GRID).any()


def test_the_box_covers_the_cells_whose_centres_lie_in_it():
    corners = torch.tensor([[[8.5, 16.5], [39.5, 31.5]]])
    box = click_maps(corners, torch.tensor([[2, 3]]), SIZE, GRID)[0, 2]
    expected = torch.zeros(GRID, GRID)
    expected[2:4, 1:5] = 1
    assert torch.equal(box, expected)


def test_state_maps_say_what_the_answer_is():
    logits = torch.full((1, 16, 16), -20.0)
    logits[:, :4, :4] = 20
    logits[:, 8:, :] = 0
    maps = state_maps(logits, torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long), GRID)
    assert maps.shape == (1, STATE_MAPS, GRID, GRID)
    probability, _, entropy = maps[0, :3]
    assert torch.allclose(probability[:2, :2], torch.ones(2, 2))
    assert torch.allclose(entropy[4:], torch.full((4, 8), 2.0).log(), atol=1e-5)
    assert entropy[:4].abs().max() < 1e-5
    across, down = maps[0, 6:]
    assert torch.allclose(across[0], torch.linspace(-7 / 8, 7 / 8, 8))
    assert torch.equal(down, across.T)


def test_similarity_is_the_cosine_with_the_mean_feature():
    features = torch.zeros(1, 2, GRID, GRID)
    features[:, 0, :, :4], features[:, 1, :, 4:] = 3.0, 5.0
    maps = torch.zeros(1, STATE_MAPS, GRID, GRID)
    maps[:, 0, :, :4] = 1  # the answer is the left half
    maps[:, 4, 0, 6] = 1  # one negative click, on the right
    found = similarities(features, maps)[0]
    left = torch.zeros(GRID, GRID)
    left[:, :4] = 1
    assert torch.allclose(found[0], left)
    assert torch.allclose(found[1], 1 - left)
    assert not found[2].any()  # no positive click
    assert torch.allclose(found[3], 1 - left)


@pytest.mark.parametrize("labels", [1, 2])
def test_what_is_said_of_a_state_depends_on_it_alone(labels: int):
    torch.manual_seed(0)
    prompter = Prompter(64, hidden=16, labels=labels)
    for parameter in prompter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    seen = observation()
    together = prompter(seen)
    assert together.values.shape == (3, labels, GRID, GRID)
    assert together.policy.shape == (3, labels * GRID * GRID + 1)
    assert (together.truth.shape, together.critic.shape) == ((3, GRID, GRID), (3,))
    alone = [prompter(seen[i : i + 1]) for i in range(3)]
    for name in ("values", "policy", "truth", "critic", "features"):
        whole = getattr(together, name)
        assert torch.allclose(whole, torch.cat([getattr(a, name) for a in alone]), atol=1e-5)
        assert not torch.allclose(whole[0], whole[1])


def test_an_untrained_policy_is_a_softmax_of_the_values_and_of_what_stopping_is_worth():
    torch.manual_seed(0)
    prompter = Prompter(64, hidden=16, temperature=0.05, stop_value=0.1)
    with torch.no_grad():
        prompter.heads.weight[:2].normal_()
    advice = prompter(observation())
    assert advice.values.std() > 0
    assert torch.allclose(advice.policy[:, :-1], advice.values.flatten(1) / 0.05)
    assert torch.allclose(advice.policy[:, -1], torch.full((3,), 2.0))
    # Values are taught by their own targets: what the policy learns does not move them.
    advice.policy.logsumexp(1).sum().backward()
    assert prompter.heads.weight.grad is None
    assert all(parameter.grad is not None for parameter in prompter.policy_parameters())


def test_learning_the_policy_leaves_all_else_as_it_is():
    torch.manual_seed(0)
    prompter = Prompter(64, hidden=16)
    seen = observation()
    before = prompter(seen)
    optimizer = torch.optim.SGD(prompter.policy_parameters(), lr=1.0)
    (-prompter(seen).policy.log_softmax(1)[:, -1].mean()).backward()
    optimizer.step()
    after = prompter(seen)
    assert after.policy.softmax(1)[:, -1].mean() > before.policy.softmax(1)[:, -1].mean()
    for name in ("values", "truth", "critic", "features"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_it_is_small_and_its_description_makes_it_again():
    prompter = Prompter(256, stop_value=0.01)
    assert sum(parameter.numel() for parameter in prompter.parameters()) < 500_000
    again = Prompter(**prompter.description())
    again.load_state_dict(prompter.state_dict())
    assert (again.stop_value, again.temperature) == (prompter.stop_value, prompter.temperature)
