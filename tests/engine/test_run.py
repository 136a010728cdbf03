"""The run directory: what it records, what it refuses, and what it does with files that are not its own."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from maskwright.engine.run import Run, read_metrics
from maskwright.errors import RunError
from tests.run_helpers import CONFIG, start, weights

torch.set_num_threads(1)


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
    # The run says which files are its own; the one that takes its place may be another recipe's.
    with start(tmp_path, files=["clicks.gif", "pseudo", "../outside.txt"], folders=["teacher"]) as run:
        run.log(1, loss=1.0)
        run.save_checkpoint(1, weights(1), {})
        for name in ("model", "teacher"):
            run.save_model({"w": torch.ones(2)}, {}, "card", name=name)
    (tmp_path.parent / "outside.txt").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    # What came of the deleted model.
    (tmp_path / "evaluation-test.json").write_text("{}")
    (tmp_path / "clicks.gif").write_bytes(b"")
    (tmp_path / "pseudo").mkdir()
    with start(tmp_path, overwrite=True) as run:
        assert run.load_checkpoint() is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "metrics.jsonl", "notes.txt"]
    assert (tmp_path.parent / "outside.txt").exists()
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


def test_what_follows_a_checkpoint_is_logged_once(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.log(2, loss=1.0)
        run.save_checkpoint(2, weights(2), {})
        run.log_once(2, val=0.5)
    with start(tmp_path, resume=True) as run:
        run.log_once(2, val=0.5)
        run.log_once(3, val=0.7)
    assert read_metrics(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 2, "val": 0.5}, {"step": 3, "val": 0.7}]


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


def test_without_tensorboard_the_log_is_metrics_jsonl_alone_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with caplog.at_level(logging.WARNING), start(tmp_path) as run:
        run.log(1, loss=0.5)
        run.log(2, loss=0.25)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert not (tmp_path / "tb").exists()
    (record,) = caplog.records
    assert "no files for TensorBoard are written" in record.getMessage()
    assert "pip install 'maskwright[tensorboard]'" in record.getMessage()


def test_resumed_with_other_versions_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(tmp_path).close()
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["versions"]["torch"] = "1.0"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        start(tmp_path, resume=True).close()
    assert "other versions" in caplog.text
