"""Stable-Baselines3 in the batched environment: ``PPO("CnnPolicy", Sb3ClickVecEnv(env))`` trains without processes, and with
``SamFeatures`` an agent sees what SAM sees.

The package is optional (``pip install 'maskwright[sb3]'``), and is imported here alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from maskwright.errors import MissingPackageError
from maskwright.rl.bank import Bank
from maskwright.rl.envs import ClickVectorEnv

try:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.policies import ActorCriticCnnPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
except ImportError as error:
    raise MissingPackageError("--learner sb3 and Sb3ClickVecEnv need Stable-Baselines3", "sb3", error) from error

__all__ = ["PPO", "ActorCriticCnnPolicy", "BaseCallback", "SamFeatures", "Sb3ClickVecEnv"]


class Sb3ClickVecEnv(VecEnv):
    """A ``ClickVectorEnv`` with the interface of Stable-Baselines3's vector environments.

    Args:
        env: with ``autoreset_mode=AutoresetMode.SAME_STEP``: Stable-Baselines3 resets within the last step.

    Raises:
        ValueError: the environment resets otherwise.
    """

    def __init__(self, env: ClickVectorEnv) -> None:
        if env.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError("Stable-Baselines3 needs an environment with autoreset_mode=AutoresetMode.SAME_STEP")
        self.env = env
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, _counted(env.single_observation_space), env.single_action_space)

    def reset(self) -> VecEnvObs:
        found, infos = self.env.reset(seed=self._seeds[0], options=self._options[0] or None)
        observation = _counting(found)
        self.reset_infos = self._listed(infos)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observation, rewards, terminated, truncated, infos = self.env.step(self._actions)
        ended = terminated | truncated
        listed = self._listed(infos)
        for number in ended.nonzero()[0]:
            self.reset_infos[number] = dict(listed[number])
            last = {key: value[number] for key, value in infos["final_info"].items() if not key.startswith("_")}
            final = _counting(infos["final_obs"][number])
            listed[number] |= last | {"terminal_observation": final, "TimeLimit.truncated": False}
        return _counting(observation), rewards, ended, listed

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> list[np.ndarray | None]:
        return list(self.env.render() or [None] * self.num_envs)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.env, attr_name) for _ in self._places(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """All environments are one: an attribute is set for all of them."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args, indices: VecEnvIndices = None, **method_kwargs) -> list[Any]:
        """The rows of a batched method's result, one for each environment (``action_masks`` for ``MaskablePPO``)."""
        rows = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [rows[place] for place in self._places(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._places(indices)]

    def _places(self, indices: VecEnvIndices) -> Iterable[int]:
        return self._get_indices(indices)

    def _listed(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """The infos of each environment; of one that was reset within the step, those of its new episode."""
        names = [name for name in infos if not name.startswith(("_", "final_"))]
        return [{name: infos[name][number] for name in names} for number in range(self.num_envs)]


def _counted(space: spaces.Space) -> spaces.Space:
    """An observation's space in which the row is a number. Stable-Baselines3 makes N zeros and ones of a ``Discrete`` one, so that a policy
    could not be shown other targets than as many as it was trained on."""
    if not isinstance(space, spaces.Dict):
        return space
    return spaces.Dict({**space.spaces, "row": spaces.Box(0, _LARGEST_ROW, (1,), np.int64)})


def _counting(observation: Any) -> Any:
    """An observation, or those of a batch, in that space."""
    if not isinstance(observation, dict):
        return observation
    return observation | {"row": np.asarray(observation["row"], np.int64)[..., None]}


_LARGEST_ROW = 2**24 - 1
"""Stable-Baselines3 hands rows on as float32, which holds whole numbers so far."""


class SamFeatures(BaseFeaturesExtractor):
    """What a policy sees of ``observation="sam"``: the embedding of the target's image, the last logits, their entropy, and the clicks.

    The number of the target itself is not seen: from it a policy could learn the training images by heart, and would know nothing of
    others. For Stable-Baselines3's ``MultiInputPolicy``::

        kwargs = {"features_extractor_class": SamFeatures, "features_extractor_kwargs": {"bank": env.bank}}
        PPO("MultiInputPolicy", Sb3ClickVecEnv(env), policy_kwargs=kwargs)

    A policy that was trained so acts on other images once ``features_extractor.bank`` is set to theirs; it is given observations of a
    ``Sb3ClickVecEnv``. ``PPO.save`` keeps the arguments of a policy, and with them the whole bank.

    Args:
        observation_space: of the ``Sb3ClickVecEnv``.
        bank: the targets that the rows of the observations count.
        features_dim: length of the vector that the policy is given.
        channels: of the convolutions, a multiple of 8.
    """

    def __init__(self, observation_space: spaces.Dict, bank: Bank, features_dim: int = 256, channels: int = 32) -> None:
        super().__init__(observation_space, features_dim)
        self.bank = bank
        maps = sum(1 if len(space.shape) == 2 else space.shape[0] for space in self._maps(observation_space).values())
        side = bank.embedding.low.shape[-1]
        self.low = nn.Conv2d(bank.embedding.low.shape[1], channels, 1)
        self.maps = nn.Conv2d(maps, channels, 3, padding=1)
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, 2, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(channels * ((side + 1) // 2) ** 2, features_dim),
            nn.GELU(),
        )

    @staticmethod
    def _maps(parts: Any) -> dict[str, Any]:
        return {name: parts[name] for name in ("logits", "entropy", "clicks")}

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(B, features_dim)."""
        rows = observations["row"].long().flatten()
        low = self.bank.embed(rows.to(self.bank.device)).low.float().to(self.low.weight.device)
        maps = [part if part.ndim == 4 else part[:, None] for part in self._maps(observations).values()]
        seen = F.adaptive_avg_pool2d(torch.cat(maps, 1), low.shape[-1])
        return self.body(self.low(low) + self.maps(seen))
