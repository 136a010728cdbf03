"""Procedural scenes: contract of the batch, determinism, pairs, difficulty, and that nothing degenerates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskwright.data.scenes import CATEGORY_NAMES, Scenes, render
from maskwright.data.scenes.cast import FREQUENCY, SPREAD, draw_cast
from maskwright.data.scenes.dice import Dice
from maskwright.data.scenes.outlines import FRAME, OUTLINES, REACH, draw_outlines
from maskwright.data.scenes.plan import draw_plan
from maskwright.data.scenes.textures import draw_textures


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hard() -> Scenes:
    return render(48, 64, seed=7)


def areas(batch: Scenes) -> torch.Tensor:
    """(B, N) share of the image that each instance shows, counted one by one."""
    slots = batch.categories.shape[1]
    return torch.stack([(batch.instances == k + 1).float().mean((1, 2)) for k in range(slots)], 1)


def assert_contract(batch: Scenes, count: int, size: int, slots: int) -> None:
    assert batch.images.shape == (count, 3, size, size)
    assert batch.images.dtype == torch.float32
    assert batch.images.isfinite().all()
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.instances.shape == (count, size, size)
    assert batch.categories.shape == batch.identities.shape == (count, slots)
    assert {batch.instances.dtype, batch.categories.dtype, batch.identities.dtype} == {torch.int64}
    assert batch.instances.min() >= 0
    assert batch.instances.max() <= slots
    assert batch.categories.min() >= 0
    assert batch.categories.max() < len(CATEGORY_NAMES)
    shown = areas(batch) > 0
    assert torch.equal(shown, batch.categories > 0)
    assert torch.equal(shown, batch.identities > 0)


def test_names_fit_the_outlines() -> None:
    assert CATEGORY_NAMES[0] == "background"
    assert len(set(CATEGORY_NAMES)) == len(CATEGORY_NAMES) == len(OUTLINES) + 1
    assert len(SPREAD) == len(FREQUENCY) == len(CATEGORY_NAMES)


@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(1, 3),
    size=st.sampled_from([32, 33, 64, 90]),
    slots=st.sampled_from([1, 2, 8, 21]),
    difficulty=st.floats(0, 1),
    pairs=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_contract_holds_everywhere(
    count: int, size: int, slots: int, difficulty: float, pairs: bool, seed: int
) -> None:
    count = 2 * count if pairs else count
    batch = render(count, size, seed=seed, max_objects=slots, pairs=pairs, difficulty=difficulty)
    assert_contract(batch, count, size, slots)


def test_large_images() -> None:
    assert_contract(render(2, 256, seed=3), 2, 256, 8)


def test_same_seed_same_bytes() -> None:
    first, again, other = render(4, 64, seed=5), render(4, 64, seed=5), render(4, 64, seed=6)
    for f in fields(Scenes):
        assert torch.equal(getattr(first, f.name), getattr(again, f.name)), f.name
    assert not torch.equal(first.images, other.images)


def test_a_generator_moves_on_and_the_global_one_does_not() -> None:
    generator = torch.Generator().manual_seed(5)
    state = torch.get_rng_state()
    first, second = render(4, 64, seed=generator), render(4, 64, seed=generator)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.images, render(4, 64, seed=5).images)
    assert not torch.equal(first.images, second.images)


def test_one_identity_has_one_category(hard: Scenes) -> None:
    for identity in hard.identities.unique():
        assert len(hard.categories[hard.identities == identity].unique()) == 1


def test_areas_are_those_of_photographs() -> None:
    shown = areas(batch := render(128, 64, seed=11))
    sizes = shown[shown > 0]
    assert (shown.amax(1) >= 0.002).float().mean() >= 0.98, "nearly every scene shows an object of 0.2 %"
    assert sizes.min() >= 0.0005
    assert sizes.max() > 0.3
    assert 0.008 < sizes.median() < 0.08
    assert (sizes < 0.005).float().mean() > 0.02
    count = (shown > 0).sum(1)
    assert count.min() == 1
    assert count.max() >= 7
    rim = torch.ones(64, 64, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    cut = ((batch.instances > 0) & rim).any(1).any(1).float().mean()
    assert 0.15 < cut < 0.9, "a good part of the scenes has objects that the border cuts"


def test_every_category_and_style_is_drawn() -> None:
    batch = render(192, 32, seed=2)
    assert set(batch.categories.unique().tolist()) == set(range(len(CATEGORY_NAMES)))
    brightness = batch.images.mean((1, 2, 3))
    assert brightness.min() < 0.12, "dark microscopy"
    assert brightness.max() > 0.65, "bright ground"


def test_pairs_share_a_visible_identity_and_no_others_do() -> None:
    batch = render(64, 64, seed=13, pairs=True)
    scene = [set(row[row > 0].tolist()) for row in batch.identities]
    distinct = []
    for i in range(0, 64, 2):
        common = scene[i] & scene[i + 1]
        distinct.append(len(common))
        for identity in common:
            there = batch.identities[i : i + 2] == identity
            assert len(batch.categories[i : i + 2][there].unique()) == 1
        for j in range(i + 2, 64):
            assert not (scene[i] | scene[i + 1]) & scene[j]
    assert min(distinct) >= 1
    assert 2 <= max(distinct) <= 3


def test_shared_objects_keep_their_colour_and_change_their_place() -> None:
    batch = render(64, 64, seed=17, pairs=True, difficulty=0.0)
    same, other, moved = [], [], []
    means, places = [], []
    for i in range(64):
        identity = {int(v): k + 1 for k, v in enumerate(batch.identities[i].tolist()) if v}
        masks = {v: batch.instances[i] == k for v, k in identity.items()}
        means.append({v: batch.images[i][:, m].mean(1) for v, m in masks.items()})
        places.append({v: m.nonzero().float().mean(0) for v, m in masks.items()})
    for i in range(0, 64, 2):
        stranger = next(iter(means[(i + 2) % 64].values()))
        for v in means[i].keys() & means[i + 1].keys():
            same.append((means[i][v] - means[i + 1][v]).norm())
            other.append((means[i][v] - stranger).norm())
            moved.append((places[i][v] - places[i + 1][v]).norm())
    assert torch.stack(same).median() < 0.6 * torch.stack(other).median()
    assert torch.stack(moved).median() > 5


def test_without_pairs_no_scene_shares_an_identity(hard: Scenes) -> None:
    seen: set[int] = set()
    for row in hard.identities:
        own = set(row[row > 0].tolist())
        assert not own & seen
        seen |= own


def contrast(batch: Scenes) -> torch.Tensor:
    """Per instance: colour distance between it and the background, in deviations of the background's colour."""
    values = []
    for image, instances in zip(batch.images, batch.instances):
        ground = image[:, instances == 0]
        for k in instances.unique():
            if k > 0:
                gap = (image[:, instances == k].mean(1) - ground.mean(1)).abs()
                values.append((gap / (ground.std(1) + 0.02)).amax())
    return torch.stack(values)


