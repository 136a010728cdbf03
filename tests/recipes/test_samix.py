"""SAMIX from labels to model: every setting runs, a resumed run is the uninterrupted one, and it learns."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from maskwright.api import load
from maskwright.data.dataset import Dataset
from maskwright.data.images import image_size
from maskwright.data.labels import Kind, Labels
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError, MaskwrightError, RunError
from maskwright.methods.in_context import columns, pool, pool_index
from maskwright.methods.in_context.selection import load_policy
from maskwright.nets.selector_names import SelectorName
from maskwright.recipes import samix
from maskwright.recipes.samix import report as samix_report
from maskwright.recipes.samix.trainer import Trainer
from tests.recipes.training import (
    Stopped,
    assert_same_run,
    binary_scenes,
    log,
    session_of,
    settings,
    stop_after,
    tensors,
)


@pytest.fixture(scope="session")
def binary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary_scenes(tmp_path_factory.mktemp("binary") / "data")


@pytest.fixture(params=["binary", "two categories"])
def data(request: pytest.FixtureRequest, binary_folder: Path, scene_folder: Path) -> Path:
    return binary_folder if request.param == "binary" else scene_folder


def test_all_six_kinds_of_label_train_a_model(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    run, dataset = tmp_path / "run", Dataset.load(data)
    train = {sample.id: sample for sample in dataset.split("train")}
    assert {sample.labels.kind for sample in train.values()} == set(Kind)
    assert samix.main(settings(data, run, tiny_sam_folder, steps=20, warm_up=10)) == run
    assert json.loads((run / "config.json").read_text())["config"]["sam_every"] == 6
    lines = log(run)
    assert [line["step"] for line in lines if "warm_up" in line] == [10]
    (losses,) = (line for line in lines if "mask" in line)
    assert losses["step"] == 20
    assert {"mask", "drawn", "tag", "box", "consistency", "pseudo", "blind", "sam", "lr"} <= losses.keys()
    assert [line["step"] for line in lines if "val_dice" in line] == [13, 15, 18, 20]  # at most a tenth of the time
    assert all(isinstance(value, int | float) for line in lines for value in line.values())
    parts = {f"{name}.safetensors" for name in ("model", "sam", "pool")}
    assert {path.name for path in (run / "model").iterdir()} == {"config.json", "README.md", *parts}
    html = (run / "report.html").read_text()
    assert html.lower().startswith("<!doctype html>")
    assert "http://" not in html.replace("http://www.w3.org", "")

    index = json.loads((run / "pseudo" / "index.json").read_text())
    assert index["categories"] == list(dataset.categories)
    weak = {name: s.labels.kind for name, s in train.items() if s.labels.kind != Kind.MASK}
    assert index["samples"].keys() <= weak.keys()
    # A prompt can always be answered; tags and unlabelled images need references, which the mask images are.
    assert {name for name, kind in weak.items() if kind > Kind.TAG} <= index["samples"].keys()
    for name, entry in index["samples"].items():
        assert entry["kind"] == str(weak[name])
        assert 0 <= entry["confidence"] <= 1
        assert name not in entry["references"]
        assert all(train[other].labels.kind > weak[name] for other in entry["references"])
        mask = read_mask(run / "pseudo" / f"{name}.png")
        assert (mask.shape[1], mask.shape[0]) == image_size(dataset.image_path(train[name]))
        assert mask.max() < len(dataset.categories)

    (prediction,) = load(run, device="cpu").predict([dataset.image_path(dataset.split("test")[0])])
    assert prediction.mask.shape == (64, 64)


def test_the_same_seed_is_the_same_run_and_another_is_not(binary_folder: Path, tmp_path: Path, tiny_sam_folder: Path):
    for name, changed in {"a": {"workers": 2}, "b": {}, "c": {"seed": 1}}.items():
        samix.main(settings(binary_folder, tmp_path / name, tiny_sam_folder, **changed))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    other = tensors(tmp_path / "c")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in tensors(tmp_path / "a").items())


RESUMED = {"steps": 25, "warm_up": 12, "checkpoint_seconds": 0.0}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, scene_folder: Path, tiny_sam_folder: Path) -> Path:
    return samix.main(settings(scene_folder, tmp_path_factory.mktemp("whole") / "run", tiny_sam_folder, **RESUMED))


# In the warm-up, at its end, after the first step of stage 2, and on either side of a line of the log.
@pytest.mark.parametrize("stops", [[5], [12], [13], [19, 24], [3, 22]])
def test_a_resumed_run_is_the_uninterrupted_one(
    stops: list[int],
    uninterrupted: Path,
    scene_folder: Path,
    tmp_path: Path,
    tiny_sam_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    config = settings(scene_folder, tmp_path / "run", tiny_sam_folder, **RESUMED)
    for stop in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, stop)
            with pytest.raises(Stopped):
                samix.main(replace(config, resume=stop != stops[0]))
        assert not (config.out / "model").exists()
    samix.main(replace(config, resume=True))
    assert_same_run(config.out, uninterrupted)
    assert len(json.loads((config.out / "config.json").read_text())["resumed"]) == len(stops)


LEARNT = RESUMED | {"steps": 15, "warm_up": 2, "selector": "policy", "policy_warm_up": 3, "sam_every": 2}


# In the policy's warm-up, at its end, and in stage 2; with the pool looked at as a whole, and as very large ones are.
@pytest.mark.parametrize(("stops", "large"), [([3], False), ([5, 8], False), ([5, 8], True)])
def test_a_resumed_policy_is_the_uninterrupted_one(
    stops: list[int],
    large: bool,
    scene_folder: Path,
    tmp_path: Path,
    tiny_sam_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    if large:
        monkeypatch.setattr(pool, "LARGE", 3)
        monkeypatch.setattr(pool_index, "CELLED", 4)
        monkeypatch.setattr(columns, "IN_MEMORY", 0)
    whole = samix.main(settings(scene_folder, tmp_path / "whole", tiny_sam_folder, **LEARNT))
    (warmed,) = (line for line in log(whole) if "oracle_dice" in line)
    assert warmed["step"] == 5
    assert warmed["policy_dice"] <= warmed["oracle_dice"] + 1e-6
    assert any("policy_entropy" in line for line in log(whole) if line["step"] > 5)
    report = (whole / "report.html").read_text()
    assert "Policy: mean rewards" in report
    assert "oracle (sees the truth)" in report
    config = settings(scene_folder, tmp_path / "run", tiny_sam_folder, **LEARNT)
    for stop in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, stop)
            with pytest.raises(Stopped):
                samix.main(replace(config, resume=stop != stops[0]))
    samix.main(replace(config, resume=True))
    assert_same_run(config.out, whole)
    assert any((config.out / "last").rglob("*pool_index*")) == large
    # The policy is taken home with the model.
    description = json.loads((whole / "model" / "config.json").read_text())["in_context"]["policy"]
    policies = [load_policy(description, run / "model" / "selector.safetensors") for run in (whole, config.out)]
    first, second = (policy.net.state_dict() for policy in policies)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert policies[0].settings.references == 2
    assert policies[0].net.query_shift.weight.abs().sum() > 0
    assert load(whole, device="cpu").categories == ("background", "disc", "figure")


def test_a_finished_run_can_be_resumed_without_harm(
    uninterrupted: Path, scene_folder: Path, tmp_path: Path, tiny_sam_folder: Path
):
    config = settings(scene_folder, tmp_path / "run", tiny_sam_folder, **RESUMED)
    samix.main(config)
    samix.main(replace(config, resume=True))
    assert_same_run(config.out, uninterrupted)


@pytest.mark.parametrize("pseudo", ["sam", "ellipse", "none"])
@pytest.mark.parametrize("labels", ["all", "masks-only"])
def test_every_baseline_runs(data: Path, tmp_path: Path, tiny_sam_folder: Path, pseudo: Any, labels: Any):
    run = samix.main(settings(data, tmp_path / "run", tiny_sam_folder, pseudo=pseudo, labels=labels))
    uses_sam = pseudo == "sam" and labels == "all"
    assert (run / "pseudo").exists() == uses_sam
    assert any("warm_up" in line for line in log(run)) is False  # logged every ten steps only
    assert f"{3 if data.name == 'scenes' else 2} mask" in (run / "model" / "README.md").read_text()
    assert ("box" in (run / "model" / "README.md").read_text()) == (labels == "all")


@pytest.mark.parametrize("selector", ["random", "similar", "similar-foreground", "diverse", "policy"])
def test_every_selector_runs(binary_folder: Path, tmp_path: Path, tiny_sam_folder: Path, selector: SelectorName):
    run = samix.main(settings(binary_folder, tmp_path / "run", tiny_sam_folder, selector=selector, steps=6))
    assert all(tensor.isfinite().all() for tensor in tensors(run).values())


@pytest.mark.parametrize(
    "changed",
    [
        {"adapters": False},
        {"tune_decoder": False},
        {"warm_up": 0},
        {"flips": "horizontal"},
        {"epochs": 2.0, "steps": None},
        {"minutes": 0.01, "steps": None},
        {"size": 96},
        {"sam_every": 3, "references": 5, "mask_share": 0.5},
    ],
    ids=lambda changed: ",".join(changed),
)
def test_other_settings_run(binary_folder: Path, tmp_path: Path, tiny_sam_folder: Path, changed: dict[str, Any]):
    run = samix.main(settings(binary_folder, tmp_path / "run", tiny_sam_folder, **changed))
    assert all(tensor.isfinite().all() for tensor in tensors(run).values())


@pytest.mark.parametrize("from_config", [False, True])
def test_a_segformer_is_trained_and_used(binary_folder: Path, tmp_path: Path, tiny_sam_folder: Path, from_config: bool):
    torch.manual_seed(0)
    small = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
    )
    SegformerForSemanticSegmentation(small).save_pretrained(tmp_path / "segformer")
    name = str(tmp_path / "segformer" / ("config.json" if from_config else ""))
    config = settings(binary_folder, tmp_path / "run", tiny_sam_folder, segmenter=name, checkpoint_seconds=0.0)
    samix.main(config)
    image = Dataset.load(binary_folder)
    (prediction,) = load(config.out, device="cpu").predict([image.image_path(image[0])])
    assert prediction.mask.shape == (64, 64)


def without(data: Path, folder: Path, change: Any) -> Path:
    """A copy of the binary scenes with other labels."""
    binary_scenes(folder)
    dataset = Dataset.load(folder)
    dataset.with_samples([change(sample) for sample in dataset]).save()
    return folder


def test_a_validation_split_without_masks_is_not_scored(tmp_path: Path, tiny_sam_folder: Path, binary_folder: Path):
    data = without(binary_folder, tmp_path / "data", lambda s: replace(s, labels=Labels()) if s.split == "val" else s)
    run = samix.main(settings(data, tmp_path / "run", tiny_sam_folder))
    assert not any("val_dice" in line for line in log(run))


def test_no_mask_at_all_is_enough_for_training(tmp_path: Path, tiny_sam_folder: Path, binary_folder: Path):
    data = without(binary_folder, tmp_path / "data", lambda s: replace(s, labels=replace(s.labels, mask=None)))
    run = samix.main(settings(data, tmp_path / "run", tiny_sam_folder))
    assert (run / "pseudo" / "index.json").exists()
    with pytest.raises(DataError, match="no training image has a mask"):
        samix.main(settings(data, tmp_path / "other", tiny_sam_folder, labels="masks-only"))
    assert not (tmp_path / "other").exists()


def test_mistakes_in_the_settings(binary_folder: Path, tmp_path: Path, tiny_sam_folder: Path):
    with pytest.raises(MaskwrightError, match="--size 100: must be a multiple of 32"):
        settings(binary_folder, tmp_path / "run", tiny_sam_folder, size=100)
    for changed, message in {
        ("epochs", 1.0): "exactly one of --epochs, --steps and --minutes",
        ("segmenter", str(tmp_path / "none")): "cannot load this SegFormer",
        ("sam", str(tmp_path / "none")): "no config.json",
        ("batch", 0): "--batch 0: must be at least 1",
    }.items():
        with pytest.raises(MaskwrightError, match=message):
            samix.main(settings(binary_folder, tmp_path / "run", tiny_sam_folder, **dict([changed])))
        assert not (tmp_path / "run").exists()  # so that the mended command needs no --overwrite


def test_a_run_is_neither_lost_nor_mixed_up(uninterrupted: Path, scene_folder: Path, tmp_path: Path, tiny_sam_folder):
    config = settings(scene_folder, uninterrupted, tiny_sam_folder, **RESUMED)
    before = tensors(uninterrupted)
    with pytest.raises(RunError, match="already holds a run"):
        samix.main(config)
    with pytest.raises(RunError, match="seed: 0 there, 1 now"):
        samix.main(replace(config, seed=1, resume=True))
    with pytest.raises(MaskwrightError, match=r"no config\.json"):
        samix.main(replace(config, sam=str(tmp_path / "none"), overwrite=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(uninterrupted).items())


@pytest.mark.slow
def test_it_learns_what_can_be_learnt(tmp_path: Path, tiny_sam_folder: Path):
    data = binary_scenes(tmp_path / "data", train=120, val=16, shares=None)
    run = samix.main(
        settings(data, tmp_path / "run", tiny_sam_folder, steps=300, batch=8, lr=2e-3, workers=1, flips="all")
    )
    dice = [line["val_dice"] for line in log(run) if "val_dice" in line]
    assert dice[-1] > 0.6, dice
    assert dice[-1] > dice[0]


def test_steps_are_those_of_the_whole_training(binary_folder: Path, tmp_path: Path, tiny_sam_folder: Path):
    def planned(**changed: Any) -> list[float | None]:
        config = settings(binary_folder, tmp_path / "run", tiny_sam_folder, **changed)
        return [stage.total for stage in Trainer(config, session_of(config)).session.timer.stages]

    own = {"warm_up": None, "policy_warm_up": None}
    assert planned(steps=100, **own) == [20, 0, 80]
    assert planned(steps=2000, selector="policy", **own) == [150, 100, 1750]
    assert planned(steps=100, labels="masks-only", **own) == [0, 0, 100]  # nothing to warm up
    assert planned(epochs=50, steps=None, **own) == [20, 0, 80]  # two batches in an epoch
    with pytest.raises(RunError, match="--warm-up 6 leave no step for training"):
        planned(steps=6, warm_up=6)


@pytest.mark.slow
def test_minutes_are_those_of_the_whole_training(
    binary_folder: Path, tmp_path: Path, tiny_sam_folder: Path, capfd: pytest.CaptureFixture[str]
):
    begun = time.monotonic()
    config = settings(binary_folder, tmp_path / "run", tiny_sam_folder, steps=None, warm_up=None, minutes=0.5)
    samix.main(config)
    # On a busy machine its estimates are careful, and it may end early.
    assert 15 < time.monotonic() - begun < 35
    assert "everything included" in capfd.readouterr().err


def test_the_best_model_on_validation_is_the_one_that_is_kept(
    binary_folder: Path, tmp_path: Path, tiny_sam_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    scores = iter([0.2, 0.9, 0.6, 0.1, 0.0, 0.0, 0.0])
    kept: dict[float, dict[str, torch.Tensor]] = {}

    def validate(self: Trainer) -> dict[str, float | None]:
        score = next(scores)
        kept[score] = {name: value.clone() for name, value in self.teacher.model.state_dict().items()}
        return {"dice": score, "iou": score / 2}

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", validate)
        run = samix.main(settings(binary_folder, tmp_path / "run", tiny_sam_folder, steps=22, validations=5))
    lines = [line for line in log(run) if "val_dice" in line]
    best = max(lines, key=lambda line: line["val_smoothed"])
    found = tensors(run)
    assert all(torch.equal(value, found[name]) for name, value in kept[best["val_dice"]].items())
    assert best["step"] < lines[-1]["step"]
    assert f"kept at step {best['step']}" in (run / "report.html").read_text()
    assert f"the best model, of step {best['step']} of 22" in (run / "model" / "README.md").read_text()


def test_a_large_image_is_drawn_category_by_category():
    maps = torch.rand(4, 6, 5, generator=torch.Generator().manual_seed(0)).softmax(0)
    whole = torch.nn.functional.interpolate(maps[None], (37, 41), mode="bilinear", align_corners=False)[0].argmax(0)
    assert np.array_equal(samix_report._category_ids(maps, (37, 41)), whole.numpy())
