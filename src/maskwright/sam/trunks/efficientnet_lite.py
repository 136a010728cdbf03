"""EfficientNet-Lite as the trunk of a SAM 2: feature maps at strides 4, 8, 16 and 32.

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in the form that was published for
phones: ReLU6 and no squeeze-and-excitation. ``Sam2VisionModel`` builds any trunk that is registered with ``AutoConfig`` and
``AutoModel`` and whose output has ``intermediate_hidden_states``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from maskwright.sam.trunks.cpu_layers import depthwise_conv, relu6_

_STRIDES = (2, 4, 8, 16, 32)
"""Of the maps that the trunk makes. The first is for whoever asks; the others are its stages."""


class EfficientNetLiteConfig(PreTrainedConfig):
    """Widths and depths; the defaults are those of EfficientNet-Lite0. Lists have an entry for each group of equal blocks.

    Attributes:
        num_channels: of the image.
        stem_channels: of the first convolution, which has stride 2.
        out_channels: that the blocks of a group pass on.
        num_block_repeats: blocks of a group.
        strides: of a group's first block, 1 or 2; the product of all is 16, which makes 32 with the first convolution.
        kernel_sizes: of the depthwise convolutions, odd.
        expand_ratios: width inside a block as a multiple of the width that comes in.
        batch_norm_eps: added to the variances.
        image_size: sides of the canvas it was trained on, in pixels; any multiple of 32 will do.

    Raises:
        ValueError: lists of different lengths, or strides that do not make the maps of a SAM 2.
    """

    model_type = "efficientnet_lite"

    num_channels: int = 3
    stem_channels: int = 32
    out_channels: Sequence[int] = (16, 24, 40, 80, 112, 192, 320)
    num_block_repeats: Sequence[int] = (1, 2, 2, 3, 3, 4, 1)
    strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    kernel_sizes: Sequence[int] = (3, 3, 5, 3, 5, 5, 3)
    expand_ratios: Sequence[int] = (1, 6, 6, 6, 6, 6, 6)
    batch_norm_eps: float = 1e-3
    image_size: Sequence[int] = (256, 256)
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        lists = ("out_channels", "num_block_repeats", "strides", "kernel_sizes", "expand_ratios")
        lengths = {name: len(getattr(self, name)) for name in lists}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"efficientnet_lite: lists of different lengths: {lengths}")
        if math.prod(self.strides) * 2 != _STRIDES[-1] or not set(self.strides) <= {1, 2}:
            raise ValueError(f"efficientnet_lite: strides {list(self.strides)}: must be 1 or 2, and their product 16")
        if min(self.num_block_repeats) < 1 or any(kernel % 2 == 0 for kernel in self.kernel_sizes):
            raise ValueError("efficientnet_lite: each group needs a block, and an odd kernel")
        for name in (*lists, "image_size"):
            setattr(self, name, list(getattr(self, name)))


@dataclass
class EfficientNetLiteOutput(ModelOutput):
    """What the trunk makes of a batch, in the form that ``Sam2VisionModel`` reads.

    Attributes:
        last_hidden_state: (B, S/32, S/32, C) the last stage.
        intermediate_hidden_states: (B, S/s, S/s, C_s) of each stage, s = 4, 8, 16, 32.
        stride_2: (B, S/2, S/2, C) the map before the first stage, for who needs fine outlines; SAM 2 does not look at it.
        hidden_states, attentions: always None.
    """

    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: tuple[Tensor, ...] | None = None
    stride_2: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class FrozenNorm(nn.Module):
    """The numbers of a batch normalisation whose statistics never change; scale and shift can be trained."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,) each: the normalisation is ``scale · x + shift``."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


@dataclass(frozen=True)
class _Folded:
    """What :meth:`NormedConv._fold` gave, and what it was made of."""

    sources: tuple[Tensor, ...]
    stamps: list[tuple[int, int]]
    weight: Tensor
    bias: Tensor

    def is_of(self, sources: tuple[Tensor, ...]) -> bool:
        """Made of these very tensors, and none was changed since."""
        return all(map(operator.is_, self.sources, sources)) and self.stamps == [_stamp(tensor) for tensor in sources]


def _stamp(tensor: Tensor) -> tuple[int, int]:
    """Changes with the tensor's memory, and with what is in it."""
    return tensor.data_ptr(), tensor._version


