"""Several processes share the work, and give what one gives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import arguments, environment, log, python, settings, tensors

from maskwright.cli import main
from maskwright.data.labels import Dataset
from maskwright.recipes import samix
from maskwright.sam.precompute import signature
from maskwright.sam.sam import Sam
from maskwright.sam.store import EmbeddingStore

pytestmark = pytest.mark.slow


def launch(*args: object) -> str:
    """What `maskwright` prints when accelerate starts two of it."""
    options = ["--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]
    # A free port, so that two test sessions do not meet.
    command = python("accelerate.commands.launch", *options, "--main_process_port", 0, "-m", "maskwright", *args)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_train_like_one(scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path):
    length = {"steps": 20, "warm_up": 10}
    alone = samix.main(settings(scene_folder, tmp_path / "one", tiny_sam_folder, **length))
    said = launch(*arguments(scene_folder, tmp_path / "two", tiny_sam_folder, **length))
    assert said.count("trained:") == 1
    one, two = tensors(alone), tensors(tmp_path / "two")
    start = Sam.load(tiny_sam_folder).model.vision_encoder.state_dict()
    moved_one, moved_two = [], []
    for name, tensor in one.items():
        origin = start.get(name.removeprefix("encoder."))
        if origin is not None:
            moved_one.append((tensor - origin).flatten())
            moved_two.append((two[name] - origin).flatten())
    a, b = torch.cat(moved_one), torch.cat(moved_two)
    # The views are drawn per process, so the two are alike, not equal: the way that they went from the start agrees.
    assert torch.cosine_similarity(a, b, dim=0) > 0.7
    assert float(b.norm() / a.norm()) == pytest.approx(1, abs=0.3)
    scores = [[line["val_dice"] for line in log(run) if "val_dice" in line] for run in (alone, tmp_path / "two")]
    assert scores[1] == pytest.approx(scores[0], abs=0.15)
    assert [line["step"] for line in log(alone)] == [line["step"] for line in log(tmp_path / "two")]
    indices = [json.loads((run / "pseudo/index.json").read_text())["samples"] for run in (alone, tmp_path / "two")]
    assert indices[0].keys() == indices[1].keys()


def test_a_mistake_is_told_once_and_all_processes_end(tiny_sam_folder: Path, tmp_path: Path):
    command = python(
        "accelerate.commands.launch", "--num_processes", 2, "--num_machines", 1, "--cpu", "--main_process_port", 0,
        "-m", "maskwright", *arguments(tmp_path / "nothing", tmp_path / "run", tiny_sam_folder),
    )  # fmt: skip
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert not (tmp_path / "run").exists()


def test_predict_shares_the_images_and_goes_on(scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path):
    run = samix.main(settings(scene_folder, tmp_path / "run", tiny_sam_folder, pseudo="none", steps=1))
    dataset, out = Dataset.load(scene_folder), tmp_path / "out"
    images = [dataset.image_path(sample) for sample in dataset.split("test")]
    assert "2 images predicted" in launch("predict", run, *images[:2], "--out", out, "--device", "cpu")
    said = launch("predict", run, *images, "--out", out, "--device", "cpu")
    assert "2 images predicted, 2 were there already" in said
    index = json.loads((out / "predictions.json").read_text())
    assert len(list((out / "masks").glob("*.png"))) == len(images)
    assert not list(out.glob(".predictions-*"))
    single = tmp_path / "single"
    assert main(["predict", str(run), *map(str, images), "--out", str(single), "--device", "cpu"]) == 0
    assert json.loads((single / "predictions.json").read_text()).keys() == index.keys()
    for path in (single / "masks").glob("*.png"):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(out / "masks" / path.name)))


def test_precompute_shares_the_images_and_goes_on(scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path):
    said = launch("sam", "precompute", tiny_sam_folder, scene_folder, "--store", tmp_path / "store", "--device", "cpu")
    dataset, sam = Dataset.load(scene_folder), Sam.load(tiny_sam_folder)
    count = len(dataset)
    assert f"{count} images encoded, 0 were there already" in said
    store = EmbeddingStore(tmp_path / "store", signature(sam))
    keys = [store.key(dataset.image_path(sample)) for sample in dataset]
    assert store.missing(keys) == []
    for path in list((tmp_path / "store").glob("*/*.safetensors"))[:4]:
        path.unlink()
    lost = EmbeddingStore(tmp_path / "store", signature(sam)).missing(keys)
    assert len(lost) == 4
    said = launch("sam", "precompute", tiny_sam_folder, scene_folder, "--store", tmp_path / "store", "--device", "cpu")
    assert f"4 images encoded, {count - 4} were there already" in said
    assert EmbeddingStore(tmp_path / "store", signature(sam)).missing(keys) == []
