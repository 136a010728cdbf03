"""`maskwright next`, `budget` and `audit` as a user gives them, on drawn scenes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import maskwright
from maskwright import cli
from maskwright.data import manifest
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint
from maskwright.data.labels import Kind, Labels
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.data.scene_dataset import write_scenes
from maskwright.errors import DataError, MaskwrightError
from tests.tiny_model import save_run, tiny_segmenter

SIZE = 96


def call(*args: object) -> int:
    return cli.main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training images with masks of discs, 12 for validation. Leave them as they are."""
    folder = tmp_path_factory.mktemp("curate") / "scenes"
    write_scenes(folder, train=60, val=12, test=0, size=SIZE, categories=("disc",), difficulty=0.2)
    return folder


def few(scenes: Path, folder: Path, labelled: int) -> Path:
    """A copy in which only so many training images keep their masks."""
    shutil.copytree(scenes, folder, ignore=shutil.ignore_patterns(".maskwright"))
    dataset = Dataset.load(folder)
    samples = [
        replace(s, labels=Labels()) if s.split == "train" and i >= labelled else s for i, s in enumerate(dataset)
    ]
    manifest.write(dataset.with_samples(samples))
    return folder


def test_next_without_labels_takes_images_that_stand_for_many(
    scenes: Path, tmp_path: Path, tiny_sam_folder, capsys
) -> None:
    data = few(scenes, tmp_path / "data", 0)
    assert call("next", data, "--out", tmp_path / "out", "-n", 6, "--sam", tiny_sam_folder) == 0
    said = capsys.readouterr().out
    assert "  1. " in said
    assert "stands for many images; nothing is labelled yet" in " ".join(said.split())
    content = json.loads((tmp_path / "out/next.json").read_text())
    assert len(content["suggestions"]) == 6
    assert {each["kind"] for each in content["suggestions"]} == {"box"}
    assert {each["why"] for each in content["suggestions"]} == {"typical", "random"}
    assert content["candidates"] == 60
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<figure>") == 6


def test_next_with_labels_and_with_a_run(scenes: Path, tmp_path: Path, tiny_sam_folder) -> None:
    data = few(scenes, tmp_path / "data", 25)
    result = maskwright.api.next_labels(data, sam=tiny_sam_folder, count=10, costs=_costs(tmp_path))
    assert {each.why for each in result.suggestions} == {"typical", "random"}
    labelled = {sample.id for sample in Dataset.load(data) if sample.labels.kind == Kind.MASK}
    assert not labelled & {each.id for each in result.suggestions}
    assert result.labelled == 25
    again = maskwright.api.next_labels(data, sam=tiny_sam_folder, count=10, costs=_costs(tmp_path))
    assert again == result
    run = save_run(tmp_path / "run")
    with pytest.raises(DataError, match="categories differ"):
        maskwright.api.next_labels(data, run=run, sam=tiny_sam_folder)


def _costs(folder: Path) -> Path:
    (folder / "costs.json").write_text(json.dumps({"box": 5, "mask": 30}))
    return folder / "costs.json"


def test_next_with_nothing_left_and_other_mistakes(scenes: Path, tmp_path: Path, tiny_sam_folder, capsys) -> None:
    assert call("next", scenes, "--sam", tiny_sam_folder) == 1
    assert "is labelled: every image says where something is" in capsys.readouterr().err
    assert call("next", scenes, "--split", "spare", "--sam", tiny_sam_folder) == 1
    assert "has no images" in capsys.readouterr().err
    assert call("next", scenes, "--costs", tmp_path / "none.json", "--sam", tiny_sam_folder) == 1
    assert "none.json: is not there" in capsys.readouterr().err
    with pytest.raises(MaskwrightError, match="-n 0"):
        maskwright.api.next_labels(scenes, count=0)


