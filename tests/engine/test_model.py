"""Model folders: closed configurations, checksums, and models of earlier versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import maskwright
from maskwright.engine.weights import CHECKSUMS, load_tensors, not_finite
from maskwright.errors import WeightsError
from tests.tiny_model import save_run
from tests.tiny_model import seal as seal_folder

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run") / "model"


def mask(folder: Path) -> np.ndarray:
    return next(maskwright.load(folder, device="cpu").predict(IMAGE)).mask


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
    """Change the configuration; ``seal``: and its checksums, as somebody would who wants it to be loaded."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    if seal:
        seal_folder(folder)


def refused(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        maskwright.load(folder, device="cpu")
    return str(caught.value)


def test_a_folder_as_it_was_exported(folder: Path):
    assert mask(folder).shape == (40, 60)


def test_an_edit_is_found(folder: Path):
    edit(folder, lambda c: c["segmenter"]["encoder"].update(layer_norm_eps=1e-5), seal=False)
    assert f"{folder}: config.json changed since the model was exported" in refused(folder)


def test_a_flipped_bit_is_found(folder: Path):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert f"{folder}: model.safetensors changed since the model was exported" in refused(folder)


def test_files_that_come_and_go_are_found(folder: Path):
    save_file({"a": torch.ones(1)}, folder / "pool.safetensors")
    assert "pool.safetensors added since" in refused(folder)


def test_all_wrong_fields_at_once(folder: Path):
    def change(config: dict[str, Any]) -> None:
        config["size"] = 10**6
        config["segmenter"]["width"] = "64"
        config["segmenter"]["encoder"]["backbone_config"]["hidden_size"] = 10**9
        del config["segmenter"]["encoder"]["fpn_kernel_size"]
        config["segmenter"]["encoder"]["auto_map"] = {"AutoModel": "evil--evil.Evil"}
        config["further"] = 1

    edit(folder, change)
    message = refused(folder)
    assert message.startswith(f"{folder / 'config.json'}: 6 fields are wrong:")
    for part in (
        "size: must be a multiple of 32 from 32 to 8192",
        "segmenter.width: must be a whole number",
        "segmenter.encoder.backbone_config.hidden_size: must be a whole number from 1 to 16384, found 1000000000",
        "segmenter.encoder.fpn_kernel_size: is missing",
        "segmenter.encoder.auto_map: is not known",
        "further: is not known",
    ):
        assert part in message


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update(fpn_hidden_size=16_384),
        lambda e: e["backbone_config"].update(blocks_per_stage=[64, 64, 64, 64]),
        lambda e: e["backbone_config"].update(num_attention_heads_per_stage=[7, 7, 7, 7]),
        lambda e: e["backbone_config"].update(window_size_per_stage=[]),
        lambda e: e.update(backbone_channel_list=[1]),
    ],
)
def test_sizes_that_do_not_go_together_are_refused_before_memory_is_taken(folder: Path, change):
    edit(folder, lambda config: change(config["segmenter"]["encoder"]))
    message = refused(folder)
    assert str(folder) in message
    assert len(message.splitlines()) < 25


def as_version_1(folder: Path) -> None:
    """As maskwright 0.1.0 wrote it: without checksums, and without what was a default of transformers."""
    config = json.loads((folder / "config.json").read_text())
    del config[CHECKSUMS], config["segmenter"]["encoder"]["fpn_kernel_size"]
    config["version"] = 1
    config["segmenter"]["encoder"] |= {"transformers_version": "5.23.0", "output_attentions": False}
    (folder / "config.json").write_text(json.dumps(config))


def test_version_1_is_read_and_gives_the_same_masks(folder: Path):
    expected = mask(folder)
    as_version_1(folder)
    assert np.array_equal(mask(folder), expected)


