"""Two layers whose gradients are made faster and with less memory than by ``torch`` itself; above all on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Convolve each channel with its own kernel; the padding is half of it.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, k, k), k odd.
        bias: (C,).

    Returns:
        (B, C, H / stride, W / stride), as ``F.conv2d`` gives it, and the same gradients up to rounding.
    """
    kernel, device = weight.shape[-1], x.device.type
    learns = weight.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if (
        learns
        and kernel == 5
        and device == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled(device)
    ):
        return _Conv5.apply(x, weight, bias, stride)  # type: ignore[return-value]
    return F.conv2d(x, weight, bias, stride, kernel // 2, groups=len(weight))


def relu6_(x: Tensor) -> Tensor:
    """``x`` between 0 and 6, in place; what made it must not need it for its own gradient (a convolution does not)."""
    if not x.requires_grad:
        return F.relu6(x, inplace=True)
    return F.relu6(x) if torch.compiler.is_compiling() else _Relu6.apply(x)  # type: ignore[return-value]


class _Relu6(torch.autograd.Function):
    """Its gradient is read off the result. For its own ReLU6 in place, autograd keeps a copy of what was there before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(grads[0], *ctx.saved_tensors, 0.0, 6.0)


class _Conv5(torch.autograd.Function):
    """A convolution with kernels of 5 × 5 whose weights' gradient is put together from three gradients of 5 × 3 kernels.

    oneDNN has no fast way to such a gradient of more than three columns; what it does instead takes 10 to 20 times as long. The three
    columns in the middle are those of a 5 × 3 kernel. An outer column is the outer one of three when the image is shifted by a cell.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, bias, stride, 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (grad,), (x, weight), stride = grads, ctx.saved_tensors, ctx.stride
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad

        def gradient(image: Tensor, weight: Tensor, of: int) -> Tensor:
            padding, groups = [size // 2 for size in weight.shape[-2:]], len(weight)
            # Asked for the bias as well, oneDNN makes the weights' gradient again.
            wanted = [of == 0, of == 1, False]
            return torch.ops.aten.convolution_backward(
                grad, image, weight, None, [stride] * 2, padding, [1, 1], False, [0, 0], groups, wanted
            )[of]

        grad_x = gradient(x, weight, 0) if wants_x else None
        grad_bias = grad.sum((0, 2, 3)) if wants_bias else None
        if not wants_weight:
            return grad_x, None, grad_bias, None
        three = weight[..., :3].contiguous()
        left, middle, right = (gradient(image, three, 1) for image in _shifted(x))
        return grad_x, torch.cat([left[..., :1], middle, right[..., 2:]], -1), grad_bias, None


def _shifted(x: Tensor) -> Iterator[Tensor]:
    """The image with its columns moved by one to the right, as it is, and moved to the left; zeros come in."""
    right = torch.empty_like(x)
    right[..., 1:] = x[..., :-1]
    right[..., 0] = 0
    yield right
    yield x
    left = torch.empty_like(x)
    left[..., :-1] = x[..., 1:]
    left[..., -1] = 0
    yield left
