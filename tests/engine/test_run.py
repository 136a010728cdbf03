from __future__ import annotations

import builtins
import errno
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from maskwright.engine import run as run_module
from maskwright.engine.run import (
    Budget,
    Run,
    flatten_optimizer,
    flatten_rng,
    load_model,
    load_scheduler,
    load_state,
    load_tensors,
    progress,
    read_metrics,
    save_model,
    scheduler_state,
    unflatten_optimizer,
    unflatten_rng,
)
from maskwright.errors import RunError, WeightsError

torch.set_num_threads(1)
CONFIG = {"lr": 1e-3, "seed": 0, "optim": {"name": "adamw", "betas": (0.9, 0.99)}, "workers": 2}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is what takes the time here; one test of its own checks that it is done, and in the right order."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def start(folder: Path, resume: bool = False, **kwargs) -> Run:
    return Run.create(folder, CONFIG, resume=resume, **kwargs)


def weights(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"a": torch.full((3, 2), value), "b": torch.full((), value)},
        "ema": {"a": torch.full((4,), -value)},
    }


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if ".tmp-" in p.name or ".old-" in p.name]


# ------------------------------------------------------------------------------------------------------ directory


def test_config_records_what_repeats_the_run(tmp_path: Path) -> None:
    start(tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["config"] == json.loads(json.dumps(CONFIG))
    assert stored["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "maskwright", "transformers"} <= stored["versions"].keys()
    assert stored["command"] == sys.argv


def test_a_second_run_in_the_same_folder_is_refused_with_the_remedies(tmp_path: Path) -> None:
    start(tmp_path).close()
    with pytest.raises(RunError, match=r"--resume.*--out.*--overwrite"):
        start(tmp_path)


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_that_is_not_a_run_is_never_touched(tmp_path: Path, how: dict[str, bool]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(RunError, match="no run of maskwright"):
        start(tmp_path, **how)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "thesis.txt"]


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log(1, loss=1.0)
        run.save_checkpoint(1, weights(1), {})
        run.save_model({"w": torch.ones(2)}, {}, "card")
    (tmp_path / "notes.txt").write_text("mine")
    with start(tmp_path, overwrite=True) as run:
        assert run.load_checkpoint() is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "metrics.jsonl", "notes.txt"]
    assert read_metrics(tmp_path) == []


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        start(tmp_path / "run")


def test_resume_and_overwrite_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="one of the two"):
        start(tmp_path, resume=True, overwrite=True)


def test_resume_in_a_new_folder_starts(tmp_path: Path) -> None:
    with start(tmp_path / "new" / "run", resume=True) as run:
        assert run.load_checkpoint() is None


def test_resume_names_every_setting_that_differs(tmp_path: Path) -> None:
    start(tmp_path).close()
    other = {"lr": 1e-4, "seed": 0, "optim": {"name": "sgd", "betas": (0.9, 0.99)}, "workers": 8, "new": None}
    with pytest.raises(RunError) as caught:
        Run.create(tmp_path, other, resume=True, may_differ=["workers"])
    text = str(caught.value)
    assert "lr: 0.001 there, 0.0001 now" in text
    assert 'optim.name: "adamw" there, "sgd" now' in text
    assert "new: not set there, null now" in text
    assert "workers" not in text
    assert "seed" not in text
    assert "betas" not in text


def test_resume_notes_when_and_how(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.save_checkpoint(7, weights(1), {})
    start(tmp_path, resume=True).close()
    resumed = json.loads((tmp_path / "config.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [7]


def test_what_json_cannot_hold_is_an_error_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"config\.a\[1\]: Tensor"):
        Run.create(tmp_path, {"a": [1, torch.ones(1)]}, resume=False)
    with pytest.raises(TypeError, match=r"config\.by_id: dict"):  # JSON would turn the key 1 into "1"
        Run.create(tmp_path, {"by_id": {1: "cat"}}, resume=False)


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with start(tmp_path, is_main=False) as run:
        run.log(1, loss=1.0)
        run.save_checkpoint(1, weights(1), {})
        run.save_model({"w": torch.ones(2)}, {}, "card")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------- metrics


def test_log_writes_json_lines_and_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with start(tmp_path) as run:
        run.log(1, loss=torch.tensor(0.5), lr=np.float32(0.25), **{"val/dice": 1})
        run.log(2, loss=float("nan"), best=float("-inf"))
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"step": 1, "loss": 0.5, "lr": 0.25, "val/dice": 1},
        {"step": 2, "loss": "nan", "best": "-inf"},
    ]
    first, second = read_metrics(tmp_path)
    assert first["loss"] == 0.5
    assert np.isnan(second["loss"])
    assert second["best"] == -np.inf
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/dice")] == [(1, 1.0)]
    with start(tmp_path, resume=True) as run, pytest.raises(TypeError, match="loss"):
        run.log(3, loss="low")