def test_difficulty_hides_objects(hard: Scenes) -> None:
    easy = contrast(render(48, 64, seed=7, difficulty=0.0))
    assert easy.median() > 4
    assert easy.quantile(0.1) > 1.5
    assert contrast(hard).median() < 0.5 * easy.median()


def test_easy_scenes_are_solved_by_a_threshold() -> None:
    batch = render(48, 64, seed=19, difficulty=0.0)
    ious = []
    for image, instances in zip(batch.images, batch.instances):
        truth = instances > 0
        ground = image.flatten(1).median(1).values if truth.float().mean() < 0.4 else image[:, ~truth].mean(1)
        guess = (image - ground[:, None, None]).abs().amax(0) > 0.12
        ious.append(((guess & truth).sum() / (guess | truth).sum()).item())
    assert sorted(ious)[len(ious) // 2] > 0.7


def components(mask: torch.Tensor) -> np.ndarray:
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask.numpy(), output=labels)
    return labels


def test_outlines_are_closed_whole_and_of_full_size() -> None:
    """Every category, undistorted: within its frame, nearly always one piece that no closing circle cut, not tiny."""
    kinds, count, resolution = len(CATEGORY_NAMES) - 1, 24, 96
    dice = Dice(0, torch.device("cpu"))
    cast = draw_cast(dice, draw_plan(dice, kinds, count, False, 1.0), resolution)
    category = torch.arange(1, kinds + 1)[:, None].expand(kinds, count)
    plain = replace(cast, category=category, warp=0 * cast.warp, rough=0 * cast.rough)
    grids = draw_outlines(plain, resolution).view(kinds, count, resolution, resolution)
    axis = ((torch.arange(resolution) + 0.5) * 2 / resolution - 1) * FRAME
    rho = (axis.square() + axis[:, None].square()).sqrt()
    for name, inside in zip(CATEGORY_NAMES[1:], grids < 0):
        reach = torch.stack([rho[one].max() for one in inside])
        assert reach.max() <= REACH, name
        assert (reach > REACH - 0.03).float().mean() <= 0.25, name
        assert reach.min() > 0.6, name
        # Of all but a few pixels: the tips of a crescent are finer than the grid.
        parts = [np.bincount(components(one).ravel())[1:] for one in inside]
        assert sum(part.max() > 0.97 * part.sum() for part in parts) >= 0.9 * count, name


def test_occlusion_hides_without_a_trace() -> None:
    """Ids of fully hidden objects vanish from all three tables together."""
    batch = render(32, 64, seed=23, max_objects=24)
    assert_contract(batch, 32, 64, 24)
    drawn = batch.categories > 0
    assert (drawn.sum(1) < 24).any()


def test_textures_are_periodic_and_balanced() -> None:
    bank = draw_textures(Dice(0, torch.device("cpu")))
    assert bank.shape == (48, 128, 128)
    assert bank.min() >= 0
    assert bank.max() <= 1
    assert (bank.std((1, 2)) > 0.08).all()
    seam = (bank[:, :, 0] - bank[:, :, -1]).abs().mean()
    inner = (bank[:, :, 1:] - bank[:, :, :-1]).abs().mean()
    assert seam < 1.5 * inner


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"size": 16}, {"max_objects": 0}, {"difficulty": 1.5}, {"batch": 3, "pairs": True}],
    ids=lambda w: ",".join(w),
)
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"batch": 2, "size": 64, **wrong}
    with pytest.raises(ValueError, match="render needs"):
        render(**arguments, seed=0)


def test_autocast_of_the_caller_changes_nothing() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = render(2, 32, seed=4)
    assert torch.equal(inside.images, render(2, 32, seed=4).images)


def test_a_generator_of_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="use one device"):
        render(2, 32, seed=torch.Generator(), device="meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    first, again = (render(8, 64, seed=1, device="cuda", pairs=True) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert_contract(Scenes(*(getattr(first, f.name).cpu() for f in fields(Scenes))), 8, 64, 8)
