"""Corrective clicks as gymnasium environments: ``ClickVectorEnv`` for batches, and ``maskwright/Clicks-v0`` for one image.

One step runs the mask decoder of a frozen SAM once for all images. Embeddings are computed when the ``Bank`` is made,
rewards are computed on SAM's low-resolution grid, and the maps of an observation are updated from step to step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from maskwright.data.geometry import on_canvas
from maskwright.data.labels import Point
from maskwright.data.pictures import draw_labels
from maskwright.data.scenes import render
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import ClickState, click, dice
from maskwright.rl.observations import PixelView, RowView, SamView
from maskwright.rl.rewards import ClickLabeller, DiceReward, Opening, Reward, Transition, oracle_opening
from maskwright.sam import click_grid as cells
from maskwright.sam.sam import Sam

ObservationKind = Literal["sam", "pixels"]

CLICKS = 5
"""Clicks of an agent in an episode."""

GRID = 32
"""Cells along a side of the grid that is clicked on."""

PIXELS = 128
"""Pixels along a side of the published agent's observation."""

SCENES = 16
"""Number of procedural scenes that are rendered where no bank is given."""

OPENING_SLOTS = 4
"""Prompt tokens that an opening may take: clicks, or a box with two."""

_VIEWS = {"sam": SamView, "pixels": PixelView, None: RowView}


@dataclass(frozen=True)
class ClickEnvSettings:
    """The rules of a click environment; see ``ClickVectorEnv`` for what they mean to an agent.

    Attributes:
        observation: ``sam``, ``pixels``, or None: an observation is then the row alone, ``Discrete(N)``.
        pixels: side of the observation ``pixels``.
        grid: G, cells along a side of the grid that is clicked on.
        labeller: says whether a click lies on the object; None: the action does.
        stop: whether there is an action to stop.
        max_clicks: of the agent in an episode.
        reward: what a step is worth; left out, the change of Dice.
        opening: how episodes begin; None: by the oracle's first click, computed once for all targets.
        shuffle: targets in random order.

    Raises:
        ValueError: a number below 1, or an unknown observation; the message lists every problem.
    """

    observation: ObservationKind | None = "sam"
    pixels: int = PIXELS
    grid: int = GRID
    labeller: ClickLabeller | None = None
    stop: bool = False
    max_clicks: int = CLICKS
    reward: Reward = field(default_factory=DiceReward)
    opening: Opening | None = None
    shuffle: bool = True

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("pixels", "grid", "max_clicks")}
        wrong = [f"{name} {value} must be at least 1" for name, value in numbers.items() if value < 1]
        if self.observation not in _VIEWS:
            wrong.append(f"observation {self.observation!r} must be 'sam', 'pixels' or None")
        if wrong:
            raise ValueError(f"click environment: {'; '.join(wrong)}")