def test_resume_drops_what_was_logged_after_the_checkpoint(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        for step in range(1, 6):
            run.log(step, loss=1 / step)
            if step == 3:
                run.save_checkpoint(step, weights(1), {})
                run.log(step, val=0.5)
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 6, "lo')  # the kill came here
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 3, 4, 5]
    start(tmp_path, resume=True).close()
    assert read_metrics(tmp_path) == [{"step": s, "loss": 1 / s} for s in (1, 2, 3)] + [{"step": 3, "val": 0.5}]


def test_resume_without_a_checkpoint_starts_the_log_anew(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log(0, loss=1.0)
    start(tmp_path, resume=True).close()
    assert read_metrics(tmp_path) == []


def test_a_damaged_line_inside_the_log_is_an_error(tmp_path: Path) -> None:
    start(tmp_path).close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
    with pytest.raises(RunError, match="line 2"):
        start(tmp_path, resume=True)


# ---------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    tied = torch.randn(4, 4)
    tensors = {
        "model": {"tied": tied, "again": tied, "view": tied[1:, :2], "half": tied.half(), "bf16": tied.bfloat16()},
        "rng": {"torch": torch.get_rng_state(), "flag": torch.tensor(True), "count": torch.tensor(2**40)},
        "nothing": {},
    }
    state = {"best": float("-inf"), "big": 2**127 + 1, "nested": {"list": [1, 0.1, None, "ä"]}}
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


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_others_may_read_the_weights_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = save_model(tmp_path / "model", {"w": torch.ones(1)}, {}, "card")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in path.iterdir()} == {0o640}