def test_budget_draws_a_curve_and_goes_on(scenes: Path, tmp_path: Path, tiny_sam_folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr("maskwright.methods.curate.quick.steps_for", lambda count: 8)
    arguments = ("budget", scenes, "--out", tmp_path / "out", "--orders", 2, "--sam", tiny_sam_folder)
    assert call(*arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"60 labelled images, about \d+ minutes of labelling: Dice 0\.\d{3} on split 'val'", said)
    assert "As much again would bring it to" in said
    before = (tmp_path / "out/trainings.json").read_bytes()
    assert call(*arguments) == 0
    assert (tmp_path / "out/trainings.json").read_bytes() == before
    assert call(*arguments, "--seed", 3) == 1
    assert "made with other seed" in capsys.readouterr().err
    assert call("budget", few(scenes, tmp_path / "few", 5), "--out", tmp_path / "no", "--sam", tiny_sam_folder) == 1
    assert "a curve takes at least 12" in capsys.readouterr().err
    assert call("budget", scenes, "--out", tmp_path / "x", "--minutes", -1) == 1
    assert "--minutes -1" in capsys.readouterr().err


@pytest.fixture
def trained(scenes: Path, tmp_path: Path) -> Path:
    """A run whose segmenter knows discs, and which says that it learnt from the first half of the training images."""
    run = save_run(tmp_path / "trained", tiny_segmenter(categories=2), categories=["background", "disc"])
    dataset = Dataset.load(scenes)
    samples = [replace(s, split="train" if i < 30 else "spare") for i, s in enumerate(dataset)]
    (run / "data.json").write_text(Fingerprint.of(dataset.with_samples(samples)).to_json())
    return run


def test_a_run_judges_what_it_has_not_learnt_from(
    scenes: Path, trained: Path, tmp_path: Path, tiny_sam_folder, monkeypatch
) -> None:
    monkeypatch.setattr("maskwright.methods.curate.quick.steps_for", lambda count: 8)
    told: list[tuple[int, int]] = []
    options = {"sam": tiny_sam_folder, "most": 3, "progress": lambda *how_far: told.append(how_far)}
    result = maskwright.audit(scenes, tmp_path / "out", run=trained, **options)
    assert result.judged == 72
    assert len(result.suspects) == 3
    assert result.notes == [f"{trained} judged the 42 of 72 images that it has not learnt from."]
    assert result.notes[0] in (tmp_path / "out/report.html").read_text()
    assert told[-1] == (3, 3)
    alone = maskwright.audit(scenes, tmp_path / "alone", **options)
    assert [each["wrong"] for each in alone.suspects] != [each["wrong"] for each in result.suspects]
    with pytest.raises(DataError, match="is there already"):
        maskwright.audit(scenes, tmp_path / "out", **options)


def test_a_runs_doubts_choose_every_second_image(scenes: Path, trained: Path, tmp_path: Path, tiny_sam_folder) -> None:
    data = few(scenes, tmp_path / "data", 25)
    result = maskwright.next_labels(data, tmp_path / "out", run=trained, sam=tiny_sam_folder, count=12)
    whys = [each.why for each in result.suggestions]
    assert (whys.count("random"), whys.count("unsure"), whys.count("typical")) == (6, 3, 3)
    assert all(
        "the model is less sure here than on" in each.reason for each in result.suggestions if each.why == "unsure"
    )
    none = few(scenes, tmp_path / "none", 0)
    notes = maskwright.next_labels(none, run=trained, sam=tiny_sam_folder, count=2).notes
    assert "is not asked before each category is in 3 labelled images" in notes[-1]


def test_audit_refuses_what_it_cannot_judge(scenes: Path, tmp_path: Path, tiny_sam_folder, capsys) -> None:
    assert call("audit", scenes, "--split", "val", "--out", tmp_path / "out", "--sam", tiny_sam_folder) == 1
    assert "12 masks in val; at least 20 are needed" in capsys.readouterr().err
    assert call("audit", scenes, "--out", tmp_path / "out", "--apply", tmp_path / "repairs.txt", "--run", "x") == 1
    assert "--run belongs to the audit itself" in capsys.readouterr().err
    assert call("audit", scenes, "--out", tmp_path / "out", "--apply", tmp_path) == 1
    assert "is a folder; give the repairs.txt in it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_audit_finds_what_was_spoiled_and_mends_it(scenes: Path, tmp_path: Path) -> None:
    """The bundled SAM on scenes: an object without a mask, a mask beside its object; found, accepted, mended."""
    data = tmp_path / "data"
    shutil.copytree(scenes, data, ignore=shutil.ignore_patterns(".maskwright"))
    dataset = Dataset.load(data)
    large = [s for s in dataset if s.split == "train" and (read_mask(data / s.labels.mask.path) == 1).mean() > 0.04]
    spoiled = {}
    for number, sample in enumerate(large[:6]):
        path = data / sample.labels.mask.path
        truth = read_mask(path)
        path.unlink()
        write_mask(path, np.zeros_like(truth) if number % 2 else np.roll(truth, (SIZE // 7, SIZE // 8), (0, 1)))
        spoiled[sample.id] = truth
    command = [sys.executable, "-m", "maskwright", "audit", str(data), "--out", str(tmp_path / "audit"), "--most", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    suspects = json.loads((tmp_path / "audit/audit.json").read_text())["suspects"]
    first = [each["id"] for each in suspects[:10]]
    assert len(set(first) & set(spoiled)) >= 4
    choices = tmp_path / "audit/repairs.txt"
    lines = choices.read_text().splitlines()
    wanted = [f"yes{line[2:]}" if line.split()[-1:] and line.split()[-1] in spoiled else line for line in lines]
    choices.write_text("\n".join(line for line in wanted) + "\n")
    assert call("audit", data, "--apply", choices, "--out", tmp_path / "mended") == 0
    mended = Dataset.load(tmp_path / "mended")
    assert check(mended) == []
    gained = []
    for change in json.loads((tmp_path / "mended/repaired.json").read_text())["changes"]:
        id = change["place"].split("'")[1]
        before, after = (read_mask(folder / f"masks/{id}.png") == 1 for folder in (data, tmp_path / "mended"))
        truth = spoiled[id] == 1
        gained.append((after & truth).sum() / (after | truth).sum() - (before & truth).sum() / (before | truth).sum())
    assert len(gained) >= 3
    assert np.mean(gained) > 0.2
