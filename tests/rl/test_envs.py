"""The click environments: gymnasium's own checks, and episodes against the functions they are made of."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from maskwright.data.scenes import render
from maskwright.rl.bank import Bank, Truth
from maskwright.rl.clicks import click, dice, first_click, start
from maskwright.rl.envs import ClickEnv, ClickEnvSettings, ClickVectorEnv
from maskwright.rl.rewards import DiceReward, Transition, boundary_agreement, foreground_reward, truth_label
from maskwright.sam import click_grid
from maskwright.sam.sam import Sam

GRID = 8


@pytest.fixture
def bank(tiny_sam: Sam) -> Bank:
    return Bank.of_scenes(tiny_sam, render(4, tiny_sam.size, seed=3, difficulty=0.2), objects=2)


def make(
    sam: Sam,
    bank: Bank,
    count: int = 4,
    *,
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    **settings,
) -> ClickVectorEnv:
    rules = ClickEnvSettings(**{"grid": GRID, "max_clicks": 3} | settings)
    return ClickVectorEnv(sam, bank, count, rules, autoreset_mode=autoreset_mode, render_mode=render_mode)


def random_actions(env: ClickVectorEnv, generator: np.random.Generator) -> np.ndarray:
    return np.array([generator.choice(row.nonzero()[0]) for row in env.action_masks()])


def assert_same(a, b) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, np.ndarray) and a.dtype == object:
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        np.testing.assert_array_equal(a, b)


# -------------------------------------------------------------------------------------------------- gymnasium's own


@pytest.mark.parametrize("observation", ["sam", "pixels", None])
def test_gymnasium_finds_nothing_wrong(tiny_sam: Sam, bank: Bank, observation) -> None:
    settings = ClickEnvSettings(observation=observation, grid=GRID, stop=True)
    check_env(ClickEnv(tiny_sam, bank, settings, render_mode="rgb_array"))


def test_both_are_made_by_name(tiny_sam: Sam, bank: Bank) -> None:
    single = gymnasium.make("maskwright/Clicks-v0", sam=tiny_sam, bank=bank, settings=ClickEnvSettings(grid=GRID))
    assert isinstance(single.unwrapped, ClickEnv)
    assert single.reset(seed=0)[0] in single.observation_space
    settings = ClickEnvSettings(grid=GRID)
    many = gymnasium.make_vec("maskwright/Clicks-v0", num_envs=3, sam=tiny_sam, bank=bank, settings=settings)
    assert isinstance(many, ClickVectorEnv)
    assert many.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("observation", ["sam", "pixels", None])
def test_observations_are_in_their_space(tiny_sam: Sam, bank: Bank, observation) -> None:
    env = make(tiny_sam, bank, observation=observation)
    seen, _ = env.reset(seed=0)
    generator = np.random.default_rng(0)
    for _ in range(5):
        assert seen in env.observation_space
        seen, rewards, terminated, truncated, _ = env.step(random_actions(env, generator))
        assert (rewards.dtype, rewards.shape) == (np.float32, (4,))
        assert (terminated.dtype, truncated.dtype) == (np.bool_, np.bool_)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_batch_equals_gymnasiums_loop_over_single_environments(tiny_sam: Sam, bank: Bank, mode) -> None:
    batched = make(tiny_sam, bank, 1, stop=True, shuffle=False, autoreset_mode=mode)
    loop = gymnasium.vector.SyncVectorEnv(
        [lambda: ClickEnv(tiny_sam, bank, ClickEnvSettings(grid=GRID, max_clicks=3, stop=True, shuffle=False))],
        autoreset_mode=mode,
    )
    generator = np.random.default_rng(1)
    found, wanted = batched.reset(seed=3), loop.reset(seed=3)
    for _ in range(14):
        assert_same(found[0], wanted[0])
        assert_same(found[-1], wanted[-1])
        actions = random_actions(batched, generator)
        if generator.random() < 0.2:
            actions[:] = batched.stop_action
        found, wanted = batched.step(actions), loop.step(actions)
        for a, b in zip(found[1:4], wanted[1:4], strict=True):
            np.testing.assert_array_equal(a, b)


def test_same_seed_same_run(tiny_sam: Sam, bank: Bank) -> None:
    runs = []
    for _ in range(2):
        env = make(tiny_sam, bank, stop=True)
        generator, seen = np.random.default_rng(0), [env.reset(seed=7)]
        for _ in range(9):
            actions = random_actions(env, generator)
            seen.append(env.step(actions))
        runs.append(seen)
    for a, b in zip(*runs, strict=True):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)


# ------------------------------------------------------------------------------------------------------- episodes


def test_an_episode_is_its_clicks(tiny_sam: Sam, bank: Bank) -> None:
    env = make(tiny_sam, bank, count=len(bank), shuffle=False)
    _, infos = env.reset(seed=0)
    rows = torch.arange(len(bank))
    assert infos["row"].tolist() == rows.tolist()
    state = start(tiny_sam, bank, rows, *first_click(bank, rows)[:2])
    generator = np.random.default_rng(2)
    for step in range(3):
        actions = random_actions(env, generator)
        before = dice(bank, rows, state.logits)
        place, label = click_grid.places_of(torch.from_numpy(actions), bank.size, GRID)
        state = click(tiny_sam, bank, state, place, label)
        _, rewards, terminated, _, infos = env.step(actions)
        torch.testing.assert_close(env.state.logits, state.logits)
        after = dice(bank, rows, state.logits)
        np.testing.assert_allclose(rewards, (after - before).numpy(), atol=1e-6)
        np.testing.assert_allclose(infos["dice"], after.numpy(), atol=1e-6)
        assert terminated.tolist() == [step == 2] * len(bank)


def test_next_step_resets_only_who_is_over(tiny_sam: Sam, bank: Bank) -> None:
    env = make(tiny_sam, bank, stop=True)
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    actions = random_actions(env, generator)
    actions[1] = env.stop_action
    _, rewards, terminated, _, infos = env.step(actions)
    assert terminated.tolist() == [False, True, False, False]
    assert rewards[1] == 0
    row, logits = int(infos["row"][1]), env.state.logits[1].clone()
    assert infos["clicks"].tolist() == [2, 1, 2, 2]
    _, rewards, terminated, _, infos = env.step(random_actions(env, generator))
    assert infos["clicks"].tolist() == [3, 1, 3, 3]
    assert int(infos["row"][1]) != row
    assert not torch.equal(env.state.logits[1], logits)
    assert (rewards[1], bool(terminated[1])) == (0, False)


def test_same_step_keeps_the_last_observation(tiny_sam: Sam, bank: Bank) -> None:
    env = make(tiny_sam, bank, stop=True, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    actions = random_actions(env, np.random.default_rng(0))
    actions[2] = env.stop_action
    before = env.state.logits[2].clone()
    seen, _, terminated, _, infos = env.step(actions)
    assert terminated.tolist() == infos["_final_obs"].tolist() == [False, False, True, False]
    np.testing.assert_allclose(infos["final_obs"][2]["logits"], before.clamp(-32, 32).numpy())
    assert infos["final_obs"][0] is None
    assert infos["final_info"]["clicks"][2] == 1
    assert not np.allclose(seen["logits"][2], infos["final_obs"][2]["logits"])


def test_without_autoreset_the_caller_resets(tiny_sam: Sam, bank: Bank) -> None:
    env = make(tiny_sam, bank, stop=True, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(4, int))
    env.reset(seed=0)
    actions = random_actions(env, np.random.default_rng(0))
    actions[3] = env.stop_action
    _, _, terminated, _, _ = env.step(actions)
    with pytest.raises(RuntimeError, match=r"\[3\] are over"):
        env.step(actions)
    others = env.state.logits[:3].clone()
    _, infos = env.reset(options={"reset_mask": terminated, "rows": [1]})
    assert infos["row"][3] == 1
    assert infos["_dice"].tolist() == terminated.tolist()
    assert torch.equal(env.state.logits[:3], others)
    env.step(actions)


def test_every_target_comes_once_before_any_comes_again(tiny_sam: Sam, bank: Bank) -> None:
    env = make(tiny_sam, bank, count=2, max_clicks=1)
    _, infos = env.reset(seed=5)
    seen = infos["row"].tolist()
    while len(seen) < len(bank) // 2 * 2:
        env.step(np.zeros(2, int))
        seen += env.step(np.zeros(2, int))[-1]["row"].tolist()
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("actions", [np.zeros(3, int), np.full(4, 2 * GRID * GRID), np.full(4, -1)])
def test_actions_out_of_range_are_refused(tiny_sam: Sam, bank: Bank, actions) -> None:
    env = make(tiny_sam, bank)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions must be \(4,\) integers in 0..127"):
        env.step(actions)


def test_settings_out_of_range_are_all_named(tiny_sam: Sam, bank: Bank) -> None:
    with pytest.raises(ValueError, match="grid 0 must be at least 1; observation 'images' must be 'sam', 'pixels' or"):
        ClickEnvSettings(grid=0, observation="images")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_clicks 0"):
        ClickEnvSettings(max_clicks=0)
    with pytest.raises(ValueError, match="num_envs 0"):
        ClickVectorEnv(tiny_sam, bank, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": [0]}, "rows must be"),
        ({"rows": [0, 1, 2, 99]}, "rows must be"),
        ({"reset_mask": [1, 0, 0, 0]}, "bool"),
    ],
)
def test_options_out_of_range_are_refused(tiny_sam: Sam, bank: Bank, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(tiny_sam, bank).reset(seed=0, options=options)


# ------------------------------------------------------------------------------------------------- masks and pictures


def test_action_masks_say_what_the_contract_says(tiny_sam: Sam, bank: Bank) -> None:
    inside = torch.ones_like(bank.inside)
    inside[:, :, bank.size // 2 :] = False
    env = make(tiny_sam, replace(bank, inside=inside), stop=True)
    env.reset(seed=1)
    generator = np.random.default_rng(0)
    env.step(random_actions(env, generator))
    masks = env.action_masks()
    assert masks[:, -1].all()
    state = env.state
    probability = state.logits.sigmoid().unflatten(1, (GRID, -1)).unflatten(3, (GRID, -1)).mean((2, 4))
    cell = bank.size / GRID
    for env_number in range(4):
        wanted = np.zeros((2, GRID, GRID), bool)
        for row in range(GRID):
            for column in range(GRID // 2):
                x, y = (column + 0.5) * cell, (row + 0.5) * cell
                clicks = state.points[env_number][state.is_click[env_number]].tolist()
                free = all(max(abs(x - a), abs(y - b)) >= 1.2 * cell for a, b in clicks)
                p = float(probability[env_number, row, column])
                wanted[:, row, column] = free and p > 0.1, free and p < 0.9
        if not wanted.any():
            wanted[:, :, : GRID // 2] = True
        assert masks[env_number, :-1].reshape(wanted.shape).tolist() == wanted.tolist()


def test_where_nothing_is_worth_a_click_all_cells_are_open(tiny_sam: Sam, bank: Bank) -> None:
    env = make(tiny_sam, bank)
    env.reset(seed=0)
    env._near[:] = True
    assert env.action_masks().all()


def test_click_maps_and_pictures_show_the_clicks(tiny_sam: Sam, bank: Bank) -> None:
    sam_env, pixel_env = (make(tiny_sam, bank, observation=kind, shuffle=False) for kind in ("sam", "pixels"))
    for env in (sam_env, pixel_env):
        env.reset(seed=0)
        env.step(np.array([0, 63, 64, 127]))  # Corners: off, off, on, on.
    maps, pixels = sam_env._view.observe(sam_env.state)["clicks"], pixel_env._view.observe(pixel_env.state)
    place = sam_env.state.points[:, 1]
    assert place.tolist() == [[4, 4], [60, 60], [4, 4], [60, 60]]
    for number, label in enumerate((0, 0, 1, 1)):
        x, y = (place[number] / 4).long().tolist()
        assert maps[number, label, y, x] > 0.3  # Four pixels meet at the click, and a spot here is smaller than one.
        assert maps[number, 1 - label, y, x] < 0.3
        x, y = (place[number] * 2).long().tolist()
        assert pixels[number, 5 - label, y, x] > 200  # The foreground's map stands first.
    found = torch.from_numpy(pixels[:, 3] > 0)
    mask = torch.nn.functional.interpolate(sam_env.state.logits[:, None], (128, 128), mode="bilinear")[:, 0] > 0
    assert torch.equal(found, mask)
    before = pixels.copy()
    pixel_env.step(np.array([5, 5, 5, 5]))
    assert np.array_equal(pixels, before)  # An observation is the caller's own.


def test_pictures_are_rendered(tiny_sam: Sam, bank: Bank) -> None:
    env = make(tiny_sam, bank, render_mode="rgb_array")
    env.reset(seed=0)
    pictures = env.render()
    assert pictures is not None
    assert [(picture.shape, picture.dtype) for picture in pictures] == [((64, 64, 3), np.uint8)] * 4
    assert make(tiny_sam, bank).render() is None


# -------------------------------------------------------------------------------------------- other rules, AlignSAM's


def test_places_only_with_a_labeller_and_another_reward(tiny_sam: Sam, bank: Bank) -> None:
    def pair(sam, bank, rows, slots, generator):
        """A positive and a negative point, drawn."""
        place, label, _ = first_click(bank, rows)
        state = start(sam, bank, rows, place, label, slots=slots)
        return click(sam, bank, state, place.new_tensor(generator.random((len(rows), 2)) * bank.size), label * 0)

    env = make(
        tiny_sam, bank, labeller=truth_label, reward=foreground_reward, opening=pair, observation=None, max_clicks=2
    )
    assert env.single_action_space.n == GRID * GRID
    _, infos = env.reset(seed=0)
    assert infos["clicks"].tolist() == [2] * 4
    cells = np.array([10, 20, 30, 40])
    _, rewards, _, _, infos = env.step(cells)
    place, _ = click_grid.places_of(torch.from_numpy(cells), bank.size, GRID)
    x, y = place.long().unbind(1)
    on = bank.known_truth.canvas[torch.from_numpy(infos["row"]), y, x]
    assert rewards.tolist() == torch.where(on, 1.0, -1.0).tolist()
    assert torch.equal(env.state.labels[:, 2], on.long())


def test_a_place_of_which_nothing_is_known_is_worth_nothing(tiny_sam: Sam, bank: Bank) -> None:
    truth = bank.known_truth
    known = truth.known.clone()
    known[:, :, :20] = False
    half = replace(bank, truth=Truth.of(truth.canvas, known))
    rows = torch.arange(len(bank))
    place = torch.stack([torch.full((len(bank),), 10.0), torch.linspace(1, bank.size - 1, len(bank))], 1)
    state = start(tiny_sam, bank, rows, *first_click(bank, rows)[:2])
    zero = torch.zeros(len(bank))
    step = Transition(bank, state, state, place, rows * 0, zero, zero, rows < 0)
    assert (foreground_reward(step).abs() == 1).all()
    assert (foreground_reward(replace(step, bank=half)) == 0).all()


def test_costs_and_the_bonus_never_turn_the_sign(tiny_sam: Sam, bank: Bank) -> None:
    rows = torch.arange(len(bank))
    generator = torch.Generator().manual_seed(0)
    before = start(tiny_sam, bank, rows, *first_click(bank, rows)[:2])
    after = replace(before, logits=before.logits + 3 * torch.randn(before.logits.shape, generator=generator))
    scores = [dice(bank, rows, state.logits) for state in (before, after)]
    stopped = rows == 0
    step = Transition(bank, before, after, torch.zeros(len(rows), 2), rows, *scores, stopped)
    change = scores[1] - scores[0]
    assert (change.abs() > 1e-3).any()
    with_bonus = DiceReward(boundary=5.0)(step)
    assert (with_bonus * change >= 0).all()
    assert ((with_bonus - change).abs() <= change.abs() / 2 + 1e-6).all()
    costs = DiceReward(cost=0.1)(step)
    torch.testing.assert_close(costs, change - torch.where(stopped, 0.0, 0.1))


def test_agreement_near_the_outline(tiny_sam: Sam, bank: Bank) -> None:
    rows = torch.arange(len(bank))
    state = start(tiny_sam, bank, rows, *first_click(bank, rows)[:2])
    area = bank.known_truth.area
    perfect, opposite = (replace(state, logits=sign * (area - 0.5)) for sign in (1, -1))
    assert boundary_agreement(bank, perfect).min() > 0.5
    torch.testing.assert_close(
        boundary_agreement(bank, perfect) + boundary_agreement(bank, opposite), torch.ones(len(bank)), atol=0.1, rtol=0
    )
    assert boundary_agreement(bank, replace(state, logits=torch.zeros_like(area) - 1))[0] < 1


def test_cells_and_places_are_inverse() -> None:
    every = torch.arange(2 * 16 * 16)
    place, label = click_grid.places_of(every, 64, 16)
    assert torch.equal(click_grid.cells_of(place, label, 64, 16), every)
    assert place[17].tolist() == [6.0, 6.0]
    assert label.tolist() == [0] * 256 + [1] * 256


def test_a_bank_without_truth_needs_rules_without_truth(tiny_sam: Sam) -> None:
    bank = Bank.of_images(tiny_sam, torch.rand(3, 3, 64, 64))

    def middle(sam, bank, rows, slots, generator):
        place = torch.full((len(rows), 2), bank.size / 2)
        return start(sam, bank, rows, place, torch.ones_like(rows), slots=slots)

    with pytest.raises(ValueError, match="without truth"):
        make(tiny_sam, bank, 2).reset(seed=0)
    env = make(tiny_sam, bank, 2, opening=middle, reward=lambda step: step.after.iou - step.before.iou)
    _, infos = env.reset(seed=0)
    assert "dice" not in infos
    guess = infos["iou"]
    _, rewards, _, _, infos = env.step(np.array([3, 70]))
    np.testing.assert_allclose(rewards, infos["iou"] - guess, atol=1e-6)


@pytest.mark.parametrize("observation", ["sam", "pixels", None])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_what_a_caller_writes_reaches_nobody(tiny_sam: Sam, bank: Bank, observation, mode) -> None:
    """Observations, rewards and infos are the caller's own: spoiling them changes no later step, nor the bank."""
    kinds = {"observation": observation, "autoreset_mode": mode, "stop": True}
    spoilt, untouched = make(tiny_sam, bank, **kinds), make(tiny_sam, bank, **kinds)
    before = [part.clone() for part in (bank.pixels, bank.image, bank.embedding.low, bank.known_truth.area)]
    generator = np.random.default_rng(0)
    found, wanted = spoilt.reset(seed=5), untouched.reset(seed=5)
    for _ in range(6):
        for a, b in zip(found, wanted, strict=True):
            assert_same(a, b)
        spoil(found)
        actions = random_actions(untouched, generator)
        if mode == AutoresetMode.DISABLED and bool(untouched.state.done.any()):
            done = untouched.state.done.numpy().copy()
            spoilt.reset(options={"reset_mask": done})
            untouched.reset(options={"reset_mask": done})
            actions = random_actions(untouched, generator)
        found, wanted = spoilt.step(actions), untouched.step(actions)
    for a, b in zip(before, (bank.pixels, bank.image, bank.embedding.low, bank.known_truth.area), strict=True):
        assert torch.equal(a, b)


def spoil(value) -> None:
    """Overwrite every array in what an environment returned."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, np.ndarray) and value.dtype != object:
        value[...] = 1
    elif isinstance(value, list | tuple | np.ndarray):
        for part in value:
            spoil(part)