class ClickVectorEnv(VectorEnv):
    """Many targets, one click on each at every step, and one decode for all of them.

    ## Description
    A frozen SAM has answered a first click on an object. The agent places further clicks; SAM answers each with a new
    mask, given all clicks so far and the logits of the last mask. The aim is a better mask, without the truth.

    ## Action space
    ``Discrete(L·G² + stop)`` for each environment. Action ``(label · G + row) · G + column`` clicks on the centre of a
    cell of a G x G grid over the canvas, with label 0 = off the object, 1 = on it; with a ``labeller`` L is 1, and the
    labeller says whether the place lies on the object. With ``stop`` the last action ends the episode with the mask as
    it is. ``infos["action_mask"]`` marks the actions that make sense: not beside an old click, not outside of the image,
    a positive click only where p < 0.9 and a negative one only where p > 0.1 (with a labeller: either of them), and
    stopping. Where that leaves no click, all cells inside the image are marked. Others may be taken all the same.

    ## Observation space
    ``observation="sam"``, a ``Dict``, h = S/4 for a canvas of S pixels:

    | key | space | content |
    |---|---|---|
    | ``row`` | ``Discrete(N)`` | the target: embeddings stay in the bank, ``bank.embed(rows)`` gathers them |
    | ``logits`` | ``Box(-32, 32, (h, h))`` | of the last answer |
    | ``entropy`` | ``Box(0, 1, (h, h))`` | of its probabilities, in bits |
    | ``clicks`` | ``Box(0, 1, (2, h, h))`` | a spot at each click of label 0, and of label 1 |

    ``observation="pixels"``, a ``Box(0, 255, (6, 128, 128), uint8)``: RGB, the mask (0 or 255), spots at the clicks on
    the object and at those off it. It is what the published agent sees, as SB3's ``CnnPolicy`` takes it.

    A learner that works on tensors reads ``state`` instead, and asks for ``observation=None``: nothing is built then.

    ## Rewards
    The change of Dice on the low-resolution grid, unless another ``reward`` is given; 0 where an environment was reset.

    ## Starting state
    The oracle's first click, in the middle of the object, unless another ``opening`` is given. Targets come in a random
    order, each once before any comes again. ``reset(seed=)`` decides on that order, and with ``shuffle=False`` they come
    in the order of the bank.

    ## Episode end
    Terminated by "stop" or after ``max_clicks`` clicks of the agent; those of the opening do not count. The clicks are in
    the observation, so their end is part of the task; nothing is ever truncated.

    ## Autoreset
    As gymnasium 1.x defines it, by ``autoreset_mode``, which also stands in ``metadata``. ``NEXT_STEP``: the step after
    the last one ignores the action, resets and returns the first observation with reward 0. ``SAME_STEP``: the last step
    returns the first observation of the next episode, with ``final_obs`` and ``final_info``. ``DISABLED``: the caller
    resets, through ``options={"reset_mask": ...}``.

    ## Options of ``reset``
    ``rows``: (B,) the targets to begin with. ``reset_mask``: (B,) bool, the environments to reset; ``rows`` then counts
    for these only.

    ## Info
    Arrays with ``_key`` masks: ``dice`` (on the low-resolution grid; only with a known truth), ``iou`` (predicted),
    ``clicks``, ``row``, ``action_mask``.

    Args:
        sam: frozen; a text is loaded by ``Sam.load``.
        bank: the targets; left out: objects of a few procedural scenes. Without truth the settings must name an ``opening``
            and a ``reward`` that need none.
        num_envs: B.
        settings: the rules; left out, the defaults.
        autoreset_mode: see above.
        render_mode: ``rgb_array`` or None.

    Raises:
        ValueError: ``num_envs`` is below 1.
    """

    def __init__(
        self,
        sam: Sam | str = "nano",
        bank: Bank | None = None,
        num_envs: int = 8,
        settings: ClickEnvSettings | None = None,
        *,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs {num_envs} must be at least 1")
        sam = Sam.load(sam) if isinstance(sam, str) else sam
        bank = Bank.of_scenes(sam, render(SCENES, sam.size, seed=0, difficulty=0.3)) if bank is None else bank
        self.sam, self.bank, self.num_envs = sam, bank, num_envs
        self.settings = settings = settings or ClickEnvSettings()
        self.autoreset_mode, self.render_mode = AutoresetMode(autoreset_mode), render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 2, "autoreset_mode": self.autoreset_mode}
        self.labels = 2 if settings.labeller is None else 1
        self.stop_action = self.labels * settings.grid**2
        self.actions = self.stop_action + settings.stop
        self.single_action_space = spaces.Discrete(self.actions)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._view = _VIEWS[settings.observation](bank, num_envs, settings.pixels)
        self.single_observation_space = self._view.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._openings: ClickState | None = None
        self._inside = _cells_inside(bank, settings.grid)
        self._state: ClickState | None = None
        self._queue: list[int] = []

    @property
    def state(self) -> ClickState:
        """The states of all environments, as tensors. Raises RuntimeError before the first reset."""
        if self._state is None:
            raise RuntimeError("call reset before anything else")
        return self._state

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that the environments hold, without the bank."""
        state = self.state
        of_state = [getattr(state, name) for name in state.__dataclass_fields__]
        return sum(part.nbytes for part in [*of_state, self._taken, self._dice, self._near]) + self._view.nbytes

    # ------------------------------------------------------------------------------------------------ gymnasium

    @torch.no_grad()
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        if seed is not None:
            self._queue = []
        mask = self._reset_mask(options.get("reset_mask"))
        index = torch.from_numpy(mask.nonzero()[0]).to(self.bank.device)
        self._begin(index, self._rows(len(index), options.get("rows")))
        return self._view.observe(self.state), self._infos(mask)

    @torch.no_grad()
    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        before, device = self.state, self.bank.device
        action = torch.as_tensor(np.asarray(actions), device=device).long()
        if action.shape != (self.num_envs,) or bool(((action < 0) | (action >= self.actions)).any()):
            raise ValueError(f"actions must be ({self.num_envs},) integers in 0..{self.actions - 1}")
        over = before.done
        if self.autoreset_mode == AutoresetMode.DISABLED and bool(over.any()):
            raise RuntimeError(f"environments {over.nonzero()[:, 0].tolist()} are over; reset them with reset_mask")
        terminated, rewards = self._act(before, action, ~over)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            index = over.nonzero()[:, 0]
            if len(index):
                self._begin(index, self._rows(len(index)))
        everyone = np.ones(self.num_envs, dtype=np.bool_)
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and bool(terminated.any()):
            infos = self._next_episodes(terminated)
        infos |= self._infos(everyone)
        ended = terminated.cpu().numpy()
        return self._view.observe(self.state), rewards.cpu().numpy(), ended, np.zeros_like(ended), infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """One picture (S, S, 3) for each environment: image, mask and clicks."""
        if self.render_mode != "rgb_array":
            return None
        state = self.state
        images = self.bank.pixels[self.bank.image[state.rows]].permute(0, 2, 3, 1).cpu().numpy()
        masks = on_canvas(state.logits, self.bank.size).cpu().numpy().astype(np.uint8)
        placed = zip(state.points.tolist(), state.labels.tolist(), strict=True)
        points = [[Point(x, y, k) for (x, y), k in zip(p, kinds) if k in (0, 1)] for p, kinds in placed]
        return tuple(draw_labels(i, mask=m, points=p) for i, m, p in zip(images, masks, points, strict=True))

    def action_masks(self) -> NDArray[np.bool_]:
        """(B, actions) bool: the actions that make sense, see the class. ``MaskablePPO`` of sb3-contrib calls this method."""
        return self._allowed().cpu().numpy()

    # ------------------------------------------------------------------------------------------------- dynamics

    def _act(self, before: ClickState, action: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Click in the active environments. Returns (B,) bool, the episodes that end with this step, and rewards (B,)."""
        settings = self.settings
        stopped = active & (action == self.stop_action) if settings.stop else torch.zeros_like(active)
        clicking = active & ~stopped
        place, label = cells.places_of(torch.where(clicking, action, 0), self.bank.size, settings.grid)
        if settings.labeller is not None:
            label = settings.labeller(self.bank, before, place)
        after = click(self.sam, self.bank, before, place, label, clicking)
        self._taken = self._taken + clicking.long()
        terminated = stopped | (clicking & (self._taken >= settings.max_clicks))
        has_truth = self.bank.truth is not None
        score = dice(self.bank, after.rows, after.logits) if has_truth else self._dice
        rewards = settings.reward(Transition(self.bank, before, after, place, label, self._dice, score, stopped))
        self._state, self._dice = replace(after, done=before.done | terminated), score
        index = clicking.nonzero()[:, 0]
        self._near[index] |= cells.near(place[index], self.bank.size, settings.grid)
        self._view.clicked(index, place[index], label[index])
        return terminated, torch.where(active, rewards, 0.0).float()

    def _begin(self, index: Tensor, rows: Tensor) -> None:
        """Start episodes of targets ``rows`` (R,) in environments ``index`` (R,)."""
        opened = self._opened(rows)
        count, grid = self.num_envs, self.settings.grid
        if self._state is None:
            # The first reset is one of all environments, so that the lines below overwrite these values everywhere.
            self._state = opened
            self._taken = torch.zeros(count, dtype=torch.long, device=self.bank.device)
            self._dice = torch.zeros(count, device=self.bank.device)
            self._near = torch.zeros(count, grid, grid, dtype=torch.bool, device=self.bank.device)
        self._state = self._state.put(index, opened)
        self._taken[index], self._near[index] = 0, False
        if self.bank.truth is not None:
            self._dice = self._dice.index_copy(0, index, dice(self.bank, rows, opened.logits))
        self._view.began(index, self.bank.image[rows])
        for slot in range(opened.labels.shape[1]):
            clicked = opened.is_click[:, slot]
            place = opened.points[clicked, slot]
            self._near[index[clicked]] |= cells.near(place, self.bank.size, grid)
            self._view.clicked(index[clicked], place, opened.labels[clicked, slot])

    def _opened(self, rows: Tensor) -> ClickState:
        slots = OPENING_SLOTS + self.settings.max_clicks
        if self.settings.opening is not None:
            return self.settings.opening(self.sam, self.bank, rows, slots, self.np_random)
        if self._openings is None:
            # The oracle's first click on a target is always the same, and its distance maps take longer than SAM's decoder.
            everyone = torch.arange(len(self.bank), device=self.bank.device)
            parts = [oracle_opening(self.sam, self.bank, part, slots, self.np_random) for part in everyone.split(64)]
            self._openings = ClickState.cat(parts)
        return self._openings[rows]

    def _next_episodes(self, terminated: Tensor) -> dict[str, Any]:
        """Reset the environments whose episode has just ended. Returns the last observations and infos of these episodes."""
        over = terminated.cpu().numpy()
        last = self._view.observe(self.state)
        finals = np.full(self.num_envs, None, dtype=object)
        for i in over.nonzero()[0]:
            finals[i] = {key: part[i] for key, part in last.items()} if isinstance(last, dict) else last[i]
        infos = {"final_obs": finals, "_final_obs": over, "final_info": self._infos(over), "_final_info": over.copy()}
        index = terminated.nonzero()[:, 0]
        self._begin(index, self._rows(len(index)))
        return infos

    # ------------------------------------------------------------------------------------------------- bookkeeping

    def _reset_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            self._state = None
            return np.ones(self.num_envs, dtype=np.bool_)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"reset_mask must be ({self.num_envs},) bool with at least one True")
        if self._state is None and not mask.all():
            raise RuntimeError("the first reset is one of all environments")
        return mask

    def _rows(self, count: int, requested: Any = None) -> Tensor:
        """The next ``count`` targets, or those that the caller of ``reset`` requested."""
        if requested is not None:
            rows = torch.as_tensor(np.asarray(requested)).long()
            if rows.shape != (count,) or bool(((rows < 0) | (rows >= len(self.bank))).any()):
                raise ValueError(f"rows must be ({count},) places in a bank of {len(self.bank)} targets")
            return rows.to(self.bank.device)
        while len(self._queue) < count:
            order = self.np_random.permutation(len(self.bank)) if self.settings.shuffle else np.arange(len(self.bank))
            self._queue += order.tolist()
        rows, self._queue = self._queue[:count], self._queue[count:]
        return torch.tensor(rows, device=self.bank.device)

    def _allowed(self) -> Tensor:
        """(B, actions) bool, see the class."""
        state = self.state
        unsure = cells.unsure(state.logits, self.settings.grid)
        unsure = unsure.any(1, keepdim=True) if self.labels == 1 else unsure
        inside = self._inside[self.bank.image[state.rows]][:, None].expand_as(unsure)
        allowed = unsure & inside & ~self._near[:, None]
        allowed = torch.where(allowed.flatten(1).any(1)[:, None, None, None], allowed, inside).flatten(1)
        return F.pad(allowed, (0, 1), value=True) if self.settings.stop else allowed

    def _infos(self, mask: NDArray[np.bool_]) -> dict[str, Any]:
        """Arrays over all environments, each with a ``mask`` (B,) of those that it says something about."""
        state = self.state
        values = {"iou": state.iou, "clicks": state.clicks, "row": state.rows, "action_mask": self._allowed()}
        values |= {"dice": self._dice} if self.bank.truth is not None else {}
        infos = {}
        for name, value in values.items():
            # Copies: on the CPU a tensor and its array share memory, and what a caller writes must not reach the state.
            infos |= {name: value.cpu().numpy().copy(), f"_{name}": mask.copy()}
        return infos


