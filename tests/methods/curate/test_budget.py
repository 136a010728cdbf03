"""Budgets: who learns and who is scored, resuming, and a forecast on data that can be learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Labels, Mask, Sample
from maskwright.errors import DataError, MaskwrightError
from maskwright.methods.curate import budget as module
from maskwright.methods.curate.budget import budget, duration, image_dice, plan
from maskwright.methods.curate.costs import Costs
from maskwright.methods.curate.features import Features
from maskwright.methods.curate.material import Material
from maskwright.sam.sam import Sam
from tests.methods.curate.test_quick import squares


@pytest.fixture
def material(tiny_sam: Sam, tmp_path: Path, monkeypatch) -> Material:
    """40 images of squares to learn from, 12 to score on; no files, as features and maps are there."""
    features, truth = squares(52, 0)
    maps = np.repeat(np.repeat(truth, 4, 1), 4, 2)
    samples = [
        Sample(f"s{i}", f"images/s{i}.png", "train" if i < 40 else "val", Labels(mask=Mask(f"masks/s{i}.png")))
        for i in range(52)
    ]
    dataset = Dataset(tmp_path, ("background", "square"), tuple(samples))
    monkeypatch.setattr(module.Fingerprint, "of", lambda _: type("Print", (), {"digest": "d" * 64})())
    monkeypatch.setattr(
        module.Holdings, "of", lambda d: type("Holds", (), {"counts": lambda _, u, c: np.ones((u.max() + 1, 1))})()
    )
    monkeypatch.setattr(module, "steps_for", lambda count: 20 + count)
    monkeypatch.setattr("maskwright.methods.curate.quick.steps_for", lambda count: 20 + count)
    return Material(tiny_sam, dataset, features, maps, np.arange(52))


def split(material: Material, names: list[str]) -> Material:
    samples = [replace(sample, split=name) for sample, name in zip(material.dataset, names, strict=True)]
    return replace(material, dataset=material.dataset.with_samples(samples))


def test_train_learns_and_val_is_scored(material: Material) -> None:
    planned = plan(material, Costs(), 0)
    assert planned.learners.tolist() == list(range(40))
    assert planned.test.tolist() == list(range(40, 52))
    assert planned.counts == (5, 8, 10, 15, 20, 30, 40)
    assert planned.scored_on == "split 'val'"
    assert planned.seconds.tolist() == [24.0] * 40


def test_masks_are_held_out_by_groups_where_no_split_has_any(material: Material) -> None:
    alone = replace(split(material, ["train"] * 52), groups=np.arange(52) // 4)
    planned = plan(alone, Costs(), 0)
    assert len(planned.test) == 12
    assert not set(alone.groups[planned.test].tolist()) & set(alone.groups[planned.learners].tolist())
    assert len(planned.test) + len(planned.learners) == 52


def test_a_group_of_the_test_split_is_not_learnt_from(material: Material) -> None:
    groups = np.arange(52)
    groups[:5] = groups[45]
    assert plan(replace(material, groups=groups), Costs(), 0).learners.tolist() == list(range(5, 40))


def test_too_few_of_either_are_named(material: Material) -> None:
    few = split(material, ["train"] * 11 + ["spare"] * 36 + ["val"] * 5)
    with pytest.raises(DataError) as error:
        plan(few, Costs(), 0)
    assert len(error.value.problems) == 2


def test_it_learns_foretells_and_writes(material: Material, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    out = tmp_path / "out"
    result = budget(material, out, Costs(), seed=0, settings={"sam": "tiny"}, stage=lambda *told: said.append(told))
    assert result.images == 40
    assert result.seconds == 40 * 24
    assert [row["images"] for row in result.curve] == [5, 8, 10, 15, 20, 30, 40]
    assert result.curve[-1]["dice"] > result.curve[0]["dice"]
    assert result.forecast.low <= result.forecast.score <= result.forecast.high
    assert result.forecast.calibrated
    assert said[-1][1] == said[-1][2]
    content = json.loads((out / "budget.json").read_text())
    assert content["sentences"] == list(result.sentences)
    assert "As much again" in (out / "report.html").read_text()


def test_a_call_that_was_cut_short_goes_on_and_ends_alike(material: Material, tmp_path: Path, monkeypatch) -> None:
    whole = budget(material, tmp_path / "whole", Costs(), orders=2, settings={})
    clock = iter([0.0] * 9 + [1e9] * 100)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    part = budget(material, tmp_path / "part", Costs(), orders=2, minutes=1, settings={})
    assert "Only 1 of 2 orders" in " ".join(part.sentences)
    made = len(json.loads((tmp_path / "part/trainings.json").read_text())["cells"])
    assert made == 8
    trained: list[int] = []
    real = module.train_quick
    monkeypatch.setattr(module, "train_quick", lambda f, *a, **k: trained.append(len(f)) or real(f, *a, **k))
    again = budget(material, tmp_path / "part", Costs(), orders=2, settings={})
    assert len(trained) == 14 - made
    assert again.curve == whole.curve
    assert again.forecast == whole.forecast


def test_no_time_for_one_order_says_what_to_do(material: Material, tmp_path: Path, monkeypatch) -> None:
    clock = iter([0.0, 0.0] + [1e9] * 100)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with pytest.raises(MaskwrightError, match="it goes on"):
        budget(material, tmp_path / "out", Costs(), minutes=0.1, settings={})
    assert len(json.loads((tmp_path / "out/trainings.json").read_text())["cells"]) == 1


def test_other_settings_and_damage_are_refused(material: Material, tmp_path: Path) -> None:
    budget(material, tmp_path / "out", Costs(), orders=1, settings={"sam": "a"})
    with pytest.raises(MaskwrightError, match="made with other sam"):
        budget(material, tmp_path / "out", Costs(), orders=1, settings={"sam": "b"})
    (tmp_path / "out/trainings.json").write_text("{")
    with pytest.raises(MaskwrightError, match="is damaged"):
        budget(material, tmp_path / "out", Costs(), orders=1, settings={"sam": "a"})


def test_dice_of_an_image() -> None:
    truth = np.zeros((4, 4), np.uint8)
    truth[:2] = 1
    truth[3] = 255
    predicted = np.zeros((4, 4), np.int64)
    predicted[1:] = 1
    assert image_dice(predicted, truth, 3) == pytest.approx(2 * 4 / (8 + 8))
    predicted[2, 0] = 2
    assert image_dice(predicted, truth, 3) == pytest.approx((2 * 4 / (7 + 8) + 0) / 2)
    assert image_dice(np.zeros((2, 2), int), np.zeros((2, 2), np.uint8), 2) == 1.0


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 seconds"), (2100, "35 minutes"), (9000, "2.5 hours")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_features_of_one_file_serve_several_images() -> None:
    features, _ = squares(3, 0)
    twice = Features(features.folder, np.array([0, 0, 2]), features.levels)
    assert (twice.load([0])["low"] == twice.load([1])["low"]).all()
