"""Checkpoints: complete at every instant, whatever fails and whenever it is killed."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from maskwright.engine.run import Run
from maskwright.errors import MaskwrightError, RunError, WeightsError
from tests.run_helpers import Killed, leftovers, prepared, sabotage, start, weights

torch.set_num_threads(1)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    tied = torch.randn(4, 4)
    tensors = {
        "model": {"tied": tied, "again": tied, "view": tied[1:, :2], "half": tied.half(), "bf16": tied.bfloat16()},
        "rng": {"torch": torch.get_rng_state(), "flag": torch.tensor(True), "count": torch.tensor(2**40)},
        "nothing": {},
    }
    state = {"best": -0.5, "big": 2**127 + 1, "nested": {"list": [1, 0.1, None, "ä"]}}
    with start(tmp_path) as run:
        run.save_checkpoint(12, tensors, state)
        loaded = run.load_checkpoint()
    assert loaded is not None
    assert (loaded.step, loaded.state) == (12, state)
    assert loaded.tensors.keys() == tensors.keys()
    for group, values in tensors.items():
        assert loaded.tensors[group].keys() == values.keys()
        for name, value in values.items():
            assert loaded.tensors[group][name].dtype == value.dtype
            assert torch.equal(loaded.tensors[group][name], value)


def test_only_the_newest_checkpoint_is_kept(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        for number, step in enumerate((5, 10, 10, 10, 200)):
            run.save_checkpoint(step, weights(number), {"number": number})
            checkpoint = run.load_checkpoint()
            assert checkpoint is not None
            assert (checkpoint.step, checkpoint.state["number"]) == (step, number)
            assert len(list((tmp_path / "last").iterdir())) == 1
        with pytest.raises(ValueError, match="step 199 after one of step 200"):
            run.save_checkpoint(199, weights(1), {})


def test_a_loaded_checkpoint_does_not_hang_on_its_files(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.save_checkpoint(1, weights(1), {})
        checkpoint = run.load_checkpoint()
        run.save_checkpoint(2, weights(2), {})
    assert checkpoint is not None
    assert torch.equal(checkpoint.tensors["model"]["a"], torch.ones(3, 2))


def test_files_of_a_checkpoint_that_are_others_or_missing_are_named(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.save_checkpoint(1, weights(1), {})
        path = tmp_path / "last" / "step-000000001" / "model.safetensors"
        save_file({"a": torch.ones(3, 2), "stranger": torch.ones(1)}, path)
        with pytest.raises(WeightsError, match=r"model.safetensors changed since the checkpoint was written"):
            run.load_checkpoint()
        path.unlink()
        with pytest.raises(WeightsError, match=r"model.safetensors: no such file"):
            run.load_checkpoint()


@pytest.mark.skipif(os.name != "posix", reason="folders can only be synced on POSIX")
def test_everything_is_on_the_disk_before_it_is_renamed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    before: list[int] = []
    rename = os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "rename", lambda *paths: (before.extend(synced), synced.clear(), rename(*paths)))
    with start(tmp_path) as run:
        synced.clear()
        run.save_checkpoint(1, weights(1), {})
    folder = tmp_path / "last" / "step-000000001"
    inodes = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert inodes.keys() == {"model.safetensors", "ema.safetensors", "state.json"}
    expected = {*inodes.values(), folder.stat().st_ino, (tmp_path / "metrics.jsonl").stat().st_ino}
    assert expected <= set(before)
    assert {(tmp_path / "last").stat().st_ino, tmp_path.stat().st_ino} == set(synced)


def test_killed_at_any_instant_a_complete_checkpoint_is_there(tmp_path: Path) -> None:
    seen: list[int] = []
    raised: BaseException | None = Killed()
    while raised is not None:
        folder = tmp_path / str(len(seen))
        run = prepared(folder)
        _, raised = sabotage(lambda: run.save_checkpoint(2, weights(2), {"number": 2}), len(seen) + 1, Killed())  # noqa: B023
        run.close()
        with start(folder, resume=True) as run:
            checkpoint = run.load_checkpoint()
            assert checkpoint is not None
            number = checkpoint.step
            assert checkpoint.state == {"number": number}
            for group, values in weights(number).items():
                assert all(torch.equal(checkpoint.tensors[group][name], value) for name, value in values.items())
            assert leftovers(folder) == []
            run.save_checkpoint(3, weights(3), {})
        assert [p.name for p in (folder / "last").iterdir()] == ["step-000000003"]
        seen.append(number)
    assert len(seen) > 20
    assert sorted(seen) == seen  # old until the one rename, new from then on
    assert {1, 2} == set(seen)
    assert seen.count(2) > 3  # deaths in the midst of deleting the old one


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    total, _ = sabotage(lambda: prepared(tmp_path / "count").save_checkpoint(2, weights(2), {}), 10**6, Killed())
    messages = 0
    for at in range(1, total + 1):
        folder = tmp_path / str(at)
        run = prepared(folder)
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _, raised = sabotage(lambda: run.save_checkpoint(2, weights(2), {"number": 2}), at, full)  # noqa: B023
        if raised is not None:
            assert str(folder) in str(raised)
            assert "the disk of this folder is full" in str(raised)
            assert "intact" in str(raised)
            messages += 1
        assert leftovers(folder) == []
        checkpoint = run.load_checkpoint()
        assert checkpoint is not None
        assert checkpoint.state == {"number": checkpoint.step}
        run.close()
    assert messages > 10
    assert "old checkpoint cannot be deleted" in caplog.text  # deleting is no reason to end a run


def test_safetensors_own_error_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with start(tmp_path) as run:
        monkeypatch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(RunError, match="disk of this folder is full"):
            run.save_checkpoint(1, weights(1), {})
    assert leftovers(tmp_path) == []


def test_another_disk_error_names_folder_and_reason(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    _, raised = sabotage(
        lambda: run.save_checkpoint(2, weights(2), {}), 4, OSError(errno.EROFS, "Read-only file system")
    )
    assert isinstance(raised, RunError)
    assert (
        str(raised)
        == f"{tmp_path}: the checkpoint cannot be saved, the last complete one is intact: Read-only file system"
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_sigkill_of_a_real_process(tmp_path: Path) -> None:
    program = """
