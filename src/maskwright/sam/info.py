"""What a SAM is and how fast it runs here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam
from maskwright.sam.sources import BUNDLED
from maskwright.sam.trunks import trunk_of


def info(
    source: str | Path = "nano", *, size: int | None = None, device: torch.device | str = "cpu", repeats: int = 5
) -> dict[str, Any]:
    """Parameters, sizes, files and speed of a SAM, as plain numbers and texts.

    Args:
        source: see :meth:`maskwright.sam.sam.Sam.load`.
        size: canvas other than the checkpoint's.
        device: where the speed is measured.
        repeats: runs that the median is taken of, after one that is not counted.

    Returns:
        ``name``; ``trunk`` (its model type) and ``trunk_widths`` (channels at strides 4, 8, 16, 32); ``parameters`` and
        ``encoder_parameters``; ``size`` (pixels) and ``width`` (channels of an embedding);
        ``files``: path → bytes; ``device`` and ``threads``; ``encode_ms`` and ``decode_ms``: milliseconds for one
        image, and for one click on it.

    Raises:
        WeightsError: the weights cannot be loaded.
    """
    sam = Sam.load(source, size=size).to(device).requires_grad_(False)
    trunk = sam.model.vision_encoder.backbone
    image = torch.rand(1, 3, sam.size, sam.size, generator=torch.Generator().manual_seed(0)).to(device, sam.dtype)
    middle = torch.full((1, 1, 1, 2), sam.size / 2, device=device)
    click = Prompts.of_points(middle, torch.ones(1, 1, 1, dtype=torch.long, device=device))
    with torch.inference_mode():
        embedding = sam.encode(image)
        encode = _milliseconds(lambda: sam.encode(image), sam.device, repeats)
        decode = _milliseconds(lambda: sam.decode(embedding, click), sam.device, repeats)
    return {
        "name": sam.name,
        "trunk": trunk.config.model_type,
        "trunk_widths": list(trunk_of(trunk).widths),
        "parameters": sum(p.numel() for p in sam.parameters()),
        "encoder_parameters": sum(p.numel() for p in sam.model.vision_encoder.parameters()),
        "size": sam.size,
        "width": sam.width,
        "files": {str(path): path.stat().st_size for path in _files(source)},
        "device": str(sam.device),
        "threads": torch.get_num_threads(),
        "encode_ms": encode,
        "decode_ms": decode,
    }


def _milliseconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken[1:])


def _files(source: str | Path) -> list[Path]:
    """The files of weights that :meth:`Sam.load` read; it has succeeded, so they are there."""
    path = BUNDLED.get(str(source)) or Path(source).expanduser()
    folder = path.with_suffix("") if path.suffix == ".pt" else path
    if folder.is_dir():
        return sorted(folder.glob("*.safetensors"))
    cached = try_to_load_from_cache(str(source), "model.safetensors")
    return [Path(cached)] if isinstance(cached, str) else []