class ClickEnv(gymnasium.Env):
    """``maskwright/Clicks-v0``: one target at a time. The contract is that of ``ClickVectorEnv``, without the batch.

    ``reset(options={"row": 3})`` chooses the target. There is no autoreset.

    Args:
        sam, bank, settings: see ``ClickVectorEnv``.
        render_mode: ``rgb_array`` or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (gymnasium's own name)

    def __init__(
        self,
        sam: Sam | str = "nano",
        bank: Bank | None = None,
        settings: ClickEnvSettings | None = None,
        *,
        render_mode: str | None = None,
    ) -> None:
        self.vector = ClickVectorEnv(
            sam, bank, 1, settings, autoreset_mode=AutoresetMode.DISABLED, render_mode=render_mode
        )
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        row = (options or {}).get("row")
        observation, infos = self.vector.reset(seed=seed, options=None if row is None else {"rows": [row]})
        return _only(observation), _only_info(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, rewards, terminated, truncated, infos = self.vector.step(np.asarray([action]))
        return _only(observation), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), _only_info(infos)

    def render(self) -> Any:
        pictures = self.vector.render()
        return None if pictures is None else pictures[0]

    def action_masks(self) -> NDArray[np.bool_]:
        """(actions,): those that make sense."""
        return self.vector.action_masks()[0]


def _only(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: part[0] for key, part in observation.items()}
    return observation[0]


def _only_info(infos: dict[str, Any]) -> dict[str, Any]:
    return {key: value[0] for key, value in infos.items() if not key.startswith("_")}


def _cells_inside(bank: Bank, grid: int) -> Tensor:
    """(M, G, G) bool: cells of a grid over the canvas whose centre shows the image."""
    place, _ = cells.places_of(torch.arange(grid * grid, device=bank.device), bank.size, grid)
    column, row = place.long().unbind(-1)
    return bank.inside[:, row, column].unflatten(1, (grid, grid))


gymnasium.register(
    id="maskwright/Clicks-v0",
    entry_point="maskwright.rl.envs:ClickEnv",
    vector_entry_point="maskwright.rl.envs:ClickVectorEnv",
)
