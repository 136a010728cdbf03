"""Bad input through the command line: one clear message, exit status 1, and nothing lost or half-written."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from maskwright.cli import main
from maskwright.engine.session import Session

Manifest = dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two training images (a mask; a box and a click) and one for validation."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for name in ("a.jpg", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / name)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 10:40] = 1
    Image.fromarray(mask).save(folder / "mask.png")
    weak = {"boxes": [{"xyxy": [4, 4, 30, 30], "category": "cat"}], "points": [{"xy": [9, 9], "category": "cat"}]}
    manifest = {
        "version": 1,
        "categories": ["background", "cat"],
        "samples": [
            {"id": "a", "image": "a.jpg", "split": "train", "labels": {"mask": {"path": "mask.png"}}},
            {"id": "b", "image": "b.png", "split": "train", "labels": weak},
            {"id": "c", "image": "c.png", "split": "val", "labels": {"mask": {"path": "mask.png"}}},
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def train(data: Path, out: Path, sam: Path, *options: object) -> int:
    length = ("--size", 64, "--steps", 2, "--warm-up", 1, "--batch", 2, "--device", "cpu", "--workers", 0)
    return main([str(word) for word in ("train", "samix", data, "--out", out, "--sam", sam, *length, *options)])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_message(capfd: pytest.CaptureFixture[str], *parts: str, started: bool = False) -> str:
    """Standard error, if it is a single message that holds these parts.

    Args:
        started: the training had begun, and had said what it understood.
    """
    text = capfd.readouterr().err
    told, mark, message = text.partition("error: ")
    assert mark, text
    assert message.count("error: ") == 0, text
    assert not told or told.startswith("training samix on "), text
    assert bool(re.search(r"^SAM .* in all", told, re.MULTILINE)) == started, text
    assert "Traceback" not in text
    for part in parts:
        assert part in text
    return text


# ------------------------------------------------------------------------------------------------------------ data


def large_png(path: Path, side: int = 20_000) -> None:
    """A black bilevel image of ``side`` x ``side`` pixels, in a few dozen kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (side // 8 + 1)), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def changed(change: Callable[[Manifest], object]) -> Callable[[Path], None]:
    """Spoil the manifest."""

    def spoil(data: Path) -> None:
        manifest = json.loads((data / "manifest.json").read_text())
        change(manifest)
        (data / "manifest.json").write_text(json.dumps(manifest))

    return spoil


def second(**labels: Any) -> Callable[[Path], None]:
    """Give the second sample other labels."""
    return changed(lambda manifest: manifest["samples"][1].update(labels=labels))


def cut_jpeg(data: Path) -> None:
    (data / "a.jpg").write_bytes((data / "a.jpg").read_bytes()[:-400])


def smaller_mask(data: Path) -> None:
    Image.fromarray(np.ones((32, 64), np.uint8)).save(data / "mask.png")


def in_two_splits(data: Path) -> None:
    shutil.copy(data / "b.png", data / "c.png")


def box(*xyxy: float) -> list[dict[str, Any]]:
    return [{"xyxy": list(xyxy), "category": "cat"}]


SPOILT: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated JPEG": (cut_jpeg, ("a.jpg", "truncated", "replace or remove it")),
    "missing image": (lambda data: (data / "b.png").unlink(), ("b.png", "missing", "restore the file")),
    "no image": (lambda data: (data / "b.png").write_text("hello"), ("b.png", "replace it")),
    "mask of another size": (smaller_mask, ("mask.png", "64 x 32", "64 x 64", "make the mask anew")),
    "box outside": (second(boxes=box(4, 4, 70, 30)), ("manifest.json", "'b'", "boxes[0]", "outside", "correct")),
    "empty box": (second(boxes=box(4, 4, 4, 30)), ("manifest.json", "'b'", "boxes[0]", "is empty", "correct")),
    "NaN coordinate": (
        second(points=[{"xy": [float("nan"), 3], "category": "cat"}]),
        ("manifest.json", "b", "points[0]", "not finite", "correct"),
    ),
    "unknown category": (second(tags=["dog"]), ("manifest.json", "b", "tags[0]", "dog")),
    "unknown category in a mask": (
        lambda data: Image.fromarray(np.full((64, 64), 9, np.uint8)).save(data / "mask.png"),
        ("mask.png", "9", "known are 0..1", "correct the mask"),
    ),
    "path leaving the folder": (
        changed(lambda m: m["samples"][1].update(image="../b.png")),
        ("manifest.json", "../b.png", "leaves the dataset's folder", "maskwright data fix", "--root ."),
    ),
    "duplicate id": (changed(lambda m: m["samples"][1].update(id="a")), ("manifest.json", "'a'", "rename")),
    "image in two splits": (in_two_splits, ("b.png", "c.png", "several splits", "keep it in one")),
    "empty training split": (
        changed(lambda m: [s.update(split="test") for s in m["samples"][:2]]),
        ("manifest.json", "'train' is empty", "put images into it"),
    ),
    "no label at all": (
        changed(lambda m: [s.pop("labels") for s in m["samples"][:2]]),
        ("manifest.json", "none of the 2 images", "label at least one"),
    ),
    "far too large image": (
        lambda data: large_png(data / "b.png"),
        ("b.png", "20000 x 20000", "cut the image into tiles or downscale it"),
    ),
    "no JSON": (lambda data: (data / "manifest.json").write_text("{"), ("manifest.json", "not valid JSON", "correct")),
    "no data": (shutil.rmtree, ("data", "no such file or folder", "check the path")),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_dataset(case: str, data: Path, tmp_path: Path, tiny_sam_folder: Path, capfd):
    spoil, parts = SPOILT[case]
    spoil(data)
    before = contents(data) if data.exists() else None
    assert train(data, tmp_path / "run", tiny_sam_folder) == 1
    one_message(capfd, *parts)
    assert not (tmp_path / "run").exists()
    assert (contents(data) if data.exists() else None) == before
    assert main(["data", "check", str(data)]) == 1
    shown = capfd.readouterr()
    assert all(part in shown.out + shown.err for part in parts)


def test_the_unspoilt_dataset_trains(data: Path, tmp_path: Path, tiny_sam_folder: Path, capfd):
    assert train(data, tmp_path / "run", tiny_sam_folder) == 0
    assert "error" not in capfd.readouterr().err


def test_all_problems_are_told_at_once(data: Path, tmp_path: Path, tiny_sam_folder: Path, capfd):
    cut_jpeg(data)
    second(boxes=box(4, 4, 70, 30))(data)
    assert train(data, tmp_path / "run", tiny_sam_folder) == 1
    one_message(capfd, "2 problems", "a.jpg", "boxes[0]")


def test_categories_that_hold_nothing_but_background(data: Path, tmp_path: Path, tiny_sam_folder: Path, capfd):
    labels = {"mask": {"path": "mask.png"}}
    changed(lambda m: m.update(categories=["background"]))(data)
    changed(lambda m: [sample.update(labels=labels) for sample in m["samples"]])(data)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(data / "mask.png")
    assert train(data, tmp_path / "run", tiny_sam_folder) == 1
    one_message(capfd, str(data), "name what is to be segmented")
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------------- weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, scene_folder: Path, tiny_sam_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(scene_folder, folder, tiny_sam_folder) == 0
    return folder


def foreign_key(path: Path) -> None:
    save_file(load_tensors(path.read_bytes()) | {"foreign.weight": torch.zeros(2)}, path)


def missing_key(path: Path) -> None:
    tensors = load_tensors(path.read_bytes())
    tensors.pop(min(tensors))
    save_file(tensors, path)


def other_shape(path: Path) -> None:
    tensors = load_tensors(path.read_bytes())
    tensors[min(tensors)] = torch.zeros(1, 2, 3)
    save_file(tensors, path)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(print))


