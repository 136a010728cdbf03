"""The fields of the configurations that models of ``transformers`` are built from, each with its type and bounds.

Only fields that decide what a network computes, or that building it reads. The bounds are wide enough for every published model of these
types, and narrow enough that no configuration can ask for memory or time without end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from maskwright.data.fields import shown
from maskwright.data.schema import Fields, Items, Kind, Maybe, Named, OneOf, OneOrMore, Real, Text, Truth, Whole
from maskwright.sam.trunks import TRUNK_TYPES

WIDTH, HEADS, DEPTH = Whole(1, 16_384), Whole(1, 256), Whole(1, 64)
SIDE = Whole(1, 8192)
SIDES = OneOrMore(SIDE)
KERNEL, PADDING, STRIDE = Whole(1, 64), Whole(0, 64), Whole(1, 64)
SHARE, FACTOR, SCALE = Real(0, 1), Real(0, 1000), Real(-1e6, 1e6)
EPSILON = Real(1e-12, 0.1)
COUNT = Whole(-1, 100_000)
ACTIVATION = OneOf(
    ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu6", "silu", "swish", "tanh", "sigmoid")
)
STAGES, DEPTHS = Items(WIDTH, 1, 16), Items(DEPTH, 1, 16)
NO_ROPE_LENGTHS = Fields(
    {"rope_type": OneOf(("axial", "default")), "rope_theta": Real(1, 1e9)}, optional=None, open=True
)


@dataclass(frozen=True)
class Inner:
    """A configuration inside another one.

    Attributes:
        types: model types that may stand here. Files of transformers 4 leave the type empty where only one is possible.
    """

    types: tuple[str, ...]

    def problems(self, value: Any, place: str) -> Iterator[str]:
        stated = value.get("model_type") if isinstance(value, Mapping) else None
        if stated in self.types:
            yield from _fields_of(stated).problems(value, place)
        elif isinstance(value, Mapping) and stated not in (None, ""):
            yield f"{place}.model_type {stated!r}: must be one of {', '.join(self.types)}"
        else:
            yield from _fields_of(self.types[0]).problems(value, place)


_ENCODER_OF_PROMPTS: dict[str, Kind] = {
    "hidden_size": WIDTH,
    "image_size": SIDES,
    "patch_size": OneOrMore(STRIDE),
    "mask_input_channels": WIDTH,
    "num_point_embeddings": Whole(4, 4),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": EPSILON,
    "scale": Whole(1, 1000),
}
_MASK_DECODER: dict[str, Kind] = {
    "hidden_size": WIDTH,
    "hidden_act": ACTIVATION,
    "mlp_dim": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "attention_downsample_rate": Whole(1, 64),
    "num_multimask_outputs": Whole(3, 3),
    "iou_head_depth": DEPTH,
    "iou_head_hidden_dim": WIDTH,
    "dynamic_multimask_via_stability": Truth(),
    "dynamic_multimask_stability_delta": FACTOR,
    "dynamic_multimask_stability_thresh": SHARE,
}
_DROPOUTS: dict[str, Kind] = {
    "hidden_dropout_prob": SHARE,
    "attention_probs_dropout_prob": SHARE,
    "drop_path_rate": SHARE,
}
_OUTPUTS: dict[str, Kind] = {
    "out_features": Maybe(Items(Text(), 1, 16)),
    "out_indices": Maybe(Items(Whole(-16, 16), 1, 16)),
}

FIELDS: dict[str, dict[str, Kind]] = {
    "sam2_video": {
        "vision_config": Inner(("sam2_vision_model",)),
        "prompt_encoder_config": Inner(("sam2_video_prompt_encoder", "sam2_prompt_encoder")),
        "mask_decoder_config": Inner(("sam2_video_mask_decoder", "sam2_mask_decoder")),
        "num_maskmem": Whole(1, 64),
        "image_size": SIDES,
        "sigmoid_scale_for_mem_enc": SCALE,
        "sigmoid_bias_for_mem_enc": SCALE,
        "enable_occlusion_spatial_embedding": Truth(),
        "multimask_output_in_sam": Truth(),
        "multimask_min_pt_num": COUNT,
        "multimask_max_pt_num": COUNT,
        "multimask_output_for_tracking": Truth(),
        "max_object_pointers_in_encoder": COUNT,
        "max_cond_frame_num": COUNT,
        "enable_temporal_pos_encoding_for_object_pointers": Truth(),
        "memory_attention_hidden_size": WIDTH,
        "memory_attention_num_layers": DEPTH,
        "memory_attention_num_attention_heads": HEADS,
        "memory_attention_downsample_rate": Whole(1, 64),
        "memory_attention_feed_forward_hidden_size": WIDTH,
        "memory_attention_feed_forward_hidden_act": ACTIVATION,
        "memory_attention_dropout": SHARE,
        "memory_attention_rope_feat_sizes": Maybe(Items(Whole(1, 512), 2, 2)),
        "memory_attention_rope_dropout": SHARE,
        "memory_encoder_hidden_size": WIDTH,
        "memory_encoder_output_channels": WIDTH,
        "rope_parameters": Maybe(NO_ROPE_LENGTHS),
        "mask_downsampler_embed_dim": WIDTH,
        "mask_downsampler_kernel_size": KERNEL,
        "mask_downsampler_stride": Whole(2, 64),
        "mask_downsampler_padding": PADDING,
        "mask_downsampler_total_stride": Whole(2, 4096),
        "mask_downsampler_hidden_act": ACTIVATION,
        "memory_fuser_num_layers": DEPTH,
        "memory_fuser_embed_dim": WIDTH,
        "memory_fuser_intermediate_dim": WIDTH,
        "memory_fuser_kernel_size": KERNEL,
        "memory_fuser_padding": PADDING,
        "memory_fuser_layer_scale_init_value": FACTOR,
        "memory_fuser_hidden_act": ACTIVATION,
    },
    "sam2_vision_model": {
        "backbone_config": Inner(TRUNK_TYPES),
        "backbone_channel_list": STAGES,
        "backbone_feature_sizes": Items(Items(SIDE, 2, 2), 3, 3),
        "fpn_hidden_size": WIDTH,
        "fpn_kernel_size": KERNEL,
        "fpn_stride": STRIDE,
        "fpn_padding": PADDING,
        "fpn_top_down_levels": Items(Whole(0, 16), 0, 16),
        "num_feature_levels": Whole(3, 3),
        "hidden_act": ACTIVATION,
        "layer_norm_eps": EPSILON,
    },
    "sam2_hiera_det_model": {
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_channels": Whole(3, 3),
        "image_size": SIDES,
        "patch_kernel_size": OneOrMore(KERNEL),
        "patch_stride": OneOrMore(STRIDE),
        "patch_padding": OneOrMore(PADDING),
        "query_stride": OneOrMore(STRIDE),
        "window_positional_embedding_background_size": Items(SIDE, 2, 2),
        "num_query_pool_stages": Whole(0, 16),
        "blocks_per_stage": DEPTHS,
        "embed_dim_per_stage": STAGES,
        "num_attention_heads_per_stage": Items(HEADS, 1, 16),
        "window_size_per_stage": Items(SIDE, 1, 16),
        "global_attention_blocks": Items(Whole(0, 1024), 0, 1024),
        "mlp_ratio": Real(0.1, 64),
        "hidden_act": ACTIVATION,
        "layer_norm_eps": EPSILON,
    },
    "efficientnet_lite": {
        "num_channels": Whole(3, 3),
        "stem_channels": WIDTH,
        "out_channels": STAGES,
        "num_block_repeats": DEPTHS,
        "strides": Items(Whole(1, 2), 1, 16),
        "kernel_sizes": Items(KERNEL, 1, 16),
        "expand_ratios": Items(Whole(1, 64), 1, 16),
        "batch_norm_eps": EPSILON,
        "image_size": Items(SIDE, 2, 2),
    },
    "sam2_prompt_encoder": _ENCODER_OF_PROMPTS,
    "sam2_video_prompt_encoder": _ENCODER_OF_PROMPTS,
    "sam2_mask_decoder": _MASK_DECODER,
    "sam2_video_mask_decoder": _MASK_DECODER,
    "segformer": {
        "num_channels": Whole(3, 3),
        "num_encoder_blocks": Whole(1, 16),
        "depths": DEPTHS,
        "sr_ratios": Items(STRIDE, 1, 16),
        "hidden_sizes": STAGES,
        "patch_sizes": Items(KERNEL, 1, 16),
        "strides": Items(STRIDE, 1, 16),
        "num_attention_heads": Items(HEADS, 1, 16),
        "mlp_ratios": Items(Real(0.1, 64), 1, 16),
        "hidden_act": ACTIVATION,
        **_DROPOUTS,
        "classifier_dropout_prob": SHARE,
        "layer_norm_eps": EPSILON,
        "decoder_hidden_size": WIDTH,
        "reshape_last_stage": Truth(),
    },
    "mask2former": {
        "backbone_config": Inner(("swin", "resnet")),  # the backbones of its paper
        "feature_size": WIDTH,
        "mask_feature_size": WIDTH,
        "hidden_dim": WIDTH,
        "encoder_feedforward_dim": WIDTH,
        "activation_function": ACTIVATION,
        "encoder_layers": DEPTH,
        "decoder_layers": Whole(2, 64),
        "num_attention_heads": HEADS,
        "dropout": SHARE,
        "dim_feedforward": WIDTH,
        "pre_norm": Truth(),
        "enforce_input_projection": Truth(),
        "common_stride": STRIDE,
        "num_queries": Whole(1, 10_000),
        "feature_strides": Items(STRIDE, 4, 4),
    },
    "swin": {
        "image_size": SIDES,
        "patch_size": OneOrMore(STRIDE),
        "num_channels": Whole(3, 3),
        "embed_dim": WIDTH,
        "depths": DEPTHS,
        "num_heads": Items(HEADS, 1, 16),
        "window_size": Whole(1, 64),
        "mlp_ratio": Real(0.1, 64),
        "qkv_bias": Truth(),
        **_DROPOUTS,
        "hidden_act": ACTIVATION,
        "use_absolute_embeddings": Truth(),
        "layer_norm_eps": EPSILON,
        "encoder_stride": STRIDE,
        **_OUTPUTS,
    },
    "resnet": {
        "num_channels": Whole(3, 3),
        "embedding_size": WIDTH,
        "hidden_sizes": STAGES,
        "depths": DEPTHS,
        "layer_type": OneOf(("basic", "bottleneck")),
        "hidden_act": ACTIVATION,
        "downsample_in_first_stage": Truth(),
        "downsample_in_bottleneck": Truth(),
        **_OUTPUTS,
    },
    "clip": {
        "text_config": Inner(("clip_text_model",)),
        "vision_config": Inner(("clip_vision_model",)),
        "projection_dim": WIDTH,
    },
    "clip_text_model": {
        "vocab_size": Whole(1, 1_000_000),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "max_position_embeddings": Whole(1, 100_000),
        "hidden_act": ACTIVATION,
        "layer_norm_eps": EPSILON,
        "attention_dropout": SHARE,
        "pad_token_id": Maybe(Whole(0, 1_000_000)),
        "bos_token_id": Maybe(Whole(0, 1_000_000)),
        "eos_token_id": Maybe(OneOrMore(Whole(0, 1_000_000), 1, 16)),
    },
    "clip_vision_model": {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "num_channels": Whole(3, 3),
        "image_size": SIDE,
        "patch_size": STRIDE,
        "hidden_act": ACTIVATION,
        "layer_norm_eps": EPSILON,
        "attention_dropout": SHARE,
    },
}
"""By model type."""

_ALIKE: dict[str, tuple[str, ...]] = {
    "sam2_hiera_det_model": (
        *("blocks_per_stage", "embed_dim_per_stage", "num_attention_heads_per_stage", "window_size_per_stage"),
    ),
    "segformer": ("depths", "sr_ratios", "hidden_sizes", "patch_sizes", "strides", "num_attention_heads", "mlp_ratios"),
    "swin": ("depths", "num_heads"),
    "resnet": ("depths", "hidden_sizes"),
}
"""Lists with an entry for each stage."""

_HEADS: dict[str, tuple[str, str]] = {
    "sam2_video": ("memory_attention_hidden_size", "memory_attention_num_attention_heads"),
    "sam2_hiera_det_model": ("embed_dim_per_stage", "num_attention_heads_per_stage"),
    "sam2_mask_decoder": ("hidden_size", "num_attention_heads"),
    "sam2_video_mask_decoder": ("hidden_size", "num_attention_heads"),
    "segformer": ("hidden_sizes", "num_attention_heads"),
    "mask2former": ("hidden_dim", "num_attention_heads"),
    "clip_text_model": ("hidden_size", "num_attention_heads"),
    "clip_vision_model": ("hidden_size", "num_attention_heads"),
}
"""Widths, and the heads of attention that they are divided among."""


@dataclass(frozen=True)
class _Together:
    """The fields of a model type, and what must hold among them where they are right by themselves."""

    model_type: str
    fields: Fields

    def problems(self, value: Any, place: str) -> Iterator[str]:
        wrong = list(self.fields.problems(value, place))
        yield from wrong
        if wrong:
            return
        within = f"{place}." if place else ""
        lists = {name: value[name] for name in _ALIKE.get(self.model_type, ()) if name in value}
        if len({len(entries) for entries in lists.values()}) > 1:
            lengths = ", ".join(f"{name} {len(entries)}" for name, entries in lists.items())
            yield f"{within}{next(iter(lists))}: lists of different lengths: {lengths}"
            return
        width, heads = _HEADS.get(self.model_type, ("", ""))
        if width in value and heads in value:
            pairs = zip(
                *(entries if isinstance(entries, list) else [entries] for entries in (value[width], value[heads]))
            )
            if any(channels % number for channels, number in pairs):
                yield f"{within}{heads}: {shown(value[heads])} does not divide {width} {shown(value[width])}"


_FREE: dict[str, Kind] = {
    # What transformers would build or hand out otherwise, and nothing here could use.
    "num_labels": Maybe(Whole(1, 10_000)),
    "id2label": Maybe(Named(Text())),
    "label2id": Maybe(Named(Whole(-1, 10_000))),
    "return_dict": OneOf((True, None)),
    "use_return_dict": OneOf((True, None)),
    "output_attentions": OneOf((False, None)),
    "output_hidden_states": OneOf((False, None)),
    "is_encoder_decoder": OneOf((False, None)),
    "torchscript": OneOf((False, None)),
    "chunk_size_feed_forward": Whole(0, 0),
    "dtype": Maybe(OneOf(("float32", "float16", "bfloat16"))),
    "torch_dtype": Maybe(OneOf(("float32", "float16", "bfloat16"))),
    "pruned_heads": Maybe(Named(Text(), 0)),
    "initializer_range": FACTOR,
    "initializer_factor": FACTOR,
    "logit_scale_init_value": SCALE,
    "semantic_loss_ignore_index": Whole(-100_000, 100_000),
    "train_num_points": Whole(1, 10_000_000),
}
"""Fields that no network is decided by; what may stand in them where they do stand."""


def _fields_of(model_type: str) -> Kind:
    return _Together(model_type, Fields(FIELDS[model_type], optional=None, further=_FREE, open=True))


def field_problems(values: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """What is wrong with the fields of a configuration that strangers wrote, one line each.

    They may leave fields out, as ``transformers`` does where a value is its default, and have further ones that decide nothing here:
    those of other versions, or notes of who published it. What looks like a slip in a known name is a problem.
    """
    yield from _fields_of(values["model_type"]).problems(values, place)


@dataclass(frozen=True)
class Complete:
    """A configuration of one of some model types, as :func:`closed_fields` writes it: every field is there, and no other."""

    types: tuple[str, ...]

    def problems(self, value: Any, place: str) -> Iterator[str]:
        stated = value.get("model_type") if isinstance(value, Mapping) else None
        if stated not in self.types:
            yield f"{place}.model_type: must be one of {', '.join(self.types)}, found {shown(stated)}"
            return
        known: dict[str, Kind] = {"model_type": OneOf(self.types)}
        for name, kind in FIELDS[stated].items():
            known[name] = Complete(kind.types) if isinstance(kind, Inner) else kind
        yield from _Together(stated, Fields(known)).problems(value, place)


def closed_fields(values: Mapping[str, Any], types: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration as JSON with every field that decides what the network computes, and no other; defaults are written out.

    Args:
        values: of a configuration of ``transformers`` with all its fields (``to_dict``).
        types: model types that it may be of; where ``values`` name none it is the first.
    """
    stated = values.get("model_type") or types[0]
    closed: dict[str, Any] = {"model_type": stated}
    for name, kind in FIELDS[stated].items():
        value = values[name]
        if isinstance(kind, Inner):
            value = closed_fields(value, kind.types)
        elif isinstance(value, tuple | list):
            value = [list(item) if isinstance(item, tuple | list) else item for item in value]
        closed[name] = value
    return closed
