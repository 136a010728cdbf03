"""The commands: what they print, write and return. In process, but for the few things that only a process shows."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskwright import __version__, cli, interrupts
from maskwright.api import RECIPES
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.data.mask_files import read_mask
from maskwright.engine import prediction_folder
from maskwright.engine.locks import FolderLock
from maskwright.engine.prediction_folder import Job, find_images, predict_folder
from maskwright.errors import DataError, MaskwrightError
from tests.tiny_model import save_run, tiny_segmenter

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images, two of the same name in different folders."""
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name, size in (("a.png", (30, 20)), ("b.jpg", (16, 40)), ("deep/a.png", (25, 25)), ("deep/er/c.tif", (9, 9))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def call(*args: object) -> int:
    return cli.main([str(arg) for arg in args])


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ usage


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_values(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert call("completion", "bash") == 0
    script = capsys.readouterr().out
    assert call("completion", "bash", "--install") == 0
    path = tmp_path / "bash-completion" / "completions" / "maskwright"
    assert path.read_text() == script
    assert f"written: {path}" in capsys.readouterr().out

    def completed(*words: str) -> list[str]:
        quoted = " ".join(map(shlex.quote, words))
        lines = (
            f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _tyro_maskwright; printf '%s\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(["bash", "-c", f"source {path}\n{lines}"], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("maskwright", "ev") == ["evaluate"]
    assert set(RECIPES) < set(completed("maskwright", "train", ""))
    assert "--minutes" in completed("maskwright", "train", "s4m", "--m")
    assert {"onnx", "torch"} <= set(completed("maskwright", "predict", "run", "a.png", "--engine", ""))


def test_help_and_version_come_at_once_and_in_a_process():
    before = os.times()
    done = subprocess.run([sys.executable, "-m", "maskwright", "--help"], capture_output=True, text=True, check=False)
    after = os.times()
    assert done.returncode == 0
    for command in ("train", "label", "serve", "predict", "evaluate", "demo", "data", "sam"):
        assert f"• {command}" in done.stdout
    # Processor time, as the clock says little on a busy machine; importing torch alone takes more.
    assert after.children_user - before.children_user < 1
    done = subprocess.run(
        [sys.executable, "-m", "maskwright", "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"maskwright {__version__}\n"


@pytest.mark.parametrize(
    "args",
    [
        ["train", "samix", "--help"],
        ["train", "samix", "nothing", "--out", "runs/a"],
        ["train", "clicks", ".", "--out", "runs/a", "--sam", "nothing"],
        ["evaluate", "nothing", "."],
        ["evaluate", ".", "nothing"],
        ["predict", "nothing", "{image}", "--out", "b"],
        ["export", "nothing"],
        ["sam", "info", "nothing"],
        ["sam", "precompute", "nano", "nothing", "--store", "c"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_in_the_arguments_is_told_before_pytorch_is_imported(
    args: list[str], photos: Path, tmp_path: Path
):
    program = (
        "import sys\nfrom maskwright.cli import main\n"
        "try:\n    status = main()\nexcept SystemExit as error:\n    status = error.code\n"
    )
    words = [word.format(image=photos / "a.png") for word in args]
    done = subprocess.run(
        [sys.executable, "-c", program + "print(status, 'torch' in sys.modules)", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1] == ("0 False" if "--help" in args else "1 False")
    assert ("nothing: " in done.stderr) == ("--help" not in args)


@pytest.mark.parametrize(
    "args", [[], ["nonsense"], ["data"], ["data", "check"], ["predict", "run"], ["data", "convert", "a", "--to", "b"]]
)
def test_usage_errors_end_with_2(args: list[str], capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    "args", [["train", "samix"], ["data", "check"], ["sam", "info"], ["predict"], ["evaluate"], ["label"], ["serve"]]
)
def test_every_command_explains_itself(args: list[str], capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*args, "--help"])
    assert caught.value.code == 0
    assert "usage: maskwright" in capsys.readouterr().out


def test_options_of_one_kind_of_model_stand_together(capsys):
    groups = {
        "semantic": ("--flip",),
        "in-context": ("--in-context", "--references", "--looks"),
        "click-agent": ("--click", "--label", "--box", "--category", "--masks"),
        "self-prompting": ("--clicks",),
        "instance": ("--threshold",),
        "large": ("--write", "--crop", "--mpp", "--overlap", "--simplify"),
        "image-reading": ("--page", "--channels", "--intensity"),
    }
    # Boxes are drawn with lines where the terminal can show them, and with spaces elsewhere.
    title = re.compile(r"^[ ╭─]+([a-z-]+) options[ ─╮]*$", re.MULTILINE)
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    _, *parts = title.split(capsys.readouterr().out)
    assert parts[::2] == list(groups)
    assert [tuple(re.findall(r"^[ │]+(--[a-z][a-z-]+)", box, re.MULTILINE)) for box in parts[1::2]] == list(
        groups.values()
    )
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    assert title.findall(capsys.readouterr().out) == ["image-reading", "semantic", "in-context", "click-agent"]


def test_train_hands_the_settings_to_the_recipe(monkeypatch: pytest.MonkeyPatch, capsys):
    from maskwright.recipes import samix

    seen = []
    monkeypatch.setattr(samix, "main", lambda config: seen.append(config) or config.out)
    assert call("train", "samix", "polyps", "--out", "runs/a", "--steps", 7, "--selector", "random") == 0
    assert (seen[0].data, seen[0].out, seen[0].steps, seen[0].selector) == (Path("polyps"), Path("runs/a"), 7, "random")
    assert "trained: runs/a" in capsys.readouterr().out


def test_demo_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from maskwright import demo

    seen = []
    monkeypatch.setattr(demo, "main", lambda out, **options: seen.append((out, options)))
    assert call("demo", "--out", tmp_path, "--minutes", 2, "--seed", 5) == 0
    assert seen == [(tmp_path, {"minutes": 2.0, "seed": 5})]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (MaskwrightError("a is wrong"), 1, "error: a is wrong\n"),
        (DataError(["one", "two"], "x.json"), 1, "error: 2 problems in x.json:\n  - one\n  - two\n"),
        (
            interrupts.Interrupted(15),
            143,
            "terminated; continue with: maskwright train samix data --out run --resume\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; continue with: maskwright train samix data --out run --resume\n"),
        (OSError(errno.ENOSPC, "no", "/a/b"), 1, "error: /a/b: the disk is full; free some space"),
        (PermissionError(errno.EACCES, "no", "/a/b"), 1, "error: /a/b: Permission denied; choose another place"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "error: the GPU's memory is full; give a smaller --batch"),
    ],
)
def test_errors_become_one_message_and_a_status(monkeypatch, capsys, error, status, text):
    from maskwright.recipes import samix

    def fail(config):
        raise error

    monkeypatch.setattr(samix, "main", fail)
    assert call("train", "samix", "data", "--out", "run") == status
    assert capsys.readouterr().err.startswith(text)
    monkeypatch.setenv("RANK", "1")
    assert call("train", "samix", "data", "--out", "run") == status
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken disk"), RuntimeError("a bug"), ValueError("a bug")])
def test_errors_that_nobody_foresaw_keep_their_traceback(monkeypatch, error):
    from maskwright.recipes import samix

    def fail(config):
        raise error

    monkeypatch.setattr(samix, "main", fail)
    with pytest.raises(type(error)):
        call("train", "samix", "data", "--out", "run")


# ---------------------------------------------------------------------------------------------------------- predict


def test_predict_writes_masks_overlays_and_an_index_and_then_skips(run: Path, photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert call("predict", run, photos, "--out", out, "--batch", 3) == 0
    names = ["a", "b", "deep/a", "deep/er/c"]
    expected = [f"masks/{n}.png" for n in names] + [f"overlays/{n}.jpg" for n in names] + ["predictions.json"]
    assert [path for path in files(out) if not path.startswith("images/")] == sorted(expected)
    assert "4 images predicted: " in capsys.readouterr().out
    index = json.loads((out / "predictions.json").read_text())
    assert (index["format"], index["version"], index["options"]) == ("maskwright-predictions", 2, {"flip": False})
    assert index["categories"] == ["background", "red", "blue"]
    assert len(index["palette"]) == 3
    assert [row["name"] for row in index["images"]] == names
    for row in index["images"]:
        mask = read_mask(out / row["mask"])
        assert list(mask.shape[::-1]) == row["size"] == list(Image.open(row["file"]).size)
        assert sum(row["area"].values()) == pytest.approx(1, abs=1e-5)
        assert set(row["area"]) == set(row["score"])
    before = {path: (out / path).stat().st_mtime_ns for path in files(out) if path != "predictions.json"}
    assert call("predict", run, photos, "--out", out) == 0
    assert "0 images predicted, 4 were there already" in capsys.readouterr().out
    assert {path: (out / path).stat().st_mtime_ns for path in before} == before
    assert json.loads((out / "predictions.json").read_text()) == index


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--click", "3,4"], "--click"),
        (["--box", "1,2,3,4"], "--box"),
        (["--masks", "somewhere"], "--masks"),
        (["--category", "red"], "--category"),
        (["--clicks", "0"], "--clicks"),
        (["--threshold", "0.5"], "--threshold"),
    ],
)
def test_an_option_of_another_kind_of_model_is_refused(run: Path, photos: Path, tmp_path: Path, capsys, options, name):
    assert call("predict", run, photos, "--out", tmp_path / "out", *options) == 1
    told = capsys.readouterr().err
    assert told.endswith(f"a model of the recipe samix has no {name} (its options: --flip); leave it out\n")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_changed_or_is_gone_is_predicted_again(run: Path, photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert call("predict", run, photos, "--out", out, "--no-overlay") == 0
    assert not (out / "overlays").exists()
    (out / "masks" / "a.png").unlink()
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(photos / "b.jpg")
    capsys.readouterr()
    assert call("predict", run, photos, "--out", out, "--no-overlay") == 0
    assert "2 images predicted, 2 were there already" in capsys.readouterr().out
    assert read_mask(out / "masks" / "b.png").shape == (5, 6)
    assert call("predict", run, photos, "--out", out) == 0
    assert "4 images predicted" in capsys.readouterr().out


def test_broken_images_are_listed_and_the_others_done(run: Path, photos: Path, tmp_path: Path, capsys):
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:60])
    (photos / "empty.jpg").write_bytes(b"")
    assert call("predict", run, photos, "--out", tmp_path / "out") == 1
    told = capsys.readouterr()
    assert "4 images predicted" in told.out
    assert told.err.startswith("error: 2 problems")
    assert "broken.png" in told.err
    assert "empty.jpg" in told.err
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 4


def test_predictions_of_another_model_are_refused_unless_overwritten(run: Path, photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert call("predict", run, photos, "--out", out) == 0
    other = save_run(tmp_path / "other", tiny_segmenter(seed=3))
    assert call("predict", other, photos / "a.png", "--out", out) == 1
    assert "holds the predictions of another model" in capsys.readouterr().err
    assert call("predict", run, photos, "--out", out, "--flip") == 1
    assert "with another --flip" in capsys.readouterr().err
    assert call("predict", other, photos / "a.png", "--out", out, "--overwrite") == 0
    assert files(out) == ["images/a.png", "masks/a.png", "overlays/a.jpg", "predictions.json"]


def test_foreign_masks_and_other_images_of_the_same_name_are_kept(run: Path, photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    (out / "masks" / "a.png").write_bytes(b"mine")
    assert call("predict", run, photos, "--out", out) == 1
    assert "masks of unknown origin (a)" in capsys.readouterr().err
    assert files(out) == ["masks/a.png"]
    (out / "images").mkdir()
    (out / "images" / "a.png").write_bytes(b"mine")
    assert call("predict", run, photos / "deep", "--out", out, "--overwrite") == 1
    assert "holds other images of the same name (images/a.png); name another folder" in capsys.readouterr().err
    assert (out / "images" / "a.png").read_bytes() == b"mine"
    (out / "images" / "a.png").unlink()
    assert call("predict", run, photos / "deep", "--out", out, "--overwrite") == 0
    assert call("predict", run, photos, "--out", out) == 1
    assert "other images of the same name (a; the first is of " in capsys.readouterr().err
    (out / "predictions.json").write_text("{")
    assert call("predict", run, photos, "--out", out) == 1
    assert "predictions.json: damaged" in capsys.readouterr().err


class Stopped(Exception):
    pass


def test_a_killed_call_goes_on_where_it_stopped(run: Path, photos: Path, tmp_path: Path):
    from maskwright.api import load

    out, jobs, model = tmp_path / "out", find_images([photos], tmp_path / "out"), load(run, device="cpu")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        predict_folder(model, jobs, out, batch=1, progress=stop)
    part = out / ".predictions-0.jsonl"
    part.write_text(part.read_text() + '{"name": "cut o')
    summary = predict_folder(model, jobs, out)
    assert (summary.predicted, summary.skipped) == (2, 2)
    assert not list(out.glob(".predictions-*"))
    whole = tmp_path / "whole"
    predict_folder(model, jobs, whole)
    assert (whole / "predictions.json").read_text() == (out / "predictions.json").read_text()
    for job in jobs:
        assert (whole / f"masks/{job.name}.png").read_bytes() == (out / f"masks/{job.name}.png").read_bytes()


def test_processes_share_the_images_and_one_writes_the_index(run: Path, photos: Path, tmp_path: Path):
    import threading

    from maskwright.api import load

    class Worker:
        num_processes = 2

        def __init__(self, rank: int, barrier: threading.Barrier) -> None:
            self.process_index, self.is_main_process = rank, rank == 0
            self.wait_for_everyone = barrier.wait

    (photos / "broken.png").write_bytes(b"x")
    jobs, out, barrier = find_images([photos], tmp_path / "out"), tmp_path / "out", threading.Barrier(2, timeout=60)
    summaries: dict[int, prediction_folder.Summary] = {}

    def work(rank: int) -> None:
        summaries[rank] = predict_folder(load(run, device="cpu"), jobs, out, processes=Worker(rank, barrier))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (summaries[0].predicted, len(summaries[0].problems), summaries[1].predicted) == (4, 1, 0)
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 4
    assert not list(out.glob(".predictions-*"))


def test_images_are_found_named_and_never_among_the_results(photos: Path, tmp_path: Path):
    out = photos / "out"
    (out / "masks").mkdir(parents=True)
    shutil.copy(photos / "a.png", out / "masks" / "a.png")
    (photos / ".hidden").mkdir()
    shutil.copy(photos / "a.png", photos / ".hidden" / "h.png")
    (photos / "notes.txt").write_text("no image")
    assert [job.name for job in find_images([photos], out)] == ["a", "b", "deep/a", "deep/er/c"]
    two = find_images([photos / "deep", photos / "a.png", photos / "a.png"], out)
    assert [job.name for job in two] == ["a", "deep/a", "deep/er/c"]
    assert find_images([photos / "a.png"], out) == [Job("a", photos / "a.png")]
    shutil.copy(photos / "a.png", photos / "A.jpg")
    assert [job.name for job in find_images([photos], out)] == ["A.jpg", "a.png", "b.jpg", "deep/a", "deep/er/c"]


def test_every_layout_of_a_dataset_is_one(photos: Path, tmp_path: Path):
    plain = tmp_path / "plain"
    (plain / "masks").mkdir(parents=True)
    (plain / "images").mkdir()
    for name in ("a.png", "b.jpg"):
        shutil.copy(photos / name, plain / "images" / name)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(plain / "masks" / "a.png")
    assert [job.name for job in find_images([plain], tmp_path / "out")] == ["a", "b"]
    assert [job.name for job in find_images([plain], tmp_path / "out", "train")] == ["a", "b"]
    (photos / "damaged.json").write_text("{")
    assert "a" in [job.name for job in find_images([photos], tmp_path / "out")]


def test_inputs_that_cannot_be_are_listed(photos: Path, tmp_path: Path, scene_folder: Path):
    with pytest.raises(DataError, match=r"(?s)2 problems.*one.*two"):
        find_images([tmp_path / "one", photos, tmp_path / "two"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for sources, message in (
        ([], "nothing to predict"),
        ([tmp_path / "empty"], "no images there"),
        ([scene_folder, photos], "give it alone"),
    ):
        with pytest.raises(DataError, match=message):
            find_images(sources, tmp_path / "out")
    with pytest.raises(DataError, match="all images lie in the folder for the results"):
        find_images([photos], tmp_path)
    with pytest.raises(DataError, match="only a dataset has splits"):
        find_images([photos], tmp_path / "out", "test")


def test_a_dataset_is_predicted_by_ids(run: Path, scene_folder: Path, tmp_path: Path):
    dataset = Dataset.load(scene_folder)
    assert call("predict", run, scene_folder, "--out", tmp_path / "out", "--split", "test", "--no-overlay") == 0
    ids = sorted(sample.id for sample in dataset.split("test"))
    assert files(tmp_path / "out") == [
        *(f"{part}/{id}.png" for part in ("images", "masks") for id in ids),
        "predictions.json",
    ]
    with pytest.raises(DataError, match="split 'nope' has no images"):
        find_images([scene_folder], tmp_path / "out", "nope")


# --------------------------------------------------------------------------------------------------------- evaluate


def test_evaluate_prints_a_table_and_writes_all_scores(scene_folder: Path, tmp_path: Path, capsys):
    dataset = Dataset.load(scene_folder)
    run = save_run(tmp_path / "run", categories=list(dataset.categories))
    assert call("evaluate", run, scene_folder) == 0
    told = capsys.readouterr().out
    for word in (*dataset.categories, "Dice", "IoU", "pixel accuracy"):
        assert word in told
    scores = json.loads((run / "evaluation-test.json").read_text())
    assert len(scores["per_image"]) == len(dataset.split("test"))
    assert call("evaluate", run / "model", scene_folder, "--split", "val") == 0
    assert sorted(os.listdir(run / "model")) == ["README.md", "config.json", "model.safetensors"]
    assert call("evaluate", run, scene_folder, "--split", "val", "--json", tmp_path / "scores.json") == 0
    assert json.loads((tmp_path / "scores.json").read_text())["split"] == "val"
    assert sorted(os.listdir(run)) == ["evaluation-test.json", "model"]


def test_evaluate_refuses_other_categories(run: Path, scene_folder: Path, capsys):
    assert call("evaluate", run, scene_folder) == 1
    assert "categories differ" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- data


def test_check_says_how_clean_a_dataset_is(scene_folder: Path, tmp_path: Path, capsys):
    assert call("data", "check", scene_folder) == 0
    told = capsys.readouterr().out
    assert f"{scene_folder}: " in told
    assert "18 images" in told
    assert "test: 4 images (4 mask)" in told
    assert told.endswith("no problems\n")
    assert call("data", "check", scene_folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    broken = tmp_path / "broken"
    shutil.copytree(scene_folder, broken)
    dataset = Dataset.load(broken)
    for sample in dataset.samples[:2]:
        dataset.image_path(sample).write_bytes(b"")
    assert call("data", "check", broken) == 1
    told = capsys.readouterr().out
    assert "\n2 problems:\n  - " in told
    assert all(dataset.samples[i].image in told for i in range(2))
    assert call("data", "check", broken, "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2
    assert call("data", "check", tmp_path / "nowhere") == 1
    assert "nowhere" in capsys.readouterr().out


def test_stats_as_tables_and_as_json(scene_folder: Path, capsys):
    assert call("data", "stats", scene_folder) == 0
    told = capsys.readouterr().out
    for word in ("train", "scribble", "disc", "width", "median"):
        assert word in told
    assert call("data", "stats", scene_folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 18


def test_weaken_and_convert_write_datasets(scene_folder: Path, tmp_path: Path, capsys):
    full = scene_folder / "full.json"
    assert call("data", "weaken", full, "--out", tmp_path / "weak", "--mask", 0.25, "--point", 0.5) == 0
    assert "12 in train: 3 mask, 6 point, 3 none" in capsys.readouterr().out
    kinds = [sample.labels.kind for sample in Dataset.load(tmp_path / "weak").split("train")]
    assert [kinds.count(kind) for kind in (Kind.MASK, Kind.POINT, Kind.NONE)] == [3, 6, 3]
    assert call("data", "weaken", full, "--out", tmp_path / "b", "--mask", 0.25, "--none", 0.25) == 1
    assert "sum up to 1" in capsys.readouterr().err
    assert call("data", "convert", tmp_path / "weak", "--to", "manifest", "--out", tmp_path / "copy") == 0
    copied, weak = Dataset.load(tmp_path / "copy"), Dataset.load(tmp_path / "weak")
    assert [s.labels.points for s in copied] == [s.labels.points for s in weak]
    assert call("data", "convert", tmp_path / "weak", "--to", "folders", "--out", tmp_path / "lossy") == 1
    assert "cannot hold" in capsys.readouterr().err


def test_datasets_are_split_merged_and_sampled(scene_folder: Path, tmp_path: Path, capsys):
    full = scene_folder / "full.json"
    options = ("--val", 0.25, "--test", 0, "--of", "all", "--group", r"(\d)\.")
    assert call("data", "split", full, "--out", tmp_path / "split", *options) == 0
    told = capsys.readouterr().out
    assert "groups" in told
    assert f"written: {tmp_path / 'split'}" in told
    splits = [sample.split for sample in Dataset.load(tmp_path / "split")]
    assert set(splits) == {"train", "val"}
    assert call("data", "split", full, "--out", tmp_path / "b", "--group", "(nix)") == 1
    assert "finds nothing in this path" in capsys.readouterr().err
    assert call("data", "sample", tmp_path / "split", "--out", tmp_path / "shares", "--shares", 0.5, "--counts", 2) == 0
    assert "labels-2.json" in capsys.readouterr().out
    kinds = [sample.labels.kind for sample in Dataset.load(tmp_path / "shares/labels-2.json").split("train")]
    assert kinds.count(Kind.MASK) == 2
    assert call("data", "merge", scene_folder, tmp_path / "split", "--out", tmp_path / "both") == 1
    assert "is the same picture as" in capsys.readouterr().err
    assert call("data", "merge", scene_folder, tmp_path / "split", "--out", tmp_path / "both", "--twins", "first") == 0
    assert "18 pictures left out" in capsys.readouterr().out
    assert len(Dataset.load(tmp_path / "both")) == 18


# -------------------------------------------------------------------------------------------------------------- sam


def test_sam_info_tells_size_and_speed(tiny_sam_folder: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")  # so that the table folds no path
    assert call("sam", "info", tiny_sam_folder, "--device", "cpu") == 0
    told = capsys.readouterr().out
    for word in ("parameters", "64 x 64 pixels", "64 channels", "model.safetensors", "ms for an image on cpu", "click"):
        assert word in told
    assert call("sam", "info", tiny_sam_folder, "--size", 50) == 1
    assert "multiple of 32" in capsys.readouterr().err


def test_sam_convert_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    from maskwright.sam import convert

    seen = {}
    monkeypatch.setattr(convert, "convert", lambda file, folder, **options: seen.update(options) or folder)
    args = ["--image-size", 128, "--heads", 1, "--windows", 8, 4, 8, 4, "--global-blocks", 4, 5]
    assert call("sam", "convert", "x.pt", "--out", tmp_path / "y", *args) == 0
    assert seen == {"image_size": 128, "heads": 1, "windows": (8, 4, 8, 4), "global_blocks": (4, 5)}
    monkeypatch.undo()
    assert call("sam", "convert", tmp_path / "absent.pt", "--out", tmp_path / "y") == 1
    assert "no such file" in capsys.readouterr().err


def test_sam_precompute_fills_a_store_once(tiny_sam_folder: Path, scene_folder: Path, tmp_path: Path, capsys):
    from maskwright.data.geometry import resize_matrix, warp_image
    from maskwright.data.images import read_image
    from maskwright.sam.precompute import precompute, signature
    from maskwright.sam.sam import Sam
    from maskwright.sam.store import EmbeddingStore

    store, args = tmp_path / "store", ("--batch", 4, "--device", "cpu")
    assert call("sam", "precompute", tiny_sam_folder, scene_folder, "--store", store, *args) == 0
    assert "18 images encoded, 0 were there already" in capsys.readouterr().out
    assert call("sam", "precompute", tiny_sam_folder, scene_folder, "--store", store, *args) == 0
    assert "0 images encoded, 18 were there already" in capsys.readouterr().out
    assert call("sam", "precompute", tiny_sam_folder, scene_folder, "--store", store, "--dtype", "float16", *args) == 1
    assert "dtype is float32, now float16" in capsys.readouterr().err

    sam, dataset = Sam.load(tiny_sam_folder), Dataset.load(scene_folder)
    opened = EmbeddingStore(store, signature(sam))
    path = dataset.image_path(dataset[0])
    pixels = warp_image(read_image(path), resize_matrix((64, 64), 64), 64)[0]
    with torch.no_grad():
        expected = sam.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(opened.load([opened.key(path)])["low"], expected.low, atol=1e-5, rtol=1e-5)

    with pytest.raises(ValueError, match="was not opened with the signature"):
        precompute(sam, dataset, EmbeddingStore(tmp_path / "other", replace(signature(sam), size=96)))
    broken = dataset.with_samples([replace(dataset[0], image="absent.png"), dataset[1]])
    fresh = EmbeddingStore(tmp_path / "fresh", signature(sam))
    with pytest.raises(DataError, match=r"absent\.png"):
        precompute(sam, broken, fresh)
    assert fresh.missing([fresh.key(dataset.image_path(dataset[1]))]) == []
    two = EmbeddingStore(tmp_path / "two", signature(sam))
    assert [precompute(sam, dataset, two, rank=rank, world=2) for rank in (0, 1)] == [(9, 0), (9, 0)]


def test_a_second_call_into_one_folder_is_refused_and_loses_nothing(run: Path, photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    with FolderLock(out, "wait"):
        assert call("predict", run, photos, "--out", out) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("is writing there; wait until it has ended, or name another folder with --out")
    assert call("predict", run, photos, "--out", out) == 0
    count = len(json.loads((out / "predictions.json").read_text())["images"])
    with FolderLock(out, "wait"):
        assert call("predict", run, photos, "--out", out, "--overwrite") == 1
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == count > 1
    store = tmp_path / "store"
    with FolderLock(store, "wait"):
        assert call("sam", "precompute", "nano", photos, "--store", store, "--overwrite") == 1
    assert "is writing there" in capsys.readouterr().err


def test_a_score_that_is_no_number_is_an_error(run: Path, photos: Path, tmp_path: Path, monkeypatch):
    from maskwright.api import load

    monkeypatch.setattr(prediction_folder.Prediction, "record", lambda self: {"shares": {"disc": float("nan")}})
    with pytest.raises(MaskwrightError, match=r"the prediction of a\.shares\.disc: nan is no number"):
        predict_folder(load(run), [Job("a", photos / "a.png")], tmp_path / "out")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_help_of_train_says_what_holds_and_needs_no_pytorch(recipe: str):
    program = (
        "import sys\nfrom maskwright import cli\n"
        f"try:\n    cli.main(['train', {recipe!r}, '--help'])\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"COLUMNS": "400"}
    )
    assert done.stderr.strip().endswith("False"), done.stderr
    assert "None)" not in done.stdout  # a default that depends on something is said as a rule
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())
    for option in ("--epochs", "--steps", "--minutes", "--keep", "--patience", "--validations"):
        assert "(default: " in re.split(rf" {option} (?=[A-Z{{])", text)[1].split(" --")[0], option
    assert "whole training" in done.stdout
