"""The head that segmenters on the bundled SAM begin with: on that alone, for any number of categories."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskwright.errors import WeightsError
from maskwright.methods.instances.dense_head import BUNDLED, begin_with_head, save_head
from maskwright.nets.dense_instances import create
from maskwright.sam.sam import Sam


def test_every_category_begins_with_what_is_known_of_any_object(tiny_lite_sam: Sam, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learnt = create(tiny_lite_sam, 2, 64, 1.0)
    save_head(learnt, tiny_lite_sam, tmp_path / "head.safetensors")
    torch.manual_seed(1)
    begun = create(tiny_lite_sam, 4, 64, 2.0)
    images = torch.rand(2, 3, 64, 96)
    assert not torch.allclose(begun(images).distance, learnt(images).distance, atol=0.01)
    assert begin_with_head(begun, tiny_lite_sam, tmp_path / "head.safetensors")
    found, expected = begun(images), learnt(images)
    torch.testing.assert_close(found.distance, expected.distance, atol=5e-3, rtol=0)  # float16
    torch.testing.assert_close(found.foreground, expected.foreground.expand_as(found.foreground), atol=5e-3, rtol=0)
    assert begun.zoom == 2.0


def test_another_sam_is_left_as_it_is(tiny_sam: Sam, tiny_lite_sam: Sam, tmp_path: Path) -> None:
    save_head(create(tiny_lite_sam, 2, 64, 1.0), tiny_lite_sam, tmp_path / "head.safetensors")
    other = Sam.from_config(tiny_lite_sam.model.config, seed=5)
    for sam in (tiny_sam, other):
        network = create(sam, 2, 64, 1.0)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        assert not begin_with_head(network, sam, tmp_path / "head.safetensors")
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_bundled_head_stands_on_nano_and_sees_an_object() -> None:
    sam = Sam.load("nano")
    network = create(sam, 2, 256, 1.0)
    assert begin_with_head(network, sam)
    assert BUNDLED.stat().st_size < 2_000_000
    y, x = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    disc = (x - 120) ** 2 + (y - 140) ** 2 < 45**2
    image = torch.where(
        disc, torch.tensor([0.8, 0.3, 0.2])[:, None, None], torch.tensor([0.2, 0.35, 0.3])[:, None, None]
    )
    with torch.inference_mode():
        found = network(image[None]).probability[0, 0] > 0.5
    truth = disc[1::2, 1::2]
    assert (found & truth).sum() / (found | truth).sum() > 0.8


def test_the_head_of_another_network_is_told(tiny_lite_sam: Sam, tmp_path: Path) -> None:
    path, network = tmp_path / "head.safetensors", create(tiny_lite_sam, 2, 64, 1.0)
    save_head(network, tiny_lite_sam, path)
    head = load_file(path)
    for changed, told in (
        ({name: head[name] for name in head if name != "distance.bias"}, "1 missing: distance.bias"),
        (head | {"more": torch.ones(1)}, "1 unexpected: more"),
        (head | {"distance.bias": torch.ones(2)}, "distance.bias: shape"),
    ):
        save_file(changed, path, {"sam": tiny_lite_sam.signature(configured=False)})
        with pytest.raises(WeightsError, match=told):
            begin_with_head(network, tiny_lite_sam, path)
    with pytest.raises(ValueError, match="one category, not of 2"):
        save_head(create(tiny_lite_sam, 3, 64, 1.0), tiny_lite_sam, path)


def test_a_damaged_head_is_told(tiny_lite_sam: Sam, tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(b"\x40\x00")
    with pytest.raises(WeightsError, match=r"head\.safetensors"):
        begin_with_head(create(tiny_lite_sam, 2, 64, 1.0), tiny_lite_sam, tmp_path / "head.safetensors")