def test_what_is_wrong_in_version_1_names_the_version(folder: Path):
    as_version_1(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"further": 1}))
    assert "(version 1 of the model format): further: is not known" in refused(folder)
    config["segmenter"]["encoder"]["auto_map"] = {"AutoModel": "evil--evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "auto_map: code that comes with weights is never run" in refused(folder)


@pytest.mark.parametrize("version", [3, "2", 1.0, True, None, 0])
def test_other_versions_are_named(folder: Path, version: Any):
    edit(folder, lambda c: c.update(version=version))
    assert f"version {version!r} of the model format, this maskwright reads 1, 2" in refused(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_no_number(folder: Path, value: float):
    tensors = load_file(folder / "model.safetensors")
    name = min(tensors)
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "model.safetensors")
    edit(folder, lambda c: None)
    assert f"not finite numbers (NaN or infinity) in {name}" in refused(folder)


def test_weights_that_give_no_number(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    tensors["head.weight"].fill_(3e38)
    save_file(tensors, folder / "model.safetensors")
    edit(folder, lambda c: None)
    model = maskwright.load(folder, device="cpu")
    with pytest.raises(WeightsError, match="what it gives is not a finite number") as caught:
        next(model.predict(IMAGE))
    assert str(folder) in str(caught.value)


def test_every_kind_of_tensor_is_looked_at(tmp_path: Path):
    tensors = {
        "half": torch.tensor([1.0, torch.nan]).half(),
        "bfloat16": torch.tensor([torch.inf]).bfloat16(),
        "double": torch.tensor([-torch.inf], dtype=torch.float64),
        "largest": torch.tensor([torch.finfo(torch.float32).max, -1.0]),
        "whole": torch.tensor([2**62]),
        "empty": torch.zeros(0),
        "scalar": torch.tensor(1.0),
    }
    assert not_finite(tensors) == ["half", "bfloat16", "double"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="in double, bfloat16, half"):
        load_tensors(tmp_path / "a.safetensors")


# ----------------------------------------------------------------------------------------------- how images are read


def pixels_seen(folder: Path, *images: Any, **reading: Any) -> list[np.ndarray]:
    """What a model is shown of images, before it is squashed to its canvas."""
    model = maskwright.load(folder, device="cpu").with_image_reading(maskwright.ImageReading(**reading))
    seen: list[np.ndarray] = []
    squash = model.prepare
    model.prepare = lambda pixels: seen.append(pixels) or squash(pixels)  # type: ignore[method-assign]
    list(model.predict(list(images), workers=1))
    return seen


def test_the_range_of_the_training_is_used_again(tmp_path: Path):
    folder = save_run(tmp_path / "run", image_reading={"intensity": [0, 4095]}) / "model"
    dim, bright = (np.full((40, 60), value, np.uint16) for value in (200, 4000))
    assert [int(pixels.max()) for pixels in pixels_seen(folder, dim, bright)] == [12, 249]
    # Said in the call, another one.
    assert [int(pixels.max()) for pixels in pixels_seen(folder, dim, bright, intensity=(0, 200))] == [255, 255]
    assert pixels_seen(folder, IMAGE)[0].tolist() == IMAGE.tolist()


def test_a_model_from_before_scales_each_image_by_itself(folder: Path):
    dim, bright = (np.full((40, 60), value, np.uint16) for value in (200, 4000))
    assert "image_reading" not in json.loads((folder / "config.json").read_text())
    assert [int(pixels.max()) for pixels in pixels_seen(folder, dim, bright)] == [200, 249]


def test_channels_of_the_training_are_read_again(tmp_path: Path):
    folder = save_run(tmp_path / "run", image_reading={"channels": [4, 0, 1]}) / "model"
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 5), np.uint8)
    (seen,) = pixels_seen(folder, image)
    np.testing.assert_array_equal(seen, image[:, :, [4, 0, 1]])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"intensity": [5, 1]}, "image_reading: --intensity 5,1: must be two numbers, the first the lower"),
        ({"intensity": ["0", 1]}, "image_reading.intensity"),
        ({"channels": [0, 1]}, "image_reading: --channels 0,1: must be one number or three"),
        ({"page": -1}, "image_reading.page"),
        ({"pages": 1}, "image_reading.pages"),
        ([], "image_reading"),
    ],
)
def test_a_reading_that_cannot_be_is_refused(tmp_path: Path, value: Any, says: str):
    assert says in refused(save_run(tmp_path / "run", image_reading=value) / "model")
