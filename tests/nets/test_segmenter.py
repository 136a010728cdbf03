"""Segmenters: the right shape, a copy of SAM that leaves SAM alone, and a description that brings the network back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from maskwright.errors import WeightsError
from maskwright.nets.segmenter import SamSegmenter, SegFormerSegmenter, Segmenter, build, create
from maskwright.sam.sam import Sam

SMALL = {
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer for 5 categories on disk."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("segformer")
    SegformerForSemanticSegmentation(SegformerConfig(**SMALL, num_labels=5)).save_pretrained(folder)
    return folder


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["sam", "lite", "segformer", "config"])
def segmenter(request: pytest.FixtureRequest, tiny_sam: Sam, tiny_lite_sam: Sam, segformer: Path) -> Segmenter:
    torch.manual_seed(0)
    names = {"segformer": str(segformer), "config": str(segformer / "config.json")}
    return create(names.get(request.param, "sam"), tiny_lite_sam if request.param == "lite" else tiny_sam, 3, 64)


def test_logits_at_stride_4(segmenter: Segmenter):
    logits = segmenter(images())
    assert logits.shape == (2, 3, 16, 16)
    normal = (images() - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    torch.testing.assert_close(segmenter.logits(normal), logits)
    torch.testing.assert_close(segmenter(images())[1:], segmenter(images()[1:]), rtol=1e-4, atol=1e-4)


def test_all_of_it_learns_and_the_pretrained_part_is_told_apart(segmenter: Segmenter):
    segmenter(images()).square().mean().backward()
    new = {id(p) for p in segmenter.parameters()} - {id(p) for p in segmenter.pretrained()}
    assert new
    assert len(new) < len(list(segmenter.parameters()))
    assert all(p.requires_grad for p in segmenter.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in segmenter.pretrained() if p.grad is not None)
    assert sum(p.grad is not None for p in segmenter.pretrained()) > len(segmenter.pretrained()) / 2


@torch.no_grad()
def test_a_description_in_json_brings_the_network_back(segmenter: Segmenter):
    again = build(json.loads(json.dumps(segmenter.description())), 3, 64).eval()
    again.load_state_dict(segmenter.state_dict(), strict=True)
    assert torch.equal(again(images()), segmenter.eval()(images()))


def test_nothing_random_happens_while_it_learns(segmenter: Segmenter):
    assert torch.equal(segmenter(images()), segmenter(images()))


def test_sam_stays_as_it_is(any_sam: Sam):
    any_sam.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in any_sam.state_dict().items()}
    segmenter = SamSegmenter.of(any_sam, 2, 64)
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in any_sam.state_dict().items())
    assert not any(p.requires_grad for p in any_sam.parameters())


def test_it_starts_from_sams_encoder(any_sam: Sam):
    segmenter = SamSegmenter.of(any_sam, 2, 64)
    own = any_sam.model.vision_encoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in segmenter.encoder.state_dict().items())


def test_a_segformers_weights_are_used_and_its_head_replaced(segformer: Path):
    torch.manual_seed(1)
    segmenter = SegFormerSegmenter.of(str(segformer), 3, 64)
    original = SegformerForSemanticSegmentation.from_pretrained(segformer)
    encoder = original.segformer.state_dict()
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in segmenter.model.segformer.state_dict().items())
    assert segmenter.model.decode_head.classifier.out_channels == 3
    same = SegFormerSegmenter.of(str(segformer), 5, 64)
    assert torch.equal(same.model.decode_head.classifier.weight, original.decode_head.classifier.weight)


def test_what_is_no_segformer_is_refused(tmp_path: Path, segformer: Path, tiny_sam_folder: Path, capfd):
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "config.json").write_bytes((segformer / "config.json").read_bytes())
    (cut / "model.safetensors").write_bytes((segformer / "model.safetensors").read_bytes()[:2000])
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((segformer / "config.json").read_bytes())
    torch.save({}, pickled / "model.safetensors")
    for source, reason in {
        cut: "damaged or cut off",
        pickled: "pickles are never loaded",
        tmp_path / "nowhere" / "config.json": "config.json: missing",
        tiny_sam_folder: "not those of a SegFormer",
    }.items():
        with pytest.raises(WeightsError, match=reason) as caught:
            SegFormerSegmenter.of(str(source), 3, 64)
        assert f"--segmenter {source}" in str(caught.value)
        assert len(str(caught.value)) < 2500
    assert capfd.readouterr().err == ""


def test_a_type_of_a_later_version_is_refused():
    with pytest.raises(WeightsError, match="'other' is an unknown segmenter type"):
        build({"type": "other"}, 2, 64)
