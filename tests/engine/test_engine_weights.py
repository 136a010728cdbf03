"""Model folders and weights: replaced as a whole, refused when damaged, never a pickle."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from maskwright.engine.weights import load_state, load_tensors, save_model
from maskwright.errors import RunError, WeightsError
from tests.run_helpers import Killed, leftovers, sabotage, start

torch.set_num_threads(1)


def saved(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return load_tensors(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def test_model_round_trip_and_replacement(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        path = save_model(
            tmp_path / "model", {"w": torch.full((2,), value)}, {"value": value, "path": Path("a/b")}, f"# {value}"
        )
        tensors, config = saved(path)
        assert torch.equal(tensors["w"], torch.full((2,), value))
        assert config.pop("checksums").keys() == {"config", "model.safetensors"}
        assert config == {"value": value, "path": "a/b"}
        assert (path / "README.md").read_text() == f"# {value}"
        assert sorted(p.name for p in path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert leftovers(tmp_path) == []


def test_further_networks_lie_beside_the_model_and_go_with_it(tmp_path: Path) -> None:
    beside = {"selector": {"v": torch.arange(3.0)}}
    path = save_model(tmp_path / "model", {"w": torch.ones(1)}, {}, "card", beside)
    assert torch.equal(load_tensors(path / "selector.safetensors")["v"], torch.arange(3.0))
    save_model(tmp_path / "model", {"w": torch.ones(1)}, {}, "card")
    assert sorted(p.name for p in path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_header_of_any_length_is_no_pickle(tmp_path: Path) -> None:
    """The first byte of a file is that of its header's length, which may be the one that pickles begin with."""
    first = set()
    for letters in range(1, 260, 4):
        save_file({"n" * letters: torch.ones(2)}, tmp_path / "a.safetensors")
        first.add((tmp_path / "a.safetensors").read_bytes()[:1])
        assert len(load_tensors(tmp_path / "a.safetensors")) == 1
    assert b"\x80" in first


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_others_may_read_the_weights_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = save_model(tmp_path / "model", {"w": torch.ones(1)}, {}, "card")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in path.iterdir()} == {0o640}


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
        tensors, config = saved(folder / "model")
        assert torch.equal(tensors["w"], torch.full((2,), float(config["value"])))
        assert leftovers(folder) == []
        seen.append(config["value"])
    assert len(seen) > 20
    assert {1, 2} == set(seen)


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
