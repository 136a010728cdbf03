"""Clicks from masks to an agent: every setting runs, a resumed run is the uninterrupted one, and what it leaves is used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO

from maskwright.api import evaluate, load, train
from maskwright.cli import main
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError, MaskwrightError, MissingPackageError, RunError, WeightsError
from maskwright.methods.clicks import predictor
from maskwright.recipes import clicks
from maskwright.recipes.clicks import calibration
from maskwright.recipes.clicks.trainer import Trainer
from maskwright.rl.bank import Bank
from maskwright.rl.clicks import first_click
from maskwright.sam.sam import Sam
from maskwright.sam.weights import EARLIER
from tests.recipes.training import (
    Stopped,
    binary_scenes,
    environment,
    log,
    python,
    same,
    session_of,
    started,
    stop_after,
)
from tests.tiny_model import save_run, seal, tiny_segmenter

SMALLEST: dict[str, Any] = {
    "steps": 6,
    "batch": 3,
    "tries": 6,
    "looks": 3,
    "clicks": 2,
    "groups": 2,
    "rl_share": 0.4,
    "held_out": 0.25,
    "device": "cpu",
}


def settings(data: Path, out: Path, sam: Path, **changed: Any) -> clicks.Config:
    return clicks.Config(**{"data": data, "out": out, "sam": str(sam), **SMALLEST, **changed})


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary_scenes(tmp_path_factory.mktemp("clicks") / "data", shares={Kind.MASK: 1.0}, train=10, val=3)


@pytest.fixture(scope="session")
def run(scenes: Path, tiny_sam_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; leave it as it is."""
    return clicks.main(settings(scenes, tmp_path_factory.mktemp("clicks") / "run", tiny_sam_folder))


