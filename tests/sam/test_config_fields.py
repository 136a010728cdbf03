"""The fields of transformers' configurations: those that its classes have, complete, and equal to what they were written from."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from transformers import CLIPConfig, Mask2FormerConfig, PreTrainedConfig, ResNetConfig, Sam2VideoConfig, SegformerConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from maskwright.errors import WeightsError
from maskwright.nets.clip_surgery import NANO_CLIP
from maskwright.nets.instance import small_config
from maskwright.sam.config_fields import FIELDS, Complete, field_problems
from maskwright.sam.pretrained import check_config, closed, quiet_transformers
from maskwright.sam.sources import BUNDLED
from tests.helpers import tiny_config, tiny_lite_config

UNUSED = {
    # Of training inside transformers, of its own random weights, and of a loss that is not used.
    *("initializer_range", "initializer_factor", "init_std", "init_xavier_std", "logit_scale_init_value"),
    *("ignore_value", "no_object_weight", "class_weight", "mask_weight", "dice_weight", "train_num_points"),
    *(
        "oversample_ratio",
        "importance_sample_ratio",
        "use_auxiliary_loss",
        "output_auxiliary_logits",
        "semantic_loss_ignore_index",
    ),
    # Written as out_features and out_indices.
    *("_out_features", "_out_indices"),
}


@pytest.mark.parametrize("model_type", FIELDS)
def test_every_field_of_transformers_is_known(model_type: str):
    """Fails where a new version of transformers has a new field: whether it decides masks is to be looked up then."""
    generic = {item.name for item in dataclasses.fields(PreTrainedConfig)}
    theirs = {item.name for item in dataclasses.fields(CONFIG_MAPPING[model_type])} - generic - UNUSED
    assert theirs - FIELDS[model_type].keys() == set()
    assert FIELDS[model_type].keys() - theirs <= {"out_features", "out_indices"}


def configurations() -> dict[str, PreTrainedConfig]:
    with quiet_transformers():
        resnet: Any = {"backbone_config": ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])}
        return {
            "sam": Sam2VideoConfig(),
            "tiny": tiny_config(),
            "lite": tiny_lite_config(),
            "segformer": SegformerConfig(),
            "mask2former": Mask2FormerConfig(),
            "on resnet": Mask2FormerConfig(**resnet),
            "small": small_config(3, 50),
            "clip": CLIPConfig(),
        }


@pytest.mark.parametrize("name", ["sam", "tiny", "lite", "segformer", "mask2former", "on resnet", "small", "clip"])
def test_a_configuration_written_out_is_complete_and_makes_the_same(name: str):
    config = configurations()[name]
    written = json.loads(json.dumps(closed(config)))
    assert list(Complete((config.model_type,)).problems(written, "")) == []
    with quiet_transformers():
        again = type(config).from_dict(copy.deepcopy(written))
        assert closed(again) == written
        theirs, ours = ({k: v for k, v in c.to_dict().items() if k not in UNUSED} for c in (config, again))
    assert json.dumps(ours, default=str, sort_keys=True) == json.dumps(theirs, default=str, sort_keys=True)


@pytest.mark.parametrize("folder", [*BUNDLED.values(), NANO_CLIP], ids=lambda folder: folder.name)
def test_what_is_bundled_passes(folder):
    check_config(json.loads((folder / "config.json").read_text()), folder.name)


def legacy() -> dict[str, Any]:
    """As files of transformers 4 are: with its generic fields, and notes of who published them."""
    generic = {
        "torch_dtype": "float32",
        "_name_or_path": "",
        "return_dict": True,
        "output_attentions": False,
        "top_k": 50,
    }
    values = closed(tiny_config())
    parts = {n: {**values[n], **generic, "model_type": ""} for n in ("prompt_encoder_config", "mask_decoder_config")}
    return {**values, **generic, **parts, "memory_attention_rope_theta": 10000, "author": {"name": "x"}}


def test_what_strangers_add_and_leave_out_is_no_problem():
    values = legacy()
    del values["memory_fuser_kernel_size"]
    check_config(values, "here")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("image_size",), 10**9, "image_size: must be a whole number from 1 to 8192, found 1000000000"),
        (
            ("vision_config", "backbone_config", "blocks_per_stage"),
            [10**6],
            r"blocks_per_stage\[0\]: must be .* from 1 to 64",
        ),
        (("vision_config", "layer_norm_eps"), 1e6, "vision_config.layer_norm_eps: must be a number from 1e-12 to 0.1"),
        (("vision_config", "layer_norm_eps"), "1e-6", "vision_config.layer_norm_eps: must be a number"),
        (("mask_decoder_config", "num_attention_heads"), True, "num_attention_heads: must be a whole number"),
        (("mask_decoder_config", "hidden_act"), "evil", "hidden_act: must be one of 'gelu'"),
        (("mask_decoder_config", "num_attention_heads"), 7, "num_attention_heads: 7 does not divide hidden_size 64"),
        (
            ("vision_config", "backbone_config", "window_size_per_stage"),
            [4, 4],
            "lists of different lengths: blocks_per_stage 4",
        ),
        (("num_labels",), 10**9, "num_labels: must be a whole number from 1 to 10000"),
        (("return_dict",), False, "return_dict: must be one of"),
        (
            ("vision_config", "layer_norm_epz"),
            1e-6,
            "vision_config.layer_norm_epz: is not known; did you mean layer_norm_eps?",
        ),
        (("vision_config", "backbone_config"), [], "backbone_config: must be an object"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(place: tuple[str, ...], value: Any, message: str):
    values = legacy()
    inner = values
    for name in place[:-1]:
        inner = inner[name]
    if place[-1].endswith("epz"):
        del inner["layer_norm_eps"]
    inner[place[-1]] = value
    assert len(list(field_problems(values))) == 1
    with pytest.raises(WeightsError, match=message) as caught:
        check_config(values, "here")
    assert "\n" not in str(caught.value)
