"""Loading weights: one clear message for whatever is wrong, and one conversion however many processes ask for it."""

from __future__ import annotations

import importlib
import json
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from transformers import Sam2VideoModel

from maskwright.errors import WeightsError
from maskwright.sam import convert as convert_module
from maskwright.sam.convert import Untold, convert
from maskwright.sam.sam import Sam
from maskwright.sam.weights import nano_config
from tests.sam.test_convert import official_state


@pytest.fixture
def folder(tiny_sam_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sam_folder, tmp_path / "sam"))


def with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load((folder / "model.safetensors").read_bytes())
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_loads_bit_by_bit(folder: Path, tiny_sam: Sam):
    loaded = Sam.load(str(folder))
    assert loaded.name == str(folder)
    assert loaded.size == 64
    assert not loaded.training
    expected = tiny_sam.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


def as_torch_file(folder: Path) -> None:
    torch.save(load((folder / "model.safetensors").read_bytes()), folder / "model.safetensors")


def only_a_pickle(folder: Path) -> None:
    torch.save(load((folder / "model.safetensors").read_bytes()), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (shutil.rmtree, "no config.json here"),
    "without weights": (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    "without config": (lambda f: (f / "config.json").unlink(), "no config.json here"),
    "damaged config": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "foreign key": (
        lambda f: with_tensors(f, lambda t: t.update({"foreign.weight": torch.zeros(2)})),
        r"unexpected keys: foreign\.weight",
    ),
    "missing key": (
        lambda f: with_tensors(f, lambda t: t.pop("no_memory_embedding")),
        "missing keys: no_memory_embedding",
    ),
    "other shape": (
        lambda f: with_tensors(f, lambda t: t.update({"no_memory_embedding": torch.zeros(1, 1, 32)})),
        "mismatched keys: no_memory_embedding",
    ),
    "cut off": (cut, r"model\.safetensors is damaged or cut off"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), r"model\.safetensors is damaged or cut off"),
    "pickle": (as_pickle, "is a pickle, and pickles are never loaded"),
    "torch file": (as_torch_file, "is a pickle, and pickles are never loaded"),
    "only a pickle": (only_a_pickle, "no file named model.safetensors"),
    "another model": (
        lambda f: (f / "config.json").write_text('{"model_type": "segformer"}'),
        "not those of a SAM 2 video model",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_are_one_message(folder: Path, case: str, capfd: pytest.CaptureFixture[str]):
    spoil, message = BAD[case]
    spoil(folder)
    with pytest.raises(WeightsError, match=message) as caught:
        Sam.load(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 1500
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_an_unknown_id_without_a_network(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    hub = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="nobody/no-such-sam: cannot load this SAM 2 video model") as caught:
        Sam.load("nobody/no-such-sam")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_official_files_that_are_none(tmp_path: Path):
    with pytest.raises(WeightsError, match="no such file"):
        Sam.load(tmp_path / "sam.pt")
    (tmp_path / "sam.pt").write_bytes(pickle.dumps(print))
    with pytest.raises(WeightsError, match=r"sam\.pt"):
        Sam.load(tmp_path / "sam.pt")
    assert not (tmp_path / "sam").exists()


@pytest.fixture
def official(tmp_path: Path, tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An official checkpoint whose sizes the converter knows."""
    backbone = tiny_sam.model.config.vision_config.backbone_config
    key = backbone.embed_dim_per_stage[0], tuple(backbone.blocks_per_stage)
    untold = Untold(1, tuple(backbone.window_size_per_stage), tuple(backbone.global_attention_blocks), 64)
    monkeypatch.setitem(convert_module.KNOWN, key, untold)
    torch.save({"model": official_state(tiny_sam.model)}, tmp_path / "sam.pt")
    return tmp_path / "sam.pt"


def test_an_official_file_is_converted_once(official: Path):
    first = Sam.load(official)
    weights = official.with_suffix("") / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = Sam.load(official)
    assert weights.stat().st_mtime_ns == written
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_two_processes_may_convert_at_once(official: Path, monkeypatch: pytest.MonkeyPatch):
    both, write = threading.Barrier(2, timeout=60), convert_module._write

    def write_together(*args: object) -> None:
        both.wait()
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(convert_module, "_write", write_together)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(Sam.load, [official, official])
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert sorted(path.name for path in official.parent.iterdir()) == ["sam", "sam.pt"]


def test_what_another_process_converted_first_stays(official: Path, monkeypatch: pytest.MonkeyPatch):
    written = []

    def overtaken(source: Path, folder: Path) -> Path:
        convert(source, folder)
        written.append((folder / "model.safetensors").stat().st_mtime_ns)
        return convert(source, folder)

    monkeypatch.setattr(convert_module, "convert", overtaken)
    Sam.load(official)
    assert [(official.with_suffix("") / "model.safetensors").stat().st_mtime_ns] == written


def test_prompts_and_image_share_one_position_code(tiny_sam: Sam):
    model = tiny_sam.model
    assert torch.equal(
        model.prompt_encoder.shared_embedding.positional_embedding, model.shared_image_embedding.positional_embedding
    )


def test_a_canvas_that_no_trunk_can_halve_five_times_is_one_message(tiny_sam_folder: Path, tmp_path: Path):
    shutil.copytree(tiny_sam_folder, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config | {"image_size": 250}))
    with pytest.raises(WeightsError, match=r"odd: config\.json: image_size 250: must be a multiple of 32"):
        Sam.load(tmp_path / "odd")


def test_nano_is_small():
    config = nano_config()
    with torch.device("meta"):
        model = Sam2VideoModel(config)
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 6e6
    assert config.image_size == 256