def tensors(run: Path) -> dict[str, torch.Tensor]:
    files = sorted((run / "model").glob("*.safetensors"))
    return {f"{file.stem}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_same(run: Path, expected: Path) -> None:
    found, wanted = tensors(run), tensors(expected)
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []
    assert log(run) == log(expected)


def test_a_run_leaves_an_agent_a_report_and_a_film(run: Path):
    config = json.loads((run / "model" / "config.json").read_text())
    assert {path.name for path in (run / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "quality.safetensors",
        "fusion.safetensors",
        "README.md",
    }
    assert config["recipe"] == "clicks"
    assert config["rules"]["margin"] in calibration.MARGINS
    assert {trial["policy"] for trial in config["settled"]["trials"]} == {
        "values",
        "reinforced",
        "masks refined",
    }
    assert config["rules"]["mask_margin"] in calibration.MASK_MARGINS
    trials = [trial for trial in config["settled"]["trials"] if trial["policy"] == "values"]
    ends = {(trial["answer"], trial["most_clicks"]) for trial in trials}
    assert ends == {("sam", 2), ("fused", 0), ("fused", 1), ("fused", 2)}
    assert len(trials) == len(calibration.MARGINS) * len(ends)
    assert (config["rules"]["answer"], config["rules"]["clicks"]) in ends
    assert config["rules"]["mask_clicks"] == 2
    assert not any(name.startswith("model.sam") for name in tensors(run))
    html = (run / "report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "")
    for title in ("Dice by clicks (validation)", "Calibration", "gained most", "held-out training images"):
        assert title in html
    film = Image.open(run / "clicks.gif")
    assert film.n_frames >= 3
    last = log(run)[-1]
    assert 0 <= last["val_first"] <= 1
    assert "no agent, the first click alone" in html


def test_the_same_seed_is_the_same_run_and_another_is_not(
    run: Path, scenes: Path, tiny_sam_folder: Path, tmp_path: Path
):
    again = clicks.main(settings(scenes, tmp_path / "a", tiny_sam_folder))
    assert_same(again, run)
    other = clicks.main(settings(scenes, tmp_path / "b", tiny_sam_folder, seed=1))
    assert any(not torch.equal(tensor, tensors(run)[name]) for name, tensor in tensors(other).items())


@pytest.mark.parametrize("stop", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_a_resumed_run_ends_with_the_same_numbers(
    stop: int, run: Path, scenes: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(Stopped):
            clicks.main(settings(scenes, tmp_path / "run", tiny_sam_folder, checkpoint_seconds=0.0))
    resumed = clicks.main(settings(scenes, tmp_path / "run", tiny_sam_folder, resume=True))
    assert_same(resumed, run)
    with pytest.raises(RunError, match="tries"):
        clicks.main(settings(scenes, tmp_path / "run", tiny_sam_folder, resume=True, tries=8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"learn": "imitation"},
        {"quality": False},
        {"stop": False},
        {"rounds": 1, "rl_share": 0.0},
        {"minutes": 0.02, "steps": None},
        {"mirror": False, "clicks": 1, "looks": 1},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_every_stage_can_be_switched_off(changed: dict[str, Any], scenes: Path, tiny_sam_folder: Path, tmp_path: Path):
    run = clicks.main(settings(scenes, tmp_path / "run", tiny_sam_folder, **changed))
    agent = load(run, device="cpu").agent  # type: ignore[attr-defined]
    assert (agent.quality is None) == (not changed.get("quality", True))
    assert agent.rules.stop == changed.get("stop", True)
    assert agent.rules.clicks == changed.get("clicks", 2)
    assert (run / "report.html").is_file()


@pytest.mark.slow
def without_sb3(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Stable-Baselines3 were not installed."""
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    for name in ("maskwright.rl.sb3", "maskwright.methods.clicks.pixel_agent", "maskwright.recipes.clicks.sb3"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_without_sb3_its_learner_is_refused_in_one_line_before_anything_is_written(
    scenes: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    without_sb3(monkeypatch)
    command = ["train", "clicks", str(scenes), "--out", str(tmp_path / "run"), "--sam", str(tiny_sam_folder)]
    assert main([*command, "--learner", "sb3", "--steps", "1", "--batch", "1", "--device", "cpu"]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--learner sb3 and Sb3ClickVecEnv need Stable-Baselines3" in told
    assert told.endswith("pip install 'maskwright[sb3]'")
    assert not (tmp_path / "run").exists()


def test_ppo_on_pixels_is_a_baseline(
    scenes: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = settings(scenes, tmp_path / "run", tiny_sam_folder, learner="sb3")
    learnt, update = [], PPO.train
    monkeypatch.setattr(PPO, "train", lambda self: learnt.append(update(self)))
    run = clicks.main(config)
    assert len(learnt) == 1  # the only roll-out, in which the budget runs out
    description = json.loads((run / "model" / "config.json").read_text())
    assert description["learner"] == "sb3"
    model, dataset = load(run, device="cpu"), Dataset.load(scenes)
    scores = evaluate(model, dataset, "val")
    assert scores["curves"]["agent"]["clicks"] == scores["curves"]["agent"]["kept"] == 2
    image = dataset.image_path(dataset.split("test")[0])
    (prediction,) = model.predict([image], click=[(20.0, 30.0)])
    assert len(prediction.record()["clicks"]["disc"]) == 2
    saved = PPO.load(run / "agent.zip", device="cpu")
    own = load_file(run / "model" / "model.safetensors")
    assert any(torch.equal(value, own[name]) for name, value in saved.policy.state_dict().items() if name in own)
    with pytest.raises(RunError, match="cannot be continued"):
        clicks.main(replace(config, resume=True))
    without_sb3(monkeypatch)
    with pytest.raises(MissingPackageError, match=r"pip install 'maskwright\[sb3\]'"):
        load(run, device="cpu")


def test_scores_do_not_depend_on_what_fits_in_memory(run: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch):
    model, dataset = load(run, device="cpu"), Dataset.load(scenes)
    whole, seen = evaluate(model, dataset, "val"), []
    monkeypatch.setattr(predictor, "AT_ONCE", 1)
    parts = evaluate(model, dataset, "val", progress=lambda done, total: seen.append((done, total)))
    assert [each["target"] for each in parts["per_target"]] == [each["target"] for each in whole["per_target"]]
    assert parts["curves"]["oracle"]["dice"] == pytest.approx(whole["curves"]["oracle"]["dice"], abs=1e-4)
    assert parts["curves"]["agent"]["dice"] == pytest.approx(whole["curves"]["agent"]["dice"], abs=1e-4)
    assert seen == sorted(seen)
    assert seen[-1] == (len(dataset.split("val")), len(dataset.split("val")))


def test_images_without_an_object_are_no_reason_to_fail(scenes: Path, tiny_sam_folder: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    dataset = Dataset.load(data)
    empty = [*dataset.split("val"), *list(dataset.split("train"))[::2]]
    for sample in empty:
        path = dataset.mask_path(sample)
        write_mask(path, np.zeros_like(read_mask(path)))  # type: ignore[arg-type]
    for seed in range(3):
        config = settings(data, tmp_path / "run", tiny_sam_folder, seed=seed, mirror=False)
        trainer = Trainer(config, session_of(config))
        assert trainer.val is None
        assert len(trainer.held_out.pixels) + len(trainer.bank.pixels) == 5


def test_resuming_a_finished_run_changes_nothing(run: Path, scenes: Path, tiny_sam_folder: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    again = clicks.main(settings(scenes, tmp_path / "run", tiny_sam_folder, resume=True))
    assert_same(again, run)


def test_more_images_than_fit_are_left_out_and_the_card_says_so(scenes: Path, tiny_sam_folder: Path, tmp_path: Path):
    run = clicks.main(settings(scenes, tmp_path / "run", tiny_sam_folder, memory=6e-4, objects=1))
    card = (run / "model" / "README.md").read_text()
    assert re.search(r"Trained on \d+ images .*; \d+ more show nothing large enough or lie beyond `--memory`", card)


def test_the_command_line_corrects_a_click_and_masks(
    run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    dataset = Dataset.load(scenes)
    image = dataset.image_path(dataset.split("test")[0])
    command = python("maskwright", "predict", run, image, "--click", "20,30", "5,6.5", "--label", "fg", "bg")
    done = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert row["clicks"].keys() == {"disc"}
    assert read_mask(tmp_path / "out" / row["mask"]).shape == (64, 64)
    images = tmp_path / "images"
    images.mkdir()
    for sample in dataset.split("test"):
        shutil.copy(dataset.image_path(sample), images)
    segmenter = save_run(tmp_path / "segmenter", tiny_segmenter(), categories=["background", "disc", "other"])
    assert main(["predict", str(run), str(images), "--masks", str(segmenter), "--out", str(tmp_path / "refined")]) == 1
    assert "its categories are disc, other, those of" in capsys.readouterr().err
    two_images = ["predict", str(run), str(images), "--click", "1,2", "--out", str(tmp_path / "wrong")]
    assert main(two_images) == 1
    assert "--click is about one image, and 2 were given" in capsys.readouterr().err
    given = tmp_path / "given"
    given.mkdir()
    for sample in dataset.split("test"):
        shutil.copy(dataset.mask_path(sample), given)  # type: ignore[arg-type]
    assert main(["predict", str(run), str(images), "--masks", str(given), "--out", str(tmp_path / "again")]) == 0
    assert len(list((tmp_path / "again" / "masks").glob("*.png"))) == 2
    again = ["predict", str(run), str(images), "--masks", str(given), "--out", str(tmp_path / "again")]
    capsys.readouterr()
    assert main(again) == 0
    assert "0 images predicted, 2 were there already" in capsys.readouterr().out
    changed = next(given.glob("*.png"))
    write_mask(changed, 1 - read_mask(changed))
    assert main(again) == 0
    assert "1 images predicted, 1 were there already" in capsys.readouterr().out
    for wrong in (["--click", "3"], ["--box", "1,2,3"], ["--click", "1,2"], [], ["--flip"]):
        assert main(["predict", str(run), str(images), *wrong, "--out", str(tmp_path / "wrong")]) == 1


def test_masks_of_another_run_are_made_first(
    run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = list(load(run, device="cpu").categories)
    segmenter, out = (
        save_run(tmp_path / "segmenter", tiny_segmenter(categories=len(names)), categories=names),
        tmp_path / "out",
    )
    command = ["predict", str(run), str(scenes), "--split", "test", "--masks", str(segmenter), "--out", str(out)]
    assert main(command) == 0
    dataset, masks = Dataset.load(scenes), {}
    for sample, prediction in zip(
        dataset.split("test"), load(segmenter).predict(dataset.image_path(s) for s in dataset.split("test"))
    ):
        masks[sample.id] = prediction.mask
        assert np.array_equal(read_mask(out / "given" / "masks" / f"{sample.id}.png"), prediction.mask)
    assert not (out / "given" / "overlays").exists()
    for row in json.loads((out / "predictions.json").read_text())["images"]:
        clicks_kept = any(row["clicks"].values())
        assert clicks_kept or np.array_equal(read_mask(out / row["mask"]), masks[row["name"]])
    capsys.readouterr()
    assert main(command) == 0
    assert f"0 images predicted, {len(masks)} were there already" in capsys.readouterr().out


def test_mistakes_are_named_and_leave_no_run(scenes: Path, tiny_sam_folder: Path, tmp_path: Path):
    with pytest.raises(MaskwrightError, match=r"--tries 2.*--groups 1"):
        settings(scenes, tmp_path / "run", tiny_sam_folder, tries=2, groups=1)
    few = Dataset.load(scenes)
    few = few.with_samples([sample for sample in few if sample.split != "train"][:1] + list(few.split("train"))[:3])
    path = few.save(scenes / "few.json")
    with pytest.raises(DataError, match="at least 4"):
        train("clicks", data=path, out=tmp_path / "run", sam=str(tiny_sam_folder), **SMALLEST)
    assert not (tmp_path / "run").exists()


def test_an_agent_answers_a_click_and_a_box(run: Path, scenes: Path):
    model = load(run, device="cpu")
    dataset = Dataset.load(scenes)
    image = dataset.image_path(dataset.split("test")[0])
    (by_click,) = model.predict([image], click=[(20.0, 30.0), (5.0, 5.0)], label=["fg", "bg"])
    assert by_click.mask.shape == (64, 64)
    assert set(np.unique(by_click.mask)) <= {0, 1}
    assert by_click.record()["clicks"].keys() == {"disc"}
    (by_box,) = model.predict([image], box=(10, 12, 40, 50), category="disc")
    assert by_box.mask.shape == (64, 64)
    for wrong, told in (
        ({}, "give --click"),
        ({"click": [(1, 2)], "masks": run}, "give one of the two"),
        ({"click": [(1, 2)], "label": ["fg", "bg"]}, "one for each"),
        ({"click": [(1, 2)], "label": ["yes"]}, "fg or bg"),
        ({"box": (5, 5, 5, 9)}, "X0 < X1"),
        ({"click": [(1, 2)], "category": "cube"}, "'cube'"),
        ({"masks": run / "nowhere"}, "no such folder"),
        ({"masks": run, "category": "disc"}, "refines all categories"),
        ({"flip": True}, "no --flip"),
    ):
        with pytest.raises(MaskwrightError, match=told):
            list(model.predict([image], **wrong))
    for outside in ({"click": [(64.0, 3.0)]}, {"box": (70, 2, 90, 20)}, {"box": (-9, 2, -1, 20)}):
        with pytest.raises(DataError, match="lies outside"):
            list(model.predict([image], **outside))


def test_masks_that_nothing_was_mended_in_stay_as_they_are(run: Path, scenes: Path, tmp_path: Path):
    model, dataset = load(run, device="cpu"), Dataset.load(scenes)
    part = dataset.split("test")
    images = [dataset.image_path(sample) for sample in part]
    folder = tmp_path / "masks"
    folder.mkdir()
    for sample, image in zip(part, images):
        (folder / f"{image.stem}.png").write_bytes(dataset.mask_path(sample).read_bytes())  # type: ignore[union-attr]
    refined = list(model.predict(images, masks=folder, batch=2))
    for sample, prediction in zip(part, refined):
        given = read_mask(dataset.mask_path(sample))  # type: ignore[arg-type]
        mended = any(prediction.record()["clicks"].values())
        assert mended or np.array_equal(prediction.mask, given)
    model.agent.rules = replace(model.agent.rules, mask_margin=2.0)  # type: ignore[attr-defined]
    for sample, prediction in zip(part, model.predict(images, masks=folder)):
        assert np.array_equal(prediction.mask, read_mask(dataset.mask_path(sample)))  # type: ignore[arg-type]
    (folder / f"{images[0].stem}.png").unlink()
    with pytest.raises(DataError, match="there is no mask for image"):
        list(model.predict(images, masks=folder))


def test_evaluation_is_the_curve_from_the_oracles_click(run: Path, scenes: Path):
    scores = evaluate(run, Dataset.load(scenes), "val")
    assert scores["curves"].keys() == {"agent", "oracle"}
    agent, oracle = scores["curves"]["agent"], scores["curves"]["oracle"]
    assert len(agent["dice"]) == scores["clicks"] + 1
    assert len(oracle["dice"]) == predictor.ORACLE_CLICKS + 1
    assert agent["first"] == pytest.approx(oracle["first"]) == pytest.approx(oracle["dice"][0])
    assert len(scores["per_target"]) == scores["curves"]["agent"]["targets"]
    table = load(run, device="cpu").score_table(scores)
    assert list(table.columns) == ["Dice", "agent", "oracle"]
    by_name = {row[0]: row[1:] for row in table.rows}
    assert by_name["SAM's first answer"] == [agent["first"], oracle["first"]]
    assert by_name[f"{predictor.ORACLE_CLICKS} clicks"] == [agent["dice"][-1], oracle["dice"][-1]]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_target_is_scored_as_the_mask_that_a_user_gets(run: Path, scenes: Path):
    agent, part = load(run, device="cpu"), Dataset.load(scenes).split("test")
    agent.agent.rules = replace(agent.agent.rules, answer="fused", clicks=1)
    bank = Bank.of_dataset(agent.agent.sam, part)
    places = first_click(bank, torch.arange(len(bank)))[0] / bank.size
    samples = {sample.id: sample for sample in part}
    found = evaluate(agent, Dataset.load(scenes), "test")["per_target"]
    assert [entry["target"] for entry in found] == list(bank.names)
    for entry, (x, y) in zip(found, places.tolist()):
        sample = samples[entry["target"].rpartition("/")[0]]
        truth = read_mask(part.mask_path(sample)) == 1
        height, width = truth.shape
        (predicted,) = agent.predict([part.image_path(sample)], click=[(x * width, y * height)])
        mine = predicted.mask == 1
        total = mine.sum() + truth.sum()
        assert entry["dice"][-1] == pytest.approx(2 * (mine & truth).sum() / total if total else 1.0, abs=1e-6)


def test_evaluation_with_masks_scores_what_the_agent_makes_of_them(run: Path, scenes: Path, tmp_path: Path, capsys):
    dataset, masks = Dataset.load(scenes), tmp_path / "masks"
    masks.mkdir()
    for sample in dataset.split("test"):
        shutil.copy(dataset.mask_path(sample), masks / f"{Path(sample.image).stem}.png")  # type: ignore[arg-type]
    scores_file = tmp_path / "scores.json"
    assert main(["evaluate", str(run), str(scenes), "--masks", str(masks), "--json", str(scores_file)]) == 0
    told = capsys.readouterr().out
    assert "Dice, pooled" in told
    scores = json.loads(scores_file.read_text())
    for entry, prediction in zip(
        scores["per_image"],
        load(run, device="cpu").predict((dataset.image_path(s) for s in dataset.split("test")), masks=masks),
    ):
        truth = read_mask(masks / f"{prediction.id}.png") == 1
        mine = prediction.mask == 1
        assert entry["dice"] == pytest.approx(2 * (truth & mine).sum() / (truth.sum() + mine.sum()))
    with pytest.raises(MaskwrightError, match="leave other prompts out"):
        evaluate(run, dataset, click=[(1, 2)])
    with pytest.raises(MaskwrightError, match="no --flip"):
        evaluate(run, dataset, flip=True)


def test_an_agent_refuses_other_weights_of_its_sam(run: Path, tmp_path: Path, tiny_sam: Sam):
    shutil.copytree(run / "model", tmp_path / "model")
    with torch.no_grad():
        next(tiny_sam.model.parameters()).add_(1.0)
    tiny_sam.model.save_pretrained(tmp_path / "other")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["sam"]["source"] = str(tmp_path / "other")
    seal(tmp_path / "model", config)
    with pytest.raises(WeightsError, match="other weights of SAM"):
        load(tmp_path / "model", device="cpu")


def test_a_new_training_starts_from_this_one(run: Path, scenes: Path, tiny_sam_folder: Path, tmp_path: Path):
    config = settings(scenes, tmp_path / "next", tiny_sam_folder, init=run)
    trainer = started(config, Trainer)
    assert same(trainer.prompter, run / "model" / "model.safetensors")
    calibrated = ("knots", "levels")
    assert same(trainer.quality, run / "model" / "quality.safetensors", calibrated)
    assert torch.equal(trainer.quality.knots, clicks.trainer.QualityHead(trainer.prompter.hidden).knots.to("cpu"))
    record = json.loads((config.out / "config.json").read_text())["origin"]
    assert (record["folder"], record["taken"]) == (str(run), ["model", "quality", "fusion"])
    assert same(trainer.fusion, run / "model" / "fusion.safetensors")
    other = tmp_path / "other-sam"
    shutil.copytree(tiny_sam_folder, other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.startswith("mask_decoder."))
    save_file(weights | {name: weights[name] + 1}, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        WeightsError, match=f"--init {run}: is for another SAM than --sam {other}; give --sam {tiny_sam_folder}"
    ):
        started(settings(scenes, tmp_path / "x", other, init=run), Trainer)
    with pytest.raises(RunError, match="--learner sb3 always starts anew"):
        clicks.main(settings(scenes, tmp_path / "x", tiny_sam_folder, init=run, learner="sb3"))
    assert not (tmp_path / "x").exists()


def test_an_agent_from_before_answers_were_fused_answers_with_sams_masks(run: Path, scenes: Path, tmp_path: Path):
    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "model" / "fusion.safetensors").unlink()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["fusion"], config["rules"]["answer"], config["rules"]["mask_clicks"]
    config["rules"]["clicks"] = 1
    seal(tmp_path / "model", config)
    predictor = load(tmp_path / "model", device="cpu")
    assert predictor.agent.fusion is None
    assert predictor.agent.rules.answer == "sam"
    (found,) = predictor.predict([np.zeros((64, 64, 3), np.uint8)], click=[(30, 30)])
    assert found.mask.shape == (64, 64)


def test_an_agent_for_weights_that_were_bundled_once_names_their_version(run: Path, tmp_path: Path):
    shutil.copytree(run / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["sam"]["signature"] = next(iter(EARLIER))
    seal(tmp_path / "model", config)
    with pytest.raises(
        WeightsError, match=r"the `nano` of maskwright 0\.1\.0.* train it again, or install that version"
    ):
        load(tmp_path / "model", device="cpu")