def not_a_number(path: Path) -> None:
    tensors = load_tensors(path.read_bytes())
    tensors[min(tensors)].view(-1)[0] = torch.nan
    save_file(tensors, path)


def gone(path: Path) -> None:
    path.unlink()


DAMAGE: dict[Callable[[Path], None], str] = {
    foreign_key: "model.safetensors changed since the model was exported",
    missing_key: "model.safetensors changed since the model was exported",
    cut_off: "cut off",
    as_pickle: "pickles are never loaded",
    gone: "model.safetensors",
    not_a_number: "model.safetensors changed since the model was exported",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_damaged_model(command: str, damage, trained: Path, scene_folder: Path, tmp_path: Path, capfd):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    damage(run / "model" / "model.safetensors")
    before = contents(run)
    options = ["--out", str(tmp_path / "out"), "--device", "cpu"] if command == "predict" else ["--device", "cpu"]
    assert main([command, str(run), str(scene_folder), *options]) == 1
    one_message(capfd, str(run / "model"), DAMAGE[damage])
    assert not (tmp_path / "out").exists()
    assert contents(run) == before


SAM_DAMAGE = {
    foreign_key: "foreign.weight",
    missing_key: "missing",
    cut_off: "cut off",
    as_pickle: "pickles are never loaded",
    gone: "model.safetensors",
    not_a_number: "not finite",
}


@pytest.mark.parametrize("damage", SAM_DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_sam(damage, data: Path, tiny_sam_folder: Path, tmp_path: Path, capfd):
    sam = Path(shutil.copytree(tiny_sam_folder, tmp_path / "sam"))
    damage(sam / "model.safetensors")
    assert train(data, tmp_path / "run", sam) == 1
    one_message(capfd, str(sam), SAM_DAMAGE[damage])
    assert not (tmp_path / "run").exists()


CHECKPOINT = {
    foreign_key: "changed since the checkpoint was written",
    missing_key: "changed since the checkpoint was written",
    not_a_number: "changed since the checkpoint was written",
    cut_off: "changed since the checkpoint was written",
    as_pickle: "changed since the checkpoint was written",
    gone: "no such file",
}


@pytest.mark.parametrize("group", ["segmenter", "sam", "optimizer"])
@pytest.mark.parametrize("damage", CHECKPOINT, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint(damage, group: str, trained: Path, scene_folder: Path, tiny_sam_folder, tmp_path, capfd):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (path,) = run.glob(f"last/step-*/{group}.safetensors")
    damage(path)
    before = {name: content for name, content in contents(run).items() if name.startswith(("last", "model"))}
    assert train(scene_folder, run, tiny_sam_folder, "--resume") == 1
    one_message(capfd, group, CHECKPOINT[damage])
    assert {name: content for name, content in contents(run).items() if name.startswith(("last", "model"))} == before


def test_a_checkpoint_of_another_shape(trained: Path, scene_folder: Path, tiny_sam_folder, tmp_path, capfd):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (path,) = run.glob("last/step-*/segmenter.safetensors")
    other_shape(path)
    assert train(scene_folder, run, tiny_sam_folder, "--resume") == 1
    one_message(capfd, "segmenter", "changed since the checkpoint was written")


# ------------------------------------------------------------------------------------------------------------ disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts an empty file system of so many kilobytes."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_a_disk_that_is_full_for_a_checkpoint(small_disk, data: Path, tiny_sam_folder: Path, tmp_path: Path, capfd):
    disk = small_disk(2_000)
    run, always = disk / "run", ("--checkpoint-seconds", 0)
    assert train(data, run, tiny_sam_folder, *always) == 1
    one_message(capfd, str(run), "full", "Free some space and resume", started=True)
    assert not (run / "model").exists()
    assert not list(run.glob("last*"))
    # With more space the same command goes on.
    subprocess.run(["mount", "-o", "remount,size=60000k", str(disk)], check=True)
    assert train(data, run, tiny_sam_folder, *always, "--resume") == 0
    assert (run / "model" / "model.safetensors").exists()


def fill(path: Path) -> None:
    """Write until there is no space left."""
    with suppress(OSError), open(path, "wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    small_disk, data: Path, tiny_sam_folder: Path, capfd, monkeypatch: pytest.MonkeyPatch
):
    disk = small_disk(30_000)
    save = Session.save

    def save_and_fill(self: Session, *, force: bool = False) -> None:
        save(self, force=force)
        if self.clock == 2:
            fill(disk / "filler")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "save", save_and_fill)
        assert train(data, disk / "run", tiny_sam_folder, "--checkpoint-seconds", 0) == 1
    one_message(capfd, str(disk / "run"), "full", started=True)
    assert [path.name for path in (disk / "run" / "last").iterdir()] == ["step-000000002"]
    assert not list((disk / "run").glob("*.tmp-*"))
    (disk / "filler").unlink()
    assert train(data, disk / "run", tiny_sam_folder, "--checkpoint-seconds", 0, "--resume") == 0


def test_a_disk_that_is_full_for_predictions(small_disk, trained: Path, tmp_path: Path, capfd):
    disk, rng = small_disk(100), np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in range(6):
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    before = contents(trained)
    images, out = str(tmp_path / "images"), str(disk / "out")
    assert main(["predict", str(trained), images, "--out", out, "--device", "cpu"]) == 1
    one_message(capfd, str(disk), "full")
    for path in (disk / "out").rglob("*.png"):
        with Image.open(path) as image:
            image.load()
    assert contents(trained) == before


def test_a_disk_that_is_full_for_embeddings(small_disk, scene_folder: Path, tiny_sam_folder: Path, capfd):
    disk = small_disk(100)
    words = ["sam", "precompute", tiny_sam_folder, scene_folder, "--store", disk / "store", "--device", "cpu"]
    assert main([str(word) for word in words]) == 1
    one_message(capfd, str(disk), "space")
    assert not [path for path in disk.rglob("*") if "tmp" in path.name]
