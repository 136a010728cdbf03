"""Official SAM 2 and SAM 2.1 checkpoints (``.pt``) to a folder that ``transformers.Sam2VideoModel`` loads.

Sizes are read off the tensors. What a tensor cannot tell (attention heads, window sizes, blocks with global attention,
image size) comes from the table of known models or from the caller. Ravi et al., "SAM 2: Segment Anything in Images and
Videos".
"""

from __future__ import annotations

import math
import os
import pickle
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

from maskwright.errors import WeightsError

_STRIDES = (4, 8, 16)
"""Strides of the three feature levels that SAM 2 uses."""

_POSITION_CODE = "prompt_encoder.shared_embedding.positional_embedding"
_POINTS = "sam_prompt_encoder.point_embeddings."
_TRUNK = "image_encoder.trunk."


@dataclass(frozen=True, slots=True)
class Untold:
    """What the tensors of a checkpoint do not tell.

    Attributes:
        heads: attention heads in the first stage of the image encoder; doubled from stage to stage.
        windows: attention window of each stage, in cells.
        global_blocks: indices of the blocks with global instead of windowed attention.
        image_size: side of the square input image, in pixels.
    """

    heads: int
    windows: tuple[int, ...]
    global_blocks: tuple[int, ...]
    image_size: int = 1024


KNOWN: dict[tuple[int, tuple[int, ...]], Untold] = {
    (96, (1, 2, 7, 2)): Untold(1, (8, 4, 14, 7), (5, 7, 9)),  # tiny
    (96, (1, 2, 11, 2)): Untold(1, (8, 4, 14, 7), (7, 10, 13)),  # small
    (112, (2, 3, 16, 3)): Untold(2, (8, 4, 14, 7), (12, 16, 20)),  # base+
    (144, (2, 6, 36, 4)): Untold(2, (8, 4, 16, 8), (23, 33, 43)),  # large
    (16, (1, 2, 3, 1)): Untold(1, (8, 4, 8, 4), (4, 5), 128),  # the miniature that the parity tests are made with
}
"""Known models by width of the first stage and blocks per stage."""