import sys, itertools, torch
from maskwright.engine.run import Run
run = Run.create(sys.argv[1], {}, resume=True)
found = run.load_checkpoint()
for step in itertools.count(found.step + 1 if found else 1):
    run.save_checkpoint(step, {"model": {"w": torch.full((100_000,), float(step))}}, {"step": step})
    print(step, flush=True)
"""
    newest = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        newest = int(process.stdout.readline())
        time.sleep(random.uniform(0.05, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with Run.create(tmp_path, {}, resume=True) as run:
            checkpoint = run.load_checkpoint()
        assert checkpoint is not None
        assert checkpoint.step >= newest
        assert checkpoint.state == {"step": checkpoint.step}
        assert torch.equal(checkpoint.tensors["model"]["w"], torch.full((100_000,), float(checkpoint.step)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_written_and_the_older_checkpoint_stays(
    value: float, tmp_path: Path
) -> None:
    with prepared(tmp_path) as run:
        with pytest.raises(RunError, match=r"model\.safetensors: not written, since values are NaN or infinite: a, b"):
            run.save_checkpoint(2, weights(value), {"number": 2})
        with pytest.raises(MaskwrightError, match=r"state\.best: (nan|inf) is no number"):
            run.save_checkpoint(2, weights(2), {"best": value})
        with pytest.raises(RunError, match="not written"):
            run.save_model({"w": torch.tensor([1.0, value])}, {}, "card")
        checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert not leftovers(tmp_path)
    assert not (tmp_path / "model").exists()