class NormedConv(nn.Module):
    """Convolution of a map turned by 180°, normalisation, and perhaps ReLU6. The kernel in ``conv`` is for upright maps.

    The normalisation is multiplied into the convolution's weights, so that the pixels are passed over once instead of twice: at each
    forward where weights, scale or shift are trained, otherwise once.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int,
        stride: int,
        eps: float,
        *,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = FrozenNorm(outside, eps)
        self.activation = activation
        self._kept: _Folded | None = None
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        weight, bias = self._folded()
        if conv.groups == 1:
            x = F.conv2d(x, weight, bias, conv.stride, conv.padding)
        else:
            x = depthwise_conv(x, weight, bias, stride=conv.stride[0])
        return relu6_(x) if self.activation else x

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Weight, turned as the maps are, and bias, both with the normalisation in them."""
        sources = (self.conv.weight, self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var)
        # A fused optimiser changes tensors without counting it as a change, and tensors of inference mode count nothing, so what is
        # trained is never kept.
        if torch.compiler.is_compiling() or any(tensor.requires_grad or tensor.is_inference() for tensor in sources):
            return self._fold()
        if self._kept is None or not self._kept.is_of(sources):
            # What is made in inference mode could not be used in a later forward with gradients (of adapters, say).
            with torch.inference_mode(False), torch.no_grad():
                self._kept = _Folded(sources, [_stamp(tensor) for tensor in sources], *self._fold())
        return self._kept.weight, self._kept.bias

    def _fold(self) -> tuple[Tensor, Tensor]:
        scale, shift = self.norm.scale_and_shift()
        return self.conv.weight.flip(-1, -2) * scale[:, None, None, None], shift

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._kept = None  # another device or dtype
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": None}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Keep the variance of what passes through (He et al., ICCV 2015); the normalisation does nothing as yet."""
        nn.init.normal_(self.conv.weight, std=math.sqrt((2 if self.activation else 1) / self.conv.weight[0].numel()))
        for tensor, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            getattr(self.norm, tensor).fill_(value)


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; with a short cut where the shape stays (MobileNetV2's block)."""

    adapter: nn.Module | None

    def __init__(self, inside: int, outside: int, expand: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__()
        hidden = inside * expand
        layers = [NormedConv(inside, hidden, 1, 1, eps)] if expand > 1 else []
        layers.append(NormedConv(hidden, hidden, kernel, stride, eps, groups=hidden))
        layers.append(NormedConv(hidden, outside, 1, 1, eps, activation=False))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inside == outside
        self.width, self.stride = outside, stride
        self.adapter = None

    def attach(self, adapter: nn.Module) -> None:
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.shortcut:
            y = y + x
        if self.adapter is not None:
            y = y + self.adapter(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y


class EfficientNetLiteModel(PreTrainedModel):
    """The trunk, and what :class:`~maskwright.sam.trunks.trunk.Trunk` asks of it.

    The published weights want TensorFlow's padding, "same": where a convolution of stride 2 needs an odd number of cells around a map
    of even sides, the odd one comes after the map. PyTorch pads alike on both sides, and a stride of 2 then looks only at the cell
    before. So all maps inside are turned by 180°, kernels too, and no map need be padded by a copy of it.
    """

    config: EfficientNetLiteConfig
    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        width, eps = config.stem_channels, config.batch_norm_eps
        self.stem = NormedConv(config.num_channels, width, 3, 2, eps)
        blocks: list[InvertedResidual] = []
        groups = zip(
            config.out_channels, config.num_block_repeats, config.strides, config.kernel_sizes, config.expand_ratios
        )
        for channels, repeats, stride, kernel, expand in groups:
            for index in range(repeats):
                blocks.append(InvertedResidual(width, channels, expand, kernel, stride if index == 0 else 1, eps))
                width = channels
        self.blocks = nn.ModuleList(blocks)
        # A map is complete before a block that halves it, and at the end; -1 stands for the stem. The first map, of stride 2, belongs to
        # no stage, and its blocks to the first stage.
        self._map_ends = [*(index - 1 for index, block in enumerate(blocks) if block.stride == 2), len(blocks) - 1]
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> EfficientNetLiteOutput:
        """Normalised pixels (B, 3, S, S), S a multiple of 32 → the maps of strides 2 to 32."""
        if pixel_values.shape[-1] % _STRIDES[-1] or pixel_values.shape[-2] % _STRIDES[-1]:
            raise ValueError(f"an image of {tuple(pixel_values.shape[-2:])}: both sides must be multiples of 32")
        x = pixel_values.to(self.stem.conv.weight.dtype)
        if x.device.type == "cpu":
            # Depthwise convolutions are two to four times as fast in this layout.
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem(x.flip(-1, -2))
        maps = [x]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._map_ends:
                maps.append(x)
        stride_2, *stages = (y.flip(-1, -2).permute(0, 2, 3, 1) for y in maps[-len(_STRIDES) :])
        return EfficientNetLiteOutput(
            last_hidden_state=stages[-1], intermediate_hidden_states=tuple(stages), stride_2=stride_2
        )

    @property
    def _blocks(self) -> list[InvertedResidual]:
        return [block for block in self.blocks if isinstance(block, InvertedResidual)]

    @property
    def network(self) -> EfficientNetLiteModel:
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self._blocks[end].width for end in self._map_ends[1:])

    @property
    def fine_width(self) -> int:
        end = self._map_ends[0]
        return self.config.stem_channels if end < 0 else self._blocks[end].width

    def blocks_of(self, stage: int) -> list[InvertedResidual]:
        stage = range(len(self._map_ends) - 1)[stage]
        first = self._map_ends[stage] + 1 if stage else 0
        return self._blocks[first : self._map_ends[stage + 1] + 1]

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, NormedConv):
                module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        return self.stem

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every layer initialises itself when it is made, and weights that a file lacks are an error."""
