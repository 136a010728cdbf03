"""Episodes for the scorer of `find` show what they say, and what the scorer learns from them is what is in them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from maskwright.methods.find.clues import FEATURES


@pytest.fixture
def modules(script: Callable[[str, str], ModuleType]) -> tuple[ModuleType, ModuleType, ModuleType]:
    return script("tools", "find_episodes"), script("tools", "train_find_scorer"), script("tools", "photo_packs")


def packs(photo_packs: ModuleType) -> list:
    """A pack of one kind with a bright square in each picture, one of several kinds with two, and one without masks."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for name, kind, objects in (("trucks", "truck", 1), ("desk", None, 2), ("apples", None, 0)):
        images = torch.randint(0, 90, (6, 3, 96, 96), generator=generator).byte()
        ids = torch.zeros(6, 96, 96, dtype=torch.uint8)
        for number in range(6):
            for one in range(objects):
                y, x = 8 + 44 * one, int(torch.randint(8, 60, (), generator=generator))
                ids[number, y : y + 26, x : x + 26] = one + 1
        images[(ids > 0)[:, None].expand_as(images)] = 220
        made.append(photo_packs.Pack(name, images, ids, kind))
    return made


@pytest.mark.slow
def test_subjects_show_what_they_say(modules: tuple[ModuleType, ...]) -> None:
    episodes, scorer, photo_packs = modules
    found = list(episodes.subjects(packs(photo_packs), 64, 0))
    assert {subject.family for subject in found} == set(scorer.EPISODES)
    for subject in found:
        area = subject.masks.flatten(1).float().mean(1)
        assert area.min() > episodes.LEAST_AREA, subject.name
        assert len(subject.hard) == len(subject.others) >= scorer.QUERIES, (subject.family, subject.name)
        assert subject.images.dtype == subject.others.dtype == torch.uint8
    again = next(episodes.subjects(packs(photo_packs), 64, 0))
    assert torch.equal(again.images, found[0].images)
    assert torch.equal(again.others, found[0].others)


def test_images_beside_a_truck_show_none(modules: tuple[ModuleType, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    episodes, _, photo_packs = modules
    monkeypatch.setattr(episodes, "develop", lambda images, generator: images)
    truck = next(episodes.subjects(packs(photo_packs), 64, 1))
    assert (truck.family, truck.name) == ("kind", "truck")
    assert truck.hard.any()
    assert truck.others[truck.hard].max() < 100
    bright = (truck.images.float().mean(1) > 150).flatten(1)
    assert (bright == truck.masks.flatten(1)).float().mean() > 0.98


def drawn(scorer: ModuleType, count: int, seed: int):
    """Episodes in which the first number of a candidate is its Dice, and the next says whether the thing is there."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 9, len(FEATURES), generator=generator)
    present = torch.rand(count, generator=generator) < 0.5
    dice = features[..., 0].sigmoid()
    features[..., 1] += 3 * present[:, None]
    features[..., scorer._COUNT] = 0.2
    subject = torch.arange(count) % 20
    return scorer.Episodes(
        features, dice * present[:, None], present, ~present, subject, subject % len(scorer.EPISODES)
    )


def test_quality_presence_and_calibration_are_learnt(modules: tuple[ModuleType, ...]) -> None:
    _, scorer, _ = modules
    quality, presence = scorer.fit(drawn(scorer, 600, 0), 0, steps=300)
    unseen = drawn(scorer, 400, 1)
    with torch.inference_mode():
        values = quality(unseen.features)
        best = values.argmax(1)
        told = presence(scorer.seen_of(unseen.features, values))
    assert (best == unseen.features[..., 0].argmax(1)).float().mean() > 0.8
    assert scorer._auroc(told[unseen.present], told[~unseen.present]) > 0.9


def test_nothing_measured_is_learnt_from(modules: tuple[ModuleType, ...], tmp_path) -> None:
    _, scorer, _ = modules
    with pytest.raises(Exception, match="results are measured on this set"):
        scorer.main(scorer.Config((tmp_path / "polyps.npz",), tmp_path / "out"))


def test_auroc_counts_pairs(modules: tuple[ModuleType, ...]) -> None:
    _, scorer, _ = modules
    assert scorer._auroc(torch.tensor([0.9, 0.4]), torch.tensor([0.1, 0.5])) == 0.75
