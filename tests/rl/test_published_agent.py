"""The published agent's interface, and Stable-Baselines3 in it and in the batched environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from maskwright.data.dataset import Dataset
from maskwright.data.scenes import render
from maskwright.errors import DataError, WeightsError
from maskwright.rl.bank import Bank
from maskwright.rl.envs import ClickEnvSettings, ClickVectorEnv
from maskwright.rl.published_agent import SAM2ClickEnv, compute_dice
from maskwright.rl.sb3 import Sb3ClickVecEnv
from maskwright.sam.convert import convert, read_checkpoint
from maskwright.sam.sam import Sam

PARITY = Path(__file__).parents[3] / "shared" / "parity"


@pytest.fixture
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    scenes = render(2, 64, seed=3, difficulty=0.2)
    images = (scenes.images * 255).byte().permute(0, 2, 3, 1).numpy()
    return [(image[:48], mask[:48]) for image, mask in zip(images, (scenes.instances > 0).numpy(), strict=True)]


@pytest.fixture
def two_scenes(tiny_sam: Sam) -> Bank:
    return Bank.of_scenes(tiny_sam, render(2, tiny_sam.size, seed=3, difficulty=0.2))


def saved_agent(folder, space: spaces.Box, normalize: bool):
    """An agent as Stable-Baselines3 saves it, made without our environments."""
    import gymnasium

    class Elsewhere(gymnasium.Env):
        observation_space, action_space = space, spaces.Discrete(2048)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, True, False, {}

    agent = PPO(
        "CnnPolicy", Elsewhere(), n_steps=8, policy_kwargs={"normalize_images": normalize}, device="cpu", seed=0
    )
    agent.save(folder / "agent.zip")
    return folder / "agent.zip"


@pytest.mark.parametrize(("dtype", "high"), [("float32", 1), ("uint8", 255)])
def test_a_saved_agent_runs(tiny_sam: Sam, pairs, tmp_path, dtype, high) -> None:
    file = saved_agent(tmp_path, spaces.Box(0, high, (6, 128, 128), dtype), normalize=dtype == "uint8")
    env = SAM2ClickEnv(dataset=pairs, sam_predictor=tiny_sam, dtype=dtype)
    agent = PPO.load(file, env=env, device="cpu")
    observation, info = env.reset(seed=0)
    clicks, over = 0, False
    while not over:
        action, _ = agent.predict(observation, deterministic=True)
        before = info["dice"]
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        change = info["dice"] - before
        assert abs(reward - change) <= abs(change) / 2 + 1e-6
        clicks, over = clicks + 1, terminated or truncated
    assert clicks == 5


def test_the_interface(tiny_sam: Sam, pairs) -> None:
    env = SAM2ClickEnv(
        dataset=pairs,
        sam_predictor=tiny_sam,
        obs_size=64,
        grid_size=16,
        max_clicks=2,
        use_sam=True,
        render_mode="rgb_array",
    )
    check_env(env)
    observation, _ = env.reset(seed=0, options={"row": 1})
    assert observation.shape == (6, 64, 64)
    wide, mask = pairs[1]
    assert (observation[4].max(), observation[5].max()) == (
        pytest.approx(1, abs=0.2),
        0,
    )  # The oracle's click is on it.
    assert observation[:3].mean() == pytest.approx(wide.mean() / 255, abs=0.03)
    # The first half of the actions clicks on the object, row by row: cell (3, 2) of 16 x 16.
    observation, *_ = env.step(2 * 16 + 3)
    first, second = env.env.vector.state.points[0, :2].tolist()
    assert second == [14, 10]
    assert env.env.vector.state.labels[0, :2].tolist() == [1, 1]
    assert mask[int(first[1] * 48 / 64), int(first[0])]
    env.step(16 * 16 + 2 * 16 + 3)
    assert env.env.vector.state.labels[0, :3].tolist() == [1, 1, 0]
    assert env.render().shape == (64, 64, 3)


def test_action_masks_are_in_the_order_of_the_actions(tiny_sam: Sam, pairs, monkeypatch) -> None:
    # A SAM that is sure of all but this: only the upper half may be off the object, only the lower half on it.
    unsure = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    unsure[:, 0, :4], unsure[:, 1, 4:] = True, True
    monkeypatch.setattr("maskwright.rl.envs.cells.unsure", lambda logits, grid: unsure)
    env = SAM2ClickEnv(dataset=pairs, sam_predictor=tiny_sam, grid_size=8, max_clicks=3)
    _, info = env.reset(seed=0)
    for step, kind in enumerate((0, 1, 0)):
        mask = info["action_mask"].reshape(2, 8, 8)
        assert not mask[0, :4].any()
        assert not mask[1, 4:].any()
        np.testing.assert_array_equal(env.action_masks(), info["action_mask"])
        action = int(mask[kind].ravel().nonzero()[0][0]) + 64 * kind
        info = env.step(action)[-1]
        # An action of the first half is a click on the object.
        assert int(env.env.vector.state.labels[0, step + 1]) == 1 - kind


def test_a_dataset_on_disk(tiny_sam: Sam, scene_folder) -> None:
    dataset = Dataset.load(scene_folder)
    env = SAM2ClickEnv(dataset.split("test"), tiny_sam)
    assert env.reset(seed=0)[0] in env.observation_space
    with pytest.raises(DataError, match="no mask shows an object"):
        SAM2ClickEnv(dataset.split("nowhere"), tiny_sam)
    with pytest.raises(ValueError, match="use_sam=False"):
        SAM2ClickEnv(dataset, tiny_sam, use_sam=False)


class Predictor:
    """What the agent's description hands over: an object around a model of Meta's package, of which only names are known here."""

    def __init__(self, state: dict[str, torch.Tensor], image_size: int) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.model.image_size = image_size
        self.model.state_dict = lambda: state


def test_a_predictor_of_metas_package(pairs, tmp_path) -> None:
    if not PARITY.is_dir():
        pytest.skip(f"no reference output at {PARITY}")
    file = PARITY / "sam2_official_small.pt"
    expected = Sam.load(convert(file, tmp_path / "small"))
    given = Predictor(read_checkpoint(file), expected.size)
    env = SAM2ClickEnv(pairs, given, obs_size=64, grid_size=8)
    assert env.env.vector.sam.signature() == expected.signature()
    wanted = SAM2ClickEnv(pairs, expected, obs_size=64, grid_size=8)
    np.testing.assert_array_equal(env.reset(seed=0)[0], wanted.reset(seed=0)[0])
    np.testing.assert_array_equal(env.step(9)[0], wanted.step(9)[0])
    with pytest.raises(TypeError, match="or a SAM2ImagePredictor"):
        SAM2ClickEnv(pairs, 7)
    with pytest.raises(WeightsError, match="not a SAM 2 checkpoint"):
        SAM2ClickEnv(pairs, Predictor({"weight": torch.zeros(1)}, 64))


def test_dice() -> None:
    a, b = np.zeros((2, 4, 4), np.uint8)
    assert compute_dice(a, b) == 1.0
    a[:2], b[1:3] = 255, 1
    assert compute_dice(a, b) == pytest.approx(0.5)
    assert compute_dice(a, np.zeros((4, 4))) == 0.0


# --------------------------------------------------------------------------------------------- Stable-Baselines3


def wrapped(
    sam: Sam, bank: Bank, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP, **settings
) -> Sb3ClickVecEnv:
    rules = ClickEnvSettings(**{"grid": 4, "max_clicks": 2} | settings)
    return Sb3ClickVecEnv(ClickVectorEnv(sam, bank, 2, rules, autoreset_mode=autoreset_mode))


def test_ppo_learns_in_the_batched_environment(tiny_sam: Sam, two_scenes: Bank) -> None:
    torch.manual_seed(0)
    env = VecMonitor(wrapped(tiny_sam, two_scenes, observation="pixels", pixels=36))
    agent = PPO("CnnPolicy", env, n_steps=25, batch_size=25, n_epochs=2, device="cpu", seed=0)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(200)
    assert agent.num_timesteps == 200
    assert all(bool(value.isfinite().all()) for value in agent.policy.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in agent.policy.state_dict().items())
    assert len(agent.ep_info_buffer) == 100
    assert {info["l"] for info in agent.ep_info_buffer} == {2}


def test_ppo_reads_what_sam_said(tiny_sam: Sam, two_scenes: Bank) -> None:
    agent = PPO("MultiInputPolicy", wrapped(tiny_sam, two_scenes), n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    assert agent.learn(16).num_timesteps == 16


def test_a_step_that_ends_tells_of_the_end(tiny_sam: Sam, two_scenes: Bank) -> None:
    env = wrapped(tiny_sam, two_scenes, stop=True)
    env.seed(4)
    env.reset()
    other = wrapped(tiny_sam, two_scenes, stop=True)
    other.seed(4)
    np.testing.assert_array_equal(other.reset()["logits"], env.env._view.observe(env.env.state)["logits"])
    last = env.env.state.logits[1].clamp(-32, 32).numpy().copy()
    seen, rewards, dones, infos = env.step(np.array([0, 32]))
    assert (dones.tolist(), rewards[1]) == ([False, True], 0)
    np.testing.assert_allclose(infos[1]["terminal_observation"]["logits"], last)
    assert (infos[1]["clicks"], infos[1]["TimeLimit.truncated"]) == (1, False)
    assert "terminal_observation" not in infos[0]
    assert env.reset_infos[1]["row"] == seen["row"][1]
    assert [mask.shape for mask in env.env_method("action_masks")] == [(33,), (33,)]
    assert [rules.max_clicks for rules in env.get_attr("settings", [0])] == [2]
    assert env.env_is_wrapped(object) == [False, False]
    assert env.get_images() == [None, None]


def test_another_autoreset_is_refused(tiny_sam: Sam, two_scenes: Bank) -> None:
    with pytest.raises(ValueError, match="SAME_STEP"):
        wrapped(tiny_sam, two_scenes, autoreset_mode=AutoresetMode.NEXT_STEP)
