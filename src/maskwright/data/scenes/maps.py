"""Operations on maps of a value per pixel, batched."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth(control: Tensor, size: int) -> Tensor:
    """Cubic B-spline surface through a (..., n, n) grid of control points, (..., size, size); n >= 4."""
    n = control.shape[-1]
    at = torch.linspace(1, n - 2 - 1e-4, size, device=control.device)
    t = (at[:, None] - torch.arange(n, device=control.device)).abs()
    basis = torch.where(t < 1, 2 / 3 - t * t + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)
    return 2 * (basis @ control @ basis.mT)  # the spline halves the deviation of white noise


def look_up(table: Tensor, names: tuple[str, ...], index: Tensor) -> dict[str, Tensor]:
    """Values of a (B, M, P) table at a (B, S, S) index into M: P maps (B, S, S) by name."""
    # A product with the one-hot index: several times faster on a CPU than gathering, and as exact.
    columns = torch.arange(table.shape[1], device=index.device)[:, None]
    one_hot = (index.flatten(1)[:, None] == columns).to(table.dtype)
    maps = (table.mT @ one_hot).view(len(index), len(names), *index.shape[1:])
    return dict(zip(names, maps.unbind(1), strict=True))


def lowest(field: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum of a (B, M, S, S) field over M, and where it is; a loop, as reducing over that axis is slow on a CPU."""
    best, where = field[:, 0].clone(), torch.zeros_like(field[:, 0], dtype=torch.int64)
    for k in range(1, field.shape[1]):
        where.masked_fill_(field[:, k] < best, k)
        torch.minimum(best, field[:, k], out=best)
    return best, where


def blur(images: Tensor, amount: Tensor) -> Tensor:
    """Blur each image by an amount in 0..1: 0 leaves it, 1 is a deviation of about 1/40 of the image."""
    size, half = images.shape[-1], (images.shape[-1] + 1) // 2
    amount = amount[:, None, None, None]
    near = F.avg_pool2d(images, 2, ceil_mode=True)
    far = F.avg_pool2d(F.pad(F.avg_pool2d(near, 2), (1, 1, 1, 1), mode="replicate"), 3, 1)
    far = F.interpolate(far, size=(half, half), mode="bilinear")
    coarse = torch.lerp(near, far, (2 * amount - 1).clamp(0, 1))
    coarse = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return torch.lerp(images, coarse, (2 * amount).clamp(0, 1))
