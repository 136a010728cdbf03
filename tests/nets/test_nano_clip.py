"""The bundled CLIP: offline, small, reads its own words and no others, and finds what is named on scenes it has never seen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskwright.data.scenes import CATEGORY_NAMES, render
from maskwright.errors import DataError
from maskwright.nets.clip_surgery import NANO_CLIP, ClipSurgery


@pytest.fixture(scope="module")
def clip() -> ClipSurgery:
    return ClipSurgery.load()


@pytest.fixture(scope="module")
def scenes():
    return render(48, 128, seed=424_242, difficulty=0.3)


def test_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in NANO_CLIP.iterdir()) <= 6e6


def test_it_loads_without_a_network(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nano-clip is in the package; nothing may be looked up")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert ClipSurgery.load("nano-clip").grid == 16


def test_the_highest_place_lies_on_what_is_named(clip, scenes) -> None:
    """Pointing accuracy against the share of the picture that the named category fills."""
    found, share = [], []
    for category, name in enumerate(CATEGORY_NAMES[1:], start=1):
        kinds = F.pad(scenes.categories, (1, 0)).gather(1, scenes.instances.flatten(1)).view_as(scenes.instances)
        truth = kinds == category
        rows = (truth.flatten(1).float().mean(1) >= 0.01).nonzero()[:, 0]
        if len(rows):
            maps = F.interpolate(clip.maps(scenes.images[rows], [name]), 128, mode="bilinear", align_corners=False)
            highest = maps.flatten(1).argmax(1, keepdim=True)
            found.append(truth[rows].flatten(1).gather(1, highest).float())
            share.append(truth[rows].flatten(1).float().mean(1))
    accuracy, chance = float(torch.cat(found).mean()), float(torch.cat(share).mean())
    assert chance < 0.12
    assert accuracy > max(0.5, 4 * chance), (accuracy, chance)


def test_attributes_are_read(clip) -> None:
    """Two discs on grey, one red and one blue: each colour's map is highest on its own disc."""
    axis = torch.arange(128) + 0.5
    image = torch.full((3, 128, 128), 0.5)
    for x, colour in ((36, (0.85, 0.1, 0.1)), (92, (0.1, 0.15, 0.85))):
        disc = (axis[None] - x).square() + (axis[:, None] - 64).square() < 20**2
        image[:, disc] = torch.tensor(colour)[:, None]
    for name, side in (("red", 0), ("blue", 1), ("red disc", 0), ("blue discs", 1)):
        halves = clip.maps(image[None], [name])[0, 0].unflatten(1, (2, 8)).amax((0, 2))
        assert halves.argmax() == side, name


def test_its_words(clip) -> None:
    clip.check_names([*CATEGORY_NAMES[1:], "small red stars", "Leaves and a ring", "object"])
    with pytest.raises(DataError, match=r"nano-clip does not know 'polyp', only a, an, and, background, bar, bars"):
        clip.check_names(["polyp"])
    with pytest.raises(DataError, match="has no word in it"):
        clip.check_names(["?!"])
