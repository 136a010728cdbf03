"""Several processes share the work, and give what one gives."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from maskwright.api import load
from maskwright.cli import main
from maskwright.data.dataset import Dataset
from maskwright.recipes import s4m, samix
from maskwright.sam.precompute import signature
from maskwright.sam.sam import Sam
from maskwright.sam.store import EmbeddingStore
from tests.recipes import instance_training as instances
from tests.recipes.training import arguments, environment, log, python, settings, tensors

pytestmark = pytest.mark.slow


def two(*args: object) -> list[str]:
    """The command that starts two processes of `maskwright`.

    torchrun, because accelerate's own launcher starts one process on CPUs unless MPI is set up; the processes find each other the same way.
    """
    return python("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "maskwright", *args)


def launch(*args: object) -> str:
    """What two processes of `maskwright` print."""
    done = subprocess.run(two(*args), env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_train_like_one(scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path):
    # True masks are learnt from the plain view, in which nothing depends on the process: equal but for the order of sums.
    length = {"steps": 20, "labels": "masks-only"}
    alone = samix.main(settings(scene_folder, tmp_path / "one", tiny_sam_folder, **length))
    said = launch(*arguments(scene_folder, tmp_path / "two", tiny_sam_folder, **length))
    assert said.count("trained:") == 1
    one, two = tensors(alone), tensors(tmp_path / "two")
    start = Sam.load(tiny_sam_folder).model.vision_encoder.state_dict()
    names = [name for name in one if name.removeprefix("encoder.") in start]
    moved_one = torch.cat([(one[n] - start[n.removeprefix("encoder.")]).flatten() for n in names])
    moved_two = torch.cat([(two[n] - start[n.removeprefix("encoder.")]).flatten() for n in names])
    assert torch.cosine_similarity(moved_one, moved_two, dim=0) > 0.99
    scores = [[line["val_dice"] for line in log(run) if "val_dice" in line] for run in (alone, tmp_path / "two")]
    assert scores[1] == pytest.approx(scores[0], abs=0.02)


def test_two_processes_share_the_pseudo_masks(scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path):
    # Strong views and episodes are drawn per process, so the runs are alike, not equal.
    length = {"steps": 30, "warm_up": 10}
    alone = samix.main(settings(scene_folder, tmp_path / "one", tiny_sam_folder, **length))
    launch(*arguments(scene_folder, tmp_path / "two", tiny_sam_folder, **length))
    scores = [[line["val_dice"] for line in log(run) if "val_dice" in line] for run in (alone, tmp_path / "two")]
    assert scores[1] == pytest.approx(scores[0], abs=0.15)
    assert [line["step"] for line in log(alone)] == [line["step"] for line in log(tmp_path / "two")]
    indices = [json.loads((run / "pseudo/index.json").read_text())["samples"] for run in (alone, tmp_path / "two")]
    assert indices[0].keys() == indices[1].keys()


POLICY = """
import json, os, sys
from pathlib import Path
from maskwright.engine.session import Session
from maskwright.recipes import samix
from maskwright.recipes.samix import trainer
from tests.recipes.training import settings

data, out, sam, digests = map(Path, sys.argv[1:])
rank = int(os.environ["RANK"])
draw, finish, batches = trainer.draw_policy_batch, Session.finish, []


def now_and_then(labeller, batch, *rest):
    # Every second time the second process has no query of its own.
    batches.append(draw(labeller, batch, *rest))
    return None if rank and len(batches) % 2 == 0 else batches[-1]


def told(self):
    trained = self._trainer
    net = trained.policy.net.state_dict()
    sums = {name: float(tensor.double().sum()) for name, tensor in net.items()}
    pool = {name: float(tensor.double().sum()) for name, tensor in trained.labeller.pool.tensors.items()}
    (digests / f"{rank}.json").write_text(json.dumps([sums, pool, len(batches)]))
    return finish(self)


trainer.draw_policy_batch, Session.finish = now_and_then, told
samix.main(settings(data, out, sam, selector="policy", steps=12, warm_up=2, sam_every=2, policy_warm_up=4, batch=8))
"""


def test_two_processes_learn_one_policy(scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path):
    script = tmp_path / "policy.py"
    script.write_text(POLICY)
    folders = [scene_folder, tmp_path / "run", tiny_sam_folder, tmp_path]
    command = python("torch.distributed.run", "--standalone", "--nproc-per-node", 2, script, *folders)
    paths = {"PYTHONPATH": os.pathsep.join([environment()["PYTHONPATH"], str(Path(__file__).parent)])}
    done = subprocess.run(command, env=environment() | paths, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    # Policy and pool are the same to the bit, and the policy has moved.
    assert first == second
    assert first[2] == 4 + 1 + 3  # warm-up, the assessment after it, every second step
    assert first[0]["query_shift.weight"] != 0
    (assessed,) = (line for line in log(tmp_path / "run") if "oracle_dice" in line)
    assert assessed["policy_dice"] <= assessed["oracle_dice"] + 1e-6
    # What they learnt together is taken home.
    context = load(tmp_path / "run", in_context=True, device="cpu").context
    assert context.answerer.policy is not None
    own = context.answerer.policy.net.state_dict()
    assert {name: float(tensor.double().sum()) for name, tensor in own.items()} == first[0]


def test_a_mistake_is_told_once_and_all_processes_end(tiny_sam_folder: Path, tmp_path: Path):
    command = two(*arguments(tmp_path / "nothing", tmp_path / "run", tiny_sam_folder))
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


DYING = """
import os, sys
from maskwright.cli import main
from maskwright.engine import prediction_folder
from maskwright.sam import precompute