_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
        (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
        (r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", _POSITION_CODE),
        (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
        (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
        (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
        (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
        (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
        (r"^sam_prompt_encoder\.", "prompt_encoder."),
        (r"\.output_upscaling\.0\.", ".upscale_conv1."),
        (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
        (r"\.output_upscaling\.3\.", ".upscale_conv2."),
        (r"^sam_mask_decoder\.", "mask_decoder."),
        (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
        # Four convolutions, each with norm and activation, then a last one.
        *((rf"\.mask_downsampler\.encoder\.{3 * i}\.", f".mask_downsampler.layers.{i}.conv.") for i in range(4)),
        *(
            (rf"\.mask_downsampler\.encoder\.{3 * i + 1}\.", f".mask_downsampler.layers.{i}.layer_norm.")
            for i in range(4)
        ),
        (r"\.mask_downsampler\.encoder\.12\.", ".mask_downsampler.final_conv."),
        (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
        (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
        (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
        (r"\.dwconv\.", ".depthwise_conv."),
        (r"\.pwconv([12])\.", r".pointwise_conv\1."),
        (r"\.gamma$", ".scale"),
        (r"\.norm(\d?)\.", r".layer_norm\1."),
        (r"\.out_proj\.", ".o_proj."),
        (r"^obj_ptr_proj\.", "object_pointer_proj."),
        (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
        (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
        (r"^no_mem_embed$", "no_memory_embedding"),
        (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
        (r"^no_obj_ptr$", "no_object_pointer"),
        (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
        # Perceptrons have two layers inside transformer blocks and three everywhere else.
        (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
        (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
        (r"(_head|object_pointer_proj|hypernetworks_mlps\.\d+)\.layers\.0\.", r"\1.proj_in."),
        (r"(_head|object_pointer_proj|hypernetworks_mlps\.\d+)\.layers\.1\.", r"\1.layers.0."),
        (r"(_head|object_pointer_proj|hypernetworks_mlps\.\d+)\.layers\.2\.", r"\1.proj_out."),
    )
)

_MEASURED = {
    f"{_TRUNK}pos_embed": 4,
    f"{_TRUNK}pos_embed_window": 4,
    f"{_TRUNK}patch_embed.proj.weight": 4,
    f"{_TRUNK}blocks.0.mlp.layers.0.weight": 2,
    "image_encoder.neck.convs.0.conv.weight": 4,
    "maskmem_tpos_enc": 4,
    "memory_attention.norm.weight": 1,
    "memory_attention.layers.0.linear1.weight": 2,
    "memory_attention.layers.0.self_attn.q_proj.weight": 2,
    "memory_encoder.pix_feat_proj.weight": 4,
    "memory_encoder.mask_downsampler.encoder.12.weight": 4,
    "memory_encoder.fuser.layers.0.dwconv.weight": 4,
    "memory_encoder.fuser.layers.0.pwconv1.weight": 2,
    "sam_prompt_encoder.no_mask_embed.weight": 2,
    "sam_prompt_encoder.mask_downscaling.3.weight": 4,
    "sam_mask_decoder.mask_tokens.weight": 2,
    "sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight": 2,
    "sam_mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight": 2,
    "sam_mask_decoder.iou_prediction_head.layers.0.weight": 2,
}
"""Tensors that sizes are read off, with their number of dimensions."""


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    image_size: int | None = None,
    heads: int | None = None,
    windows: Sequence[int] | None = None,
    global_blocks: Sequence[int] | None = None,
) -> Path:
    """Write ``config.json`` and ``model.safetensors`` (float32) for an official checkpoint.

    Args:
        source: ``.pt`` file holding ``{"model": state_dict}`` with official key names. Loaded with
            ``weights_only=True``: code in it is never run.
        folder: must be absent or empty. It appears complete, by rename, or not at all.
        image_size, heads, windows, global_blocks: see ``infer_config``.

    Returns:
        The folder.

    Raises:
        WeightsError: no such checkpoint, or it does not fit SAM 2 (names every missing, unknown or wrongly shaped
            tensor), or its sizes are unknown (names the options that say them), or the folder cannot be written.
    """
    source, folder = Path(source), Path(folder)
    _require_new(folder)
    state = read_checkpoint(source)
    sizes = {"heads": heads, "windows": windows, "global_blocks": global_blocks}
    try:
        return convert_state(state, folder, image_size=image_size, **sizes)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error


def convert_state(
    state: Mapping[str, Tensor], folder: str | Path, *, image_size: int | None = None, **sizes: Any
) -> Path:
    """Write what :func:`convert` writes for the state dict of an official model; its arguments, errors and result are the same."""
    folder = Path(folder)
    _require_new(folder)
    config = infer_config(state, image_size, **sizes)
    tensors = map_keys(state)
    _check(tensors, state, config)
    _write(tensors, config, folder)
    return folder


def _require_new(folder: Path) -> None:
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise WeightsError(f"{folder}: exists and is not an empty folder; remove it or give another")


def read_checkpoint(source: Path) -> dict[str, Tensor]:
    """The tensors of an official checkpoint, mapped from the file rather than read into memory.

    Raises:
        WeightsError: not a file, not a checkpoint, one that holds code, or one without a ``model``.
    """
    if not source.is_file():
        raise WeightsError(f"{source}: no such file")
    remedy = "give the .pt file of SAM 2 or SAM 2.1 as it was released"
    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{source}: holds more than tensors, or is damaged, and was not loaded; {remedy}") from error
    except OSError as error:
        raise WeightsError(f"{source}: cannot be read: {error.strerror or error}") from error
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError, EOFError) as error:
        raise WeightsError(f"{source}: not a PyTorch checkpoint, or cut off; {remedy}") from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise WeightsError(f'{source}: holds no "model" with tensors by name; {remedy}')
    wrong = [str(key) for key, value in state.items() if not isinstance(value, Tensor) or not value.is_floating_point()]
    wrong += [repr(key) for key in state if not isinstance(key, str)]
    if wrong:
        raise WeightsError(f"{source}: not tensors of floating-point numbers: {', '.join(wrong)}; {remedy}")
    return state


def map_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names to those of ``transformers.Sam2VideoModel``. Names that SAM 2 does not have stay as they are.

    The four point embeddings become one tensor; the random matrix of the position code serves prompts and image.
    """
    mapped = {_rename(key): value for key, value in state.items() if not key.startswith(_POINTS)}
    points = sorted(key for key in state if key.startswith(_POINTS))
    if points:
        mapped["prompt_encoder.point_embed.weight"] = torch.cat([state[key] for key in points])
    if _POSITION_CODE in mapped:
        mapped["shared_image_embedding.positional_embedding"] = mapped[_POSITION_CODE].clone()
    return mapped


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def infer_config(
    state: Mapping[str, Tensor],
    image_size: int | None = None,
    *,
    heads: int | None = None,
    windows: Sequence[int] | None = None,
    global_blocks: Sequence[int] | None = None,
) -> Sam2VideoConfig:
    """The configuration of a model from its tensors (official names; only shapes are read, ``meta`` tensors will do).

    What tensors do not tell comes from ``KNOWN``, and each part that is given takes precedence.

    Args:
        image_size: side of the square input in pixels.
        heads: attention heads of the first stage.
        windows: attention window per stage, in cells.
        global_blocks: indices of the blocks with global attention.

    Raises:
        WeightsError: tensors are missing that sizes are read off; or the model is not known and these were not given;
            or they contradict the tensors.
    """
    absent = [f"missing: {key}" for key in _MEASURED if key not in state]
    absent += [
        f"{key}: shape {tuple(state[key].shape)}, expected {dimensions} dimensions"
        for key, dimensions in _MEASURED.items()
        if key in state and state[key].ndim != dimensions
    ]
    if absent:
        raise _refusal("this is not a SAM 2 checkpoint", absent)
    blocks, widths = _stages(state)
    untold = _untold(widths[0], blocks, image_size, heads, windows, global_blocks)
    window = state[f"{_TRUNK}pos_embed_window"].shape[-1]
    _check_untold(untold, window, widths, blocks)
    return _config(state, untold, blocks, widths)


def _stages(state: Mapping[str, Tensor]) -> tuple[tuple[int, ...], list[int]]:
    """Blocks and channels per stage: the first block of every later stage widens, with a projection of its own."""
    total = _count(state, f"{_TRUNK}blocks.")
    widening = [i for i in range(1, total) if f"{_TRUNK}blocks.{i}.proj.weight" in state]
    starts = [0, *widening, total]
    blocks = tuple(end - start for start, end in pairwise(starts))
    projections = [state[f"{_TRUNK}blocks.{i}.proj.weight"] for i in widening]
    return blocks, [state[f"{_TRUNK}pos_embed"].shape[1], *(len(projection) for projection in projections)]


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    numbered = re.compile(re.escape(prefix) + r"(\d+)\.")
    return 1 + max((int(match[1]) for key in state if (match := numbered.match(key))), default=-1)


def _untold(
    width: int,
    blocks: tuple[int, ...],
    image_size: int | None,
    heads: int | None,
    windows: Sequence[int] | None,
    global_blocks: Sequence[int] | None,
) -> Untold:
    given = {"image_size": image_size, "heads": heads, "windows": windows, "global_blocks": global_blocks}
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, Sequence) else value
        for name, value in given.items()
        if value is not None
    }
    known = KNOWN.get((width, blocks))
    if known is not None:
        return replace(known, **chosen)
    lacking = [f"--{name.replace('_', '-')}" for name in given if name not in chosen]
    if lacking:
        raise WeightsError(
            f"width {width} with {'+'.join(map(str, blocks))} blocks is not a known model, and tensors do not tell "
            f"everything: give {', '.join(lacking)}"
        )
    return Untold(**chosen)


def _check_untold(untold: Untold, window: int, widths: list[int], blocks: tuple[int, ...]) -> None:
    problems = []
    if untold.heads < 1 or any(width % (untold.heads * 2**i) for i, width in enumerate(widths)):
        problems.append(f"--heads {untold.heads}: doubled from stage to stage, does not divide the channels {widths}")
    if len(untold.windows) != len(blocks) or min(untold.windows) < 1:
        problems.append(f"--windows {untold.windows}: expected {len(blocks)} positive sizes, one per stage")
    elif untold.windows[0] != window:
        problems.append(f"--windows {untold.windows}: the first must be {window}, as its position code says")
    outside = [i for i in untold.global_blocks if not 0 <= i < sum(blocks)]
    if outside:
        problems.append(f"--global-blocks: no such blocks: {outside}; there are 0 to {sum(blocks) - 1}")
    # The position code is tiled over cells of 4 pixels in whole windows, and every stage halves the grid.
    step = math.lcm(_STRIDES[0] * window, _STRIDES[0] * 2 ** (len(blocks) - 1))
    if untold.image_size < 1 or untold.image_size % step:
        problems.append(f"--image-size {untold.image_size}: must be a multiple of {step}")
    if problems:
        raise _refusal("these options do not fit the tensors", problems)


def _config(state: Mapping[str, Tensor], untold: Untold, blocks: tuple[int, ...], widths: list[int]) -> Sam2VideoConfig:
    def size(key: str, dimension: int) -> int:
        return state[key].shape[dimension]

    grids = [untold.image_size // stride for stride in _STRIDES]
    kernel = size(f"{_TRUNK}patch_embed.proj.weight", -1)
    fuser_kernel = size("memory_encoder.fuser.layers.0.dwconv.weight", -1)
    prompt_width = size("sam_prompt_encoder.no_mask_embed.weight", 1)
    decoder_width = size("sam_mask_decoder.mask_tokens.weight", 1)
    memory_width = size("memory_attention.norm.weight", 0)
    cross_attention = "sam_mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"
    backbone = Sam2HieraDetConfig(
        hidden_size=widths[0],
        num_attention_heads=untold.heads,
        num_channels=size(f"{_TRUNK}patch_embed.proj.weight", 1),
        image_size=[untold.image_size, untold.image_size],
        patch_kernel_size=[kernel, kernel],
        patch_padding=[kernel // 2, kernel // 2],
        window_positional_embedding_background_size=list(state[f"{_TRUNK}pos_embed"].shape[2:]),
        num_query_pool_stages=len(blocks) - 1,
        blocks_per_stage=list(blocks),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[untold.heads * 2**i for i in range(len(blocks))],
        window_size_per_stage=list(untold.windows),
        global_attention_blocks=list(untold.global_blocks),
        mlp_ratio=size(f"{_TRUNK}blocks.0.mlp.layers.0.weight", 0) / widths[0],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[grid, grid] for grid in grids],
        fpn_hidden_size=size("image_encoder.neck.convs.0.conv.weight", 0),
    )
    return Sam2VideoConfig(
        architectures=[Sam2VideoModel.__name__],
        dtype="float32",
        vision_config=vision,
        prompt_encoder_config={
            "hidden_size": prompt_width,
            "image_size": untold.image_size,
            "mask_input_channels": size("sam_prompt_encoder.mask_downscaling.3.weight", 0),
        },
        mask_decoder_config={
            "hidden_size": decoder_width,
            "mlp_dim": size("sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight", 0),
            "num_hidden_layers": _count(state, "sam_mask_decoder.transformer.layers."),
            "attention_downsample_rate": decoder_width // size(cross_attention, 0),
            "num_multimask_outputs": size("sam_mask_decoder.mask_tokens.weight", 0) - 1,
            "iou_head_hidden_dim": size("sam_mask_decoder.iou_prediction_head.layers.0.weight", 0),
        },
        image_size=untold.image_size,
        num_maskmem=size("maskmem_tpos_enc", 0),
        # SAM 2.0 has neither; both came with SAM 2.1.
        enable_occlusion_spatial_embedding="no_obj_embed_spatial" in state,
        enable_temporal_pos_encoding_for_object_pointers="obj_ptr_tpos_proj.weight" in state,
        memory_attention_hidden_size=memory_width,
        memory_attention_num_layers=_count(state, "memory_attention.layers."),
        memory_attention_downsample_rate=memory_width // size("memory_attention.layers.0.self_attn.q_proj.weight", 0),
        memory_attention_feed_forward_hidden_size=size("memory_attention.layers.0.linear1.weight", 0),
        memory_attention_rope_feat_sizes=[grids[-1], grids[-1]],
        memory_encoder_hidden_size=size("memory_encoder.pix_feat_proj.weight", 0),
        memory_encoder_output_channels=size("maskmem_tpos_enc", -1),
        mask_downsampler_embed_dim=size("memory_encoder.mask_downsampler.encoder.12.weight", 0),
        memory_fuser_num_layers=_count(state, "memory_encoder.fuser.layers."),
        memory_fuser_embed_dim=size("memory_encoder.fuser.layers.0.dwconv.weight", 0),
        memory_fuser_intermediate_dim=size("memory_encoder.fuser.layers.0.pwconv1.weight", 0),
        memory_fuser_kernel_size=fuser_kernel,
        memory_fuser_padding=fuser_kernel // 2,
    )


def _check(tensors: dict[str, Tensor], state: Mapping[str, Tensor], config: Sam2VideoConfig) -> None:
    """Compare every name and shape with the model, then load strictly. Raises WeightsError naming all that is wrong."""
    try:
        with torch.device("meta"):
            model = Sam2VideoModel(config)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(f"no SAM 2 can have the sizes of these tensors: {error}") from error
    expected = model.state_dict()
    official = {_rename(key): key for key in state}
    problems = [f"missing: {key} (as transformers names it)" for key in expected if key not in tensors]
    problems += [f"unknown: {official[key]}" for key in tensors if key not in expected]
    for key, tensor in tensors.items():
        name = official.get(key, key)
        if key in expected and tensor.shape != expected[key].shape:
            problems.append(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}")
        elif not bool(torch.isfinite(tensor).all()):
            problems.append(f"{name}: contains values that are not finite")
    if problems:
        raise _refusal("these tensors are not those of SAM 2 at these sizes", problems)
    model.load_state_dict(tensors, strict=True, assign=True)


def _refusal(reason: str, problems: list[str]) -> WeightsError:
    return WeightsError("\n  - ".join([f"{reason}:", *problems]))


def _write(tensors: dict[str, Tensor], config: Sam2VideoConfig, folder: Path) -> None:
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
        config.save_pretrained(aside)
        contiguous = {key: value.detach().float().contiguous() for key, value in tensors.items()}
        save_file(contiguous, aside / "model.safetensors", metadata={"format": "pt"})
        # safetensors writes files that only their owner may read.
        shutil.copymode(aside / "config.json", aside / "model.safetensors")
        if folder.is_dir():
            folder.rmdir()
        os.replace(aside, folder)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
