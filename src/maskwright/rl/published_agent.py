"""The interface of "SAM2 Click Agent" (a published PPO agent), on top of ``ClickEnv``.

Its publication does not specify the following points; here they are:

- Action ``kind · G² + row · G + column``: kind 0 is a click on the object, 1 one off it; the click falls on the centre of
  the cell.
- The observation is float32 in 0..1, or uint8 in 0..255 with ``dtype="uint8"``: use the type that the agent was saved with
  (``agent.observation_space.dtype``). Stable-Baselines3's ``CnnPolicy`` wants ``policy_kwargs={"normalize_images":
  False}`` for the former. A click is drawn as a Gaussian whose deviation is 3 % of the side.
- An episode starts after the oracle's first click, and its ``max_clicks`` are those that the agent places.
- The bonus at the boundary is the change of the share of correct pixels near the outline, at most half of the change of
  Dice. The published one could reward masks that got worse.
- SAM gets its last logits with every click, and gives three masks for the first click only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import resize_matrix, warp_image, warp_mask
from maskwright.rl.bank import Bank
from maskwright.rl.envs import CLICKS, GRID, PIXELS, ClickEnv, ClickEnvSettings
from maskwright.rl.rewards import DiceReward
from maskwright.sam.convert import convert_state
from maskwright.sam.sam import Sam

BOUNDARY = 0.1
"""Weight of the bonus at the boundary."""

Pair = tuple[NDArray[np.uint8], NDArray[Any]]


class SAM2ClickEnv(gymnasium.Env):
    """Five corrective clicks on one image, seen as 6 x 128 x 128 pixels.

    ## Action space
    ``Discrete(2 · grid_size²)``, 2048 for 32 x 32 cells; see the module for the order.

    ## Observation space
    ``Box(0, 1, (6, obs_size, obs_size), float32)``: RGB, mask, heat-map of clicks on the object, and of those off it.

    ## Rewards
    Change of Dice plus a bonus at the boundary.

    ## Episode
    Starts after the oracle's first click; terminates after ``max_clicks`` clicks. ``info["dice"]`` is the Dice now, and
    ``info["action_mask"]`` marks the actions that make sense, in the order above.

    Args:
        dataset: a ``Dataset`` (of its samples those with masks), or pairs of an image (H, W, 3) uint8 and a mask (H, W),
            above 0 = on the object. All images are encoded when the environment is made.
        sam_predictor: a ``Sam``, what ``Sam.load`` takes, or a ``SAM2ImagePredictor`` of Meta's package, whose weights are
            converted (its transforms and thresholds are not used: images are squashed, masks end at logit 0).
        obs_size: pixels along a side of the observation.
        grid_size: cells along a side.
        max_clicks: clicks that the agent places in an episode.
        use_sam: must be True; SAM is what the clicks are for.
        dtype: of the observation: ``float32`` in 0..1 or ``uint8`` in 0..255.
        render_mode: ``rgb_array`` or None.

    Raises:
        ValueError: ``use_sam`` is False.
        DataError: no image with a mask, or files that cannot be read.
        WeightsError: weights that :func:`maskwright.sam.convert.convert_state` refuses.
    """

    metadata: dict[str, Any] = ClickEnv.metadata

    def __init__(
        self,
        dataset: Dataset | Sequence[Pair],
        sam_predictor: Any = "nano",
        obs_size: int = PIXELS,
        grid_size: int = GRID,
        max_clicks: int = CLICKS,
        use_sam: bool = True,
        *,
        dtype: Literal["float32", "uint8"] = "float32",
        render_mode: str | None = None,
    ) -> None:
        if not use_sam:
            raise ValueError("use_sam=False is not offered: without SAM no click changes the mask")
        sam = sam_of(sam_predictor)
        self.env = ClickEnv(
            sam,
            Bank.of_dataset(sam, dataset) if isinstance(dataset, Dataset) else bank_of_pairs(sam, dataset),
            ClickEnvSettings(
                observation="pixels",
                pixels=obs_size,
                grid=grid_size,
                max_clicks=max_clicks,
                reward=DiceReward(boundary=BOUNDARY),
            ),
            render_mode=render_mode,
        )
        self.grid_size, self.max_clicks, self.render_mode = grid_size, max_clicks, render_mode
        self.dtype = np.dtype(dtype)
        high = 1 if self.dtype == np.float32 else 255
        self.observation_space = spaces.Box(0, high, (6, obs_size, obs_size), self.dtype.type)
        self.action_space = spaces.Discrete(2 * grid_size**2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """A new image; ``options={"row": 3}`` chooses it."""
        super().reset(seed=seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._scaled(observation), self._reordered(info)

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        kind, place = divmod(int(action), self.grid_size**2)
        observation, reward, terminated, truncated, info = self.env.step((1 - kind) * self.grid_size**2 + place)
        return self._scaled(observation), reward, terminated, truncated, self._reordered(info)

    def render(self) -> Any:
        return self.env.render()

    def action_masks(self) -> NDArray[np.bool_]:
        """(2 · grid_size²,) bool: the actions that make sense. ``MaskablePPO`` of sb3-contrib calls this method."""
        return self._published_order(self.env.action_masks())

    def _reordered(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"action_mask": self._published_order(info["action_mask"])}

    def _published_order(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of ``ClickEnv``, whose first half of the actions is off the object, to the published order."""
        return np.roll(mask, self.grid_size**2)

    def _scaled(self, observation: NDArray[np.uint8]) -> NDArray[Any]:
        return observation if self.dtype == np.uint8 else observation.astype(np.float32) / 255


def sam_of(predictor: Any) -> Sam:
    """What the published agent's ``sam_predictor`` may be, as a ``Sam``: see :class:`SAM2ClickEnv`.

    Raises:
        TypeError: it is nothing of the kind.
        WeightsError: its weights are not those of SAM 2.
    """
    if isinstance(predictor, Sam):
        return predictor
    if isinstance(predictor, str | Path):
        return Sam.load(predictor)
    model = getattr(predictor, "model", None)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"sam_predictor is a {type(predictor).__name__}; give a maskwright.Sam, the name of one, or a SAM2ImagePredictor"
        )
    with tempfile.TemporaryDirectory() as folder:
        size = getattr(model, "image_size", None)
        sam = Sam.load(convert_state(model.state_dict(), Path(folder) / "sam", image_size=size))
        # What was read may still lie in the file, which goes with the folder.
        sam.load_state_dict({name: value.clone() for name, value in sam.state_dict().items()}, assign=True)
    sam.name = type(model).__name__
    return sam.to(next(model.parameters()).device)


def compute_dice(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Dice in 0..1 of two masks of one shape, above 0 = on the object; 1 where both are empty."""
    predicted, true = np.asarray(prediction) > 0, np.asarray(truth) > 0
    total = int(predicted.sum()) + int(true.sum())
    return 2 * int((predicted & true).sum()) / total if total else 1.0


def bank_of_pairs(sam: Sam, pairs: Sequence[Pair]) -> Bank:
    """Images (H, W, 3) uint8 of any size with their masks (H, W), squashed to the canvas as SAM does."""
    squashed = []
    for image, mask in pairs:
        matrix = resize_matrix((image.shape[1], image.shape[0]), sam.size)
        pixels = torch.from_numpy(warp_image(np.asarray(image), matrix, sam.size)[0]).permute(2, 0, 1)
        squashed.append((pixels, torch.from_numpy(warp_mask(np.asarray(mask) > 0, matrix, sam.size, fill=0))))
    return Bank.of_images(
        sam, torch.stack([pixels for pixels, _ in squashed]), truth=torch.stack([mask for _, mask in squashed])
    )