calls = []


def deadly(function):
    def call(*args):
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) == 2:
            os.kill(os.getpid(), 9)
        return function(*args)

    return call


prediction_folder._write = deadly(prediction_folder._write)
precompute._encode = deadly(precompute._encode)
sys.exit(main(sys.argv[1:]))
"""


def dying(folder: Path, *args: object) -> None:
    """Two processes of `maskwright`, of which the second is killed at its second image."""
    script = folder / "dying.py"
    script.write_text(DYING)
    command = python("torch.distributed.run", "--standalone", "--nproc-per-node", 2, script, *args)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "Signal 9" in done.stderr or "SIGKILL" in done.stderr


def test_an_uneven_share_of_which_a_process_dies_is_taken_over(
    scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path
):
    run = samix.main(settings(scene_folder, tmp_path / "run", tiny_sam_folder, pseudo="none", steps=1))
    dataset = Dataset.load(scene_folder)
    images = [dataset.image_path(sample) for sample in dataset][:7]
    words = ["predict", run, *images, "--device", "cpu", "--batch", 1, "--out"]
    dying(tmp_path, *words, tmp_path / "two")
    launch(*words, tmp_path / "two")
    assert main([*map(str, words), str(tmp_path / "one")]) == 0
    ours, theirs = (json.loads((tmp_path / name / "predictions.json").read_text())["images"] for name in ("one", "two"))
    assert [row["name"] for row in ours] == [row["name"] for row in theirs]
    assert len(theirs) == 7
    for path in (tmp_path / "one" / "masks").glob("*.png"):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "two/masks" / path.name)))


@pytest.mark.parametrize("kind", [(), ("--shards",)], ids=["files", "shards"])
def test_embeddings_of_a_process_that_dies_are_kept_and_the_others_made(
    scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path, kind: tuple[str, ...]
):
    store, dataset = tmp_path / "store", Dataset.load(scene_folder)
    words = [
        "sam",
        "precompute",
        tiny_sam_folder,
        scene_folder,
        "--device",
        "cpu",
        "--batch",
        1,
        *kind,
        "--store",
        store,
    ]
    dying(tmp_path, *words)
    said = launch(*words)
    assert f"{len(dataset)} images encoded" not in said  # what was done before is not done again
    found = EmbeddingStore(store, signature(Sam.load(tiny_sam_folder)))
    assert found.missing([found.key(dataset.image_path(sample)) for sample in dataset]) == []
    if kind:
        # The two that came after the kill went on in the shards of those before.
        assert len(list((store / "shards").glob("*.data"))) == 2


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


def test_two_processes_train_instances_like_one(tiny_sam_folder: Path, tmp_path: Path):
    data = instances.instance_scenes(tmp_path / "data")
    length = {"steps": 24, "certain": 0.0, "batch": 4}
    alone = s4m.main(instances.settings(data, tmp_path / "one", tiny_sam_folder, **length))
    said = launch(*instances.arguments(data, tmp_path / "two", tiny_sam_folder, **length))
    assert said.count("trained:") == 1
    runs = (alone, tmp_path / "two")
    assert [line["step"] for line in log(runs[0])] == [line["step"] for line in log(runs[1])]
    # Points are drawn per process, so the runs are alike, not equal: both stages learn about as fast.
    for name in ("teacher_class", "teacher_dice", "student_class", "student_dice"):
        one, two = ([line[name] for line in log(run) if name in line] for run in runs)
        assert two == pytest.approx(one, rel=0.15), name
    start = Sam.load(tiny_sam_folder).model.vision_encoder.backbone.state_dict()
    prefix = "model.model.pixel_level_module.encoder.hiera."
    moved = [torch.cat([(t[prefix + n] - start[n]).flatten() for n in start]) for t in map(teacher_tensors, runs)]
    assert torch.cosine_similarity(*moved, dim=0) > 0.8


def teacher_tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "teacher" / "model.safetensors")
