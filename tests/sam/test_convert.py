"""Conversion of official checkpoints: against Meta's own output where it is at hand, and by a round trip everywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

from maskwright.errors import WeightsError
from maskwright.sam.convert import convert, infer_config, map_keys

PARITY = Path(__file__).parents[3] / "shared" / "parity"
OPTIONS = {"image_size": 64, "heads": 1, "windows": (4, 2, 4, 2), "global_blocks": (3,)}
"""What the tensors of ``small_config`` do not tell."""

# Modules of the official model by the names that transformers gives them, written down from the official source.
OFFICIAL = {
    r"^vision_encoder\.backbone\.patch_embed\.projection": "image_encoder.trunk.patch_embed.proj",
    r"^vision_encoder\.backbone": "image_encoder.trunk",
    r"^vision_encoder\.neck\.convs\.(\d)": r"image_encoder.neck.convs.\1.conv",
    r"^prompt_encoder\.shared_embedding\.positional_embedding": (
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    ),
    r"^prompt_encoder\.mask_embed\.conv1": "sam_prompt_encoder.mask_downscaling.0",
    r"^prompt_encoder\.mask_embed\.layer_norm1": "sam_prompt_encoder.mask_downscaling.1",
    r"^prompt_encoder\.mask_embed\.conv2": "sam_prompt_encoder.mask_downscaling.3",
    r"^prompt_encoder\.mask_embed\.layer_norm2": "sam_prompt_encoder.mask_downscaling.4",
    r"^prompt_encoder\.mask_embed\.conv3": "sam_prompt_encoder.mask_downscaling.6",
    r"^prompt_encoder": "sam_prompt_encoder",
    r"^mask_decoder\.upscale_conv1": "sam_mask_decoder.output_upscaling.0",
    r"^mask_decoder\.upscale_layer_norm": "sam_mask_decoder.output_upscaling.1",
    r"^mask_decoder\.upscale_conv2": "sam_mask_decoder.output_upscaling.3",
    r"^mask_decoder\.transformer\.layer_norm_final_attn": "sam_mask_decoder.transformer.norm_final_attn",
    r"^mask_decoder": "sam_mask_decoder",
    r"^memory_encoder\.projection": "memory_encoder.out_proj",
    r"^memory_encoder\.feature_projection": "memory_encoder.pix_feat_proj",
    r"^memory_encoder\.memory_fuser\.(layers\.\d)\.scale": r"memory_encoder.fuser.\1.gamma",
    r"^memory_encoder\.memory_fuser\.(layers\.\d)\.depthwise_conv": r"memory_encoder.fuser.\1.dwconv",
    r"^memory_encoder\.memory_fuser\.(layers\.\d)\.pointwise_conv": r"memory_encoder.fuser.\1.pwconv",
    r"^memory_encoder\.memory_fuser": "memory_encoder.fuser",
    r"^memory_encoder\.mask_downsampler\.final_conv": "memory_encoder.mask_downsampler.encoder.12",
    r"^object_pointer_proj": "obj_ptr_proj",
    r"^temporal_positional_encoding_projection_layer": "obj_ptr_tpos_proj",
    r"^memory_temporal_positional_encoding": "maskmem_tpos_enc",
    r"^no_memory_embedding": "no_mem_embed",
    r"^no_memory_positional_encoding": "no_mem_pos_enc",
    r"^no_object_pointer": "no_obj_ptr",
    r"^occlusion_spatial_embedding_parameter": "no_obj_embed_spatial",
}


def official_name(key: str) -> str:
    downsampler = re.match(r"memory_encoder\.mask_downsampler\.layers\.(\d)\.(conv|layer_norm)\.(\w+)", key)
    if downsampler:
        place = 3 * int(downsampler[1]) + (downsampler[2] == "layer_norm")
        return f"memory_encoder.mask_downsampler.encoder.{place}.{downsampler[3]}"
    if ".proj_in." in key or ".proj_out." in key:
        last = 1 if ".mlp." in key else 2
        key = key.replace(".proj_in.", ".layers.0.").replace(".proj_out.", f".layers.{last}.")
    else:
        key = re.sub(r"((?:head|pointer_proj|mlps\.\d)\.layers)\.0\.", r"\1.1.", key)
    for pattern, official in OFFICIAL.items():
        key, changed = re.subn(pattern, official, key)
        if changed:
            break
    return key.replace(".o_proj.", ".out_proj.").replace(".layer_norm", ".norm")


def official_state(model: Sam2VideoModel) -> dict[str, Tensor]:
    """The state dict as the official code would save it."""
    state = dict(model.state_dict())
    state.pop("shared_image_embedding.positional_embedding")
    points = state.pop("prompt_encoder.point_embed.weight")
    official = {official_name(key): tensor for key, tensor in state.items()}
    assert len(official) == len(state)
    return official | {f"sam_prompt_encoder.point_embeddings.{i}.weight": points[i : i + 1] for i in range(4)}


def small_config(sam_2_1: bool = True) -> Sam2VideoConfig:
    """Every size differs from the default and, where it may, from every other."""
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[64, 64],
        patch_kernel_size=[5, 5],
        patch_padding=[2, 2],
        window_positional_embedding_background_size=[3, 3],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 2, 4, 2],
        global_attention_blocks=[3],
        mlp_ratio=2.0,
    )
    return Sam2VideoConfig(
        image_size=64,
        vision_config=Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=64,
        ),
        prompt_encoder_config={"hidden_size": 64, "image_size": 64, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 64,
            "mlp_dim": 48,
            "num_hidden_layers": 1,
            "attention_downsample_rate": 1,
            "num_multimask_outputs": 2,
            "iou_head_hidden_dim": 24,
        },
        num_maskmem=5,
        enable_occlusion_spatial_embedding=sam_2_1,
        enable_temporal_pos_encoding_for_object_pointers=sam_2_1,
        memory_attention_hidden_size=64,
        memory_attention_num_layers=1,
        memory_attention_downsample_rate=2,
        memory_attention_feed_forward_hidden_size=40,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=64,
        mask_downsampler_embed_dim=64,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=64,
        memory_fuser_intermediate_dim=56,
        memory_fuser_kernel_size=5,
        memory_fuser_padding=2,
    )


def small_model(sam_2_1: bool = True) -> Sam2VideoModel:
    torch.manual_seed(0)
    model = Sam2VideoModel(small_config(sam_2_1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # so that no two tensors are equal, as zeros would be
            parameter.normal_(std=0.1)
        model.shared_image_embedding.positional_embedding.copy_(
            model.prompt_encoder.shared_embedding.positional_embedding
        )
    return model


def described(config: Sam2VideoConfig) -> dict:
    """The configuration without bookkeeping."""

    def cleaned(content: dict) -> dict:
        bookkeeping = ("architectures", "dtype", "_name_or_path")
        return {
            key: cleaned(value) if isinstance(value, dict) else value
            for key, value in content.items()
            if key not in bookkeeping
        }

    return cleaned(config.to_dict())


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return official_state(small_model())


@pytest.fixture
def saved(tmp_path: Path, state: dict[str, Tensor]) -> Callable[..., Path]:
    def save(changes: dict[str, Tensor | None] | None = None) -> Path:
        """A checkpoint with some tensors put in or (None) left out."""
        changed = {key: value for key, value in (state | (changes or {})).items() if value is not None}
        torch.save({"model": changed}, tmp_path / "sam2.pt")
        return tmp_path / "sam2.pt"

    return save


@pytest.mark.parametrize("sam_2_1", [True, False])
def test_round_trip(tmp_path: Path, sam_2_1: bool):
    model = small_model(sam_2_1)
    state = official_state(model)
    assert ("no_obj_embed_spatial" in state) == ("obj_ptr_tpos_proj.weight" in state) == sam_2_1
    torch.save({"model": state}, tmp_path / "sam2.pt")
    folder = convert(tmp_path / "sam2.pt", tmp_path / "new" / "sam2", **OPTIONS)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    converted, report = Sam2VideoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert described(converted.config) == described(model.config)
    expected = model.state_dict()
    assert converted.state_dict().keys() == expected.keys()
    for key, tensor in converted.state_dict().items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=0, msg=key)


def released(embed: int, heads: int, blocks: list[int], global_blocks: list[int], windows: list[int], background: int):
    widths = [embed * 2**i for i in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=embed,
        num_attention_heads=heads,
        blocks_per_stage=blocks,
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[heads * 2**i for i in range(4)],
        global_attention_blocks=global_blocks,
        window_size_per_stage=windows,
        window_positional_embedding_background_size=[background, background],
    )
    return Sam2VideoConfig(vision_config=Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=widths[::-1]))


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param(Sam2VideoConfig(), id="tiny"),
        pytest.param(released(96, 1, [1, 2, 11, 2], [7, 10, 13], [8, 4, 14, 7], 7), id="small"),
        pytest.param(released(112, 2, [2, 3, 16, 3], [12, 16, 20], [8, 4, 14, 7], 14), id="base+"),
        pytest.param(released(144, 2, [2, 6, 36, 4], [23, 33, 43], [8, 4, 16, 8], 7), id="large"),
    ],
)
def test_configuration_of_the_released_models_is_that_of_transformers(expected: Sam2VideoConfig):
    with torch.device("meta"):
        state = official_state(Sam2VideoModel(expected))
        assert described(infer_config(state)) == described(expected)
        assert map_keys(state).keys() == Sam2VideoModel(expected).state_dict().keys()
        smaller = infer_config(state, 512)
    assert smaller.memory_attention_rope_feat_sizes == [32, 32]
    assert smaller.vision_config.backbone_feature_sizes == [[128, 128], [64, 64], [32, 32]]
    assert smaller.image_size == smaller.prompt_encoder_config.image_size == 512


def test_encoder_agrees_with_the_official_code(tmp_path: Path):
    if not PARITY.is_dir():
        pytest.skip(f"no reference output at {PARITY}")
    folder = convert(PARITY / "sam2_official_small.pt", tmp_path / "small")
    model = Sam2VideoModel.from_pretrained(folder).eval()
    with np.load(PARITY / "sam2_official_small_expected.npz") as expected, torch.no_grad():
        features = model.get_image_features(torch.from_numpy(expected["pixel_values"])).fpn_hidden_states
        assert len(features) == 3
        for level, feature in enumerate(features):
            reference = torch.from_numpy(expected[f"fpn{level}"])
            tokens_last = feature.permute(1, 2, 0).reshape(reference.shape)  # (HW, B, C) to (B, C, H, W)
            torch.testing.assert_close(tokens_last, reference, rtol=0, atol=1e-4)


def test_half_precision_becomes_float32(tmp_path: Path, state: dict[str, Tensor]):
    torch.save({"model": {key: value.half() for key, value in state.items()}}, tmp_path / "half.pt")
    tensors = load_file(convert(tmp_path / "half.pt", tmp_path / "half", **OPTIONS) / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    torch.testing.assert_close(tensors["no_object_pointer"], state["no_obj_ptr"].half().float(), rtol=0, atol=0)


def test_all_wrong_tensors_are_named_at_once(tmp_path: Path, saved: Callable[..., Path]):
    source = saved(
        {
            "no_obj_ptr": None,
            "sam_mask_decoder.iou_token.weight": None,
            "text_encoder.weight": torch.zeros(1),
            "memory_encoder.out_proj.weight": torch.zeros(32, 64, 1, 1),
            "sam_prompt_encoder.point_embeddings.2.weight": None,
            "obj_ptr_proj.layers.2.bias": torch.full((64,), torch.nan),
        }
    )
    with pytest.raises(WeightsError) as caught:
        convert(source, tmp_path / "out", **OPTIONS)
    lines = str(caught.value).split("\n  - ")
    assert lines[0].startswith(str(source))
    assert sorted(lines[1:]) == [
        "memory_encoder.out_proj.weight: shape (32, 64, 1, 1), expected (64, 64, 1, 1)",
        "missing: mask_decoder.iou_token.weight (as transformers names it)",
        "missing: no_object_pointer (as transformers names it)",
        "obj_ptr_proj.layers.2.bias: contains values that are not finite",
        "prompt_encoder.point_embed.weight: shape (3, 64), expected (4, 64)",
        "unknown: text_encoder.weight",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["sam2.pt"]


def test_tensors_that_sizes_are_read_off_are_named_at_once(tmp_path: Path, saved: Callable[..., Path]):
    source = saved({"maskmem_tpos_enc": None, "image_encoder.trunk.pos_embed": torch.zeros(8, 3)})
    with pytest.raises(WeightsError) as caught:
        convert(source, tmp_path / "out", **OPTIONS)
    assert "missing: maskmem_tpos_enc" in str(caught.value)
    assert "image_encoder.trunk.pos_embed: shape (8, 3), expected 4 dimensions" in str(caught.value)


def test_sizes_that_no_model_can_have(tmp_path: Path, saved: Callable[..., Path]):
    key = "sam_mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"
    with pytest.raises(WeightsError, match="no SAM 2 can have the sizes"):
        convert(saved({key: torch.zeros(128, 64)}), tmp_path / "out", **OPTIONS)


def test_unknown_model_says_which_options_to_give(tmp_path: Path, saved: Callable[..., Path]):
    with pytest.raises(WeightsError, match=r"width 8 with 1\+1\+2\+1 blocks is not a known model") as caught:
        convert(saved(), tmp_path / "out", image_size=64, windows=[4, 2, 4, 2])
    assert str(caught.value).endswith("give --heads, --global-blocks")


def test_options_that_do_not_fit_are_named_at_once(state: dict[str, Tensor]):
    with pytest.raises(WeightsError) as caught:
        infer_config(state, 72, heads=3, windows=(8, 2, 4, 2), global_blocks=(3, 5))
    text = str(caught.value)
    assert "--heads 3: doubled from stage to stage, does not divide the channels [8, 16, 32, 64]" in text
    assert "--windows (8, 2, 4, 2): the first must be 4" in text
    assert "--global-blocks: no such blocks: [5]; there are 0 to 4" in text
    assert "--image-size 72: must be a multiple of 32" in text
    with pytest.raises(WeightsError, match="expected 4 positive sizes"):
        infer_config(state, 64, heads=1, windows=(4, 2), global_blocks=())


class Malicious:
    """Pickles as a call that makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_code_in_a_pickle_is_never_run(tmp_path: Path):
    torch.save({"model": {"x": torch.zeros(1)}, "more": Malicious(tmp_path / "trace")}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        convert(tmp_path / "a.pt", tmp_path / "out")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, 'holds no "model"'),
        (torch.zeros(2), 'holds no "model"'),
        ({"model": {}}, 'holds no "model"'),
        ({"model": [torch.zeros(1)]}, 'holds no "model"'),
        ({"model": {"a": torch.zeros(1), "b": 3, "c": torch.zeros(1, dtype=torch.int64)}}, "numbers: b, c;"),
        ({"model": {"a": torch.zeros(1)}}, "this is not a SAM 2 checkpoint"),
    ],
)
def test_other_checkpoints(tmp_path: Path, content: object, message: str):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=message) as caught:
        convert(tmp_path / "other.pt", tmp_path / "out")
    assert str(caught.value).startswith(str(tmp_path / "other.pt"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(100), None])
def test_damaged_files(tmp_path: Path, saved: Callable[..., Path], content: bytes | None):
    source = saved()
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(WeightsError, match=r"sam2\.pt: .*give the \.pt file of SAM 2"):
        convert(source, tmp_path / "out", **OPTIONS)


def test_no_such_file(tmp_path: Path):
    for source in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(WeightsError, match="no such file"):
            convert(source, tmp_path / "out")


def test_existing_folder_is_kept_unless_empty(tmp_path: Path, saved: Callable[..., Path]):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(WeightsError, match="exists and is not an empty folder"):
        convert(saved(), folder, **OPTIONS)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    convert(saved(), folder, **OPTIONS)
    assert (folder / "model.safetensors").is_file()


def test_failed_write_leaves_nothing(tmp_path: Path, saved: Callable[..., Path], monkeypatch):
    def full(*_args, **_kwargs) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskwright.sam.convert.save_file", full)
    with pytest.raises(WeightsError, match="cannot be written: No space left on device"):
        convert(saved(), tmp_path / "out", **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["sam2.pt"]
