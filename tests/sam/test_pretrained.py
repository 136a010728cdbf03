"""What strangers wrote is read and never run: configurations, tokenizers and weights that ask for more are refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from transformers import ResNetConfig

from maskwright.errors import WeightsError
from maskwright.nets import instance, segmenter
from maskwright.nets.clip_surgery import NANO_CLIP, ClipSurgery
from maskwright.sam.pretrained import MODEL_TYPES, build_model, check_config
from maskwright.sam.sam import Sam
from maskwright.sam.trunks import TRUNK_TYPES
from tests.nets.test_instance import small

CODE = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoBackbone": "evil.Model",
    "AutoTokenizer": ["evil.T", "evil.T"],
}


@pytest.fixture
def evil(tmp_path: Path) -> Callable[[Path], None]:
    """Put code into a folder; the test fails where it is run."""
    marker = tmp_path / "was-run"

    def add(folder: Path) -> None:
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")

    yield add
    assert not marker.exists()


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "code": (lambda c: c.update(auto_map=CODE), "auto_map: code that comes with weights is never run"),
    "code of the trunk": (
        lambda c: c["vision_config"]["backbone_config"].update(auto_map=CODE),
        r"vision_config\.backbone_config\.auto_map: code",
    ),
    "an unknown trunk": (
        lambda c: c["vision_config"]["backbone_config"].update(model_type="timm_backbone"),
        "'timm_backbone': must be one of sam2_vision_model",
    ),
    "an unknown model": (lambda c: c.update(model_type="evil"), "'evil': these weights are not those of a SAM 2"),
    "a trunk by name": (lambda c: c["vision_config"].update(backbone="timm/resnet18"), "fetched by its name"),
    "a kernel from a hub": (lambda c: c.update(_attn_implementation="evil/kernel"), "only eager, sdpa will do"),
    "a kernel for a part": (
        lambda c: c["mask_decoder_config"].update(attn_implementation="evil/kernel"),
        "mask_decoder_config.attn_implementation 'evil/kernel'",
    ),
    "another file": (lambda c: c.update(transformers_weights="model.bin"), "from no other file"),
    "quantised": (lambda c: c.update(quantization_config={"quant_method": "x"}), "quantised"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_sam_that_asks_for_more(case: str, tiny_sam_folder: Path, tmp_path: Path, evil, capfd):
    change, message = REFUSED[case]
    folder = Path(shutil.copytree(tiny_sam_folder, tmp_path / "sam"))
    evil(folder)
    edit(folder / "config.json", change)
    with pytest.raises(WeightsError, match=message) as caught:
        Sam.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_exported_segmenter_cannot_run_code(tiny_sam: Sam, tmp_path: Path, evil, monkeypatch: pytest.MonkeyPatch):
    evil(tmp_path)
    monkeypatch.chdir(tmp_path)
    kept = json.dumps(segmenter.SamSegmenter.of(tiny_sam, 3, 64).description())
    for change in (lambda e: e.update(auto_map=CODE), lambda e: e["backbone_config"].update(auto_map=CODE)):
        description = json.loads(kept)
        change(description["encoder"])
        with pytest.raises(WeightsError, match=r"auto_map: is not known"):
            segmenter.build(description, 3, 64)
        with pytest.raises(WeightsError, match="auto_map: code that comes with weights is never run"):
            segmenter.completed(description)
    for kind in ("bert", "evil", None, "sam2_hiera_det_model"):
        description = json.loads(kept)
        description["encoder"]["model_type"] = kind
        with pytest.raises(WeightsError, match=r"encoder.model_type: must be one of sam2_vision_model"):
            segmenter.build(description, 3, 64)


def test_an_exported_instance_segmenter_cannot_run_code(tiny_sam: Sam):
    kept = json.dumps(instance.create("sam", tiny_sam, 3, 64).description())
    description = json.loads(kept)
    description["encoder"]["auto_map"] = CODE
    with pytest.raises(WeightsError, match="auto_map"):
        instance.build(description, 3, 64)
    description = json.loads(kept)
    description["config"]["backbone_config"]["model_type"] = "timm_backbone"
    with pytest.raises(WeightsError, match=r"config.backbone_config.model_type: must be one of swin, resnet"):
        instance.build(description, 3, 64)


@pytest.mark.parametrize("path", ["config.json", "model folder"])
def test_a_mask2former_that_asks_for_more(path: str, tiny_sam: Sam, tmp_path: Path):
    small().save_pretrained(tmp_path)
    edit(tmp_path / "config.json", lambda c: c["backbone_config"].update(auto_map=CODE))
    source = tmp_path / "config.json" if path == "config.json" else tmp_path
    with pytest.raises(WeightsError, match=r"backbone_config\.auto_map"):
        instance.create(str(source), tiny_sam, 3, 64)


def test_a_mask2former_on_resnet(tiny_sam: Sam, tmp_path: Path):
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[1, 2, 3, 4]
    )
    config = small()
    config.backbone_config = backbone
    config.save_pretrained(tmp_path)
    network = instance.create(str(tmp_path / "config.json"), tiny_sam, 3, 64)
    assert network(torch.rand(1, 3, 64, 64)).classes.shape == (3, 1, 7, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(auto_map=CODE), "auto_map: code"),
        (lambda c: c.update(tokenizer_class="TapexTokenizer"), "tokenizer_class 'TapexTokenizer' is not known"),
    ],
)
def test_a_tokenizer_that_asks_for_more(change, message: str, tmp_path: Path, evil):
    folder = Path(shutil.copytree(NANO_CLIP, tmp_path / "clip"))
    evil(folder)
    edit(folder / "tokenizer_config.json", change)
    with pytest.raises(WeightsError, match=message) as caught:
        ClipSurgery.load(folder)
    assert "\n" not in str(caught.value)


def test_numbers_that_are_none(tiny_sam_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_sam_folder, tmp_path / "sam"))
    tensors = load((folder / "model.safetensors").read_bytes())
    tensors["no_memory_embedding"][..., 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="not finite numbers: no_memory_embedding"):
        Sam.load(folder)


def test_every_family_on_the_list_is_built_and_no_other():
    assert MODEL_TYPES.keys() == {"sam2_video", "sam2_vision_model", *TRUNK_TYPES, "segformer", "mask2former", "clip"}
    with pytest.raises(
        WeightsError, match="model_type 'bert'; this version knows: clip, efficientnet_lite, mask2former"
    ):
        check_config({"model_type": "bert"}, "here")
    with pytest.raises(WeightsError, match="model_type 'bert'; this version knows: segformer"):
        build_model({"model_type": "bert"}, "here", ["segformer"])


def test_files_of_transformers_4_leave_inner_types_empty(tiny_sam_folder: Path, tmp_path: Path, tiny_sam: Sam):
    folder = Path(shutil.copytree(tiny_sam_folder, tmp_path / "sam"))
    edit(folder / "config.json", lambda c: (c["prompt_encoder_config"].update(model_type=""), c.update(backbone=None)))
    assert torch.equal(Sam.load(folder).model.no_memory_embedding, tiny_sam.model.no_memory_embedding)