def test_missing_and_unexpected_tensors_of_a_checkpoint_are_named(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.save_checkpoint(1, weights(1), {})
        path = tmp_path / "last" / "step-000000001" / "model.safetensors"
        save_file({"a": torch.ones(3, 2), "stranger": torch.ones(1)}, path)
        with pytest.raises(
            WeightsError, match=r"model.safetensors: 1 missing: b\n.*model.safetensors: 1 unexpected: stranger"
        ):
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


class Killed(BaseException):
    """kill -9: no handler of the program may do anything about it, so later file operations fail as well."""


class Saboteur:
    """Lets the n-th file operation fail, before or (for writing) half way through it."""

    NAMES = (
        "fsync",
        "makedirs",
        "mkdir",
        "rename",
        "replace",
        "open",
        "close",
        "chmod",
        "fstat",
        "unlink",
        "rmdir",
        "listdir",
    )

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.at, self.error, self.calls = at, error, 0
        for name in self.NAMES:
            patch.setattr(os, name, self.wrap(getattr(os, name)))
        patch.setattr(run_module, "open", self.wrap(builtins.open), raising=False)
        patch.setattr(run_module, "save_file", self.wrap(save_file, half=True))

    def wrap(self, function, half: bool = False):
        def wrapped(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at or (self.calls > self.at and isinstance(self.error, Killed)):
                if half and self.calls == self.at:
                    Path(args[1]).write_bytes(b"\x40\x00\x00")
                raise self.error
            return function(*args, **kwargs)

        return wrapped


def sabotage(action, at: int, error: BaseException) -> tuple[int, BaseException | None]:
    """Run the action with its ``at``-th file operation failing; returns how many it made, and what it raised."""
    with pytest.MonkeyPatch.context() as patch:
        saboteur = Saboteur(patch, at, error)
        try:
            action()
        except (Killed, RunError) as raised:
            return saboteur.calls, raised
    return saboteur.calls, None


def prepared(folder: Path) -> Run:
    run = start(folder)
    run.save_checkpoint(1, weights(1), {"number": 1})
    return run


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
        monkeypatch.setattr(run_module, "save_file", full)
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


# --------------------------------------------------------------------------------------------------- model folder


def test_model_round_trip_and_replacement(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        path = save_model(
            tmp_path / "model", {"w": torch.full((2,), value)}, {"value": value, "path": Path("a/b")}, f"# {value}"
        )
        tensors, config = load_model(path)
        assert torch.equal(tensors["w"], torch.full((2,), value))
        assert config == {"value": value, "path": "a/b"}
        assert (path / "README.md").read_text() == f"# {value}"
        assert sorted(p.name for p in path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert leftovers(tmp_path) == []


def test_a_folder_that_is_not_a_model_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(RunError, match=r"cat\.jpg"):
        save_model(tmp_path / "photos", {"w": torch.ones(1)}, {}, "card")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_killed_while_replacing_a_model(tmp_path: Path) -> None:
    seen: list[float] = []
    raised: BaseException | None = Killed()
    while raised is not None:
        folder = tmp_path / str(len(seen))
        with start(folder) as run:
            run.save_model({"w": torch.ones(2)}, {"value": 1}, "card")
            _, raised = sabotage(
                lambda: run.save_model({"w": torch.ones(2) * 2}, {"value": 2}, "card"), len(seen) + 1, Killed()
            )
        start(folder, resume=True).close()
        tensors, config = load_model(folder / "model")
        assert torch.equal(tensors["w"], torch.full((2,), float(config["value"])))
        assert leftovers(folder) == []
        seen.append(config["value"])
    assert len(seen) > 20
    assert {1, 2} == set(seen)


# --------------------------------------------------------------------------------------------------- loading weights


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.safetensors: no such file"):
        load_tensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_a_pickle_is_refused_unread(tmp_path: Path, kind: str) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "model.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"w": Bomb()}, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(WeightsError, match=r"never loaded.*maskwright sam convert"):
        load_tensors(path)
    assert not (tmp_path / "exploded").exists()


def test_cut_off_anywhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(5), "b": torch.ones(2, 3)}, path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"model\.safetensors"):
            load_tensors(path)
    path.write_bytes(whole)
    assert load_tensors(path).keys() == {"a", "b"}


@given(content=st.binary(max_size=200))
def test_garbage_is_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"garbage\.safetensors"):
        load_tensors(path)


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(WeightsError, match="git lfs pull"):
        load_tensors(tmp_path / "m.safetensors")


def test_load_state_names_everything_at_once_and_changes_nothing() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrong = {"0.weight": torch.ones(3, 5), "0.bias": torch.ones(3), "1.bias": torch.ones(1), "head.bias": torch.ones(1)}
    with pytest.raises(WeightsError) as caught:
        load_state(module, wrong, "checkpoint of Tuesday")
    text = str(caught.value)
    assert text.startswith("checkpoint of Tuesday")
    assert "1 missing: 1.weight" in text
    assert "1 unexpected: head.bias" in text
    assert "0.weight: shape (3, 5), and the model has (3, 2)" in text
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    right = {name: torch.randn_like(value) for name, value in before.items()}
    load_state(module, right, "checkpoint")
    assert all(torch.equal(value, right[name]) for name, value in module.state_dict().items())


# -------------------------------------------------------------------------------------------------- training state


class Training:
    """A loop that draws from every generator there is, with dropout, batch norm and a schedule."""

    def __init__(self, optimizer: str) -> None:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        groups = [{"params": self.model[0].parameters(), "lr": 0.02}, {"params": [*self.model[3].parameters()]}]
        kinds = {
            "adamw": lambda: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, amsgrad=True),
            "sgd": lambda: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
        }
        self.optimizer = kinds[optimizer]()
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + step))
        self.generators = {"loader": np.random.default_rng(3), "noise": torch.Generator().manual_seed(4)}

    def step(self) -> float:
        shift = float(self.generators["loader"].normal()) + random.gauss(0, 1) + np.random.normal()  # noqa: NPY002
        images = torch.randn(6, 4, generator=self.generators["noise"]) + shift
        loss = (self.model(images) - images.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()

    def save(self, run: Run, step: int) -> None:
        optimizer, optimizer_state = flatten_optimizer(self.optimizer)
        rng, rng_state = flatten_rng(**self.generators)
        state = {"optimizer": optimizer_state, "rng": rng_state, "scheduler": scheduler_state(self.scheduler)}
        run.save_checkpoint(step, {"model": self.model.state_dict(), "optimizer": optimizer, "rng": rng}, state)

    def load(self, run: Run) -> int:
        checkpoint = run.load_checkpoint()
        assert checkpoint is not None
        load_state(self.model, checkpoint.tensors["model"], checkpoint.folder)
        unflatten_optimizer(self.optimizer, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
        load_scheduler(self.scheduler, checkpoint.state["scheduler"])
        unflatten_rng(checkpoint.tensors["rng"], checkpoint.state["rng"], **self.generators)
        return checkpoint.step


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resumed_equals_never_stopped_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    with start(tmp_path / "whole") as run:
        whole = Training(optimizer)
        for step in range(1, 13):
            run.log(step, loss=whole.step())
    with start(tmp_path / "killed") as run:
        first = Training(optimizer)
        for step in range(1, 9):
            run.log(step, loss=first.step())
            if step in (2, 5):
                first.save(run, step)
    with start(tmp_path / "killed", resume=True) as run:
        second = Training(optimizer)
        random.seed(99)
        torch.manual_seed(99)
        for step in range(second.load(run) + 1, 13):
            run.log(step, loss=second.step())
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert whole.scheduler.get_last_lr() == second.scheduler.get_last_lr()
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "killed" / "metrics.jsonl").read_bytes()


def test_optimizer_of_another_model_is_refused() -> None:
    def adam(*sizes: int) -> torch.optim.Optimizer:
        parameters = [nn.Parameter(torch.ones(size)) for size in sizes]
        optimizer = torch.optim.AdamW(parameters)
        sum(p.sum() for p in parameters).backward()
        optimizer.step()
        return optimizer

    tensors, state = flatten_optimizer(adam(3, 4))
    with pytest.raises(
        WeightsError, match=r"group 0: parameters of shapes \[\[3\], \[4\]\], and the optimiser has \[\[3\]\]"
    ):
        unflatten_optimizer(adam(3), tensors, state)
    tensors["0.momentum"] = tensors.pop("0.exp_avg")
    with pytest.raises(WeightsError, match=r"1 missing: 0.exp_avg\n.*1 unexpected: 0.momentum"):
        unflatten_optimizer(adam(3, 4), tensors, state)


def test_unflattened_state_is_the_optimisers_own() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    tensors, state = flatten_optimizer(optimizer)
    tensors = {name: value.clone() for name, value in tensors.items()}
    kept = {name: value.clone() for name, value in tensors.items()}
    unflatten_optimizer(optimizer, tensors, state)
    optimizer.step()
    assert all(torch.equal(value, kept[name]) for name, value in tensors.items())
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_learning_rate_that_is_a_tensor_goes_with_the_tensors() -> None:
    parameter = nn.Parameter(torch.ones(3))
    tensors, state = flatten_optimizer(torch.optim.Adam([parameter], lr=torch.tensor(0.25)))
    other = torch.optim.Adam([parameter], lr=torch.tensor(0.5))
    unflatten_optimizer(other, tensors, state)
    assert torch.equal(other.param_groups[0]["lr"], torch.tensor(0.25))


def test_scheduler_and_rng_of_another_kind_are_refused() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    state = scheduler_state(torch.optim.lr_scheduler.StepLR(optimizer, 3))
    with pytest.raises(WeightsError, match=r"missing.*T_max"):
        load_scheduler(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10), state)
    with pytest.raises(TypeError, match=r"MultiStepLR\.milestones"):
        scheduler_state(torch.optim.lr_scheduler.MultiStepLR(optimizer, [3]))
    tensors, state = flatten_rng(loader=torch.Generator())
    with pytest.raises(WeightsError, match=r"1 missing: other\n.*1 unexpected: loader"):
        unflatten_rng(tensors, state, other=torch.Generator())


