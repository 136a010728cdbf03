"""S⁴M from labels to model: every setting runs, a resumed run is the uninterrupted one, and it learns."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maskwright import api
from maskwright.cli import main
from maskwright.data.dataset import Dataset
from maskwright.data.instances import is_labelled
from maskwright.data.labels import Box, Labels, Point
from maskwright.data.mask_files import read_mask
from maskwright.errors import DataError, MaskwrightError, RunError, WeightsError
from maskwright.methods.instances.distillation import similarities
from maskwright.recipes import s4m
from maskwright.recipes.s4m import trainer as s4m_trainer
from maskwright.recipes.s4m.images import keep_labels
from maskwright.recipes.s4m.trainer import Trainer
from maskwright.sam.click_grid import cell_numbers
from tests.recipes.instance_training import assert_same_run, instance_scenes, settings, write_instances
from tests.recipes.training import Stopped, log, same, session_of, started, stop_after, tensors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instance_scenes(tmp_path_factory.mktemp("instances") / "data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_sam_folder: Path) -> Path:
    """Both stages."""
    run = tmp_path_factory.mktemp("both") / "run"
    return s4m.main(settings(data, run, tiny_sam_folder, steps=20, certain=0.0))


def trainer(data: Path, out: Path, sam: Path, **changed: Any) -> Trainer:
    config = settings(data, out, sam, **changed)
    return Trainer(config, session_of(config))


def test_both_stages_train_a_model(trained: Path, data: Path):
    lines = log(trained)
    (teacher,) = (line for line in lines if "teacher_class" in line)
    (student,) = (line for line in lines if "student_class" in line)
    assert (teacher["step"], student["step"]) == (10, 20)
    assert {f"teacher_{k}" for k in ("class", "mask", "dice", "auxiliary", "distillation")} <= teacher.keys()
    assert {f"student_pseudo_{k}" for k in ("class", "mask", "dice", "labels")} <= student.keys()
    assert "student_distillation" not in student  # stage 2 has none
    for stage, step in (("teacher", [10]), ("student", [15, 20])):  # at most a tenth of the time, and the last one
        assert [line["step"] for line in lines if f"val_{stage}_ap" in line] == step
    assert {path.name for path in (trained / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    html = (trained / "report.html").read_text()
    assert "Pseudo-labels before and after refinement" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert not any(
        torch.equal(a, b) for a, b in zip(tensors(trained).values(), tensors_of(trained / "teacher")) if a.ndim > 1
    )


def tensors_of(folder: Path) -> list[torch.Tensor]:
    return list(load_file(folder / "model.safetensors").values())


def test_predict_and_evaluate(trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert main(["predict", str(trained), str(data), "--split", "test", "--out", str(out), "--threshold", "0"]) == 0
    dataset = Dataset.load(data)
    names = sorted(sample.id for sample in dataset.split("test"))
    index = json.loads((out / "predictions.json").read_text())
    assert [row["name"] for row in index["images"]] == names
    assert index["options"] == {"threshold": 0.0}
    results = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in results["images"]] == [row["image"] for row in index["images"]]
    assert all((out / row["image"]).is_file() for row in index["images"])
    again = Dataset.load(out)
    assert [(s.id, s.labels.mask.kind if s.labels.mask else "") for s in again] == [
        (name, "instance") for name in names
    ]
    assert [c["name"] for c in results["categories"]] == list(dataset.categories[1:])
    for number, name in enumerate(names, start=1):
        mask = read_mask(out / "masks" / f"{name}.png")
        assert mask.dtype == np.uint16
        found = [row for row in results["annotations"] if row["image_id"] == number]
        assert len(found) == len(index["images"][number - 1]["objects"]) <= 100
        assert mask.max() <= len(found)
        assert (out / "overlays" / f"{name}.jpg").is_file()
    capsys.readouterr()
    assert main(["evaluate", str(trained), str(data)]) == 0
    said = capsys.readouterr().out
    assert "AP50" in said
    assert "box AP" in said
    scores = json.loads((trained / "evaluation-test.json").read_text())
    assert 0 <= scores["ap"] <= scores["ap50"] <= 1
    assert main(["predict", str(trained), str(data), "--out", str(tmp_path / "x"), "--flip"]) == 1
    assert "has no --flip" in capsys.readouterr().err


def test_all_that_keeps_a_split_from_being_scored_is_told_at_once(trained: Path, scene_folder: Path):
    with pytest.raises(DataError) as caught:
        api.evaluate(trained, scene_folder, "test")
    assert "have semantic masks" in caught.value.problems[-1]
    assert "categories differ" in caught.value.problems[0]


def test_the_order_of_a_datasets_categories_does_not_matter(trained: Path, data: Path, tmp_path: Path):
    dataset = Dataset.load(data)
    names = ("background", *reversed(dataset.categories[1:]))
    turned = [
        replace(
            s, labels=Labels(replace(s.labels.mask, categories={k: 3 - v for k, v in s.labels.mask.categories.items()}))
        )
        for s in dataset.split("test")
        if s.labels.mask is not None
    ]
    other = Dataset(dataset.root, names, tuple(turned))
    one, two = (api.evaluate(trained, d, "test") for d in (dataset, other))
    assert one["per_category"] == two["per_category"]


@pytest.mark.slow
def test_tiles(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    run = s4m.main(settings(data, tmp_path / "run", tiny_sam_folder, crop=32, stage="teacher"))
    model = api.load(run, device="cpu")
    (prediction,) = model.predict([Dataset.load(data).image_path(Dataset.load(data).split("test")[0])], threshold=0.0)
    assert prediction.mask.shape == (64, 64)
    assert not (run / "teacher").exists()


@pytest.mark.slow
def test_stages_one_by_one(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    teacher = s4m.main(settings(data, tmp_path / "teacher", tiny_sam_folder, stage="teacher", steps=4))
    both = s4m.main(settings(data, tmp_path / "both", tiny_sam_folder))
    # The first stage of both is the teacher alone.
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(teacher / "model"), tensors_of(both / "teacher")))
    for source in (teacher, both, both / "teacher"):
        student = s4m.main(
            settings(
                data, tmp_path / "student", tiny_sam_folder, stage="student", teacher=source, steps=4, overwrite=True
            )
        )
        assert [line["step"] for line in log(student)][-1] == 4
        assert not (student / "teacher").exists()
    with pytest.raises(MaskwrightError, match="give --teacher RUN"):
        settings(data, tmp_path / "x", tiny_sam_folder, stage="student")
    with pytest.raises(MaskwrightError, match="leave it out"):
        settings(data, tmp_path / "x", tiny_sam_folder, teacher=teacher)
    other = write_instances(tmp_path / "other", [np.ones((64, 64), np.uint16)] * 4, ("background", "thing"), labelled=2)
    with pytest.raises(RunError, match="the teacher knows background, round, other, the dataset has background, thing"):
        s4m.main(settings(other, tmp_path / "x", tiny_sam_folder, stage="student", teacher=teacher))


def test_the_student_does_not_start_from_the_teacher(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    t = trainer(data, tmp_path / "x", tiny_sam_folder)
    start = {name: value.clone() for name, value in t.network.state_dict().items()}
    with torch.no_grad():
        for parameter in t.network.parameters():
            parameter.add_(1)
    t._start_student(t.network)
    assert all(torch.equal(value, start[name]) for name, value in t.network.state_dict().items())
    assert t.teacher is not None
    assert all(not torch.equal(v, start[n]) for n, v in t.teacher.model.named_parameters())


def test_the_teacher_is_frozen_then_the_student_then_its_average(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    t = trainer(data, tmp_path / "x", tiny_sam_folder, burn_in=0.5)
    t._start_student(t._create())
    assert t.teacher is not None
    name, start = next(iter(t.teacher.model.named_parameters()))
    start = start.clone()

    def move(fraction: float, by: float) -> tuple[torch.Tensor, torch.Tensor]:
        assert t.teacher is not None
        with torch.no_grad():
            for parameter in t.network.parameters():
                parameter.add_(by)
        t.student_stage.fraction = fraction
        t._move_teacher()
        return dict(t.teacher.model.named_parameters())[name], dict(t.network.named_parameters())[name]

    for fraction in (0.0, 0.3, 0.49):
        teacher, student = move(fraction, 0.5)
        assert torch.equal(teacher, start)
        assert not torch.equal(teacher, student)
    teacher, student = move(0.5, 0.0)
    assert torch.equal(teacher, student)
    before = teacher.clone()
    teacher, student = move(0.6, 1.0)
    assert torch.allclose(teacher, torch.lerp(before, student, 1 - t.teacher.decay))
    assert not teacher.requires_grad
    assert teacher.grad_fn is None  # nothing grows from step to step


def test_no_pseudo_label_at_all_survives_a_whole_run(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    run = s4m.main(settings(data, tmp_path / "run", tiny_sam_folder, steps=20, certain=1.0))
    (line,) = (line for line in log(run) if "student_pseudo_labels" in line)
    assert line["student_pseudo_labels"] == 0
    assert line["student_pseudo_mask"] == 0
    assert line["student_pseudo_class"] > 0


def test_equal_features_cost_nothing_in_a_step(data: Path, tmp_path: Path, tiny_sam_folder: Path, monkeypatch):
    t = trainer(data, tmp_path / "x", tiny_sam_folder)
    batch = t.loader(t.labelled).batch(0)
    real = t.network.forward

    def told(sam, embedding, points, canvas):  # SAM says what the segmenter says
        features = torch.nn.functional.interpolate(real(batch.images).features, (4, 4), mode="bilinear")
        cells = cell_numbers(points, (canvas, canvas), (4, 4))
        return similarities(features.flatten(2).transpose(1, 2), cells).detach()

    monkeypatch.setattr(s4m_trainer, "sam_similarities", told)
    assert float(t.teacher_step(batch)["distillation"].detach()) == pytest.approx(0, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"arp": "static"},
        {"arp": "none", "refinement": False},
        {"parity": "official", "accept": 0.5, "merge": 0.5},
        {"batch": 1},
        {"labels": "labelled-only", "distillation": 0.0},
        {"flips": "all", "segmenter": "sam", "labelled": "2"},
    ],
)
def test_every_setting_runs(changed: dict[str, Any], data: Path, tmp_path: Path, tiny_sam_folder: Path):
    run = s4m.main(settings(data, tmp_path / "run", tiny_sam_folder, certain=0.0, steps=4, **changed))
    assert (run / "model" / "model.safetensors").is_file()


def ids(*squares: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((64, 64), np.uint16)
    for number, (x, y, side) in enumerate(squares, start=1):
        mask[y : y + side, x : x + side] = number
    return mask


@pytest.mark.slow
@pytest.mark.parametrize(
    "mask",
    [ids(), ids((0, 0, 64)), np.arange(1, 401, dtype=np.uint16).reshape(20, 20).repeat(4, 0).repeat(4, 1)[:64, :64]],
    ids=["no object", "one that covers everything", "hundreds"],
)
def test_images_of_all_sorts(mask: np.ndarray, tmp_path: Path, tiny_sam_folder: Path):
    # One image shows an object: a set without any is refused.
    masks = [*[mask] * 5, ids((9, 9, 30))]
    data = write_instances(tmp_path / "data", masks[::-1], ("background", "thing"), labelled=3)
    run = s4m.main(settings(data, tmp_path / "run", tiny_sam_folder, certain=0.0, steps=4, queries=20))
    assert (run / "report.html").is_file()
    assert all(np.isfinite(list(line.values())).all() for line in log(run))


def test_weak_labels_are_prompts_for_pseudo_labels(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    dataset = Dataset.load(data)
    weak = Labels(boxes=(Box(8, 8, 40, 40, 1),), points=(Point(50.5, 50.5, 2),))
    samples = [s if is_labelled(s) else replace(s, labels=weak) for s in dataset]
    mixed = Dataset(dataset.root, dataset.categories, tuple(samples), dataset.source)
    config = settings(mixed.save(data / "mixed.json"), tmp_path / "x", tiny_sam_folder, certain=1.0, arp="none")
    t = Trainer(config, session_of(config))
    t._start_student(t._create())
    drawn, _, labels = t.pseudo_labels(t.loader(t.unlabelled).take([0, 1]))
    assert len(drawn) == 0
    assert set(labels.categories.tolist()) <= {1, 2}
    assert len(labels)


def test_labelled_images_are_chosen_by_the_seed(data: Path):
    train = Dataset.load(data).split("train")
    total = sum(map(is_labelled, train))

    def chosen(share: str | None, seed: int = 0) -> set[str]:
        kept = keep_labels(train, share, seed)
        assert len(kept) == len(train)
        assert all(s.labels == Labels() for s in kept if not is_labelled(s))
        return {s.id for s in kept if is_labelled(s)}

    assert len(chosen("50%")) == round(total / 2)
    assert len(chosen("1")) == 1
    assert len(chosen("0.1%")) == 1
    assert chosen("1") < chosen("50%") < chosen("100%")
    assert chosen(None) == chosen("100%")
    assert any(chosen("1", seed) != chosen("1") for seed in range(1, 9))
    for wrong in ("x", "0", "-5%", "0%", "99", "200%", "nan%"):
        with pytest.raises(DataError, match="--labelled"):
            chosen(wrong)


def test_what_is_missing_is_told_and_leaves_no_run(
    data: Path, scene_folder: Path, tmp_path: Path, tiny_sam_folder: Path
):
    full = write_instances(tmp_path / "full", [ids((4, 4, 20))] * 3, ("background", "thing"), labelled=3)
    for where, message in {scene_folder: "semantic masks", full: "nothing for a student to learn from"}.items():
        with pytest.raises(DataError, match=message):
            s4m.main(settings(where, tmp_path / "run", tiny_sam_folder))
        assert not (tmp_path / "run").exists()
    for changed, message in {
        ("size", 100): "must be a multiple of 32",
        ("crop", 5): "at least 32",
        ("burn_in", 2): "burn-in",
        ("batch", 0): "--batch 0",
        ("warm_up", -1): "--warm-up -1",
    }.items():
        with pytest.raises(MaskwrightError, match=message):
            settings(data, tmp_path / "run", tiny_sam_folder, **dict([changed]))


def test_a_mistake_does_not_cost_the_run_that_was_there(
    uninterrupted: Path, data: Path, tmp_path: Path, tiny_sam_folder: Path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    nowhere = {"stage": "student", "teacher": tmp_path / "nowhere", "overwrite": True}
    with pytest.raises(WeightsError):
        s4m.main(settings(data, tmp_path / "run", tiny_sam_folder, **nowhere))
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    with pytest.raises(MaskwrightError, match="is --out too"):
        settings(data, tmp_path / "run", tiny_sam_folder, **nowhere | {"teacher": tmp_path / "run"})


def test_the_teacher_spans_a_twentieth_of_a_run_by_the_clock_too(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    decays = []
    for length in ({"minutes": 1.0, "steps": None}, {"steps": 1600}):
        made = trainer(data, tmp_path / "run", tiny_sam_folder, **length)
        made.student_stage.step, made.student_stage.fraction = 400, 0.5  # at a pace that makes 800 steps
        decays.append(made._decay())
    assert decays == [pytest.approx(1 - 1 / 40)] * 2


RESUMED = {"steps": 12, "certain": 0.0, "checkpoint_seconds": 0.0, "burn_in": 0.5}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_sam_folder: Path) -> Path:
    return s4m.main(settings(data, tmp_path_factory.mktemp("whole") / "run", tiny_sam_folder, **RESUMED))


# In stage 1 and at the end of the burn-in; and at the end of stage 1, in the burn-in, and after it.
@pytest.mark.parametrize(
    "stops", [[3, 9], *(pytest.param(stops, marks=pytest.mark.slow) for stops in ([6], [7], [10]))]
)
def test_a_resumed_run_is_the_uninterrupted_one(
    stops: list[int],
    uninterrupted: Path,
    data: Path,
    tmp_path: Path,
    tiny_sam_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    config = settings(data, tmp_path / "run", tiny_sam_folder, **RESUMED)
    for stop in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, stop)
            with pytest.raises(Stopped):
                s4m.main(replace(config, resume=stop != stops[0]))
    s4m.main(replace(config, resume=True))
    assert_same_run(config.out, uninterrupted)


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_and_another_is_not(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    for name, changed in {"a": {"workers": 2}, "b": {}, "c": {"seed": 1}}.items():
        s4m.main(settings(data, tmp_path / name, tiny_sam_folder, certain=0.0, **changed))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    other = tensors(tmp_path / "c")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in tensors(tmp_path / "a").items())


@pytest.mark.slow
def test_minutes(data: Path, tmp_path: Path, tiny_sam_folder: Path):
    run = s4m.main(settings(data, tmp_path / "run", tiny_sam_folder, steps=None, minutes=0.05))
    assert (run / "model").is_dir()


@pytest.mark.slow
def test_it_learns_what_can_be_learnt(tmp_path: Path, tiny_sam_folder: Path):
    rng = np.random.default_rng(0)

    def squares() -> np.ndarray:
        return ids(
            *[
                (int(x), int(y), int(s))
                for (x, y), s in zip([(4, 4), (36, 6), (8, 38), (38, 36)], rng.integers(12, 22, 4))
            ]
        )

    data = write_instances(
        tmp_path / "data", [squares() for _ in range(24)], ("background", "thing"), labelled=24, val=6
    )
    # A SAM of random weights knows no outlines, and nothing worth distilling.
    changed = {"refinement": False, "distillation": 0.0, "burn_in": 0.6}
    run = s4m.main(settings(data, tmp_path / "run", tiny_sam_folder, steps=300, batch=4, labelled="50%", **changed))
    ap = {
        stage: [line[f"val_{stage}_ap50"] for line in log(run) if f"val_{stage}_ap50" in line]
        for stage in ("teacher", "student")
    }
    assert ap["teacher"][-1] > 0.7, ap
    assert ap["student"][-1] > 0.7, ap


def test_a_new_training_starts_from_this_one(trained: Path, data: Path, tmp_path: Path, tiny_sam_folder: Path):
    # The categories in another order, and a new one: each row of the head goes with its name.
    dataset = Dataset.load(data)
    names = (dataset.categories[0], "new", dataset.categories[2], dataset.categories[1])
    shutil.copytree(data, tmp_path / "data")
    replace(dataset, root=tmp_path / "data", categories=names).save()
    config = settings(tmp_path / "data", tmp_path / "next", tiny_sam_folder, init=trained)
    network = started(config, Trainer).network
    head = "model.class_predictor.weight"
    assert same(network, trained / "model" / "model.safetensors", (head, "model.class_predictor.bias"))
    now, then = network.state_dict()[head], load_file(trained / "model" / "model.safetensors")[head]
    assert torch.equal(now[[2, 1, 3]], then)
    with pytest.raises(
        WeightsError, match=r"is another network than this training's .*; give the settings .*: .*--queries 10"
    ):
        started(settings(data, tmp_path / "x", tiny_sam_folder, init=trained, queries=7), Trainer)
    with pytest.raises(RunError, match="give it to --teacher instead"):
        started(
            settings(data, tmp_path / "x", tiny_sam_folder, init=trained, stage="student", teacher=trained), Trainer
        )
    assert not (tmp_path / "x").exists()
