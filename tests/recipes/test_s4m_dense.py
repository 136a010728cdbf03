"""S⁴M with a dense segmenter from labels to model: stages, what is doubtful, resuming, and other networks refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maskwright import api
from maskwright.cli import main
from maskwright.data.dataset import Dataset
from maskwright.data.instances import Instances
from maskwright.data.labels import Box, Labels, Point
from maskwright.data.mask_files import read_mask
from maskwright.errors import MaskwrightError, RunError, WeightsError
from maskwright.methods.instances.dense_head import BUNDLED
from maskwright.methods.instances.dense_pseudo import PseudoLabels, refined, sure_objects
from maskwright.methods.instances.depth import depths
from maskwright.nets.dense_instances import DenseSegmenter, Maps
from maskwright.recipes import s4m
from maskwright.recipes.s4m.dense import DenseTrainer
from maskwright.recipes.s4m.images import keep_labels
from maskwright.sam.sam import Sam
from tests.recipes.instance_training import assert_same_run, instance_scenes, write_instances
from tests.recipes.instance_training import settings as settings_of_queries
from tests.recipes.training import Stopped, log, same, session_of, started, stop_after, tensors


def settings(data: Path, out: Path, sam: Path, **changed: Any) -> s4m.Config:
    return settings_of_queries(data, out, sam, **{"decoder": None, "certain": 0.0, "closer_looks": 4, **changed})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instance_scenes(tmp_path_factory.mktemp("instances") / "data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_lite_sam_folder: Path) -> Path:
    return s4m.main(settings(data, tmp_path_factory.mktemp("both") / "run", tiny_lite_sam_folder, steps=20))


def trainer(data: Path, out: Path, sam: Path, **changed: Any) -> DenseTrainer:
    config = settings(data, out, sam, **changed)
    return DenseTrainer(config, session_of(config))


def test_both_stages_train_a_model_that_predicts_and_is_scored(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lines = log(trained)
    assert any({f"teacher_{k}" for k in ("cross", "dice", "depth")} <= line.keys() for line in lines)
    assert any({f"student_pseudo_{k}" for k in ("cross", "dice", "depth", "labels")} <= line.keys() for line in lines)
    assert "Pseudo-labels before and after refinement" in (trained / "report.html").read_text()
    for folder in ("model", "teacher"):
        assert json.loads((trained / folder / "config.json").read_text())["segmenter"]["type"] == "dense"
        assert isinstance(api.load(trained / folder, device="cpu").network, DenseSegmenter)
    out = tmp_path / "out"
    assert main(["predict", str(trained), str(data), "--split", "test", "--out", str(out), "--threshold", "0"]) == 0
    results = json.loads((out / "coco.json").read_text())
    for number, sample in enumerate(sorted(Dataset.load(data).split("test"), key=lambda s: s.id), start=1):
        mask = read_mask(out / "masks" / f"{sample.id}.png")
        assert mask.max() == sum(row["image_id"] == number for row in results["annotations"])
    capsys.readouterr()
    assert main(["evaluate", str(trained), str(data)]) == 0
    assert "AP50" in capsys.readouterr().out
    scores = json.loads((trained / "evaluation-test.json").read_text())
    assert 0 <= scores["ap"] <= scores["ap50"] <= 1


@pytest.mark.parametrize("stops", [[3, 9], pytest.param([6], marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one(
    stops: list[int], data: Path, tmp_path: Path, tiny_lite_sam_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    common = {"steps": 12, "checkpoint_seconds": 0.0, "burn_in": 0.5, "distillation": 1.0}
    whole = s4m.main(settings(data, tmp_path / "whole", tiny_lite_sam_folder, **common))
    config = settings(data, tmp_path / "run", tiny_lite_sam_folder, **common)
    for stop in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, stop)
            with pytest.raises(Stopped):
                s4m.main(replace(config, resume=stop != stops[0]))
    s4m.main(replace(config, resume=True))
    assert_same_run(config.out, whole)


def test_the_student_starts_from_the_teacher_of_another_run_at_its_scale(
    trained: Path, data: Path, tmp_path: Path, tiny_lite_sam_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    common = {"stage": "student", "teacher": trained, "steps": 4, "crop": 50, "checkpoint_seconds": 0.0}
    config = settings(data, tmp_path / "run", tiny_lite_sam_folder, **common)
    t = DenseTrainer(config, session_of(config))
    t._start_student(t._loaded_teacher(trained))
    assert same(t.network, trained / "teacher" / "model.safetensors")
    scale = json.loads((trained / "teacher" / "config.json").read_text())["segmenter"]["zoom"]
    assert t.network.zoom == scale != 64 / 50
    assert t.geometry({}).side == pytest.approx(64 / scale)  # type: ignore[union-attr]
    whole = s4m.main(replace(config, out=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            s4m.main(config)
    s4m.main(replace(config, resume=True))
    assert_same_run(config.out, whole)
    assert json.loads((whole / "model" / "config.json").read_text())["segmenter"]["zoom"] == scale


def test_what_does_not_fit_is_refused(
    trained: Path, data: Path, tmp_path: Path, tiny_lite_sam_folder: Path, tiny_sam_folder: Path
):
    student = {"stage": "student", "teacher": trained}
    with pytest.raises(RunError, match="give --decoder dense"):
        s4m.main(settings(data, tmp_path / "x", tiny_lite_sam_folder, decoder="queries", **student))
    with pytest.raises(RunError, match="another image encoder"):
        s4m.main(settings(data, tmp_path / "x", tiny_sam_folder, **student))
    queries = s4m.main(
        settings(data, tmp_path / "queries", tiny_lite_sam_folder, decoder="queries", stage="teacher", steps=1)
    )
    with pytest.raises(RunError, match="give --decoder queries"):
        s4m.main(settings(data, tmp_path / "x", tiny_lite_sam_folder, stage="student", teacher=queries))
    with pytest.raises(WeightsError, match="another network"):
        started(settings(data, tmp_path / "x", tiny_lite_sam_folder, init=queries), DenseTrainer)
    with pytest.raises(MaskwrightError, match="--decoder dense stands on SAM's encoder"):
        settings(data, tmp_path / "x", tiny_lite_sam_folder, decoder="dense", segmenter="facebook/some")
    assert settings(data, tmp_path / "x", tiny_lite_sam_folder, segmenter="facebook/some").decoder == "queries"
    assert not (tmp_path / "x").exists()


def test_a_new_training_starts_from_this_one(trained: Path, data: Path, tmp_path: Path, tiny_lite_sam_folder: Path):
    network = started(settings(data, tmp_path / "next", tiny_lite_sam_folder, init=trained), DenseTrainer).network
    assert same(network, trained / "model" / "model.safetensors")
    assert tensors(trained)["foreground.weight"].shape[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"arp": "static", "flips": "all"},
        {"arp": "none", "refinement": False},
        {"batch": 1, "distillation": 1.0},
        {"labels": "labelled-only", "crop": 40},
        {"certain": 1.0},
        {"precision": "bf16"},
    ],
)
def test_every_setting_runs_on_either_trunk(
    changed: dict[str, Any], data: Path, tmp_path: Path, tiny_sam_folder: Path, tiny_lite_sam_folder: Path
):
    for number, sam in enumerate((tiny_sam_folder, tiny_lite_sam_folder)):
        run = s4m.main(settings(data, tmp_path / f"run{number}", sam, steps=4, **changed))
        assert (run / "model" / "model.safetensors").is_file()
        assert all(np.isfinite(list(line.values())).all() for line in log(run))


def maps_of(probability: torch.Tensor, depth: torch.Tensor) -> Maps:
    return Maps(probability.logit(eps=1e-5), depth.logit(eps=1e-5), torch.zeros(len(depth), 1, 1, 1))


def test_sure_objects_are_kept_and_others_are_doubtful():
    probability, depth = torch.full((2, 2, 32, 32), 0.01), torch.zeros(2, 32, 32)
    square = torch.from_numpy(depths(np.pad(np.ones((8, 8), int), 1))[1:-1, 1:-1])
    probability[0, 1, 4:12, 4:12], depth[0, 4:12, 4:12] = 0.99, square
    probability[0, 0, 20:28, 20:28], depth[0, 20:28, 20:28] = 0.6, square
    labels = sure_objects(maps_of(probability, depth), 64, 0.7)
    assert labels.objects.rows.tolist() == [0]
    assert labels.objects.categories.tolist() == [2]
    assert labels.objects.masks[0, 10:22, 10:22].all()
    assert labels.objects.masks.sum() == pytest.approx(256, abs=40)
    assert labels.doubtful[0, 42:54, 42:54].all()
    assert not labels.doubtful[0, 10:22, 10:22].any()
    assert not labels.doubtful[1].any()
    assert len(sure_objects(maps_of(probability, depth), 64, 1.0)) == 0


def test_refinement_takes_sams_outline_where_both_agree(tiny_lite_sam: Sam, monkeypatch: pytest.MonkeyPatch):
    squares = torch.zeros(3, 64, 64, dtype=torch.bool)
    squares[0, 8:24, 8:24] = squares[1, 40:56, 8:24] = squares[2, 8:24, 40:56] = True
    objects = Instances(squares, torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1]))
    labels = PseudoLabels(objects, torch.ones(3), torch.zeros(2, 64, 64, dtype=torch.bool))
    answers = squares.clone()
    answers[0, 8] = False  # a row less: agreed
    answers[1, 40:50] = False  # most of it gone
    answers[2] = False  # nothing
    generator = torch.Generator().manual_seed(0)

    def answer(sam: Sam, images: torch.Tensor, rows: torch.Tensor, boxes: torch.Tensor, **_: Any) -> Any:
        assert rows.tolist() == [0, 0, 1]
        assert boxes[0].tolist() == [8, 8, 24, 24]
        return SimpleNamespace(on_image=lambda size: answers.float() * 2 - 1)

    monkeypatch.setattr("maskwright.methods.instances.dense_pseudo.look_closer", answer)
    images = torch.zeros(2, 3, 64, 64)
    better = refined(labels, tiny_lite_sam, images, generator, most=9, accept=0.7)
    assert torch.equal(better.objects.masks, torch.stack([answers[0], squares[1], squares[2]]))
    assert torch.equal(better.doubtful[0], squares[1] & ~answers[1])
    assert torch.equal(better.doubtful[1], squares[2])
    assert refined(labels, tiny_lite_sam, images, generator, most=0, accept=0.7) is labels


def test_sam_is_shown_box_and_mask(tiny_lite_sam: Sam):
    masks = torch.zeros(40, 64, 64, dtype=torch.bool)
    masks[:, 8:40, 8:40] = True
    objects = Instances(masks, torch.zeros(40, dtype=torch.long), torch.ones(40, dtype=torch.long))
    labels = PseudoLabels(objects, torch.ones(40), torch.zeros(1, 64, 64, dtype=torch.bool))
    images = torch.rand(1, 3, 64, 64)
    better = refined(labels, tiny_lite_sam, images, torch.Generator().manual_seed(0), most=5, accept=0.0)
    changed = (better.objects.masks != masks).flatten(1).any(1)
    assert 0 < int(changed.sum()) <= 5
    assert len(better) == 40


def test_true_objects_are_pasted_and_nothing_of_labelled_images_comes_along(
    data: Path, tmp_path: Path, tiny_lite_sam_folder: Path
):
    t = trainer(data, tmp_path / "x", tiny_lite_sam_folder, batch=2, arp="static")
    unlabelled, labelled = t.loader(t.unlabelled).take([0, 1]), t.loader(t.labelled).take([0, 1])
    nothing = PseudoLabels(Instances.none(64, 64), torch.zeros(0), torch.ones(2, 64, 64, dtype=torch.bool))
    images, objects, covered = t._pasted(unlabelled, nothing, labelled)
    assert len(objects)
    assert images.shape == unlabelled.images.shape
    assert (images == unlabelled.images).all(1)[~covered].all()
    union = torch.zeros_like(covered).int().index_add(0, objects.rows, objects.masks.int()) > 0
    assert torch.equal(union, covered)


def test_weak_labels_are_prompts_for_pseudo_labels(data: Path, tmp_path: Path, tiny_lite_sam_folder: Path):
    dataset = Dataset.load(data)
    weak = Labels(boxes=(Box(8, 8, 40, 40, 1),), points=(Point(50.5, 50.5, 2),))
    samples = [replace(s, labels=weak) if s.labels == Labels() else s for s in dataset]
    mixed = Dataset(dataset.root, dataset.categories, tuple(samples), dataset.source)
    t = trainer(mixed.save(data / "mixed.json"), tmp_path / "x", tiny_lite_sam_folder, certain=1.0, arp="none")
    t._start_student(t.network)
    drawn, _, labels = t.pseudo_labels(t.loader(t.unlabelled).take([0, 1]))
    assert len(drawn) == 0
    assert len(labels)


@pytest.mark.slow
def test_it_learns_what_can_be_learnt(tmp_path: Path, tiny_lite_sam_folder: Path):
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(24):
        mask = np.zeros((64, 64), np.uint16)
        for number, (x, y) in enumerate(((4, 4), (36, 6), (8, 38), (38, 36)), start=1):
            side = int(rng.integers(12, 22))
            mask[y : y + side, x : x + side] = number
        masks.append(mask)
    data = write_instances(tmp_path / "data", masks, ("background", "thing"), labelled=24, val=6)
    changed = {"refinement": False, "burn_in": 0.6, "batch": 4, "labelled": "50%", "certain": 0.5}
    run = s4m.main(settings(data, tmp_path / "run", tiny_lite_sam_folder, steps=120, **changed))
    for stage in ("teacher", "student"):
        assert [line[f"val_{stage}_ap50"] for line in log(run) if f"val_{stage}_ap50" in line][-1] > 0.8
    assert len(keep_labels(Dataset.load(data).split("train"), "50%", 0)) == 24


def test_on_nano_it_begins_with_the_bundled_head(data: Path, tmp_path: Path):
    with_head, without = (
        trainer(data, tmp_path / name, Path("nano"), stage="teacher", pretrained_head=begins)
        for name, begins in (("with", True), ("without", False))
    )
    assert with_head.has_head
    assert not without.has_head
    known = load_file(BUNDLED)["foreground.weight"][0].float()
    for weight in with_head.network.foreground.weight.detach():
        torch.testing.assert_close(weight, known)
    assert not torch.allclose(without.network.foreground.weight[0], known)


@pytest.mark.parametrize("stage", ["both", "student"])
def test_a_student_that_is_no_better_leaves_the_teacher_as_the_model(
    stage: str, trained: Path, data: Path, tmp_path: Path, tiny_lite_sam_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(
        DenseTrainer, "validate", lambda self: dict.fromkeys(("ap", "ap50", "ap75", "box_ap"), next(scores))
    )
    given = {"stage": stage, "validations": 1, "steps": 6, **({"teacher": trained} if stage == "student" else {})}
    run = s4m.main(settings(data, tmp_path / "run", tiny_lite_sam_folder, **given))
    teacher = load_file((trained if stage == "student" else run) / "teacher" / "model.safetensors")
    model = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(model[name], tensor) for name, tensor in teacher.items())
    assert "no student was better than the teacher, which is the model" in (run / "model" / "README.md").read_text()