# ---------------------------------------------------------------------------------------------- budget and progress


def test_budget_in_steps_and_epochs() -> None:
    started = time.monotonic()
    steps = Budget(steps=10)
    assert [steps.progress(s, started) for s in (0, 5, 10, 11)] == [0.0, 0.5, 1.0, 1.0]
    assert [steps.done(s, started) for s in (0, 9, 10)] == [False, False, True]
    epochs = Budget(epochs=2.5, steps_per_epoch=5)
    assert epochs.total_steps == 13
    assert not epochs.done(12, started)
    assert epochs.done(13, started)


def test_budget_in_minutes_counts_earlier_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module.time, "monotonic", lambda: 1000.0)
    budget = Budget(minutes=10)
    assert budget.total_steps is None
    assert budget.progress(123, started=1000.0 - 4 * 60) == pytest.approx(0.4)
    resumed = budget.resumed(budget.minutes_used(started=1000.0 - 4 * 60))
    assert resumed.progress(0, started=1000.0 - 3 * 60) == pytest.approx(0.7)
    assert resumed.done(0, started=1000.0 - 6 * 60)


@pytest.mark.parametrize(
    ("given_budget", "message"),
    [
        ({}, "given: none"),
        ({"epochs": 1, "minutes": 2}, "given: --epochs and --minutes"),
        ({"steps": 0}, "--steps must be a number above 0"),
        ({"minutes": float("inf")}, "--minutes must be a number above 0"),
    ],
)
def test_impossible_budgets(given_budget: dict, message: str) -> None:
    with pytest.raises(RunError, match=message):
        Budget(**given_budget)


def test_progress_prints_now_and_then_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(run_module.time, "monotonic", lambda: now[0])
    with progress(100, "training [s]", completed=20) as advance:
        for _ in range(70):
            now[0] += 1.0
            advance(loss=0.25)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training [s]: 50 of 100 (50%), about 0.8 min left  loss 0.25",
        "training [s]: 80 of 100 (80%), about 0.3 min left  loss 0.25",
    ]
    with progress(100, "training", is_main=False, interval=0) as advance:
        advance()
    assert capsys.readouterr().err == ""


def test_progress_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(4, "training") as advance:
        advance(2, loss=0.125)
    assert "50%" in capsys.readouterr().err


def test_resumed_with_other_versions_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(tmp_path).close()
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["versions"]["torch"] = "1.0"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        start(tmp_path, resume=True).close()
    assert "other versions" in caplog.text
