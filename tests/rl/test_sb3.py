"""What Stable-Baselines3's policies see of SAM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from maskwright.data.scenes import render
from maskwright.rl.bank import Bank
from maskwright.rl.envs import ClickEnvSettings, ClickVectorEnv
from maskwright.sam.sam import Sam

pytest.importorskip("stable_baselines3")

from maskwright.rl.sb3 import PPO, SamFeatures, Sb3ClickVecEnv

GRID = 8


@pytest.fixture
def bank(tiny_sam: Sam) -> Bank:
    return Bank.of_scenes(tiny_sam, render(4, tiny_sam.size, seed=3, difficulty=0.2), objects=2)


def ppo(sam: Sam, bank: Bank) -> PPO:
    envs = ClickVectorEnv(
        sam, bank, 3, ClickEnvSettings(grid=GRID, max_clicks=2), autoreset_mode=AutoresetMode.SAME_STEP
    )
    kwargs = {
        "features_extractor_class": SamFeatures,
        "features_extractor_kwargs": {"bank": bank, "features_dim": 24, "channels": 8},
    }
    return PPO("MultiInputPolicy", Sb3ClickVecEnv(envs), n_steps=4, batch_size=6, policy_kwargs=kwargs, seed=0)


def test_a_policy_on_sams_features_learns_and_acts_on_other_images(tiny_sam: Sam, bank: Bank):
    agent = ppo(tiny_sam, bank)
    seen = agent.policy.features_extractor
    assert isinstance(seen, SamFeatures)
    before = [parameter.detach().clone() for parameter in seen.parameters()]
    agent.learn(12)
    assert all(not torch.equal(old, new) for old, new in zip(before, seen.parameters()))
    others = Bank.of_scenes(tiny_sam, render(9, tiny_sam.size, seed=9, difficulty=0.2), objects=2)
    assert len(others) > len(bank)
    seen.bank = others
    settings = ClickEnvSettings(grid=GRID, shuffle=False)
    envs = Sb3ClickVecEnv(
        ClickVectorEnv(tiny_sam, others, len(others), settings, autoreset_mode=AutoresetMode.SAME_STEP)
    )
    observation = envs.reset()
    assert isinstance(observation, dict)
    actions, _ = agent.policy.predict(observation, deterministic=True)
    assert actions.shape == (len(others),)
    assert all(0 <= action < 2 * GRID * GRID for action in actions)


def test_the_image_is_seen_and_the_number_of_the_target_is_not(tiny_sam: Sam, bank: Bank):
    twice = replace(bank, image=torch.cat([bank.image[:1], bank.image[:1], bank.image[2:]]))
    envs = ClickVectorEnv(tiny_sam, twice, 3, ClickEnvSettings(grid=GRID), autoreset_mode=AutoresetMode.SAME_STEP)
    space = Sb3ClickVecEnv(envs).observation_space
    assert isinstance(space, spaces.Dict)
    torch.manual_seed(0)
    features = SamFeatures(space, twice, 24, 8)
    same = {
        name: torch.from_numpy(np.stack([part.sample()] * 3)) for name, part in space.spaces.items() if name != "row"
    }
    other = int((twice.image != twice.image[0]).nonzero()[0])
    rows = torch.tensor([[0.0], [1.0], [float(other)]])
    found = features(same | {"row": rows})
    assert found.shape == (3, 24)
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert not torch.allclose(found[0], found[2], atol=1e-3)
    changed = same | {"row": rows, "clicks": 1 - same["clicks"]}
    assert not torch.allclose(features(changed), found, atol=1e-3)
